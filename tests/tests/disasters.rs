//! A folder that is suddenly gone is a disaster here, and must not become one
//! everywhere.

use std::fs;
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Volume, machine, poll, tree};

/// More than any brake lets through unseen.
const FILES: u64 = 300;

/// Long enough for deletions to arrive if they were sent.
const WATCHED: Duration = Duration::from_secs(4);

/// Two nodes in sync over a folder with files.
fn in_sync() -> Cluster {
    let mut cluster = Cluster::new(2);
    for number in 0..FILES {
        fs::write(cluster[0].path(format!("{number}")), format!("precious {number}")).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    cluster
}

#[track_caller]
fn assert_keeps_all(cluster: &Cluster) {
    poll::holds_for(WATCHED, "the peer keeps every file", || {
        tree::count(cluster[0].root()).unwrap().0 >= FILES
    });
}

#[test]
fn a_root_emptied_while_its_node_was_stopped() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    for number in 0..FILES {
        fs::remove_file(cluster[1].path(format!("{number}"))).unwrap();
    }
    // It may refuse to start, or start and hold the deletions back.
    let _ = cluster[1].spawn();
    assert_keeps_all(&cluster);
}

#[test]
fn a_root_replaced_while_its_node_was_stopped() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    let away = cluster.dir().join("away");
    fs::rename(cluster[1].root(), &away).unwrap();
    fs::create_dir(cluster[1].root()).unwrap();
    cluster[1].spawn().unwrap();
    assert_keeps_all(&cluster);

    // Put back, all goes on.
    if cluster[1].is_running() {
        cluster[1].stop().unwrap();
    } else {
        cluster[1].ended_within(Duration::ZERO);
    }
    fs::remove_dir_all(cluster[1].root()).unwrap();
    fs::rename(&away, cluster[1].root()).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
}

#[test]
fn a_root_moved_away_under_a_running_node() {
    let mut cluster = in_sync();
    let away = cluster.dir().join("away");
    fs::rename(cluster[1].root(), &away).unwrap();
    fs::create_dir(cluster[1].root()).unwrap();
    assert_keeps_all(&cluster);
    assert_eq!(tree::count(&away).unwrap().0, FILES);
    cluster[1].stop().unwrap();
    fs::remove_dir_all(cluster[1].root()).unwrap();
    fs::rename(&away, cluster[1].root()).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
}

#[test]
fn a_root_that_was_unmounted() {
    let mut cluster = Cluster::new(2);
    let image = cluster.dir().join("image");
    let mounted = Volume::in_image(FileSystem::Ext4, &image, cluster[1].root(), 64 << 20);
    let mut mount = match mounted {
        Ok(mount) => mount,
        Err(error) => return machine::skip(&format!("no loop mount: {error:#}")),
    };
    // mkfs made it; it is not what this story is about.
    let _ = fs::remove_dir(cluster[1].path("lost+found"));
    for number in 0..FILES {
        fs::write(cluster[0].path(format!("{number}")), format!("precious {number}")).unwrap();
    }
    cluster.start();
    cluster.assert_same();

    mount.detach().unwrap();
    assert_keeps_all(&cluster);
    cluster[1].stop().unwrap();
    // As after a boot where the disk did not come.
    cluster[1].spawn().unwrap();
    assert_keeps_all(&cluster);
    if cluster[1].is_running() {
        cluster[1].stop().unwrap();
    } else {
        cluster[1].ended_within(Duration::ZERO);
    }
    mount.mount().unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    cluster[1].stop().unwrap();
}
