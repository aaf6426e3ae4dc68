//! Folders that were full before they met, and nodes that come later.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::{Cluster, poll, sample, tree};

/// Files of two trees that were equal before they met, and what their meeting
/// may cost, in all and both ways. A connection alone takes some 150 KiB; the
/// records of each file have 280 bytes, and both sides have them.
const EQUAL_FILES: usize = 5_000;
const MEETING_BYTES_MAX: u64 = 400 << 10;

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
fn equal_trees_meet_without_a_listing() {
    let mut cluster = Cluster::new(2);
    let name = |number: usize| format!("{:03}/file-{:02}", number / 100, number % 100);
    for number in 0..EQUAL_FILES {
        let path = cluster[0].path(name(number));
        if number.is_multiple_of(100) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(path, format!("content {number}")).unwrap();
    }
    sample::copy(cluster[0].root(), cluster[1].root()).unwrap();
    for number in 0..3 {
        fs::write(cluster[0].path(name(50 + 500 * number)), "changed before they met").unwrap();
        fs::write(cluster[1].path(format!("004/added-{number}")), "added").unwrap();
    }
    for number in [777, 3777] {
        fs::remove_file(cluster[0].path(name(number))).unwrap();
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(cluster[1].path(name(number + 100)), mode).unwrap();
    }

    cluster.start();
    cluster.assert_same();
    let status = cluster[0].status().unwrap();
    let wire = status.traffic().sent + status.traffic().received;
    println!("{EQUAL_FILES} equal files and ten others: {wire} bytes");
    assert!(wire < MEETING_BYTES_MAX, "{wire} bytes on the wire");
    assert_eq!(status.files(), EQUAL_FILES as u64 + 3);

    // From then on each file is the same one on both.
    fs::write(cluster[0].path(name(11)), "edited").unwrap();
    fs::rename(cluster[1].path(name(12)), cluster[1].path("renamed")).unwrap();
    fs::remove_file(cluster[0].path(name(13))).unwrap();
    fs::rename(cluster[1].path("005"), cluster[1].path("folder")).unwrap();
    cluster.assert_same();
    assert_eq!(fs::read(cluster[1].path(name(11))).unwrap(), b"edited");
    assert_eq!(fs::read(cluster[0].path("renamed")).unwrap(), b"content 12");
    assert!(!cluster[1].path(name(13)).exists());
    assert!(cluster[0].path("folder/file-99").exists() && !cluster[0].path("005").exists());
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

/// Each of several receivers waits for all files of a job, and gives the others
/// those that have come: they once waited for each other, and a site's media
/// took half a minute to reach two nodes that reached one in a second.
#[test]
fn large_files_come_to_several_as_they_come_to_one() {
    let to_one = large_files_come_within(2);
    let to_two = large_files_come_within(3);
    let limit = 4 * to_one + Duration::from_secs(4);
    assert!(to_two < limit, "{to_two:?} to two nodes, {to_one:?} to one");
}

fn large_files_come_within(nodes: usize) -> Duration {
    let cluster = Cluster::running(nodes);
    let media = cluster.dir().join("media");
    fs::create_dir(&media).unwrap();
    for number in 0..40 {
        sample::random_file(&media.join(format!("{number}.mov")), 2 << 20, number).unwrap();
    }
    let begin = Instant::now();
    sample::copy(&media, &cluster[0].path("media")).unwrap();
    cluster.assert_same_within(Duration::from_secs(120));
    begin.elapsed()
}

/// Several have parts of them then, and nobody the rest: they waited five
/// seconds for each other, and whatever came in the same job waited with them.
#[test]
fn large_files_removed_on_their_way_hold_nothing_up() {
    const ROUNDS: u64 = 8;
    let cluster = Cluster::running(4);
    let mut settling = Duration::ZERO;
    for round in 0..ROUNDS {
        let media = cluster[0].path(format!("media-{round}"));
        fs::create_dir(&media).unwrap();
        for number in 0..8 {
            sample::random_file(&media.join(format!("{number}.mov")), 8 << 20, number).unwrap();
        }
        // Somewhere on their way, each time somewhere else.
        thread::sleep(Duration::from_millis(35 * round));
        fs::remove_dir_all(&media).unwrap();
        let begin = Instant::now();
        cluster.assert_same();
        settling += begin.elapsed();
    }
    println!("the same again after {settling:.1?} in all");
    assert!(settling < Duration::from_secs(18), "{settling:?} in all");
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
