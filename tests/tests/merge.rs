//! Folders that were full before they met, and nodes that come later.

use std::fs;
use std::time::Duration;

use replicator_tests::{Cluster, poll, sample, tree};

#[test]
fn two_full_folders_become_their_union() {
    let mut cluster = Cluster::new(2);
    sample::site(cluster[0].root()).unwrap();
    let other = cluster[1].path("wp-content/uploads/b");
    fs::create_dir_all(&other).unwrap();
    for number in 0..100 {
        fs::write(other.join(format!("{number}.jpg")), format!("picture {number}")).unwrap();
    }
    let mut union = tree::names(cluster[0].root()).unwrap();
    union.extend(tree::names(cluster[1].root()).unwrap());
    union.sort();
    union.dedup();

    cluster.start();
    cluster.assert_same();
    cluster.assert_rsync_agrees();
    assert_eq!(tree::names(cluster[0].root()).unwrap(), union);
}

#[test]
fn equal_files_meet_without_a_conflict() {
    let mut cluster = Cluster::new(2);
    for node in cluster.nodes() {
        for number in 0..50 {
            fs::write(node.path(format!("same-{number}")), format!("content {number}")).unwrap();
        }
    }
    cluster.start();
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(node.status().unwrap().conflicts(), 0, "on {}", node.name());
    }
}

#[test]
fn nearly_equal_trees_meet_in_little_traffic() {
    let mut cluster = Cluster::new(2);
    sample::look_alike(cluster[0].root()).unwrap();
    sample::copy(cluster[0].root(), cluster[1].root()).unwrap();
    fs::write(cluster[0].path("only-on-a"), "a").unwrap();
    let (_, bytes) = tree::count(cluster[0].root()).unwrap();

    cluster.start();
    cluster.assert_same();
    let traffic = cluster[0].status().unwrap().traffic();
    let wire = traffic.sent + traffic.received;
    assert!(wire < bytes / 10, "{wire} bytes for a tree of {bytes} that was there already");
}

#[test]
fn a_tree_copied_in_live_and_removed_live_follows() {
    let cluster = Cluster::running(2);
    sample::site(&cluster[0].path("site")).unwrap();
    cluster.assert_same();
    fs::remove_dir_all(cluster[1].path("site")).unwrap();
    cluster.assert_same();
    assert!(!cluster[0].path("site").exists());
}

#[test]
fn a_node_told_of_one_member_joins_all() {
    let mut cluster = Cluster::chain(3);
    for node in cluster.nodes() {
        fs::write(node.path(format!("from-{}", node.name())), node.name()).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    assert_eq!(tree::names(cluster[2].root()).unwrap().len(), 3);

    // The first and the last were never told of each other.
    fs::write(cluster[0].path("later"), "from the first").unwrap();
    cluster.assert_same();
    fs::remove_file(cluster[2].path("from-a")).unwrap();
    cluster.assert_same();
    assert!(!cluster[0].path("from-a").exists());
}

#[test]
fn the_others_go_on_when_one_dies_and_it_catches_up() {
    let mut cluster = Cluster::chain(3);
    cluster.start();
    fs::write(cluster[0].path("before"), "all alive").unwrap();
    cluster.assert_same();

    // The middle one, which the others were told of.
    cluster[1].kill9().unwrap();
    fs::write(cluster[0].path("meanwhile"), "one is dead").unwrap();
    let seen = cluster[2].path("meanwhile");
    poll::eventually(Duration::from_secs(20), "the living follow each other", || {
        fs::read(&seen).is_ok_and(|bytes| bytes == b"one is dead")
    });
    cluster[1].start().unwrap();
    cluster.assert_same();
}

#[test]
fn what_wait_says_is_true_at_once() {
    let cluster = Cluster::running(2);
    for round in 0..5 {
        for number in 0..40 {
            fs::write(cluster[0].path(format!("{round}-{number}")), format!("{round}")).unwrap();
        }
        let finished = cluster[0].wait(Duration::from_secs(20)).unwrap();
        assert_eq!(finished.code, 0, "{finished:?}");
        assert_eq!(cluster.differences(), "", "in round {round}");
    }
}

#[test]
fn verify_agrees_and_finds_nothing() {
    let cluster = Cluster::running(2);
    sample::look_alike(&cluster[0].path("site")).unwrap();
    cluster.assert_same();
    let finished = cluster[1].verify().unwrap();
    assert_eq!(finished.code, 0, "{finished:?}");
}
