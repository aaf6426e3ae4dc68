//! Nodes that stop, are killed, and come back.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::random::Random;
use replicator_tests::{Cluster, Node, machine, poll, sample, tree};
use rustix::process::{Pid, Signal, kill_process};

/// Files of the transfer that is cut off, and the size of each.
const FILES: u64 = 8;
const FILE_BYTES: u64 = 24 << 20;

const TRANSFER_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn changes_made_while_a_node_is_stopped_meet_at_its_start() {
    let mut cluster = Cluster::new(2);
    for number in 0..40 {
        fs::write(cluster[0].path(format!("file-{number}")), format!("{number}")).unwrap();
    }
    fs::create_dir(cluster[0].path("folder")).unwrap();
    fs::write(cluster[0].path("folder/inner"), "inner").unwrap();
    cluster.start();
    cluster.assert_same();

    assert!(cluster[1].stop().unwrap().success());
    let (a, b) = (&cluster[0], &cluster[1]);
    fs::remove_file(a.path("file-1")).unwrap();
    fs::remove_file(b.path("file-2")).unwrap();
    fs::write(a.path("file-3"), "edited on the running node").unwrap();
    fs::write(b.path("file-4"), "edited on the stopped node").unwrap();
    fs::rename(a.path("folder"), a.path("renamed")).unwrap();
    fs::rename(b.path("file-5"), b.path("file-5-renamed")).unwrap();
    fs::write(a.path("new-on-a"), "a").unwrap();
    fs::write(b.path("new-on-b"), "b").unwrap();

    cluster[1].start().unwrap();
    cluster.assert_same();
    let a = &cluster[0];
    for gone in ["file-1", "file-2", "folder", "file-5"] {
        assert!(!a.path(gone).exists(), "{gone} came back");
    }
    for (name, content) in [
        ("file-3", "edited on the running node"),
        ("file-4", "edited on the stopped node"),
        ("renamed/inner", "inner"),
        ("file-5-renamed", "5"),
        ("new-on-a", "a"),
        ("new-on-b", "b"),
    ] {
        assert_eq!(fs::read_to_string(a.path(name)).unwrap(), content, "{name}");
    }
}

#[test]
fn a_terminal_that_closes_ends_what_was_not_told_to_stay() {
    let Some(nohup) = machine::program("nohup") else {
        return machine::skip("nohup is not installed");
    };
    let mut cluster = Cluster::new(2);
    cluster[1].settings.prefix = vec![nohup.into()];
    cluster.start();
    for node in cluster.nodes() {
        let pid = Pid::from_raw(node.pid().unwrap() as i32).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }
    let ended = cluster[0].ended_within(TRANSFER_LIMIT).expect("the first ends");
    assert!(ended.success(), "{}", cluster[0].log());
    poll::holds_for(Duration::from_secs(2), "the other serves", || cluster[1].status().is_ok());
    assert!(cluster[1].is_running() && !cluster[1].log().contains("ending on signal"));
    assert!(cluster[1].stop().unwrap().success(), "another signal still ends it");
}

#[test]
fn a_clean_restart_sends_nothing_again() {
    let mut cluster = Cluster::new(2);
    sample::look_alike(cluster[0].root()).unwrap();
    cluster.start();
    cluster.assert_same();
    for number in 0..2 {
        cluster[number].stop().unwrap();
        cluster[number].start().unwrap();
    }
    cluster.assert_same();
    let (_, bytes) = tree::count(cluster[0].root()).unwrap();
    let traffic = cluster[1].status().unwrap().traffic();
    let wire = traffic.sent + traffic.received;
    assert!(wire < bytes / 20, "{wire} bytes for a tree of {bytes} that did not change");
}

#[test]
fn the_receiver_is_killed_in_mid_transfer() {
    cut_off(1);
}

#[test]
fn the_origin_is_killed_in_mid_transfer() {
    cut_off(0);
}

/// Kills node `victim` while files go from the first node to the second, and
/// demands that no half file was ever seen and that the rest follows.
fn cut_off(victim: usize) {
    let mut cluster = Cluster::running(2);
    let source = cluster.dir().join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..FILES {
        sample::random_file(&source.join(name(number)), FILE_BYTES, number + 1).unwrap();
    }
    let target = cluster[1].root().to_path_buf();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut halves = Vec::new();
            while !done.load(Ordering::Relaxed) {
                halves.extend((0..FILES).filter_map(|number| half_file(&target, number)));
                thread::sleep(Duration::from_millis(1));
            }
            halves
        });
        // Whatever fails below, the watcher must end for the scope to.
        let _end = EndWhenDropped(&done);
        // Renamed in: a file that is copied into place is half a file on its
        // own node, and rightly so on the other.
        for number in 0..FILES {
            fs::rename(source.join(name(number)), cluster[0].path(name(number))).unwrap();
        }
        let begun = || is_receiving(&cluster[1]) || arrived(&cluster[1]) > 0;
        poll::eventually(TRANSFER_LIMIT, "the transfer begins", begun);
        cluster[victim].kill9().unwrap();
        for number in (0..FILES).filter(|&number| target.join(name(number)).exists()) {
            let (one, other) = (cluster[0].path(name(number)), target.join(name(number)));
            assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap(), "file {number}");
        }
        cluster[victim].start().unwrap();
        cluster.assert_same();
        done.store(true, Ordering::Relaxed);
        assert_eq!(watcher.join().unwrap(), Vec::<String>::new());
    });
    for node in cluster.nodes() {
        poll::eventually(Duration::from_secs(5), "temporary files are gone", || {
            count_private(node, "tmp") == 0
        });
    }
}

/// The file that is patched in place, and what is written to it at once.
const PATCHED_BYTES: u64 = 64 << 20;
const PATCH_BYTES: usize = 4 << 20;

/// Patches that are cut off, and those begun until that many were.
const CUT_OFF: usize = 3;
const PATCHES_MAX: u64 = 60;

#[test]
fn a_node_is_killed_while_it_patches_a_file_in_place() {
    let mut cluster = Cluster::new(2);
    sample::random_file(&cluster[0].path("large"), PATCHED_BYTES, 1).unwrap();
    cluster.start();
    cluster.assert_same_within(TRANSFER_LIMIT * 2);
    let inode = |node: &Node| fs::metadata(node.path("large")).unwrap().ino();
    let before = inode(&cluster[1]);
    let mut cut_off = 0;
    for number in 0..PATCHES_MAX {
        if cut_off == CUT_OFF {
            break;
        }
        if !is_patched(&cluster, number) {
            cluster[1].kill9().unwrap();
            // It may have ended between the look and the kill.
            cut_off += usize::from(count_private(&cluster[1], "redo") > 0);
            cluster[1].start().unwrap();
            cluster.assert_same();
        }
    }
    assert_eq!(cut_off, CUT_OFF, "of {PATCHES_MAX} patches too few were met under way");
    for node in cluster.nodes() {
        poll::eventually(TRANSFER_LIMIT, "nothing of the patches is left", || {
            count_private(node, "redo") == 0 && count_private(node, "tmp") == 0
        });
        assert_eq!(node.status().unwrap().conflicts(), 0, "{}", node.log());
    }
    assert_eq!(inode(&cluster[1]), before, "the file was replaced, not patched");
}

/// Writes to the file on the first node and follows the second: true once it
/// shows what was written, false as soon as it is about to write it.
fn is_patched(cluster: &Cluster, number: u64) -> bool {
    let bytes = Random::new(1000 + number).bytes(PATCH_BYTES);
    let offset = number * PATCH_BYTES as u64 % PATCHED_BYTES;
    let file = OpenOptions::new().write(true).open(cluster[0].path("large")).unwrap();
    file.write_all_at(&bytes, offset).unwrap();
    drop(file);
    let (_, last) = bytes.split_at(PATCH_BYTES - 16);
    let at = offset + PATCH_BYTES as u64 - 16;
    let started = Instant::now();
    while started.elapsed() < TRANSFER_LIMIT {
        // A record lives for milliseconds: no pause between two looks.
        if count_private(&cluster[1], "redo") > 0 {
            return false;
        }
        let mut shown = [0; 16];
        let file = File::open(cluster[1].path("large")).unwrap();
        file.read_exact_at(&mut shown, at).unwrap();
        if shown == *last {
            return true;
        }
    }
    panic!("the patch does not arrive");
}

/// Small files that one program edits, and what it writes to the middle of each.
const EDITED: u64 = 400;
const EDITED_BYTES: u64 = 4096;
const MIDDLE: u64 = EDITED_BYTES / 2;

#[test]
fn a_node_is_killed_while_it_patches_many_files() {
    let mut cluster = Cluster::new(2);
    for number in 0..EDITED {
        let path = cluster[0].path(format!("{number}"));
        sample::random_file(&path, EDITED_BYTES, number).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    let mut cut_off = 0;
    for round in 0..PATCHES_MAX {
        if cut_off == CUT_OFF {
            break;
        }
        let bytes = Random::new(1000 + round).bytes(16);
        for number in 0..EDITED {
            let path = cluster[0].path(format!("{number}"));
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&bytes, MIDDLE).unwrap();
        }
        let last = cluster[1].path(format!("{}", EDITED - 1));
        let is_shown = || {
            let mut shown = [0; 16];
            File::open(&last).unwrap().read_exact_at(&mut shown, MIDDLE).unwrap();
            shown == *bytes
        };
        // At the first records, or once many are there.
        let most = round as usize % 4 * 30;
        poll::eventually(TRANSFER_LIMIT, "patches on their way", || {
            count_private(&cluster[1], "redo") > most || is_shown()
        });
        cluster[1].kill9().unwrap();
        // They share their flushes, so that most are met together.
        cut_off += usize::from(count_private(&cluster[1], "redo") > 1);
        cluster[1].start().unwrap();
        cluster.assert_same();
    }
    assert_eq!(cut_off, CUT_OFF, "in {PATCHES_MAX} rounds too few were met under way");
    for node in cluster.nodes() {
        assert_eq!(count_private(node, "redo"), 0);
        assert_eq!(node.status().unwrap().conflicts(), 0, "{}", node.log());
    }
}

/// A cut-off file under its real name is too short or, where its length is set
/// first, ends in a hole.
fn half_file(target: &Path, number: u64) -> Option<String> {
    let metadata = fs::metadata(target.join(name(number))).ok()?;
    let whole = metadata.len() == FILE_BYTES && metadata.blocks() * 512 >= FILE_BYTES;
    (!whole).then(|| {
        format!("{} with {} bytes, {} blocks", name(number), metadata.len(), metadata.blocks())
    })
}

fn name(number: u64) -> String {
    format!("footage-{number}")
}

fn arrived(node: &Node) -> usize {
    (0..FILES).filter(|&number| node.path(name(number)).exists()).count()
}

/// Does the node hold a file open that is on its way in? Such a file may have
/// no name.
fn is_receiving(node: &Node) -> bool {
    let Some(pid) = node.pid() else { return false };
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let beside = node.private("tmp");
    open.flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|file| file != beside && file.starts_with(&beside))
}

fn count_private(node: &Node, folder: &str) -> usize {
    fs::read_dir(node.private(folder)).map_or(0, Iterator::count)
}

struct EndWhenDropped<'a>(&'a AtomicBool);

impl Drop for EndWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn both_nodes_are_killed_while_both_write() {
    let mut cluster = Cluster::running(2);
    for round in 0..3 {
        for node in cluster.nodes() {
            for number in 0..100 {
                let path = node.path(format!("{}-{number}", node.name()));
                fs::write(path, format!("round {round}, file {number}")).unwrap();
            }
        }
        for node in cluster.nodes_mut() {
            node.kill9().unwrap();
        }
        // What the dead do not see must be found by the living.
        fs::write(cluster[0].path("meanwhile"), format!("{round}")).unwrap();
        cluster.start();
    }
    cluster.assert_same();
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, 201);
}

/// Entries that take many messages to tell of.
const MANY: u64 = 20_000;

/// The others wait for the return of who was cut off before they tell each
/// other what it told them.
const TOLD_ON_LIMIT: Duration = Duration::from_secs(90);

/// It has told each of the others another part of what it holds, and may never
/// come back.
#[test]
fn who_dies_while_it_tells_leaves_the_others_with_one_tree() {
    let mut cluster = Cluster::running(3);
    let files = cluster.dir().join("files");
    fs::create_dir(&files).unwrap();
    sample::small_files(&files, MANY, 500).unwrap();
    fs::rename(&files, cluster[0].path("files")).unwrap();
    let count = |node: &Node| tree::count(node.root()).unwrap().0;
    poll::eventually(TRANSFER_LIMIT, "the first of many files", || count(&cluster[1]) > 200);
    cluster[0].kill9().unwrap();
    let (b, c) = (cluster[1].root().to_owned(), cluster[2].root().to_owned());
    println!("{} and {} files had come", count(&cluster[1]), count(&cluster[2]));
    poll::eventually(TOLD_ON_LIMIT, "one tree on those that are left", || {
        tree::differences(&b, &c).is_ok_and(|differences| differences.is_empty())
    });
    println!("{} files are on both", count(&cluster[1]));
    cluster[0].start().unwrap();
    cluster.assert_same();
    assert_eq!(count(&cluster[2]), MANY);
}
