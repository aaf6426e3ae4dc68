//! Who belongs to a cluster: leaving for good, and what is forgotten once
//! every member has seen it.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use replicator_tests::{Cluster, Node, Stopped, poll, sample};

/// Long enough for three rounds of members telling what they hold, which are
/// an eighth of the retention each.
const FORGETS_WITHIN: Duration = Duration::from_secs(25);

/// Long enough for several dials.
const WATCHED: Duration = Duration::from_secs(7);

fn in_sync(count: usize, retention: &str) -> Cluster {
    let mut cluster = Cluster::new(count).with_options(&["--retention", retention]);
    for number in 0..20 {
        fs::write(cluster[0].path(format!("{number}")), format!("{number}")).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    cluster
}

fn tombstones(node: &Node) -> u64 {
    node.status().unwrap().number("/index/tombstones")
}

fn lists(node: &Node, name: &str) -> bool {
    node.status().unwrap().peers().iter().any(|peer| peer["name"] == name)
}

#[track_caller]
fn assert_has_left(node: &mut Node) {
    let error = node.start().unwrap_err().to_string();
    assert!(error.contains("has left its cluster for good"), "{error}");
    assert!(error.contains("exit status: 77"), "{error}");
}

#[test]
fn a_node_that_left_is_forgotten() {
    let mut cluster = in_sync(3, "24s");
    let left = cluster[1].leave(&[]).unwrap();
    assert_eq!(left.code, 0, "{left:?}");
    assert_eq!(left.stdout, "left the cluster; the folder's files stay\n");
    assert!(cluster[1].ended_within(Duration::from_secs(10)).unwrap().success());
    assert!(cluster[1].path("3").exists());
    for number in [0, 2] {
        poll::eventually(Duration::from_secs(10), "the others do not list it", || {
            !lists(&cluster[number], "b")
        });
    }

    // Nobody calls.
    let port = UdpSocket::bind(("127.0.0.1", cluster[1].settings.port)).unwrap();
    port.set_read_timeout(Some(WATCHED)).unwrap();
    let heard = port.recv_from(&mut [0; 2048]);
    assert!(heard.is_err(), "somebody still dials the node that left: {heard:?}");
    drop(port);

    // Nothing is kept for it.
    fs::remove_file(cluster[0].path("3")).unwrap();
    poll::eventually(Duration::from_secs(20), "the deletion is forgotten", || {
        !cluster[2].path("3").exists() && tombstones(&cluster[0]) + tombstones(&cluster[2]) == 0
    });

    assert_has_left(&mut cluster[1]);
    let again = cluster.dir().join("b-again");
    cluster[1].settings.state = again;
    fs::remove_dir_all(cluster[1].private("")).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert!(lists(&cluster[0], "b"), "with a new state directory it is a new member");
}

#[test]
fn a_node_does_not_leave_before_a_peer_that_is_silent_has_all() {
    let mut cluster = in_sync(2, "1h");
    let stopped = Stopped::new(&cluster[1]);
    fs::write(cluster[0].path("news"), "the only copy").unwrap();
    // Less than it takes to notice that the peer is gone.
    let left = cluster[0].leave(&["--timeout", "2s"]).unwrap();
    assert_eq!(left.code, 1, "{left:?}");
    assert!(
        left.stdout.starts_with("not left: the others do not hold all of it yet\n"),
        "{left:?}"
    );
    assert!(left.stdout.contains("  node b ("), "{left:?}");
    assert!(left.stdout.contains("): it gave no answer in time\n"), "{left:?}");
    drop(stopped);
    cluster.assert_same();
    assert!(cluster[0].is_running());
}

/// Who is away does not hear the goodbye. It hears of it later, from others,
/// and then knows whom to refuse.
#[test]
fn a_member_that_is_away_learns_later_who_left() {
    let mut cluster = in_sync(3, "1h");
    // What the node that leaves was before it left.
    cluster[1].stop().unwrap();
    let before = cluster.dir().join("b-before");
    sample::copy(cluster[1].state(), &before).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    cluster[2].stop().unwrap();
    poll::eventually(Duration::from_secs(10), "both know that c is away", || {
        (0..2).all(|number| cluster[number].status().unwrap().peers_connected() == 1)
    });
    fs::write(cluster[1].path("last-words"), "of b").unwrap();
    let left = cluster[1].leave(&[]).unwrap();
    assert_eq!(left.code, 0, "{left:?}");
    let mut lines = left.stdout.lines();
    assert_eq!(lines.next(), Some("left the cluster; the folder's files stay"), "{left:?}");
    assert_eq!(lines.next(), Some("away now, to hear of it from the others:"), "{left:?}");
    assert!(lines.next().unwrap().starts_with("  node c ("), "{left:?}");
    assert_eq!(lines.next(), None, "{left:?}");
    assert!(cluster[1].ended_within(Duration::from_secs(10)).unwrap().success());

    cluster[2].start().unwrap();
    poll::eventually(Duration::from_secs(10), "c has what b left and does not list it", || {
        cluster[2].path("last-words").exists() && !lists(&cluster[2], "b")
    });
    // The only one it could ask has not seen it leave.
    cluster[0].stop().unwrap();
    cluster[1].settings.state = before;
    fs::write(cluster[1].path("written-while-out"), "x").unwrap();
    cluster[1].spawn().unwrap();
    let ended = cluster[1].ended_within(Duration::from_secs(20)).unwrap();
    assert_eq!(ended.code(), Some(77), "{}", cluster[1].log());
    assert!(cluster[1].log().contains("has left its cluster for good"), "{}", cluster[1].log());
    assert!(!cluster[2].path("written-while-out").exists());
}

#[test]
fn a_dead_member_is_forgotten_when_another_says_so() {
    let mut cluster = in_sync(3, "1h");
    let refused = cluster[0].leave(&["--node", "b"]).unwrap();
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("is running and connected"), "{refused:?}");
    cluster[1].kill9().unwrap();
    poll::eventually(Duration::from_secs(20), "its end is noticed", || {
        cluster[0].status().unwrap().peers_connected() == 1
    });
    let left = cluster[0].leave(&["--node", "b"]).unwrap();
    assert_eq!((left.code, left.stdout.as_str()), (0, "b is no member any more\n"), "{left:?}");
    for number in [0, 2] {
        poll::eventually(Duration::from_secs(20), "nobody lists it", || {
            !lists(&cluster[number], "b")
        });
    }
    let unknown = cluster[0].leave(&["--node", "b"]).unwrap();
    assert!(unknown.stderr.contains("no member is called 'b'"), "{unknown:?}");

    // Back from the dead it is told.
    fs::write(cluster[1].path("written-while-out"), "x").unwrap();
    cluster[1].spawn().unwrap();
    let ended = cluster[1].ended_within(Duration::from_secs(20)).unwrap();
    assert_eq!(ended.code(), Some(77), "{}", cluster[1].log());
    assert_has_left(&mut cluster[1]);
    assert!(!cluster[0].path("written-while-out").exists());
}

#[test]
fn a_node_that_is_not_running_cannot_leave_by_itself() {
    let mut cluster = Cluster::running(1);
    cluster[0].stop().unwrap();
    let refused = cluster[0].leave(&[]).unwrap();
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("start it to let it leave"), "{refused:?}");
}

#[test]
fn a_deletion_is_remembered_for_who_is_away_and_then_forgotten() {
    let mut cluster = in_sync(3, "40s");
    cluster[2].stop().unwrap();
    fs::remove_file(cluster[0].path("7")).unwrap();
    poll::eventually(Duration::from_secs(10), "the deletion arrives", || {
        !cluster[1].path("7").exists()
    });
    // More than two rounds: enough to forget, were it not for the third.
    poll::holds_for(Duration::from_secs(14), "it is remembered", || tombstones(&cluster[0]) == 1);
    cluster[2].start().unwrap();
    cluster.assert_same();
    assert!(!cluster[0].path("7").exists(), "it came back");
    poll::eventually(FORGETS_WITHIN, "it is forgotten", || {
        cluster.nodes().iter().all(|node| tombstones(node) == 0)
    });
    assert_eq!(cluster[0].status().unwrap().number("/index/bodies"), 20, "19 files and the root");
}

#[test]
fn a_node_that_was_away_for_too_long_is_merged_like_a_new_one() {
    let mut cluster = in_sync(3, "4s");
    cluster[2].stop().unwrap();
    // A connection that is being made must not keep the node's next life from
    // its port.
    let silent = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    cluster[2].settings.peers.push(silent.local_addr().unwrap().port());
    fs::remove_file(cluster[0].path("7")).unwrap();
    fs::remove_file(cluster[2].path("8")).unwrap();
    fs::write(cluster[0].path("9"), "edited meanwhile").unwrap();
    poll::eventually(FORGETS_WITHIN, "the deletion arrives", || !cluster[1].path("7").exists());
    poll::eventually(FORGETS_WITHIN, "the absent node is no longer waited for", || {
        tombstones(&cluster[0]) + tombstones(&cluster[1]) == 0
    });
    cluster[2].start().unwrap();
    let log = || cluster[2].log();
    poll::eventually(FORGETS_WITHIN, "it says that it begins anew", || {
        log().contains("away for longer than the others wait")
    });
    cluster.assert_same();
    assert_eq!(fs::read_to_string(cluster[0].path("7")).unwrap(), "7", "its file was merged");
    assert_eq!(fs::read_to_string(cluster[2].path("8")).unwrap(), "8", "it was trusted to delete");
    assert_eq!(fs::read_to_string(cluster[2].path("9")).unwrap(), "edited meanwhile");
}
