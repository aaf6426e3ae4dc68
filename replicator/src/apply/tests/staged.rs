//! Files beside their place, and the room for them.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_staged_file_has_no_name_and_a_copy_keeps_holes() {
    let folder = Folder::new();
    let file = std::fs::File::create(folder.at("sparse")).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 5 << 20).unwrap();
    let copy = Staged::copy_of(&folder.root, &rel("sparse")).unwrap();
    flush(&folder.root, [&copy]).unwrap();
    assert!(folder.private("tmp").is_empty(), "a killed daemon would leave it behind");
    let copied = std::fs::File::from(copy.file().try_clone().unwrap());
    let mut bytes = vec![0; 10 << 20];
    std::os::unix::fs::FileExt::read_exact_at(&copied, &mut bytes, 0).unwrap();
    assert_eq!(bytes, folder.read("sparse"));
    assert!(copied.metadata().unwrap().blocks() < 200, "the holes were filled");
    assert!(matches!(Staged::copy_of(&folder.root, &rel("none")), Err(Error::Gone { .. })));
}

/// What a file system makes do that knows no files without names.
#[test]
fn a_staged_file_with_a_name_takes_its_place_or_vanishes() {
    let mut folder = Folder::new();
    let staged = Staged::with_name(&folder.root).unwrap();
    assert_eq!(folder.private("tmp").len(), 1);
    drop(staged);
    assert!(folder.private("tmp").is_empty());
    let expect = folder.write("taken", b"before");
    for (path, over) in [("new", None), ("taken", trash(expect))] {
        let staged = Staged::with_name(&folder.root).unwrap();
        rustix::io::pwrite(staged.file(), path.as_bytes(), 0).unwrap();
        let step = Step::Place { path: rel(path), staged, metadata: metadata(), over };
        let stat = done(folder.run(step));
        assert_eq!((stat, folder.read(path)), (folder.stat(path), path.as_bytes().to_vec()));
        assert!(folder.private("tmp").is_empty());
    }
}

#[test]
fn room_is_asked_for_before_it_is_used() {
    let folder = Folder::new();
    check_room(&folder.root, 1, 0).unwrap();
    let refused = check_room(&folder.root, 1, u64::MAX).unwrap_err();
    assert!(matches!(refused, Error::BelowMinFree { .. }), "{refused:?}");
}
