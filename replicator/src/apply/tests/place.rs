//! Entries that come into their place, and what they displace.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use super::*;
use crate::entry::{Kind, Xattr};
use crate::limits::JOB_ACTIONS_MAX;

#[test]
fn a_placed_file_is_what_the_outcome_says() {
    let mut folder = Folder::new();
    let wanted = Metadata {
        mode: 0o4755,
        xattrs: vec![
            Xattr { name: b"user.comment".to_vec(), value: b"a \0 b".to_vec() },
            Xattr { name: b"user.large".to_vec(), value: vec![3; 2000] },
        ],
        ..metadata()
    };
    let staged = folder.staged(b"hello");
    let step = Step::Place { path: rel("f"), staged, metadata: wanted.clone(), over: None };
    let stat = done(folder.run(step));
    assert_eq!(stat.metadata, wanted);
    assert_eq!(folder.stat("f"), stat, "the fingerprint is fresh");
    assert_eq!(folder.read("f"), b"hello");
    assert!(folder.private("tmp").is_empty());
}

#[test]
fn a_planted_link_never_leads_out() {
    let mut folder = Folder::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("passwd"), b"theirs").unwrap();
    symlink(outside.path(), folder.at("a")).unwrap();
    let refused = folder.place("a/passwd", b"ours", None);
    assert!(matches!(refused, Outcome::Failed(Error::NoParent { .. })), "{refused:?}");
    let made =
        folder.run(Step::MakeDirectory { path: rel("a/d"), metadata: of_directory(), over: None });
    assert!(matches!(made, Outcome::Failed(Error::NoParent { .. })), "{made:?}");
    let inside = folder.write("f", b"x");
    let moved = folder.run(Step::Rename { from: rel("f"), to: rel("a/f"), expect: inside });
    assert!(matches!(moved, Outcome::Failed(Error::NoParent { .. })), "{moved:?}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(outside.path().join("passwd")).unwrap(), b"theirs");
}

#[test]
fn the_private_directory_is_no_target() {
    let mut folder = Folder::new();
    let refused = folder.place(".replicator/marker", b"x", None);
    assert!(matches!(refused, Outcome::Failed(Error::Private { .. })), "{refused:?}");
    let expect = Expect::from(&folder.stat(".replicator"));
    let from = rel(".replicator");
    let refused = folder.run(Step::Rename { from, to: rel("x"), expect });
    assert!(matches!(refused, Outcome::Failed(Error::Private { .. })), "{refused:?}");
    folder.root.check().unwrap();
}

#[test]
fn a_taken_name_is_raced_and_untouched() {
    let mut folder = Folder::new();
    folder.write("f", b"local");
    raced(folder.place("f", b"remote", None));
    assert_eq!(folder.read("f"), b"local");
    assert!(folder.private("tmp").is_empty());
}

#[test]
fn a_replaced_file_rests_in_the_trash_under_its_path() {
    let mut folder = Folder::new();
    std::fs::create_dir(folder.at("d")).unwrap();
    let old = folder.write("d/f", b"old");
    let stat = done(folder.place("d/f", b"new", trash(old)));
    assert_eq!(folder.stat("d/f"), stat);
    assert_eq!(folder.read("d/f"), b"new");
    let [name] = &folder.private("trash")[..] else { panic!("one entry") };
    assert!(name.ends_with(b"Z-d%2Ff"), "{}", name.escape_ascii());
    let kept = folder.at(".replicator/trash").join(OsStr::from_bytes(name));
    assert_eq!(std::fs::read(kept).unwrap(), b"old");
}

#[test]
fn a_changed_file_is_not_replaced() {
    let mut folder = Folder::new();
    let known = folder.write("f", b"known");
    folder.write("f", b"local edit");
    raced(folder.place("f", b"remote", trash(known)));
    assert_eq!(folder.read("f"), b"local edit");
    std::fs::remove_file(folder.at("f")).unwrap();
    raced(folder.place("f", b"remote", trash(known)));
    assert!(!folder.at("f").exists());
}

#[test]
fn a_local_change_between_look_and_exchange_is_kept_as_a_conflict() {
    let mut folder = Folder::new();
    let known = folder.write("f", b"known");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let path = folder.at("f");
    // A local writer that rewrites the file as fast as it can; whatever the
    // remote side replaces must be the known version, in the trash or a
    // conflict.
    let mut kept = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let beside = path.with_extension("new");
                std::fs::write(&beside, format!("local {written}")).unwrap();
                std::fs::rename(&beside, &path).unwrap();
                written += 1;
            }
            written
        });
        let mut expect = known;
        let until = Instant::now() + Duration::from_secs(20);
        while kept.is_empty() && Instant::now() < until {
            if let Outcome::Raced = folder.place("f", b"remote", trash(expect)) {
                // One that was replaced while it was looked at is none.
                let found = folder.root.stat(&rel("f")).unwrap();
                expect = found.as_ref().map_or(expect, Expect::from);
            }
            kept = conflicts::list(&folder.root).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
    let conflict = kept.first().expect("the race is met within seconds");
    assert_eq!(conflict.path, "f");
    let bytes = std::fs::read(folder.at(".replicator/conflicts").join(&conflict.id)).unwrap();
    assert!(bytes.starts_with(b"local "), "{}", bytes.escape_ascii());
}

#[test]
fn kinds_replace_each_other() {
    let mut folder = Folder::new();
    let file = folder.write("x", b"file");
    let made = Step::MakeDirectory { path: rel("x"), metadata: of_directory(), over: trash(file) };
    let dir = done(folder.run(made));
    assert_eq!((dir.kind, dir.metadata.mode), (Kind::Directory, 0o750));
    assert_eq!(folder.stat("x"), dir);
    let target = b"/no/where".to_vec();
    let link = |over| Step::MakeSymlink {
        path: rel("x"),
        target: target.clone(),
        metadata: metadata(),
        over,
    };
    folder.write("x/inside", b"");
    raced(folder.run(link(trash(Expect::from(&dir)))));
    std::fs::remove_file(folder.at("x/inside")).unwrap();
    let made = done(folder.run(link(trash(Expect::from(&dir)))));
    assert_eq!(made.metadata.mtime, metadata().mtime);
    assert_eq!(std::fs::read_link(folder.at("x")).unwrap(), PathBuf::from("/no/where"));
    let fifo =
        Step::MakeFifo { path: rel("x"), metadata: metadata(), over: trash(Expect::from(&made)) };
    assert_eq!(done(folder.run(fifo)), folder.stat("x"));
    assert_eq!(folder.stat("x").kind, Kind::Fifo);
    let names = folder.private("trash");
    assert_eq!(names.len(), 2, "the file and the link, no empty directory");
}

#[tokio::test]
async fn thousands_of_small_files_cost_the_same_each() {
    const FILES: usize = 5 * JOB_ACTIONS_MAX;
    let folder = Folder::new();
    let applier = Applier::start(folder.root.clone()).unwrap();
    let mut taken = Vec::new();
    for batch in 0..5 {
        let started = Instant::now();
        let steps = (0..FILES / 5).map(|number| {
            let path = rel(&format!("f{batch}-{number}"));
            Step::Place { path, staged: folder.staged(b"small"), metadata: metadata(), over: None }
        });
        for outcome in applier.run(steps.collect()).await {
            done(outcome);
        }
        taken.push(started.elapsed());
    }
    let count = folder.root.read_dir(&RelPath::root()).unwrap().unwrap().len();
    assert_eq!(count, FILES);
    println!("batches of {}: {taken:?}", FILES / 5);
    // A quadratic cost would make the last batch nine times the first.
    let (first, best_late) = (taken[0], taken[3].min(taken[4]));
    assert!(best_late < first * 6, "{taken:?}");
}
