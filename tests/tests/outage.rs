//! A machine loses its power while its node serves a folder: what its disk had
//! not written out comes back from the others, and takes nothing from them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use replicator_tests::{Cluster, FileSystem, SETTLE_LIMIT, Volume, poll};

#[test]
fn what_a_power_loss_takes_comes_back_on_ext4() {
    what_a_power_loss_takes_comes_back(FileSystem::Ext4, &[]);
}

/// Files are not believed either that are read long after the start: those wait
/// here that others wait for a while.
#[test]
fn what_a_power_loss_takes_comes_back_where_reading_takes_longer() {
    let hurry = ["--delay", "2ms", "--max-delay", "2ms"];
    what_a_power_loss_takes_comes_back(FileSystem::Ext4, &hurry);
}

#[test]
fn what_a_power_loss_takes_comes_back_on_xfs() {
    what_a_power_loss_takes_comes_back(FileSystem::Xfs, &[]);
}

fn what_a_power_loss_takes_comes_back(kind: FileSystem, options: &[&str]) {
    let Some(mut volume) = Volume::or_skip(kind) else { return };
    let [boot, uptime] = ["/proc/sys/kernel/random/boot_id", "/proc/uptime"].map(|place| {
        let said = tempfile::NamedTempFile::new().unwrap();
        fs::copy(place, said.path()).unwrap();
        // The volume's mounts are this thread's and its children's alone.
        rustix::mount::mount_bind(said.path(), place).unwrap();
        said
    });
    let mut cluster = Cluster::new(2).with_options(options);
    let root = volume.path().join("root");
    fs::create_dir(&root).unwrap();
    cluster[1].settings.root = root.clone();
    cluster.start();
    let mut written = BTreeMap::new();
    for number in 0..40 {
        let name = format!("before-{number}");
        let bytes = format!("first {number} ").repeat(1000).into_bytes();
        fs::write(cluster[0].path(&name), &bytes).unwrap();
        written.insert(name, bytes);
    }
    cluster.assert_same();

    // The disk is flushed before the index speaks of what was applied here,
    // which is not to happen later on.
    assert!(cluster[1].stop().unwrap().success());
    cluster[1].start().unwrap();
    cluster.assert_same();

    // All of it is told and on the other node before the disk has it.
    for number in 0..40 {
        let before = format!("before-{number}");
        let edited = format!("edited {number}");
        let file = OpenOptions::new().write(true).open(root.join(&before)).unwrap();
        file.write_all_at(edited.as_bytes(), 0).unwrap();
        let bytes = written.get_mut(&before).unwrap();
        bytes[..edited.len()].copy_from_slice(edited.as_bytes());
        if number % 4 == 0 {
            file.write_all_at(b"appended", bytes.len() as u64).unwrap();
            bytes.extend_from_slice(b"appended");
        }
        let name = format!("new-{number}");
        let bytes = format!("new {number} ").repeat(number * 100 + 1).into_bytes();
        fs::write(root.join(&name), &bytes).unwrap();
        written.insert(name, bytes);
    }
    fs::remove_file(root.join("before-39")).unwrap();
    written.remove("before-39");
    cluster.assert_same();

    // What the index does not speak of yet cannot be missed at the next start:
    // it comes back as any news does.
    poll::eventually(SETTLE_LIMIT, "the index speaks of all of it", || {
        cluster[1].status().unwrap().number("/index/uncommitted_rows") == 0
    });
    let node = &mut cluster.nodes_mut()[1];
    volume.lose_power(|| node.kill9().unwrap()).unwrap();
    fs::write(boot.path(), "another boot\n").unwrap();
    fs::write(uptime.path(), "0.00 0.00\n").unwrap();
    let taken = differing(&root, &written);
    println!("the power loss took {} of {} files", taken.len(), written.len());
    assert!(!taken.is_empty(), "the disk had all of it: this story shows nothing");

    cluster[1].start().unwrap();
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(differing(node.root(), &written), [""; 0], "on {}", node.name());
    }
    let status = cluster[1].status().unwrap();
    let brought_back = status.number("/folder/brought_back");
    println!("{brought_back} entries came back");
    assert!(brought_back >= taken.len() as u64, "{status}");
    assert_eq!(status.number("/folder/conflicts"), 0, "{status}");
}

/// The files that do not hold what was written to them.
fn differing(root: &Path, written: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let is_other = |(name, bytes): &(&String, &Vec<u8>)| {
        fs::read(root.join(name)).ok().as_ref() != Some(*bytes)
    };
    written.iter().filter(is_other).map(|(name, _)| name.clone()).collect()
}

/// Until the disk has what the folder shows, what was kept of the same is all
/// there is on this machine.
#[test]
fn what_leaves_the_store_is_on_the_disk_elsewhere() {
    let Some(mut volume) = Volume::or_skip(FileSystem::Ext4) else { return };
    let mut cluster = Cluster::new(2);
    let root = volume.path().join("root");
    fs::create_dir(&root).unwrap();
    cluster[1].settings.root = root.clone();
    let (kept, shown) = (vec![b'k'; 300_000], vec![b's'; 300_000]);
    for (number, bytes) in [(1, &kept), (0, &shown)] {
        let path = cluster[number].path("f");
        fs::write(&path, bytes).unwrap();
        let mtime = SystemTime::now() - Duration::from_secs(100 + number as u64);
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    assert_eq!(fs::read(root.join("f")).unwrap(), shown);
    let conflicts = |cluster: &Cluster| cluster[1].status().unwrap().number("/folder/conflicts");
    assert_eq!(conflicts(&cluster), 1);
    // The disk was flushed for what was applied here, and is not any more.
    assert!(cluster[1].stop().unwrap().success());
    cluster[1].start().unwrap();
    cluster.assert_same();

    let file = OpenOptions::new().write(true).open(root.join("f")).unwrap();
    file.write_all_at(&kept, 0).unwrap();
    drop(file);
    poll::eventually(SETTLE_LIMIT, "the conflict is none any more", || conflicts(&cluster) == 0);
    // That it is gone is on the disk.
    File::create(volume.path().join("another")).unwrap().sync_all().unwrap();
    let node = &mut cluster.nodes_mut()[1];
    volume.lose_power(|| node.kill9().unwrap()).unwrap();
    assert!(fs::read(root.join("f")).unwrap() == kept, "neither the store nor the folder has it");
}
