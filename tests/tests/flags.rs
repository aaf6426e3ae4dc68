//! File flags (`chattr`): what nobody may change follows, and is changed by
//! the daemon all the same.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Node, Stopped, Volume, flags, machine, nobody, poll};

/// How long one change may take to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

/// Bound files that are changed while their receiver is killed.
const FILES: usize = 60;

/// Two nodes whose folders flags can be set in; not started.
fn cluster() -> Option<Cluster> {
    let cluster = Cluster::new(2).with_flags();
    if flags::can_be_set_in(cluster[0].root()) {
        return Some(cluster);
    }
    machine::skip("no flags can be set here");
    None
}

fn on(kind: FileSystem) {
    let Some(volume) = Volume::or_skip(kind) else { return };
    let Some(cluster) = cluster() else { return };
    flags_follow(cluster.with_roots_in(volume.path()));
}

#[test]
fn flags_follow_on_ext4() {
    on(FileSystem::Ext4);
}

#[test]
fn flags_follow_on_xfs() {
    on(FileSystem::Xfs);
}

#[test]
fn flags_follow_on_btrfs() {
    on(FileSystem::Btrfs);
}

/// Sets flags, and has the node find them where its level tells nothing of
/// them.
fn bind(node: &Node, name: &str, letters: &str) {
    flags::set(&node.path(name), letters).unwrap();
    notice(node);
}

fn notice(node: &Node) {
    if node.status().unwrap().capture() != "ebpf" {
        node.verify().unwrap();
    }
}

#[track_caller]
fn all_have(cluster: &Cluster, name: &str, letters: &str) {
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(flags::of(&node.path(name)).unwrap(), letters, "{name} on {}", node.name());
    }
}

fn flags_follow(mut cluster: Cluster) {
    let (a, b) = (&cluster[0], &cluster[1]);
    fs::create_dir_all(a.path("closed/deeper")).unwrap();
    for name in ["immutable", "log", "nodump", "closed/one", "closed/deeper/two"] {
        fs::write(a.path(name), name).unwrap();
    }
    fs::hard_link(a.path("immutable"), a.path("linked")).unwrap();
    let bound = [("immutable", "i"), ("log", "ad"), ("closed/one", "i"), ("closed", "i")];
    bound.iter().for_each(|(name, letters)| flags::set(&a.path(name), letters).unwrap());
    fs::write(b.path("apart"), "on the other node").unwrap();
    flags::set(&b.path("apart"), "i").unwrap();
    cluster.start();
    bound.iter().for_each(|(name, letters)| all_have(&cluster, name, letters));
    all_have(&cluster, "apart", "i");

    let (a, b) = (&cluster[0], &cluster[1]);
    bind(a, "nodump", "d");
    all_have(&cluster, "nodump", "d");
    // An edit of what is bound there, which no node but this one sees free.
    flags::set(&b.path("apart"), "").unwrap();
    fs::write(b.path("apart"), "edited").unwrap();
    bind(b, "apart", "i");
    all_have(&cluster, "apart", "i");
    flags::set(&b.path("immutable"), "").unwrap();
    fs::write(b.path("linked"), "edited through another name").unwrap();
    bind(b, "immutable", "i");
    all_have(&cluster, "linked", "i");

    // What may be appended to may be so on either node, where it lies.
    let inode = fs::metadata(a.path("log")).unwrap().ino();
    for node in [b, a, b] {
        let mut log = OpenOptions::new().append(true).open(node.path("log")).unwrap();
        write!(log, ", line of {}", node.name()).unwrap();
        drop(log);
        all_have(&cluster, "log", "ad");
    }
    assert_eq!(fs::read_to_string(a.path("log")).unwrap(), "log, line of b, line of a, line of b");
    assert_eq!(fs::metadata(a.path("log")).unwrap().ino(), inode, "the log was made again");

    // A directory is opened for a moment, and what is in it changes.
    flags::set(&a.path("closed"), "").unwrap();
    flags::set(&a.path("closed/one"), "").unwrap();
    fs::write(a.path("closed/new"), "new").unwrap();
    fs::rename(a.path("closed/one"), a.path("closed/deeper/moved")).unwrap();
    flags::set(&a.path("closed/deeper/moved"), "i").unwrap();
    fs::remove_file(a.path("closed/deeper/two")).unwrap();
    flags::set(&a.path("closed/deeper"), "a").unwrap();
    bind(a, "closed", "i");
    all_have(&cluster, "closed", "i");
    all_have(&cluster, "closed/deeper", "a");
    all_have(&cluster, "closed/deeper/moved", "i");

    // Renamed and removed on one node while they are bound on the other.
    flags::set(&b.path("immutable"), "").unwrap();
    fs::rename(b.path("immutable"), b.path("renamed")).unwrap();
    bind(b, "renamed", "i");
    all_have(&cluster, "renamed", "i");
    for name in ["apart", "closed", "closed/deeper", "closed/deeper/moved"] {
        flags::set(&b.path(name), "").unwrap();
    }
    fs::remove_file(b.path("apart")).unwrap();
    fs::rename(b.path("closed"), b.path("open")).unwrap();
    cluster.assert_same();
    notice(b);
    all_have(&cluster, "open/deeper/moved", "");
    fs::remove_dir_all(b.path("open")).unwrap();
    cluster.assert_same();
    for node in cluster.nodes() {
        assert!(fs::read_dir(node.private("redo")).unwrap().next().is_none());
        assert_eq!(node.conflicts().unwrap().as_array().map(Vec::len), Some(0));
    }
}

#[test]
fn a_receiver_that_is_killed_leaves_nothing_free() {
    let Some(mut cluster) = cluster() else { return };
    let name = |number: usize| format!("closed/{number}");
    fs::create_dir(cluster[0].path("closed")).unwrap();
    for number in 0..FILES {
        fs::write(cluster[0].path(name(number)), "the first version").unwrap();
        flags::set(&cluster[0].path(name(number)), "i").unwrap();
    }
    flags::set(&cluster[0].path("closed"), "i").unwrap();
    cluster.start();
    all_have(&cluster, "closed", "i");
    for round in 0..3 {
        let version = format!("version {round}");
        // Its node sees them bound, before and after.
        let stopped = Stopped::new(&cluster[0]);
        for number in 0..FILES {
            let path = cluster[0].path(name(number));
            flags::set(&path, "").unwrap();
            fs::write(&path, &version).unwrap();
            flags::set(&path, "i").unwrap();
        }
        drop(stopped);
        let last = cluster[1].path(name(FILES * round / 3));
        poll::eventually(ARRIVAL_LIMIT, "some arrive", || {
            fs::read_to_string(&last).is_ok_and(|content| content == version)
        });
        cluster[1].kill9().unwrap();
        cluster[1].start().unwrap();
        notice(&cluster[0]);
        cluster.assert_same();
        all_have(&cluster, "closed", "i");
        (0..FILES).for_each(|number| {
            let flags = flags::of(&cluster[0].path(name(number))).unwrap();
            assert_eq!(flags, "i", "{number} was freed by round {round}");
        });
    }
}

/// It holds all but the flags, and says nothing about them.
#[test]
fn a_peer_that_may_set_no_flags_takes_none_from_the_others() {
    let Some(mut cluster) = cluster() else { return };
    if !nobody::takes(&mut cluster, &[&[]]) {
        return machine::skip("setpriv is not installed");
    }
    cluster.start();
    let (user, root) = (&cluster[0], &cluster[1]);
    let arrives = |content: &str| {
        poll::eventually(ARRIVAL_LIMIT, content, || {
            let is_there = |node: &Node| {
                fs::read_to_string(node.path("file")).is_ok_and(|found| found == content)
            };
            cluster.nodes().iter().all(is_there)
        });
        for node in cluster.nodes() {
            let waited = node.wait(ARRIVAL_LIMIT).unwrap();
            assert_eq!(waited.code, 0, "{waited:?}");
            let errors = node.status().unwrap().json()["errors"].clone();
            assert_eq!(errors.as_array().map(Vec::len), Some(0), "{errors}");
        }
        assert_eq!(flags::of(&user.path("file")).unwrap(), "");
        assert_eq!(flags::of(&root.path("file")).unwrap(), "i", "freed by who cannot");
    };
    fs::write(root.path("file"), "bound").unwrap();
    chown(root.path("file"), Some(nobody::ID), Some(nobody::ID)).unwrap();
    flags::set(&root.path("file"), "i").unwrap();
    arrives("bound");
    fs::write(user.path("file"), "edited by the user").unwrap();
    arrives("edited by the user");
    user.verify().unwrap();
    arrives("edited by the user");
    cluster[0].stop().unwrap();
    fs::write(cluster[0].path("file"), "edited while it was stopped").unwrap();
    cluster[0].start().unwrap();
    let (user, root) = (&cluster[0], &cluster[1]);
    poll::eventually(ARRIVAL_LIMIT, "the edit arrives", || {
        fs::read_to_string(root.path("file")).is_ok_and(|found| found.ends_with("stopped"))
    });
    // It is bound again only after the bytes are there.
    assert_eq!(root.wait(ARRIVAL_LIMIT).unwrap().code, 0);
    assert_eq!(flags::of(&root.path("file")).unwrap(), "i");
    bind(root, "file", "");
    fs::write(root.path("file"), "free").unwrap();
    poll::eventually(ARRIVAL_LIMIT, "free", || {
        fs::read_to_string(user.path("file")).is_ok_and(|found| found == "free")
    });
    assert_eq!(root.wait(ARRIVAL_LIMIT).unwrap().code, 0);
    assert_eq!(flags::of(&root.path("file")).unwrap(), "");
}
