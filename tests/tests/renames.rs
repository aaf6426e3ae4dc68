//! Renames travel as renames: no content goes again, and what is renamed on
//! one node stays the same inode on the other.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::random::Random;
use replicator_tests::{Cluster, SETTLE_LIMIT, sample, tree};

const MANY: u64 = 10_000;

/// Of each of the many: several times what a record takes.
const MANY_BYTES: usize = 3000;

/// Both names and the body of one entry.
const RECORD_BYTES_MAX: u64 = 1000;

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
fn writes_that_race_with_renames_land_in_the_renamed_files() {
    const FILES: u64 = 12;
    const WRITES: u64 = 300;
    let mut cluster = Cluster::new(2);
    fs::create_dir(cluster[0].path("here")).unwrap();
    for number in 0..FILES {
        fs::write(cluster[0].path(format!("here/{number}")), "first").unwrap();
    }
    cluster.start();
    cluster.assert_same();
    let over = AtomicBool::new(false);
    let mut last = vec![String::from("first"); FILES as usize];
    thread::scope(|scope| {
        let (a, over) = (cluster[0].root().to_path_buf(), &over);
        scope.spawn(move || {
            let (mut from, mut to) = ("here", "there");
            while !over.load(Ordering::Relaxed) {
                fs::rename(a.join(from), a.join(to)).unwrap();
                (from, to) = (to, from);
                thread::sleep(Duration::from_millis(70));
            }
        });
        let mut random = Random::new(5);
        for write in 0..WRITES {
            let number = random.below(FILES);
            let value = format!("{write:06}");
            let written = ["here", "there"].into_iter().any(|folder| {
                let path = cluster[1].path(format!("{folder}/{number}"));
                let file = OpenOptions::new().write(true).open(path);
                file.is_ok_and(|file| file.write_all_at(value.as_bytes(), 0).is_ok())
            });
            if written {
                last[number as usize] = value;
            }
            thread::sleep(Duration::from_millis(random.below(15)));
        }
        over.store(true, Ordering::Relaxed);
    });
    cluster.assert_same();
    let folder = ["here", "there"].into_iter().find(|folder| cluster[0].path(folder).exists());
    let folder = folder.expect("the folder is somewhere");
    for (number, value) in last.iter().enumerate() {
        let content = fs::read_to_string(cluster[0].path(format!("{folder}/{number}"))).unwrap();
        assert_eq!(content, *value, "{folder}/{number}");
    }
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, FILES);
}
