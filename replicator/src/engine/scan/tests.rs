use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

async fn found(root: &Arc<Root>, beneath: &str) -> Vec<Found> {
    let (sink, mut batches) = mpsc::channel(1);
    let beneath = RelPath::parse(beneath.as_bytes()).unwrap();
    let walk = tokio::spawn(scan(Arc::clone(root), beneath, sink));
    let mut found = Vec::new();
    while let Some(batch) = batches.recv().await {
        assert!(!batch.is_empty() && batch.len() <= BATCH_ENTRIES_MAX);
        found.extend(batch);
    }
    walk.await.unwrap();
    found
}

#[tokio::test]
async fn everything_is_found_once_and_directories_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    for at in 0..2000 {
        fs::write(dir.path().join(format!("a/b/{at}")), b"x").unwrap();
    }
    symlink("a", dir.path().join("link")).unwrap();
    let odd = RelPath::parse(b"a/\xff\xfe\n").unwrap();
    fs::write(dir.path().join(odd.as_path()), b"").unwrap();
    let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();

    let all = found(&root, "").await;
    let order: BTreeMap<_, _> = all.iter().enumerate().map(|(at, one)| (&one.path, at)).collect();
    assert_eq!(order.len(), all.len(), "an entry came twice");
    // a, a/b, a/b/c, the files, the link, the odd name and the socket.
    assert_eq!(all.len(), 2006);
    for (path, at) in &order {
        if let Some(parent) = path.parent().filter(|parent| !parent.is_root()) {
            assert!(order[&parent] < *at, "{path} came before its directory");
        }
    }
    for Found { path, result } in &all {
        match result {
            Ok(glance) => {
                let stat = root.stat(path).unwrap().unwrap();
                assert_eq!(
                    (stat.kind, stat.fingerprint, stat.links),
                    (glance.kind, glance.fingerprint, glance.links)
                );
            }
            Err(Error::Root(crate::root::Error::Unsupported { path: named, .. })) => {
                assert_eq!((path.as_bytes(), named), (&b"socket"[..], path));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(order.contains_key(&odd));

    let beneath = found(&root, "a/b").await;
    assert_eq!(beneath.len(), 2001);
    assert!(found(&root, "link").await.is_empty(), "a link was followed");
    assert!(found(&root, "nothing/here").await.is_empty());
}

/// Entries come and go while the walk is under way: those that stay are
/// found, and nothing is reported as an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_vanish_are_no_errors() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    for at in 0..500 {
        fs::create_dir_all(dir.path().join(format!("stays/{at}"))).unwrap();
        fs::write(dir.path().join(format!("stays/{at}/file")), b"x").unwrap();
    }
    let walks = async {
        for _ in 0..10 {
            let all = found(&root, "").await;
            assert!(all.iter().all(|one| one.result.is_ok()), "{all:?}");
            let stays = RelPath::parse(b"stays").unwrap();
            let staying = all.iter().filter(|one| one.path.is_within(&stays)).count();
            assert_eq!(staying, 1001);
        }
    };
    let (ended, is_ended) = std::sync::mpsc::channel::<()>();
    let churn = std::thread::spawn({
        let path = dir.path().to_path_buf();
        move || {
            use std::sync::mpsc::TryRecvError;
            while is_ended.try_recv() != Err(TryRecvError::Disconnected) {
                for at in 0..50 {
                    fs::create_dir_all(path.join(format!("goes/{at}/deep"))).unwrap();
                    fs::write(path.join(format!("goes/{at}/deep/file")), b"x").unwrap();
                }
                fs::remove_dir_all(path.join("goes")).unwrap();
            }
        }
    });
    walks.await;
    drop(ended);
    churn.join().unwrap();
}

#[tokio::test]
async fn a_walk_ends_when_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    for at in 0..3 * BATCH_ENTRIES_MAX {
        fs::write(dir.path().join(at.to_string()), b"").unwrap();
    }
    let (sink, batches) = mpsc::channel(1);
    drop(batches);
    scan(root, RelPath::root(), sink).await;
}
