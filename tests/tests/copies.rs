//! Content that lies in the folder already is not sent again.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use replicator_tests::{Cluster, SETTLE_LIMIT, poll, sample};

const FILE_BYTES: u64 = 32 << 20;

/// Each is met at another moment.
const COPIES: usize = 8;

/// A directory of many files, and the bytes of each.
const DIRECTORY_FILES: u64 = 300;
const DIRECTORY_BYTES: usize = 20_000;

/// What a copy may cost on the wire beside its records.
const WIRE_LIMIT: u64 = 256 << 10;

/// Two nodes that hold a large file.
fn with_original() -> Cluster {
    let cluster = Cluster::running(2);
    sample::random_file(&cluster[0].path("original"), FILE_BYTES, 1).unwrap();
    cluster.assert_same();
    cluster
}

/// Bytes on the wire of node 0 while `change` is made and has arrived.
fn wire(cluster: &Cluster, change: impl FnOnce()) -> u64 {
    let before = cluster[0].status().unwrap().traffic();
    change();
    cluster.assert_same();
    cluster[0].status().unwrap().traffic().since(before)
}

/// Copies an entry of a node and moves the copy to its place when it is whole:
/// half of a copy that takes long is a content that nobody holds.
fn copy(cluster: &Cluster, node: usize, from: &str, to: &str) {
    let beside = cluster.dir().join("copying");
    let copied = Command::new("cp").arg("-r").arg(cluster[node].path(from)).arg(&beside).status();
    assert!(copied.unwrap().success());
    fs::rename(beside, cluster[node].path(to)).unwrap();
}

#[test]
fn a_copy_of_a_large_file_sends_no_content() {
    let cluster = with_original();
    let copied = wire(&cluster, || copy(&cluster, 0, "original", "copy"));
    assert!(copied < WIRE_LIMIT, "{copied} bytes on the wire for a copy");
    // What was deleted and comes back while a copy is left, likewise; from
    // the other side.
    fs::remove_file(cluster[1].path("original")).unwrap();
    cluster.assert_same();
    let again = wire(&cluster, || copy(&cluster, 1, "copy", "again"));
    assert!(again < WIRE_LIMIT, "{again} bytes on the wire for an upload of known content");
}

/// Half of it is a content that nobody holds.
#[test]
fn a_large_file_copied_in_its_place_sends_no_content() {
    let cluster = with_original();
    for round in 0..COPIES {
        let name = format!("copy {round}");
        let copied = wire(&cluster, || copy_in_place(&cluster, 0, "original", &name));
        assert!(copied < WIRE_LIMIT, "{copied} bytes on the wire for copy {round}");
    }
}

/// Over a network or onto a disk that is busy a copy takes its time, and rests.
#[test]
fn a_copy_that_takes_long_sends_no_content() {
    let cluster = with_original();
    let content = fs::read(cluster[0].path("original")).unwrap();
    let copied = wire(&cluster, || {
        let mut copy = fs::File::create(cluster[0].path("copy")).unwrap();
        for (part, bytes) in content.chunks(1 << 20).enumerate() {
            copy.write_all(bytes).unwrap();
            let pause = if part % 8 == 7 { 150 } else { 20 };
            thread::sleep(Duration::from_millis(pause));
        }
    });
    assert!(copied < WIRE_LIMIT, "{copied} bytes on the wire for a slow copy");
    // And what becomes another file is.
    let mut another = fs::File::create(cluster[0].path("another")).unwrap();
    another.write_all(&content[..(FILE_BYTES / 2) as usize]).unwrap();
    another.write_all(b"and then it is another").unwrap();
    cluster.assert_same();
}

/// What was not told before an end is looked at after it, clean or not.
#[test]
fn a_copy_goes_on_while_its_daemon_starts_again() {
    let mut cluster = with_original();
    let content = fs::read(cluster[0].path("original")).unwrap();
    let (first, rest) = content.split_at(content.len() / 2);
    for (name, is_clean) in [("killed", false), ("stopped", true)] {
        let mut copy = fs::File::create(cluster[0].path(name)).unwrap();
        copy.write_all(first).unwrap();
        let other = cluster[1].path(name);
        poll::eventually(SETTLE_LIMIT, "it has begun", || other.exists());
        let node = &mut cluster.nodes_mut()[0];
        match is_clean {
            true => assert!(node.stop().unwrap().success()),
            false => node.kill9().unwrap(),
        }
        let is_whole = !is_clean;
        if is_whole {
            copy.write_all(rest).unwrap();
        }
        node.start().unwrap();
        cluster.assert_same();
        assert_eq!(fs::read(&other).unwrap(), if is_whole { &content[..] } else { first });
    }
}

/// Of several that have the content any will do, not only the latest.
#[test]
fn a_copy_made_after_another_was_deleted_sends_no_content() {
    let cluster = with_original();
    let copied = wire(&cluster, || copy(&cluster, 0, "original", "copy"));
    assert!(copied < WIRE_LIMIT, "{copied} bytes on the wire for a copy");
    fs::remove_file(cluster[0].path("copy")).unwrap();
    cluster.assert_same();
    let again = wire(&cluster, || copy(&cluster, 0, "original", "again"));
    assert!(again < WIRE_LIMIT, "{again} bytes on the wire, and the original is there");
}

/// Copies an entry of a node straight to its place.
fn copy_in_place(cluster: &Cluster, node: usize, from: &str, to: &str) {
    let [from, to] = [from, to].map(|name| cluster[node].path(name));
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_copied_directory_sends_no_content() {
    copied_directory(copy, WIRE_LIMIT + DIRECTORY_FILES * 1_000);
}

/// A few of its files may be seen before they are whole.
#[test]
fn a_directory_copied_in_its_place_sends_no_content() {
    copied_directory(copy_in_place, DIRECTORY_FILES * DIRECTORY_BYTES as u64 / 6);
}

fn copied_directory(copy: impl Fn(&Cluster, usize, &str, &str), limit: u64) {
    let cluster = Cluster::running(2);
    sample::small_files(&cluster[0].path("one"), DIRECTORY_FILES, DIRECTORY_BYTES).unwrap();
    cluster.assert_same();
    let copied = wire(&cluster, || copy(&cluster, 0, "one", "two"));
    println!("{copied} bytes on the wire for a copy of {DIRECTORY_FILES} files");
    assert!(copied < limit, "{copied} bytes on the wire for a copy of {DIRECTORY_FILES} files");
    let content = |node: usize, name: &Path| fs::read(cluster[node].path(name)).unwrap();
    let name = Path::new("two").join(first_file(&cluster[1].path("two")));
    assert_eq!(content(0, &name), content(1, &name));
}

fn first_file(directory: &Path) -> std::path::PathBuf {
    let mut at = directory.to_path_buf();
    while at.is_dir() {
        at = fs::read_dir(&at).unwrap().next().unwrap().unwrap().path();
    }
    at.strip_prefix(directory).unwrap().to_path_buf()
}
