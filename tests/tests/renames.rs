//! Renames travel as renames: no content goes again, and what is renamed on
//! one node stays the same inode on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::{Cluster, SETTLE_LIMIT, sample, tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const MANY: u64 = 10_000;

/// Of each of the many: what all may take on the wire is the content of a few
/// in a hundred.
const MANY_BYTES: usize = 16 << 10;

/// Both names and the body of one entry.
const RECORD_BYTES_MAX: u64 = 400;

/// Of the few that change places. What is smaller is replaced as a whole when
/// it is written.
const LARGE_BYTES: u64 = 1 << 20;

/// How often they do.
const ROUNDS: u64 = 8;

/// Rotated logs that are kept beside the one that is written.
const KEPT: u64 = 4;

fn inodes(root: &Path) -> BTreeMap<OsString, u64> {
    let inode = |name: &OsString| fs::symlink_metadata(root.join(name)).unwrap().ino();
    tree::names(root)
        .unwrap()
        .into_iter()
        .map(|name| (inode(&name), name))
        .map(|(ino, name)| (name, ino))
        .collect()
}

fn wire(cluster: &Cluster) -> replicator_tests::PeerTraffic {
    cluster[0].status().unwrap().traffic()
}

#[test]
fn ten_thousand_files_are_renamed_with_their_folder() {
    let mut cluster = Cluster::new(2);
    sample::small_files(&cluster[0].path("before"), MANY, MANY_BYTES).unwrap();
    sample::copy(cluster[0].root(), cluster[1].root()).unwrap();
    cluster.start();
    cluster.assert_same_within(4 * SETTLE_LIMIT);
    let (before, sent) = (inodes(&cluster[1].path("before")), wire(&cluster));
    let directory = |name: &str| fs::metadata(cluster[1].path(name)).unwrap().ino();
    let inode = directory("before");

    let begun = Instant::now();
    fs::rename(cluster[0].path("before"), cluster[0].path("after")).unwrap();
    cluster.assert_same_within(2 * SETTLE_LIMIT);
    let took = begun.elapsed();
    assert_eq!(directory("after"), inode, "the directory was made again");
    assert_eq!(inodes(&cluster[1].path("after")), before, "something was made again");
    assert!(!cluster[1].path("before").exists());
    let bytes = wire(&cluster).since(sent);
    println!(
        "renaming a folder of {MANY} files took {took:.1?} and {bytes} bytes, {} a file",
        bytes / MANY
    );
    assert!(bytes < MANY * RECORD_BYTES_MAX, "{bytes} bytes: content went again");
}

/// More than one message tells of: what takes a place is told before what lay
/// there is told to have another.
#[test]
fn large_folders_that_change_places_send_no_content() {
    const FILES: u64 = 1500;
    let mut cluster = Cluster::new(2);
    let a = cluster[0].root().to_path_buf();
    let folders = ["one", "two", "three"].map(|name| a.join(name));
    for folder in &folders {
        sample::small_files(folder, FILES, MANY_BYTES).unwrap();
    }
    cluster.start();
    cluster.assert_same_within(4 * SETTLE_LIMIT);
    let lying = || ["one", "two", "three"].map(|name| inodes(&cluster[1].path(name)));
    let [one, two, three] = &folders;
    let [first, second, third] = lying();

    let sent = wire(&cluster);
    renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).unwrap();
    cluster.assert_same_within(2 * SETTLE_LIMIT);
    assert_eq!(lying(), [second.clone(), first.clone(), third.clone()], "not exchanged");
    for (from, to) in [(one, &a.join("aside")), (two, one), (three, two), (&a.join("aside"), three)]
    {
        fs::rename(from, to).unwrap();
    }
    cluster.assert_same_within(2 * SETTLE_LIMIT);
    assert_eq!(lying(), [first, third, second], "not moved on");
    let bytes = wire(&cluster).since(sent);
    println!("{} moves took {bytes} bytes, {} each", 5 * FILES, bytes / (5 * FILES));
    assert!(bytes < 5 * FILES * RECORD_BYTES_MAX, "{bytes} bytes: content went again");
}

#[test]
fn what_changes_places_sends_no_content() {
    let (cluster, known) = with_two_of_each();
    let a = cluster[0].root().to_path_buf();
    let sent = wire(&cluster);
    for (one, other) in [("log.0", "log.1"), ("folder-0", "folder-1")] {
        renameat_with(CWD, a.join(one), CWD, a.join(other), RenameFlags::EXCHANGE).unwrap();
    }
    cluster.assert_same();
    nothing_was_made_again(&cluster, &known);
    cluster.assert_rsync_agrees();
    let bytes = wire(&cluster).since(sent);
    println!("exchanges of 4 MiB took {bytes} bytes");
    assert!(bytes < LARGE_BYTES / 2, "{bytes} bytes: content went again");
}

#[test]
fn what_changes_places_by_a_third_name_sends_no_content() {
    let (cluster, known) = with_two_of_each();
    let a = cluster[0].root().to_path_buf();
    for round in 0..ROUNDS {
        let sent = wire(&cluster);
        for (one, other) in [("log.0", "log.1"), ("folder-0", "folder-1")] {
            for (from, to) in [(one, "third"), (other, one), ("third", other)] {
                fs::rename(a.join(from), a.join(to)).unwrap();
                // Now and then as slow as a shell that starts a program for each.
                thread::sleep(Duration::from_millis(round % 4));
            }
        }
        cluster.assert_same();
        nothing_was_made_again(&cluster, &known);
        let bytes = wire(&cluster).since(sent);
        assert!(bytes < LARGE_BYTES / 2, "{bytes} bytes in round {round}: content went again");
    }
    cluster.assert_rsync_agrees();
}

#[test]
fn rotated_logs_send_what_was_appended() {
    rotate_logs(Cluster::new(2));
}

/// Where nobody tells which bytes were written, what differs is found.
#[test]
fn rotated_logs_send_what_was_appended_through_inotify() {
    rotate_logs(Cluster::new(2).with_options(&["--capture", "inotify"]));
}

fn rotate_logs(mut cluster: Cluster) {
    let a = cluster[0].root().to_path_buf();
    let log = |number: u64| match number {
        0 => "log".to_owned(),
        number => format!("log.{number}"),
    };
    for number in 0..=KEPT {
        sample::random_file(&a.join(log(number)), LARGE_BYTES, number).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    let mut writer = File::options().append(true).open(a.join("log")).unwrap();
    for round in 0..ROUNDS {
        let (before, sent) = (inodes(cluster[1].root()), wire(&cluster));
        for number in (0..KEPT).rev() {
            writeln!(writer, "rotating {number}").unwrap();
            fs::rename(a.join(log(number)), a.join(log(number + 1))).unwrap();
            thread::sleep(Duration::from_millis(round % 4));
        }
        // Who writes the log learns of it a little later.
        writeln!(writer, "the last line").unwrap();
        sample::random_file(&a.join("log"), LARGE_BYTES, 100 + round).unwrap();
        let mut fresh = File::options().append(true).open(a.join("log")).unwrap();
        writeln!(writer, "a line too late").unwrap();
        writeln!(fresh, "the first line").unwrap();
        writer = fresh;
        cluster.assert_same();
        let after = inodes(cluster[1].root());
        for number in 0..KEPT {
            let (was, is) =
                (before[&*OsString::from(log(number))], after[&*OsString::from(log(number + 1))]);
            assert_eq!(was, is, "{} was made again in round {round}", log(number + 1));
        }
        let bytes = wire(&cluster).since(sent);
        let again = bytes.saturating_sub(LARGE_BYTES);
        assert!(again < LARGE_BYTES / 2, "{bytes} bytes in round {round}: content went again");
    }
    cluster.assert_rsync_agrees();
}

/// Two large files and two folders with one each, on both nodes; with the
/// inodes that they are at the second.
fn with_two_of_each() -> (Cluster, BTreeSet<u64>) {
    let mut cluster = Cluster::new(2);
    let a = cluster[0].root().to_path_buf();
    for number in 0..2 {
        sample::random_file(&a.join(format!("log.{number}")), LARGE_BYTES, number).unwrap();
        let folder = a.join(format!("folder-{number}"));
        fs::create_dir(&folder).unwrap();
        sample::random_file(&folder.join("content"), LARGE_BYTES, 100 + number).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    let known = inodes(cluster[1].root()).into_values().collect();
    (cluster, known)
}

/// Every inode of the second node is one of these.
fn nothing_was_made_again(cluster: &Cluster, known: &BTreeSet<u64>) {
    let now = inodes(cluster[1].root());
    let again: Vec<_> = now.iter().filter(|(_, inode)| !known.contains(inode)).collect();
    assert!(again.is_empty(), "made again: {again:?}");
}
