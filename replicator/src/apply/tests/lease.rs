//! Others have a file open that is to be written in place, or are about to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use super::super::lease::{Lease, Patience, WRITERS_WAIT_MAX};
use super::*;
use crate::root::Access;

/// Between two looks at what a thread or the kernel does.
const PAUSE: Duration = Duration::from_millis(1);

/// A test that waits in vain ends nevertheless.
const LIMIT: Duration = Duration::from_secs(10);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        thread::sleep(PAUSE);
    }
}

#[test]
fn what_who_has_the_file_open_writes_is_not_written_over() {
    let mut folder = Folder::new();
    let expect = folder.write("f", &[7; 1000]);
    let file = OpenOptions::new().read(true).write(true).open(folder.at("f")).unwrap();
    let (redo, path) = (folder.at(".replicator/redo"), folder.at("f"));
    let writer = thread::spawn(move || {
        let begun = || std::fs::read_dir(&redo).unwrap().count() > 0;
        wait_until("a record of the patch", begun);
        file.write_all_at(b"seen nothing of it", 0).unwrap();
        std::fs::read(path).unwrap()
    });
    raced(folder.run(patching(expect, Keep::Discard)));
    assert_eq!(folder.read("f"), writer.join().unwrap());
    assert!(folder.private("redo").is_empty());
}

#[test]
fn a_file_that_stays_open_is_patched_all_the_same_and_then_at_once() {
    let mut folder = Folder::new();
    let old = vec![7; 150_000];
    let expect = folder.write("f", &old);
    let _open = OpenOptions::new().write(true).open(folder.at("f")).unwrap();
    let stat = done(folder.run(patching(expect, Keep::Discard)));
    assert_eq!(folder.read("f"), patched(&old));
    is_patched_at_once(&mut folder, Expect::from(&stat));
}

#[test]
fn who_only_reads_holds_nothing_up() {
    let mut folder = Folder::new();
    let expect = folder.write("f", &vec![7; 150_000]);
    let _open = File::open(folder.at("f")).unwrap();
    is_patched_at_once(&mut folder, expect);
}

/// However slow this machine is, once in so many times it is quick.
fn is_patched_at_once(folder: &mut Folder, mut expect: Expect) {
    wait_until("a patch that does not wait", || {
        let begun = Instant::now();
        expect = Expect::from(&done(folder.run(patching(expect, Keep::Discard))));
        begun.elapsed() < WRITERS_WAIT_MAX
    });
}

#[test]
fn who_opens_a_file_waits_until_the_lease_ends() {
    let folder = Folder::new();
    folder.write("f", &[7; 1000]);
    let open = |folder: &Folder| folder.root.open_file(&rel("f"), Access::ReadWrite);
    let file = open(&folder).unwrap().unwrap();
    let inode = folder.stat("f").fingerprint.inode;
    let lease = Lease::take(file.as_fd(), inode, &mut Patience::new()).expect("a lease");
    let path = folder.at("f");
    let reader = thread::spawn(move || File::open(path).map(drop));
    wait_until("somebody who opens the file", || lease.is_wanted());
    assert!(!reader.is_finished());
    // The daemon's own way to open a file does not wait in the kernel.
    let root = folder.root.clone();
    let own = thread::spawn(move || root.open_file(&rel("f"), Access::Read).map(drop));
    drop(lease);
    reader.join().unwrap().unwrap();
    own.join().unwrap().unwrap();
    assert!(Lease::take(file.as_fd(), inode, &mut Patience::new()).is_some(), "nobody has it open");
}
