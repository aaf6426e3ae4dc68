//! Entries that nobody may change, and a daemon that is told to.

use std::time::Duration;

use super::super::bound::Lifted;
use super::super::redo::Record;
use super::*;

/// `None` where this user cannot bind an entry, or this file system.
fn folder() -> Option<Folder> {
    let folder = Folder::new();
    if !folder.root.flags().is_binding() {
        eprintln!("skipped: no entry can be bound here");
        return None;
    }
    Some(folder)
}

fn bearing(flags: Flags) -> Metadata {
    Metadata { flags, ..metadata() }
}

impl Folder {
    fn bind(&self, path: &str, flags: Flags) -> Expect {
        let file = std::fs::File::open(self.at(path)).unwrap();
        set_flags(file.as_fd(), flags).unwrap();
        self.expect(path)
    }

    fn flags(&self, path: &str) -> Flags {
        self.stat(path).metadata.flags
    }
}

#[test]
fn a_bound_file_becomes_what_it_is_to_be() {
    let Some(mut folder) = folder() else { return };
    for flags in [Flags::IMMUTABLE, Flags::APPEND, Flags::BINDING.with(Flags::NODUMP)] {
        folder.write("f", b"old");
        let expect = folder.bind("f", flags);
        let set =
            |expect, flags| Step::SetMetadata { path: rel("f"), expect, metadata: bearing(flags) };
        let stat = done(folder.run(set(expect, flags)));
        assert_eq!((&stat, &stat.metadata), (&folder.stat("f"), &bearing(flags)));
        let stat = done(folder.place("f", b"new", trash(Expect::from(&stat))));
        assert_eq!((stat.metadata, folder.read("f")), (metadata(), b"new".to_vec()));
        let expect = folder.bind("f", flags);
        let (from, to) = (rel("f"), rel("g"));
        let stat = done(folder.run(Step::Rename { from, to, expect }));
        assert_eq!((&stat, stat.metadata.flags), (&folder.stat("g"), flags));
        let (from, to, expect) = (rel("g"), rel("h"), Expect::from(&stat));
        let stat = done(folder.run(Step::Link { from, to, expect, over: None }));
        assert_eq!((&stat, stat.metadata.flags), (&folder.stat("h"), flags));
        let (path, keep) = (rel("g"), Keep::Trash);
        let stat = done(folder.run(Step::Remove { path, expect: Expect::from(&stat), keep }));
        assert_eq!((&stat, stat.metadata.flags), (&folder.stat("h"), flags));
        let expect_a = folder.write("other", b"other");
        let (a, b, expect_b) = (rel("other"), rel("h"), Expect::from(&stat));
        let stat = done(folder.run(Step::Exchange { a, b, expect_a, expect_b }));
        assert_eq!((&stat, stat.metadata.flags), (&folder.stat("other"), flags));
        let (path, keep) = (rel("other"), Keep::Trash);
        let step = Step::Remove { path, expect: Expect::from(&stat), keep };
        assert!(matches!(folder.run(step), Outcome::Done(None)));
        std::fs::remove_file(folder.at("h")).unwrap();
        assert!(folder.private("redo").is_empty());
    }
    // What rests there is free.
    assert!(trash::sweep(&folder.root, Duration::ZERO).unwrap().removed >= 4);
    assert!(folder.private("trash").is_empty());
}

#[test]
fn a_new_entry_is_bound_in_its_place() {
    let Some(mut folder) = folder() else { return };
    let metadata = bearing(Flags::IMMUTABLE);
    let staged = folder.staged(b"new");
    let path = rel("f");
    let step = Step::Place { path, staged, metadata: metadata.clone(), over: None };
    let stat = done(folder.run(step));
    assert_eq!((&stat, stat.metadata.flags), (&folder.stat("f"), Flags::IMMUTABLE));
    let staged = folder.staged(b"newer");
    let (path, over) = (rel("f"), trash(Expect::from(&stat)));
    let step = Step::Place { path, staged, metadata: metadata.clone(), over };
    assert_eq!(done(folder.run(step)), folder.stat("f"));
    let path = rel("d");
    let step = Step::MakeDirectory { path, metadata: metadata.clone(), over: None };
    let stat = done(folder.run(step));
    assert_eq!((&stat, stat.metadata.flags), (&folder.stat("d"), Flags::IMMUTABLE));
    let (path, target) = (rel("l"), b"f".to_vec());
    let stat = done(folder.run(Step::MakeSymlink { path, target, metadata, over: None }));
    assert_eq!(stat.metadata.flags, Flags::NONE);
    assert!(folder.private("redo").is_empty());
}

#[test]
fn a_bound_directory_receives_what_is_to_be_in_it() {
    let Some(mut folder) = folder() else { return };
    for flags in [Flags::IMMUTABLE, Flags::APPEND] {
        std::fs::create_dir(folder.at("d")).unwrap();
        let old = folder.write("d/old", b"old");
        let expect = folder.bind("d", flags);
        let mtime = metadata().mtime;
        let staged = [folder.staged(b"1"), folder.staged(b"2")];
        let places = staged.into_iter().zip(["d/one", "d/two"]).map(|(staged, path)| {
            let path = rel(path);
            Step::Place { path, staged, metadata: metadata(), over: None }
        });
        let remove = Step::Remove { path: rel("d/old"), expect: old, keep: Keep::Discard };
        let touch = Step::Touch { path: rel("d"), expect, mtime };
        let outcomes = folder.worker.run(places.chain([remove, touch]).collect());
        let stat = done(outcomes.into_iter().last().unwrap());
        assert_eq!(stat, folder.stat("d"));
        assert_eq!((stat.metadata.flags, stat.metadata.mtime), (flags, mtime));
        assert_eq!((folder.read("d/one"), folder.read("d/two")), (b"1".to_vec(), b"2".to_vec()));
        assert!(!folder.at("d/old").exists());
        // And where nobody sets its time.
        let (from, to, expect) = (rel("d/one"), rel("d/three"), folder.expect("d/one"));
        done(folder.run(Step::Rename { from, to, expect }));
        assert_eq!(folder.flags("d"), flags);
        let (from, to, expect) = (rel("d"), rel("moved"), folder.expect("d"));
        assert_eq!(done(folder.run(Step::Rename { from, to, expect })).metadata.flags, flags);
        folder.bind("moved", Flags::NONE);
        std::fs::remove_dir_all(folder.at("moved")).unwrap();
        std::fs::create_dir(folder.at("empty")).unwrap();
        let (path, expect) = (rel("empty"), folder.bind("empty", flags));
        let step = Step::Remove { path, expect, keep: Keep::Discard };
        assert!(matches!(folder.run(step), Outcome::Done(None)));
        assert!(folder.private("redo").is_empty());
    }
}

#[test]
fn a_bound_file_is_patched_where_it_lies() {
    let Some(mut folder) = folder() else { return };
    let old = vec![7; 150_000];
    folder.write("f", &old);
    let expect = folder.bind("f", Flags::IMMUTABLE);
    let step = |expect| {
        let Patch { writes, holes, size, .. } = patch();
        let metadata = bearing(Flags::APPEND);
        Step::Patch { path: rel("f"), expect, writes, holes, size, metadata, keep: Keep::Discard }
    };
    let stat = done(folder.run(step(expect)));
    assert_eq!((&stat, &stat.metadata), (&folder.stat("f"), &bearing(Flags::APPEND)));
    assert_eq!(folder.read("f"), patched(&old));
    assert_eq!(stat.fingerprint.inode, expect.fingerprint.inode);
    raced(folder.run(step(expect)));
    assert_eq!(folder.flags("f"), Flags::APPEND);
    assert!(folder.private("redo").is_empty());
}

#[test]
fn a_step_that_is_refused_leaves_an_entry_bound() {
    let Some(mut folder) = folder() else { return };
    folder.write("f", b"f");
    folder.write("taken", b"taken");
    let expect = folder.bind("f", Flags::IMMUTABLE);
    let (from, to) = (rel("f"), rel("taken"));
    raced(folder.run(Step::Rename { from, to, expect }));
    let hostile = Metadata { mtime: Timestamp { seconds: 0, nanos: u32::MAX }, ..metadata() };
    let expect = folder.expect("f");
    let refused = folder.run(Step::SetMetadata { path: rel("f"), expect, metadata: hostile });
    assert!(matches!(refused, Outcome::Failed(_)), "{refused:?}");
    assert_eq!(folder.flags("f"), Flags::IMMUTABLE);
    assert!(folder.private("redo").is_empty());
}

/// What `kill -9` leaves while a step works on an entry.
#[test]
fn what_a_killed_daemon_freed_is_bound_at_the_next_start() {
    let Some(mut folder) = folder() else { return };
    folder.write("f", b"f");
    folder.bind("f", Flags::IMMUTABLE);
    let lift = |folder: &Folder| {
        let (held, found) = folder.root.look(&rel("f")).unwrap().unwrap();
        let lifted = Lifted::lift(&folder.root, &[&rel("f"), &rel("g")], &Arc::new(held), &found);
        std::mem::forget(lifted.unwrap().unwrap());
        assert_eq!(folder.flags("f"), Flags::NONE);
    };
    let restart = |folder: &Folder, bound| {
        let applier = Applier::start(folder.root.clone()).unwrap();
        assert_eq!((applier.recovered().bound, folder.private("redo").len()), (bound, 0));
    };
    lift(&folder);
    restart(&folder, 1);
    assert_eq!(folder.flags("f"), Flags::IMMUTABLE);
    lift(&folder);
    std::fs::rename(folder.at("f"), folder.at("g")).unwrap();
    restart(&folder, 1);
    assert_eq!(folder.flags("g"), Flags::IMMUTABLE);
    folder.bind("g", Flags::NONE);
    std::fs::rename(folder.at("g"), folder.at("f")).unwrap();
    // Another file of that name is none of it, and a torn note nothing.
    folder.bind("f", Flags::IMMUTABLE);
    lift(&folder);
    std::fs::rename(folder.at("f"), folder.at("gone")).unwrap();
    folder.write("f", b"another");
    std::fs::write(folder.at(".replicator/redo/torn.flags"), b"rplflag1").unwrap();
    restart(&folder, 0);
    assert_eq!(folder.flags("f"), Flags::NONE);
    // A patch has its record, whose file may still be bound.
    for flags in [Flags::NONE, Flags::IMMUTABLE] {
        let old = vec![7; 150_000];
        folder.write("p", &old);
        let found = folder.stat("p");
        let patch = Patch { metadata: bearing(Flags::IMMUTABLE), ..patch() };
        Record::write(&folder.root, &rel("p"), &found, &patch).unwrap();
        folder.bind("p", flags);
        restart(&folder, 0);
        assert_eq!(folder.read("p"), patched(&old));
        assert_eq!(folder.flags("p"), Flags::IMMUTABLE);
        folder.bind("p", Flags::NONE);
    }
    // Killed after its time was set and before its flags were.
    let expect = folder.write("q", b"q");
    let metadata = Metadata { mtime: folder.stat("q").metadata.mtime, ..metadata() };
    done(folder.run(Step::SetMetadata { path: rel("q"), expect, metadata: metadata.clone() }));
    let mut found = folder.stat("q");
    found.fingerprint.mtime.seconds -= 1;
    let metadata = Metadata { flags: Flags::IMMUTABLE, ..metadata };
    let done = Patch { writes: Vec::new(), holes: Vec::new(), size: 1, metadata };
    Record::write(&folder.root, &rel("q"), &found, &done).unwrap();
    restart(&folder, 0);
    assert_eq!(folder.flags("q"), Flags::IMMUTABLE);
}
