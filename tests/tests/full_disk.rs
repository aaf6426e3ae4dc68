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

/// Where the index lies: the node stays, says what it needs, and finds what
/// changed meanwhile on both sides once it has that.
#[test]
fn a_full_state_directory() {
    let form = Form { size: 400 << 20, ..Form::of(FileSystem::Ext4) };
    let Some(volume) = Volume::or_skip_of(form) else { return };
    let mut cluster = Cluster::new(2);
    cluster[1].settings.state = volume.path().join("state");
    cluster.start();
    fs::write(cluster[1].path("deleted"), "before").unwrap();
    fs::write(cluster[1].path("edited"), "before").unwrap();
    cluster.assert_same();

    let ballast = volume.path().join("ballast");
    fill(&ballast);
    fs::create_dir(cluster[0].path("new")).unwrap();
    for number in 0..20_000 {
        fs::write(cluster[0].path(format!("new/{number}")), format!("{number}")).unwrap();
    }
    poll::eventually(LIMIT, "it says that it lacks room", || {
        let said = cluster[1].command(&["status"]).unwrap();
        said.stderr.contains("no space left in") && said.stderr.contains("goes on by itself")
    });
    fs::write(cluster[1].path("edited"), "after").unwrap();
    fs::remove_file(cluster[1].path("deleted")).unwrap();
    assert!(cluster[1].is_running());

    fs::remove_file(&ballast).unwrap();
    cluster.assert_same_within(LIMIT);
    assert_eq!(fs::read(cluster[0].path("edited")).unwrap(), b"after");
    assert!(!cluster[0].path("deleted").exists());
    assert_eq!(fs::read_dir(cluster[1].path("new")).unwrap().count(), 20_000);

    // It ends as it is told, also while it waits. What the index had taken
    // has room within for an unknown number of changes.
    fill(&ballast);
    let mut batches = 0..;
    poll::eventually(LIMIT, "it lacks room again", || {
        let batch = cluster[0].path(format!("batch-{}", batches.next().unwrap()));
        fs::create_dir(&batch).unwrap();
        for number in 0..5_000 {
            fs::write(batch.join(format!("{number}")), format!("{number}")).unwrap();
        }
        cluster[1].command(&["status"]).unwrap().stderr.contains("no space left in")
    });
    assert!(cluster[1].stop().unwrap().success());
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
