//! Renames travel as renames: no content goes again, and what is renamed on
//! one node stays the same inode on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use replicator_tests::{Cluster, SETTLE_LIMIT, sample, tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const MANY: u64 = 10_000;

/// Of each of the many: several times what a record takes.
const MANY_BYTES: usize = 3000;

/// Both names and the body of one entry.
const RECORD_BYTES_MAX: u64 = 1000;

/// Of the few that change places.
const LARGE_BYTES: u64 = 1 << 20;

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
    cluster.start();
    cluster.assert_same_within(4 * SETTLE_LIMIT);
    let (before, sent) = (inodes(&cluster[1].path("before")), wire(&cluster));

    let begun = Instant::now();
    fs::rename(cluster[0].path("before"), cluster[0].path("after")).unwrap();
    cluster.assert_same_within(2 * SETTLE_LIMIT);
    let took = begun.elapsed();
    assert_eq!(inodes(&cluster[1].path("after")), before, "something was made again");
    assert!(!cluster[1].path("before").exists());
    let bytes = wire(&cluster).since(sent);
    println!(
        "renaming a folder of {MANY} files took {took:.1?} and {bytes} bytes, {} a file",
        bytes / MANY
    );
    assert!(bytes < MANY * RECORD_BYTES_MAX, "{bytes} bytes: content went again");
}

#[test]
fn what_changes_places_sends_no_content() {
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
    let (before, sent) = (inodes(cluster[1].root()), wire(&cluster));
    // Every inode is still there, and bears the name it bears at the writer.
    let nothing_was_made_again = |cluster: &Cluster, what: &str| {
        let known: BTreeSet<u64> = before.values().copied().collect();
        let now = inodes(cluster[1].root());
        let again: Vec<_> = now.iter().filter(|(_, inode)| !known.contains(inode)).collect();
        assert!(again.is_empty(), "{what}: made again: {again:?}");
    };

    for (one, other) in [("log.0", "log.1"), ("folder-0", "folder-1")] {
        renameat_with(CWD, a.join(one), CWD, a.join(other), RenameFlags::EXCHANGE).unwrap();
    }
    cluster.assert_same();
    nothing_was_made_again(&cluster, "exchanges");
    cluster.assert_rsync_agrees();
    let bytes = wire(&cluster).since(sent);
    println!("exchanges of 4 MiB took {bytes} bytes");
    assert!(bytes < LARGE_BYTES / 2, "{bytes} bytes: content went again");
}
