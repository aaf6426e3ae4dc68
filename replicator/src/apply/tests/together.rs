//! Patches that share their flushes, and a crash at every point between them.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::super::redo::{self, Record};
use super::super::together::PATCHES_MAX;
use super::*;
use crate::root::Access;

const OLD: &[u8] = b"what was there before";

fn small(metadata: Metadata) -> Patch {
    let writes = vec![(5, Bytes::from_static(b"NEW"))];
    Patch { writes, holes: Vec::new(), size: OLD.len() as u64, metadata }
}

fn new() -> Vec<u8> {
    let mut new = OLD.to_vec();
    new[5..8].copy_from_slice(b"NEW");
    new
}

fn step(path: &str, expect: Expect) -> Step {
    let Patch { writes, holes, size, metadata } = small(metadata());
    Step::Patch { path: rel(path), expect, writes, holes, size, metadata, keep: Keep::Discard }
}

fn name(number: usize) -> String {
    format!("f{number}")
}

/// What happens to records, and to the files of a folder.
struct Watch {
    queue: OwnedFd,
    records: i32,
}

impl Watch {
    fn of(folder: &Folder) -> Self {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let redo = WatchFlags::CREATE | WatchFlags::ATTRIB | WatchFlags::DELETE;
        let records = inotify::add_watch(&queue, folder.at(".replicator/redo"), redo).unwrap();
        inotify::add_watch(&queue, folder.dir.path(), WatchFlags::MODIFY).unwrap();
        Self { queue, records }
    }

    /// One letter an event: a record comes, its patch begins, a file is written
    /// to or given its time, a record goes. Two of one kind in a row count once
    /// for one file.
    fn seen(&self) -> String {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut events = inotify::Reader::new(&self.queue, &mut buffer);
        let mut seen = String::new();
        while let Ok(event) = events.next() {
            assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
            seen.push(match event.events() {
                _ if event.wd() != self.records => 'w',
                ReadFlags::CREATE => 'c',
                ReadFlags::ATTRIB => 'b',
                _ => 'd',
            });
        }
        seen
    }
}

#[test]
fn as_many_as_may_be_are_recorded_before_the_first_and_durable_before_the_first_is_done() {
    let mut folder = Folder::new();
    let count = 2 * PATCHES_MAX + 1;
    let expected: Vec<_> = (0..count).map(|at| folder.write(&name(at), OLD)).collect();
    let watch = Watch::of(&folder);
    let steps = expected.iter().enumerate().map(|(at, expect)| step(&name(at), *expect));
    let outcomes = folder.worker.run(steps.collect());
    let together = |most| ["c".repeat(most), "bw".repeat(most), "wd".repeat(most)].concat();
    let seen = watch.seen();
    assert_eq!(seen, [&together(PATCHES_MAX), &together(PATCHES_MAX), "cbwd"].concat());
    for (at, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(done(outcome), folder.stat(&name(at)));
        assert_eq!(folder.read(&name(at)), new());
        let inode = folder.stat(&name(at)).fingerprint.inode;
        assert_eq!(inode, expected[at].fingerprint.inode);
    }
}

#[test]
fn what_builds_on_a_patch_comes_after_it() {
    let mut folder = Folder::new();
    let expect = folder.write("f", OLD);
    let other = folder.write("other", OLD);
    let watch = Watch::of(&folder);
    let rename = Step::Rename { from: rel("f"), to: rel("g"), expect };
    let steps = vec![step("f", expect), step("other", other), step("f", expect), rename];
    let steps = steps.into_iter().chain([step("g", expect)]).collect();
    for outcome in folder.worker.run(steps) {
        done(outcome);
    }
    assert_eq!(watch.seen(), ["ccbwbwwdwd", "cbwd", "cbwd"].concat());
    assert_eq!(folder.stat("g").metadata, metadata());
}

#[test]
fn many_bytes_are_not_put_together() {
    let mut folder = Folder::new();
    let watch = Watch::of(&folder);
    let large = Bytes::from(vec![8; 3 << 20]);
    let steps = ["f", "g"].map(|path| {
        let expect = folder.write(path, &vec![7; 3 << 20]);
        let (path, keep, size) = (rel(path), Keep::Discard, 3 << 20);
        let (writes, holes, metadata) = (vec![(0, large.clone())], Vec::new(), metadata());
        Step::Patch { path, expect, writes, holes, size, metadata, keep }
    });
    watch.seen();
    folder.worker.run(steps.into()).into_iter().for_each(|outcome| drop(done(outcome)));
    assert_eq!(watch.seen(), "cbwdcbwd");
}

#[test]
fn what_races_or_fails_does_not_stop_the_others() {
    let mut folder = Folder::new();
    let mut expected: Vec<_> = (0..20).map(|at| folder.write(&name(at), OLD)).collect();
    folder.write(&name(3), b"changed here");
    std::fs::remove_file(folder.at(&name(7))).unwrap();
    expected.reverse();
    let steps = (0..20).map(|at| {
        let mut step = step(&name(at), expected.pop().unwrap());
        if let (5, Step::Patch { size, .. }) = (at, &mut step) {
            *size = 1;
        }
        step
    });
    let outcomes = folder.worker.run(steps.collect());
    for (at, outcome) in outcomes.into_iter().enumerate() {
        match (at, outcome) {
            (3 | 7, outcome) => raced(outcome),
            (5, Outcome::Failed(Error::BadPatch { .. })) => {}
            (_, outcome) => {
                assert_eq!(done(outcome), folder.stat(&name(at)));
                assert_eq!(folder.read(&name(at)), new());
            }
        }
    }
    assert_eq!(
        (folder.read(&name(3)), folder.read(&name(5))),
        (b"changed here".into(), OLD.into())
    );
    assert!(folder.private("redo").is_empty());
    assert!(!folder.worker.unfinished);
}

/// How far patches were carried out together when their daemon was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Recorded,
    WrittenInPart,
    Written,
    DoneInPart,
}

fn carry_out(folder: &Folder, until: Until) {
    let patch = small(metadata());
    let paths = [rel("f0"), rel("f1"), rel("f2")];
    let records = paths.each_ref().map(|path| {
        folder.write(&path.to_string(), OLD);
        let found = folder.root.stat(path).unwrap().unwrap();
        Record::write(&folder.root, path, &found, &patch).unwrap()
    });
    redo::flush(&folder.root, records.iter()).unwrap();
    if until == Until::Recorded {
        return;
    }
    let mut begun = Vec::new();
    for (path, record) in paths.iter().zip(&records) {
        record.begin();
        let file = folder.root.open_file(path, Access::ReadWrite).unwrap().unwrap();
        if until == Until::WrittenInPart && !begun.is_empty() {
            rustix::io::pwrite(&file, b"N", 5).unwrap();
            return;
        }
        let size = OLD.len() as u64;
        let written = patch.write(&folder.root, path, file.as_fd(), size).unwrap();
        begun.push((file, written));
    }
    if until == Until::DoneInPart {
        let (file, written) = &begun[0];
        patch.dress(&folder.root, &paths[0], file.as_fd(), *written).unwrap();
        records[0].remove(&folder.root).unwrap();
        let (file, written) = &begun[1];
        patch.dress(&folder.root, &paths[1], file.as_fd(), *written).unwrap();
    }
}

#[test]
fn wherever_they_are_cut_short_a_start_completes_all() {
    let stages = [(Until::Recorded, 3, 0), (Until::WrittenInPart, 3, 0), (Until::Written, 3, 0)];
    for (until, replayed, dropped) in stages.into_iter().chain([(Until::DoneInPart, 1, 1)]) {
        let folder = Folder::new();
        carry_out(&folder, until);
        let applier = Applier::start(folder.root.clone()).unwrap();
        let recovered = applier.recovered();
        assert_eq!((recovered.replayed.len(), recovered.dropped), (replayed, dropped), "{until:?}");
        for path in ["f0", "f1", "f2"] {
            assert_eq!(folder.read(path), new(), "{until:?}");
            assert_eq!(folder.stat(path).metadata, metadata(), "{until:?}");
        }
        assert!(folder.private("redo").is_empty());
        assert!(conflicts::list(&folder.root).unwrap().is_empty());
    }
}
