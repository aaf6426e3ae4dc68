//! Writes in place, and a crash in the middle of one.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use bytes::Bytes;

use super::super::redo::Record;
use super::*;
use crate::root::Access;

#[test]
fn a_patch_changes_its_ranges_and_nothing_else() {
    let mut folder = Folder::new();
    let old = vec![7; 150_000];
    let expect = folder.write("f", &old);
    let stat = done(folder.run(patching(expect, Keep::Discard)));
    assert_eq!(stat, folder.stat("f"));
    assert_eq!(stat.metadata, metadata());
    assert_eq!(folder.read("f"), patched(&old));
    assert!(folder.private("redo").is_empty());
    let inode = std::fs::metadata(folder.at("f")).unwrap().ino();
    assert_eq!(inode, expect.fingerprint.inode);
    raced(folder.run(patching(expect, Keep::Discard)));
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
    done(folder.run(patching(expect, Keep::Trash)));
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
    let written = patch.write(&folder.root, &rel("f"), file.as_fd(), 1000).unwrap();
    let after = patch.dress(&folder.root, &rel("f"), file.as_fd(), written).unwrap();
    assert!(folder.read("f").ends_with(b"appended"));
    assert_ne!(after, folder.stat("f"), "the append must be found by the next look");
}

/// While the bytes of the patch are made durable.
#[test]
fn what_somebody_writes_before_a_patch_is_durable_is_found() {
    let folder = Folder::new();
    folder.write("f", &[7; 1000]);
    let file = folder.root.open_file(&rel("f"), Access::ReadWrite).unwrap().unwrap();
    let writes = vec![(5, Bytes::from_static(b"NEW"))];
    let patch = Patch { writes, holes: Vec::new(), size: 1000, metadata: metadata() };
    let written = patch.write(&folder.root, &rel("f"), file.as_fd(), 1000).unwrap();
    let theirs = std::fs::OpenOptions::new().write(true).open(folder.at("f")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&theirs, b"theirs", 500).unwrap();
    // However coarse the clock of the file system is.
    theirs.set_modified(std::time::SystemTime::now() + Duration::from_secs(1)).unwrap();
    let after = patch.dress(&folder.root, &rel("f"), file.as_fd(), written).unwrap();
    assert!(!after.fingerprint.same_bytes(&folder.stat("f").fingerprint));
    assert_eq!(after.metadata, metadata());
    assert_eq!(folder.stat("f").metadata.mode, metadata().mode);
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
        let recovered = redo::recover(&folder.root).unwrap();
        assert_eq!((recovered.replayed.len(), recovered.dropped), (0, 1));
        assert_eq!(folder.stat("f"), seen);
    }
    std::fs::write(&record, &whole).unwrap();
    std::fs::write(folder.at("other"), b"another file").unwrap();
    std::fs::rename(folder.at("other"), folder.at("f")).unwrap();
    let recovered = redo::recover(&folder.root).unwrap();
    assert_eq!((recovered.replayed.len(), recovered.dropped), (0, 1));
    assert_eq!(folder.read("f"), b"another file");
}

/// Its record took a while to become durable, as many do at once on a busy disk.
#[test]
fn a_patch_that_began_late_is_no_edit_of_somebody_else() {
    let folder = Folder::new();
    let old = vec![7; 150_000];
    cut_short(&folder, &old);
    let [name] = &folder.private("redo")[..] else { panic!("one record") };
    let record = folder.at(".replicator/redo").join(OsStr::from_bytes(name));
    let late = std::time::SystemTime::now() + Duration::from_secs(5);
    for begun in [record, folder.at("f")] {
        let file = std::fs::OpenOptions::new().write(true).open(begun).unwrap();
        file.set_modified(late).unwrap();
    }
    assert_eq!(redo::recover(&folder.root).unwrap().replayed, [rel("f")]);
    assert_eq!(folder.read("f"), patched(&old));
    assert!(conflicts::list(&folder.root).unwrap().is_empty());
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
    let recovered = redo::recover(&folder.root).unwrap();
    assert_eq!(recovered.replayed, [rel("f")]);
    let all = conflicts::list(&folder.root).unwrap();
    let kept = folder.at(".replicator/conflicts").join(&all[0].id);
    assert_eq!(std::fs::read(kept).unwrap(), edited);
}
