//! Files beside their place, and the room for them.

use std::os::unix::fs::MetadataExt;

use super::*;

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
fn room_is_asked_for_before_it_is_used() {
    let folder = Folder::new();
    check_room(&folder.root, 1, 0).unwrap();
    let refused = check_room(&folder.root, 1, u64::MAX).unwrap_err();
    assert!(matches!(refused, Error::BelowMinFree { .. }), "{refused:?}");
}
