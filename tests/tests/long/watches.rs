//! What the kernel has no room to watch is looked at from time to time instead,
//! which is said, and watched once there is room: no limit ends a daemon.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use replicator_tests::{Cluster, Node, machine, poll};

/// What is watched arrives much sooner than what is looked at once a minute.
const WATCHED_LIMIT: Duration = Duration::from_secs(10);

/// `UNWATCHED_RETRY` of `replicator::capture`, and the time for a look.
const LOOK_LIMIT: Duration = Duration::from_secs(75);

/// The words that start a daemon as root of a space of users of its own, in
/// which `limit` is `most`. `None`, and a word about why, where that is not to
/// be had.
fn limited(limit: &str, most: u32) -> Option<Vec<OsString>> {
    let Some(unshare) = machine::program("unshare").filter(|_| machine::is_root()) else {
        machine::skip("only root with unshare can limit one daemon's watches");
        return None;
    };
    let limit = format!("echo {most} > /proc/sys/user/{limit} && exec \"$0\" \"$@\"");
    let words = ["--user", "--map-root-user", "sh", "-c", &limit];
    if let Err(error) = machine::run(Command::new(&unshare).args(words).arg("true")) {
        machine::skip(&format!("no namespace of users of its own: {error:#}"));
        return None;
    }
    let words = words.map(OsString::from);
    Some(std::iter::once(unshare.into_os_string()).chain(words).collect())
}

/// Other programs let go of what they had used up.
fn make_room(nsenter: &PathBuf, node: &Node, limit: &str) {
    let pid = node.pid().unwrap().to_string();
    let more = format!("echo 1000 > /proc/sys/user/{limit}");
    let words = ["--user", "--preserve-credentials", "sh", "-c", &more];
    machine::run(Command::new(nsenter).args(["--target", &pid]).args(words)).unwrap();
}

fn unwatched(node: &Node) -> u64 {
    node.status().unwrap().number("/capture/counters/unwatched")
}

fn loss(node: &Node) -> u64 {
    node.status().unwrap().number("/losses/watch_limit")
}

#[test]
fn too_few_inotify_watches() {
    let Some(prefix) = limited("max_inotify_watches", 40) else { return };
    let mut cluster = Cluster::new(2).with_options(&["--capture", "inotify"]);
    for number in 0..60 {
        let folder = cluster[0].path(format!("{number}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), "before").unwrap();
    }
    cluster[0].settings.prefix = prefix;
    cluster.start();
    cluster.assert_same();
    assert!(unwatched(&cluster[0]) >= 20, "{}", cluster[0].status().unwrap());
    assert!(cluster[0].log().contains("max_user_watches"), "the log does not say what to raise");
    let before = loss(&cluster[0]);
    fs::create_dir(cluster[0].path("one-more")).unwrap();
    poll::eventually(WATCHED_LIMIT, "the loss is counted", || loss(&cluster[0]) > before);

    for number in 0..60 {
        fs::write(cluster[0].path(format!("{number}/file")), "behind").unwrap();
    }
    let arrived = || {
        let path = |number| cluster[1].path(format!("{number}/file"));
        (0..60).filter(|number| fs::read(path(*number)).unwrap() == b"behind").count()
    };
    // Some directories are watched as before.
    poll::eventually(WATCHED_LIMIT, "watched changes arrive", || arrived() >= 30);
    // The others wait for their turn, or for this.
    let verified = cluster[0].verify().unwrap();
    assert!(verified.code <= 1, "{verified:?}");
    poll::eventually(WATCHED_LIMIT, "all changes arrive", || arrived() == 60);
    cluster.assert_same();
}

/// Other programs have used up all of one kind; two nodes get room again, the
/// third does not.
#[test]
fn no_inotify_watch_and_no_instance_at_all() {
    const LIMITS: [&str; 3] =
        ["max_inotify_instances", "max_inotify_watches", "max_inotify_watches"];
    let Some(nsenter) = machine::program("nsenter") else {
        return machine::skip("nsenter is not installed");
    };
    let mut cluster = Cluster::new(3).with_options(&["--capture", "inotify"]);
    for (node, limit) in LIMITS.into_iter().enumerate() {
        let Some(prefix) = limited(limit, 0) else { return };
        cluster[node].settings.prefix = prefix;
        fs::create_dir(cluster[node].path(format!("{node}"))).unwrap();
        fs::write(cluster[node].path(format!("{node}/file")), "before").unwrap();
    }
    cluster.start();
    cluster.assert_same();
    for (node, limit) in cluster.nodes().iter().zip(LIMITS) {
        assert_eq!((unwatched(node), loss(node)), (1, 1), "{}", node.status().unwrap());
        let log = fs::read_to_string(node.log_file()).unwrap();
        let said: Vec<_> = log.lines().filter(|line| line.contains("inotify has no")).collect();
        let raise = limit.replace("inotify", "user");
        assert!(said.len() == 1 && said[0].contains(&raise), "{limit}: {log}");
    }

    for node in 0..3 {
        fs::write(cluster[node].path(format!("{node}/file")), "unwatched").unwrap();
    }
    for (node, limit) in cluster.nodes().iter().zip(LIMITS).take(2) {
        make_room(&nsenter, node, limit);
    }
    let arrived = |text: &str, from: usize| {
        let path = format!("{from}/file");
        cluster.nodes().iter().all(|node| fs::read_to_string(node.path(&path)).unwrap() == text)
    };
    poll::eventually(LOOK_LIMIT, "a look finds what nobody told of", || {
        (0..3).all(|node| arrived("unwatched", node))
    });
    poll::eventually(LOOK_LIMIT, "watching is taken up", || {
        (0..2).all(|node| unwatched(&cluster[node]) == 0)
    });
    assert_eq!(unwatched(&cluster[2]), 1);
    for node in 0..2 {
        fs::write(cluster[node].path(format!("{node}/file")), "watched").unwrap();
    }
    poll::eventually(WATCHED_LIMIT, "watched changes arrive", || {
        (0..2).all(|node| arrived("watched", node))
    });
    cluster.assert_same();
}
