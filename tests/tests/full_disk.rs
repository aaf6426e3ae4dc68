//! A disk that is full stops what would be written to it, says so, and goes on
//! once there is room, without anybody's help.

use std::fs;
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Form, Volume, poll, sample};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_full_disk_on_ext4() {
    a_full_disk(FileSystem::Ext4);
}

#[test]
fn a_full_disk_on_xfs() {
    a_full_disk(FileSystem::Xfs);
}

#[test]
fn a_full_disk_on_btrfs() {
    a_full_disk(FileSystem::Btrfs);
}

fn a_full_disk(kind: FileSystem) {
    let form = Form { size: 400 << 20, ..Form::of(kind) };
    let Some(volume) = Volume::or_skip_of(form) else { return };
    // Nothing is left free: the file system itself has to say no.
    let mut cluster = Cluster::new(2).with_options(&["--min-free", "0"]);
    cluster[1].settings.root = volume.path().join("root");
    fs::create_dir(cluster[1].root()).unwrap();
    cluster.start();
    for number in 0..20 {
        fs::write(cluster[0].path(format!("small-{number}")), vec![number; 50_000]).unwrap();
    }
    sample::random_file(&cluster[0].path("patched"), 8 << 20, 1).unwrap();
    cluster.assert_same();

    let ballast = volume.path().join("ballast");
    fill(&ballast);
    for number in 0..20 {
        sample::random_file(&cluster[0].path(format!("new-{number}")), 1 << 20, number).unwrap();
        fs::write(cluster[0].path(format!("small-{number}")), vec![!number as u8; 60_000]).unwrap();
    }
    sample::random_file(&cluster[0].path("large"), 30 << 20, 2).unwrap();
    sample::random_file(&cluster[0].path("patched"), 8 << 20, 3).unwrap();
    fs::remove_file(cluster[0].path("small-3")).unwrap();
    poll::eventually(LIMIT, "it says that the disk is full", || {
        let status = cluster[1].status().unwrap();
        status.json()["errors"].to_string().contains("free some space")
    });
    // What is there is whole, the old or the new.
    for number in 0..20u8 {
        let bytes = fs::read(cluster[1].path(format!("small-{number}"))).unwrap_or_default();
        let is_old = bytes == vec![number; 50_000];
        let is_new = bytes == vec![!number; 60_000];
        assert!(is_old || is_new || number == 3, "small-{number} has {} bytes", bytes.len());
    }
    assert!(cluster[1].is_running());

    fs::remove_file(&ballast).unwrap();
    cluster.assert_same_within(LIMIT);
    cluster.assert_rsync_agrees();
}

/// Takes all the room that there is.
fn fill(ballast: &std::path::Path) {
    use std::io::Write;
    let mut file = fs::File::create(ballast).unwrap();
    for bytes in [1 << 20, 64 << 10, 4 << 10] {
        let block = vec![7; bytes];
        while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
    }
}
