//! What a user would suffer from, on a real file system.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::patch::Patch;
use super::worker::Worker;
use super::*;
use crate::entry::{Flags, Metadata, Stat, Timestamp};
use crate::path::RelPath;
use crate::range::Range;
use crate::root::{Root, set_flags};

mod bound;
mod kept;
mod lease;
mod metadata;
mod names;
mod patch;
mod place;
mod staged;
mod together;

struct Folder {
    dir: tempfile::TempDir,
    root: Arc<Root>,
    worker: Worker,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let worker = Worker::new(root.clone());
        Self { dir, root, worker }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Expect {
        std::fs::write(self.at(path), bytes).unwrap();
        self.expect(path)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.at(path)).unwrap()
    }

    fn stat(&self, path: &str) -> Stat {
        self.root.stat(&rel(path)).unwrap().unwrap()
    }

    fn expect(&self, path: &str) -> Expect {
        Expect::from(&self.stat(path))
    }

    fn staged(&self, bytes: &[u8]) -> Staged {
        let staged = Staged::create(&self.root, bytes.len() as u64).unwrap();
        rustix::io::pwrite(staged.file(), bytes, 0).unwrap();
        staged
    }

    fn run(&mut self, step: Step) -> Outcome {
        self.worker.run(vec![step]).pop().unwrap()
    }

    fn place(&mut self, path: &str, bytes: &[u8], over: Option<Over>) -> Outcome {
        let staged = self.staged(bytes);
        self.run(Step::Place { path: rel(path), staged, metadata: metadata(), over })
    }

    fn private(&self, name: &str) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = std::fs::read_dir(self.at(".replicator").join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    /// What nobody may change cannot be removed either.
    fn drop(&mut self) {
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                }
                if kind.is_dir() || kind.is_file() {
                    let open = std::fs::File::open(entry.path()).unwrap();
                    // Where there are no flags, there are none to take off.
                    let _ = set_flags(open.as_fd(), Flags::NONE);
                }
            }
        }
    }
}

fn rel(path: &str) -> RelPath {
    RelPath::parse(path.as_bytes()).unwrap()
}

fn metadata() -> Metadata {
    Metadata {
        mode: 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp { seconds: 1_600_000_000, nanos: 123_456_789 },
        ..Metadata::default()
    }
}

/// Of a directory in which its owner may make files.
fn of_directory() -> Metadata {
    Metadata { mode: 0o750, ..metadata() }
}

fn trash(expect: Expect) -> Option<Over> {
    Some(Over { expect, keep: Keep::Trash })
}

#[track_caller]
fn done(outcome: Outcome) -> Stat {
    match outcome {
        Outcome::Done(Some(stat)) => stat,
        other => panic!("not done: {other:?}"),
    }
}

#[track_caller]
fn raced(outcome: Outcome) {
    match outcome {
        Outcome::Raced => {}
        other => panic!("not raced: {other:?}"),
    }
}

fn patch() -> Patch {
    Patch {
        writes: vec![(0, Bytes::from_static(b"NEW")), (200_000, Bytes::from_static(b"END"))],
        holes: vec![Range { start: 65_536, end: 131_072 }],
        size: 200_003,
        metadata: metadata(),
    }
}

fn patching(expect: Expect, keep: Keep) -> Step {
    let Patch { writes, holes, size, metadata } = patch();
    Step::Patch { path: rel("f"), expect, writes, holes, size, metadata, keep }
}

fn patched(old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    new.resize(200_003, 0);
    new[..3].copy_from_slice(b"NEW");
    new[65_536..131_072].fill(0);
    new[200_000..].copy_from_slice(b"END");
    new
}
