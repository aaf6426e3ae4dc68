//! What a user would suffer from, on a real file system.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::metadata::Skipped;
use super::patch::Patch;
use super::redo::Record;
use super::worker::{Shared, Worker};
use super::*;
use crate::entry::{Flags, Kind, Metadata, Stat, Timestamp, Xattr};
use crate::limits::JOB_ACTIONS_MAX;
use crate::path::RelPath;
use crate::range::Range;
use crate::root::{Access, Root, set_flags};

mod bound;

struct Folder {
    dir: tempfile::TempDir,
    root: Arc<Root>,
    worker: Worker,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let worker = Worker::new(root.clone(), Arc::new(Shared::default()));
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
fn raced(outcome: Outcome) -> Option<Stat> {
    match outcome {
        Outcome::Raced(found) => found,
        other => panic!("not raced: {other:?}"),
    }
}

#[test]
fn a_placed_file_is_what_the_outcome_says() {
    let mut folder = Folder::new();
    let wanted = Metadata {
        mode: 0o4755,
        xattrs: vec![
            Xattr { name: b"user.comment".to_vec(), value: b"a \0 b".to_vec() },
            Xattr { name: b"user.large".to_vec(), value: vec![3; 2000] },
        ],
        ..metadata()
    };
    let staged = folder.staged(b"hello");
    let step = Step::Place { path: rel("f"), staged, metadata: wanted.clone(), over: None };
    let stat = done(folder.run(step));
    assert_eq!(stat.metadata, wanted);
    assert_eq!(folder.stat("f"), stat, "the fingerprint is fresh");
    assert_eq!(folder.read("f"), b"hello");
    assert!(folder.private("tmp").is_empty());
}

#[test]
fn a_planted_link_never_leads_out() {
    let mut folder = Folder::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("passwd"), b"theirs").unwrap();
    symlink(outside.path(), folder.at("a")).unwrap();
    let refused = folder.place("a/passwd", b"ours", None);
    assert!(matches!(refused, Outcome::Failed(Error::NoParent { .. })), "{refused:?}");
    let made =
        folder.run(Step::MakeDirectory { path: rel("a/d"), metadata: of_directory(), over: None });
    assert!(matches!(made, Outcome::Failed(Error::NoParent { .. })), "{made:?}");
    let inside = folder.write("f", b"x");
    let moved = folder.run(Step::Rename { from: rel("f"), to: rel("a/f"), expect: inside });
    assert!(matches!(moved, Outcome::Failed(Error::NoParent { .. })), "{moved:?}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(outside.path().join("passwd")).unwrap(), b"theirs");
}

#[test]
fn the_private_directory_is_no_target() {
    let mut folder = Folder::new();
    let refused = folder.place(".replicator/marker", b"x", None);
    assert!(matches!(refused, Outcome::Failed(Error::Private { .. })), "{refused:?}");
    let expect = Expect::from(&folder.stat(".replicator"));
    let from = rel(".replicator");
    let refused = folder.run(Step::Rename { from, to: rel("x"), expect });
    assert!(matches!(refused, Outcome::Failed(Error::Private { .. })), "{refused:?}");
    folder.root.check().unwrap();
}

#[test]
fn a_taken_name_is_raced_and_untouched() {
    let mut folder = Folder::new();
    folder.write("f", b"local");
    let found = raced(folder.place("f", b"remote", None)).unwrap();
    assert_eq!(found, folder.stat("f"));
    assert_eq!(folder.read("f"), b"local");
    assert!(folder.private("tmp").is_empty());
}

#[test]
fn a_replaced_file_rests_in_the_trash_under_its_path() {
    let mut folder = Folder::new();
    std::fs::create_dir(folder.at("d")).unwrap();
    let old = folder.write("d/f", b"old");
    let stat = done(folder.place("d/f", b"new", trash(old)));
    assert_eq!(folder.stat("d/f"), stat);
    assert_eq!(folder.read("d/f"), b"new");
    let [name] = &folder.private("trash")[..] else { panic!("one entry") };
    assert!(name.ends_with(b"Z-d%2Ff"), "{}", name.escape_ascii());
    let kept = folder.at(".replicator/trash").join(OsStr::from_bytes(name));
    assert_eq!(std::fs::read(kept).unwrap(), b"old");
}

#[test]
fn a_changed_file_is_not_replaced() {
    let mut folder = Folder::new();
    let known = folder.write("f", b"known");
    folder.write("f", b"local edit");
    let found = raced(folder.place("f", b"remote", trash(known))).unwrap();
    assert_eq!(found, folder.stat("f"));
    assert_eq!(folder.read("f"), b"local edit");
    std::fs::remove_file(folder.at("f")).unwrap();
    assert_eq!(raced(folder.place("f", b"remote", trash(known))), None);
}

#[test]
fn a_local_change_between_look_and_exchange_is_kept_as_a_conflict() {
    let mut folder = Folder::new();
    let known = folder.write("f", b"known");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let path = folder.at("f");
    // A local writer that rewrites the file as fast as it can; whatever the
    // remote side replaces must be the known version, in the trash or a
    // conflict.
    let mut kept = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let beside = path.with_extension("new");
                std::fs::write(&beside, format!("local {written}")).unwrap();
                std::fs::rename(&beside, &path).unwrap();
                written += 1;
            }
            written
        });
        let mut expect = known;
        let until = Instant::now() + Duration::from_secs(20);
        while kept.is_empty() && Instant::now() < until {
            if let Outcome::Raced(Some(found)) = folder.place("f", b"remote", trash(expect)) {
                expect = Expect::from(&found);
            }
            kept = conflicts::list(&folder.root).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 0);
    });
    let conflict = kept.first().expect("the race is met within seconds");
    assert_eq!(conflict.path, "f");
    let bytes = std::fs::read(folder.at(".replicator/conflicts").join(&conflict.id)).unwrap();
    assert!(bytes.starts_with(b"local "), "{}", bytes.escape_ascii());
}

#[test]
fn a_loser_is_listed_restored_and_dropped() {
    let mut folder = Folder::new();
    let odd = RelPath::parse(b"\xff\n name").unwrap();
    let file = folder.dir.path().join(OsStr::from_bytes(odd.as_bytes()));
    let lose = |folder: &mut Folder, bytes: &[u8]| {
        let expect = Expect::from(&folder.root.stat(&odd).unwrap().unwrap());
        let keep = Keep::Conflict { label: "node b".to_owned() };
        let staged = folder.staged(bytes);
        let over = Some(Over { expect, keep });
        done(folder.run(Step::Place { path: odd.clone(), staged, metadata: metadata(), over }));
    };
    std::fs::write(&file, b"first").unwrap();
    lose(&mut folder, b"second");
    lose(&mut folder, b"third");
    let beside = Root::open_beside(folder.dir.path()).unwrap();
    let all = conflicts::list(&beside).unwrap();
    let [first, second] = &all[..] else { panic!("two: {all:?}") };
    assert_eq!((first.path_bytes.as_slice(), first.size), (odd.as_bytes(), 5));
    assert_eq!((first.path.as_str(), first.label.as_str()), ("\\xff\\n name", "node b"));
    conflicts::restore(&beside, &first.id, None).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"first");
    assert_eq!(folder.private("trash").len(), 1, "what was there is in the trash");
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("copy");
    std::fs::write(&to, b"taken").unwrap();
    assert!(conflicts::restore(&beside, &second.id, Some(&to)).is_err());
    std::fs::remove_file(&to).unwrap();
    conflicts::restore(&beside, &second.id, Some(&to)).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"second");
    assert!(conflicts::list(&beside).unwrap().is_empty());
    lose(&mut folder, b"fourth");
    let id = conflicts::list(&beside).unwrap()[0].id.clone();
    assert!(matches!(conflicts::drop(&beside, "nonsense"), Err(Error::NoConflict { .. })));
    conflicts::drop(&beside, &id).unwrap();
    lose(&mut folder, b"fifth");
    assert_eq!(conflicts::drop_all(&beside).unwrap().len(), 1);
    assert!(folder.private("conflicts").is_empty());
}

#[test]
fn removal_respects_what_is_there() {
    let mut folder = Folder::new();
    let known = folder.write("f", b"known");
    std::fs::hard_link(folder.at("f"), folder.at("g")).unwrap();
    let remove = |path: &str, expect| Step::Remove { path: rel(path), expect, keep: Keep::Trash };
    // The new link moved the ctime.
    assert!(raced(folder.run(remove("f", known))).is_some());
    let known = folder.expect("f");
    let rest = done(folder.run(remove("f", known)));
    assert_eq!(rest, folder.stat("g"), "the other name lives and its new ctime is told");
    assert!(folder.private("trash").is_empty(), "bytes with a name need no trash");
    let known = folder.expect("g");
    assert!(matches!(folder.run(remove("g", known)), Outcome::Done(None)));
    assert_eq!(folder.private("trash").len(), 1);
    assert_eq!(raced(folder.run(remove("g", known))), None);
    std::fs::create_dir(folder.at("d")).unwrap();
    folder.write("d/x", b"");
    let dir = folder.expect("d");
    assert!(raced(folder.run(remove("d", dir))).is_some(), "a full directory stays");
    std::fs::remove_file(folder.at("d/x")).unwrap();
    assert!(matches!(folder.run(remove("d", dir)), Outcome::Done(None)));
}

#[test]
fn directories_move_and_steps_of_one_run_know_each_other() {
    let mut folder = Folder::new();
    std::fs::create_dir(folder.at("d")).unwrap();
    folder.write("d/x", b"x");
    let (dir, file) = (folder.expect("d"), folder.write("f", b"f"));
    let steps = vec![
        Step::Rename { from: rel("d"), to: rel("e"), expect: dir },
        Step::Rename { from: rel("f"), to: rel("e/f"), expect: file },
        // The rename above has changed the ctime that this caller knows.
        Step::Link { from: rel("e/f"), to: rel("g"), expect: file, over: None },
        Step::SetMetadata { path: rel("g"), expect: file, metadata: metadata() },
        Step::SetMetadata { path: rel("e"), expect: dir, metadata: of_directory() },
    ];
    let mut stats: Vec<_> = folder.worker.run(steps).into_iter().map(done).collect();
    assert_eq!(folder.read("e/x"), b"x");
    assert_eq!(stats.pop().unwrap(), folder.stat("e"));
    let linked = stats.pop().unwrap();
    assert_eq!(linked, folder.stat("g"));
    assert_eq!((linked.links, folder.stat("e/f")), (2, linked.clone()));
    let taken = folder.write("taken", b"");
    let outcome = folder.run(Step::Rename { from: rel("taken"), to: rel("g"), expect: taken });
    assert_eq!(raced(outcome).unwrap(), folder.stat("g"));
}

#[test]
fn entries_change_places() {
    let mut folder = Folder::new();
    let a = folder.write("a", b"a");
    std::fs::create_dir(folder.at("b")).unwrap();
    let b = folder.expect("b");
    let swap = |expect_a, expect_b| Step::Exchange { a: rel("a"), b: rel("b"), expect_a, expect_b };
    assert_eq!(done(folder.run(swap(a, b))), folder.stat("a"));
    assert_eq!(folder.stat("a").kind, Kind::Directory);
    assert_eq!(folder.read("b"), b"a");
    assert!(raced(folder.run(swap(a, b))).is_some());
}

#[test]
fn kinds_replace_each_other() {
    let mut folder = Folder::new();
    let file = folder.write("x", b"file");
    let made = Step::MakeDirectory { path: rel("x"), metadata: of_directory(), over: trash(file) };
    let dir = done(folder.run(made));
    assert_eq!((dir.kind, dir.metadata.mode), (Kind::Directory, 0o750));
    assert_eq!(folder.stat("x"), dir);
    let target = b"/no/where".to_vec();
    let link = |over| Step::MakeSymlink {
        path: rel("x"),
        target: target.clone(),
        metadata: metadata(),
        over,
    };
    folder.write("x/inside", b"");
    assert!(raced(folder.run(link(trash(Expect::from(&dir))))).is_some(), "it is not empty");
    std::fs::remove_file(folder.at("x/inside")).unwrap();
    let made = done(folder.run(link(trash(Expect::from(&dir)))));
    assert_eq!(made.metadata.mtime, metadata().mtime);
    assert_eq!(std::fs::read_link(folder.at("x")).unwrap(), PathBuf::from("/no/where"));
    let fifo =
        Step::MakeFifo { path: rel("x"), metadata: metadata(), over: trash(Expect::from(&made)) };
    assert_eq!(done(folder.run(fifo)), folder.stat("x"));
    assert_eq!(folder.stat("x").kind, Kind::Fifo);
    let names = folder.private("trash");
    assert_eq!(names.len(), 2, "the file and the link, no empty directory");
}

#[test]
fn a_link_takes_the_place_of_a_file_once() {
    let mut folder = Folder::new();
    let (from, old) = (folder.write("from", b"one"), folder.write("to", b"two"));
    let link = |expect, over| Step::Link { from: rel("from"), to: rel("to"), expect, over };
    let stat = done(folder.run(link(from, trash(old))));
    assert_eq!((stat.links, folder.stat("to")), (2, stat.clone()));
    assert_eq!(folder.read("to"), b"one");
    let again = done(folder.run(link(Expect::from(&stat), trash(old))));
    assert_eq!(again.links, 2);
    assert!(folder.private("tmp").is_empty());
    assert_eq!(folder.private("trash").len(), 1);
}

#[test]
fn metadata_is_made_equal_with_attributes_removed() {
    let mut folder = Folder::new();
    folder.write("f", b"x");
    rustix::fs::setxattr(folder.at("f"), "user.old", b"1", rustix::fs::XattrFlags::CREATE).unwrap();
    // An ACL: owner rw-, user 1 r--, group r--, mask r--, other ---.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 1),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let wanted = Metadata {
        xattrs: vec![
            Xattr { name: b"system.posix_acl_access".to_vec(), value: acl },
            Xattr { name: b"user.new".to_vec(), value: b"2".to_vec() },
        ],
        ..metadata()
    };
    let set = |expect, metadata: &Metadata| Step::SetMetadata {
        path: rel("f"),
        expect,
        metadata: metadata.clone(),
    };
    let expect = folder.expect("f");
    let stat = done(folder.run(set(expect, &wanted)));
    assert_eq!(stat.metadata, wanted);
    assert_eq!(stat, folder.stat("f"));
    let plain = done(folder.run(set(Expect::from(&stat), &metadata())));
    assert_eq!(plain.metadata, metadata());
    let hostile = Metadata { mtime: Timestamp { seconds: 0, nanos: u32::MAX }, ..metadata() };
    let refused = folder.run(set(Expect::from(&plain), &hostile));
    assert!(matches!(refused, Outcome::Failed(_)), "{refused:?}");
}

#[test]
fn foreign_attributes_of_a_peer_are_not_set() {
    let mut folder = Folder::new();
    let xattrs = vec![Xattr { name: b"trusted.overlay.opaque".to_vec(), value: b"y".to_vec() }];
    let path = rel("d");
    let step =
        Step::MakeDirectory { path, metadata: Metadata { xattrs, ..metadata() }, over: None };
    done(folder.run(step));
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(folder.at("d"), &mut names).unwrap();
    assert_eq!(length, 0, "{}", names[..length].escape_ascii());
}

fn patch() -> Patch {
    Patch {
        writes: vec![(0, Bytes::from_static(b"NEW")), (200_000, Bytes::from_static(b"END"))],
        holes: vec![Range { start: 65_536, end: 131_072 }],
        size: 200_003,
        metadata: metadata(),
    }
}

fn patched(old: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    new.resize(200_003, 0);
    new[..3].copy_from_slice(b"NEW");
    new[65_536..131_072].fill(0);
    new[200_000..].copy_from_slice(b"END");
    new
}

#[test]
fn a_patch_changes_its_ranges_and_nothing_else() {
    let mut folder = Folder::new();
    let old = vec![7; 150_000];
    let expect = folder.write("f", &old);
    let step = |expect| {
        let Patch { writes, holes, size, metadata } = patch();
        Step::Patch { path: rel("f"), expect, writes, holes, size, metadata, keep: Keep::Discard }
    };
    let stat = done(folder.run(step(expect)));
    assert_eq!(stat, folder.stat("f"));
    assert_eq!(stat.metadata, metadata());
    assert_eq!(folder.read("f"), patched(&old));
    assert!(folder.private("redo").is_empty());
    let inode = std::fs::metadata(folder.at("f")).unwrap().ino();
    assert_eq!(inode, expect.fingerprint.inode);
    assert!(raced(folder.run(step(expect))).is_some());
    let beyond = Step::Patch {
        path: rel("f"),
        expect: Expect::from(&stat),
        writes: vec![(u64::MAX, Bytes::from_static(b"x"))],
        holes: Vec::new(),
        size: 10,
        metadata: metadata(),
        keep: Keep::Discard,
    };
    assert!(matches!(folder.run(beyond), Outcome::Failed(Error::BadPatch { .. })));
}

#[test]
fn what_a_patch_writes_over_is_kept_where_nobody_else_has_it() {
    let mut folder = Folder::new();
    let old = vec![7; 150_000];
    let expect = folder.write("f", &old);
    let Patch { writes, holes, size, metadata } = patch();
    let keep = Keep::Trash;
    let step = Step::Patch { path: rel("f"), expect, writes, holes, size, metadata, keep };
    done(folder.run(step));
    assert_eq!(folder.read("f"), patched(&old));
    let [name] = &folder.private("trash")[..] else { panic!("one file in the trash") };
    let kept = folder.at(".replicator/trash").join(OsStr::from_bytes(name));
    assert_eq!(std::fs::read(kept).unwrap(), old);
}

/// What `kill -9` leaves after some of the writes.
fn cut_short(folder: &Folder, old: &[u8]) {
    folder.write("f", old);
    let found = folder.stat("f");
    let file = folder.root.open_file(&rel("f"), Access::ReadWrite).unwrap().unwrap();
    Record::write(&folder.root, &rel("f"), &found, &patch()).unwrap();
    rustix::io::pwrite(&file, b"NE", 0).unwrap();
}

#[test]
fn a_patch_cut_short_is_completed_at_the_next_start() {
    let folder = Folder::new();
    let old = vec![7; 150_000];
    cut_short(&folder, &old);
    std::fs::write(folder.at(".replicator/tmp/left"), b"").unwrap();
    std::fs::create_dir_all(folder.at(".replicator/tmp/deep/er")).unwrap();
    let applier = Applier::start(folder.root.clone()).unwrap();
    assert_eq!(applier.recovered().replayed, [rel("f")]);
    assert_eq!(applier.recovered().temporary, 2);
    assert_eq!(folder.read("f"), patched(&old));
    assert_eq!(folder.stat("f").metadata, metadata());
    assert!(folder.private("redo").is_empty());
    assert!(folder.private("tmp").is_empty());
    assert!(conflicts::list(&folder.root).unwrap().is_empty());
}

#[test]
fn an_append_cut_short_is_undone_and_was_not_written_twice() {
    let folder = Folder::new();
    let old = vec![7; 150_000];
    folder.write("f", &old);
    let found = folder.stat("f");
    let file = folder.root.open_file(&rel("f"), Access::ReadWrite).unwrap().unwrap();
    let appended = Bytes::from(vec![8; 500_000]);
    let patch = Patch {
        writes: vec![(150_000, appended.clone())],
        holes: Vec::new(),
        size: 650_000,
        metadata: metadata(),
    };
    Record::write(&folder.root, &rel("f"), &found, &patch).unwrap();
    let [name] = &folder.private("redo")[..] else { panic!("one record") };
    let record = folder.at(".replicator/redo").join(OsStr::from_bytes(name));
    assert!(std::fs::metadata(record).unwrap().len() < 4096);
    rustix::io::pwrite(&file, &appended[..100_000], 150_000).unwrap();

    let applier = Applier::start(folder.root.clone()).unwrap();
    assert_eq!(applier.recovered().replayed, [rel("f")]);
    assert_eq!(folder.read("f"), old);
    assert_eq!(folder.stat("f").metadata, found.metadata);
    assert!(conflicts::list(&folder.root).unwrap().is_empty());
}

#[test]
fn what_somebody_appends_beside_a_patch_stays() {
    let folder = Folder::new();
    folder.write("f", &[7; 1000]);
    let file = folder.root.open_file(&rel("f"), Access::ReadWrite).unwrap().unwrap();
    rustix::io::pwrite(&file, b"appended", 1000).unwrap();
    let patch = Patch {
        writes: vec![(5, Bytes::from_static(b"NEW"))],
        holes: Vec::new(),
        size: 1000,
        metadata: metadata(),
    };
    let skipped = Skipped::default();
    let after = patch.write(&folder.root, &rel("f"), file.as_fd(), 1000, &skipped).unwrap();
    assert!(folder.read("f").ends_with(b"appended"));
    assert_ne!(after, folder.stat("f"), "the append must be found by the next look");
}

#[test]
fn a_torn_record_or_one_of_another_file_changes_nothing() {
    let folder = Folder::new();
    cut_short(&folder, &[7; 150_000]);
    let [name] = &folder.private("redo")[..] else { panic!("one record") };
    let record = folder.at(".replicator/redo").join(OsStr::from_bytes(name));
    let whole = std::fs::read(&record).unwrap();
    let seen = folder.stat("f");
    for length in [0, 5, 11, 40, whole.len() - 1] {
        std::fs::write(&record, &whole[..length]).unwrap();
        let recovered = redo::recover(&folder.root, &Skipped::default()).unwrap();
        assert_eq!((recovered.replayed.len(), recovered.dropped), (0, 1));
        assert_eq!(folder.stat("f"), seen);
    }
    std::fs::write(&record, &whole).unwrap();
    std::fs::write(folder.at("other"), b"another file").unwrap();
    std::fs::rename(folder.at("other"), folder.at("f")).unwrap();
    let recovered = redo::recover(&folder.root, &Skipped::default()).unwrap();
    assert_eq!((recovered.replayed.len(), recovered.dropped), (0, 1));
    assert_eq!(folder.read("f"), b"another file");
}

#[test]
fn an_edit_between_crash_and_restart_is_kept() {
    let folder = Folder::new();
    cut_short(&folder, &[7; 150_000]);
    let edited = [b'e'; 1000];
    let file = std::fs::OpenOptions::new().write(true).open(folder.at("f")).unwrap();
    file.set_len(0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &edited, 0).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    let recovered = redo::recover(&folder.root, &Skipped::default()).unwrap();
    assert_eq!(recovered.replayed, [rel("f")]);
    let all = conflicts::list(&folder.root).unwrap();
    let kept = folder.at(".replicator/conflicts").join(&all[0].id);
    assert_eq!(std::fs::read(kept).unwrap(), edited);
}

#[test]
fn staged_files_vanish_when_dropped_and_copies_keep_holes() {
    let folder = Folder::new();
    let staged = folder.staged(b"x");
    assert_eq!(folder.private("tmp").len(), 1);
    drop(staged);
    assert!(folder.private("tmp").is_empty());
    let file = std::fs::File::create(folder.at("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 5 << 20).unwrap();
    let copy = Staged::copy_of(&folder.root, &rel("sparse")).unwrap();
    flush(&folder.root, [&copy]).unwrap();
    let copied = std::fs::read_dir(folder.at(".replicator/tmp")).unwrap().next().unwrap().unwrap();
    assert_eq!(std::fs::read(copied.path()).unwrap(), folder.read("sparse"));
    assert!(copied.metadata().unwrap().blocks() < 200, "the holes were filled");
    assert!(matches!(Staged::copy_of(&folder.root, &rel("none")), Err(Error::Gone { .. })));
}

#[test]
fn trash_keeps_long_paths_and_is_swept_by_age() {
    let mut folder = Folder::new();
    let long = ["d".repeat(200), "e".repeat(200), "f".repeat(255)].join("/");
    std::fs::create_dir_all(folder.at(&long).parent().unwrap()).unwrap();
    let expect = folder.write(&long, b"kept");
    let step = Step::Remove { path: rel(&long), expect, keep: Keep::Trash };
    assert!(matches!(folder.run(step), Outcome::Done(None)));
    let names = folder.private("trash");
    let [name, path] = &names[..] else { panic!("two: {}", names.len()) };
    let at = |name: &[u8]| folder.at(".replicator/trash").join(OsStr::from_bytes(name));
    assert_eq!(std::fs::read(at(name)).unwrap(), b"kept");
    assert_eq!(std::fs::read(at(path)).unwrap(), long.as_bytes());
    let hour = trash::sweep(&folder.root, Duration::from_secs(3600)).unwrap();
    assert_eq!((hour.removed, hour.more), (0, false));
    assert_eq!(trash::sweep(&folder.root, Duration::ZERO).unwrap().removed, 2);
    assert!(folder.private("trash").is_empty());
}

#[test]
fn room_is_asked_for_before_it_is_used() {
    let folder = Folder::new();
    check_room(&folder.root, 1, 0).unwrap();
    let refused = check_room(&folder.root, 1, u64::MAX).unwrap_err();
    assert!(refused.is_full());
}

#[tokio::test]
async fn thousands_of_small_files_cost_the_same_each() {
    const FILES: usize = 5 * JOB_ACTIONS_MAX;
    let folder = Folder::new();
    let applier = Applier::start(folder.root.clone()).unwrap();
    let mut taken = Vec::new();
    for batch in 0..5 {
        let started = Instant::now();
        let steps = (0..FILES / 5).map(|number| {
            let path = rel(&format!("f{batch}-{number}"));
            Step::Place { path, staged: folder.staged(b"small"), metadata: metadata(), over: None }
        });
        for outcome in applier.run(steps.collect()).await {
            done(outcome);
        }
        taken.push(started.elapsed());
    }
    let count = folder.root.read_dir(&RelPath::root()).unwrap().unwrap().len();
    assert_eq!(count, FILES);
    println!("batches of {}: {taken:?}", FILES / 5);
    // A quadratic cost would make the last batch nine times the first.
    let (first, best_late) = (taken[0], taken[3].min(taken[4]));
    assert!(best_late < first * 6, "{taken:?}");
}
