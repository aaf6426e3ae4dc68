//! What was displaced and is kept.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use super::super::lease::WRITERS_WAIT_MAX;
use super::*;

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
    let beside = Root::open_beside(folder.dir.path(), rustix::process::geteuid().as_raw()).unwrap();
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
fn what_the_folder_shows_by_now_leaves_the_store() {
    let mut folder = Folder::new();
    let large = vec![7; 600_000];
    let mut other_end = large.clone();
    other_end[599_999] = 8;
    let lose = |folder: &mut Folder, path: &str, kept: &[u8], shown: &[u8]| {
        let expect = folder.write(path, kept);
        let writer = OpenOptions::new().write(true).open(folder.at(path)).unwrap();
        let keep = Keep::Conflict { label: "node b".to_owned() };
        let (staged, over) = (folder.staged(shown), Some(Over { expect, keep }));
        done(folder.run(Step::Place { path: rel(path), staged, metadata: metadata(), over }));
        writer
    };
    drop(lose(&mut folder, "same", &large, &large));
    drop(lose(&mut folder, "empty", b"", b""));
    drop(lose(&mut folder, "at its end", &large, &other_end));
    drop(lose(&mut folder, "shorter", &large[1..], &large));
    drop(lose(&mut folder, "gone", b"what was here", b"what was here"));
    std::fs::remove_file(folder.at("gone")).unwrap();
    let writer = lose(&mut folder, "written", b"half", b"half of it");

    let mut agreed = Agreed::default();
    let mut leave = |folder: &Folder| {
        let mut left: Vec<_> =
            agreed.remove(&folder.root).unwrap().into_iter().map(|was| was.path).collect();
        left.sort();
        left
    };
    assert_eq!(leave(&folder), ["empty", "same"]);
    // As long as somebody writes to what is kept, that may become anything.
    writer.write_all_at(b"half of it", 0).unwrap();
    assert!(leave(&folder).is_empty());
    drop(writer);
    assert_eq!(leave(&folder), ["written"]);
    std::fs::write(folder.at("at its end"), &large).unwrap();
    assert_eq!(leave(&folder), ["at its end"]);
    let left: Vec<_> = conflicts::list(&folder.root).unwrap();
    let left: Vec<&str> = left.iter().map(|conflict| conflict.path.as_str()).collect();
    assert_eq!(left, ["shorter", "gone"]);
}

/// It may be what the other has become when its writer is done.
#[test]
fn half_a_file_does_not_lose_while_it_is_written() {
    let mut folder = Folder::new();
    let expect = folder.write("f", b"half");
    let mut writer = OpenOptions::new().append(true).open(folder.at("f")).unwrap();
    let place = folder.at("f");
    let rest = thread::spawn(move || {
        let begun = Instant::now();
        let lies = || std::fs::read(&place).unwrap() == b"half";
        while lies() && begun.elapsed() < WRITERS_WAIT_MAX / 2 {
            thread::yield_now();
        }
        writer.write_all(b" and half").unwrap();
    });
    let keep = Keep::Conflict { label: "node b".to_owned() };
    let (staged, over) = (folder.staged(b"half and half"), Some(Over { expect, keep }));
    raced(folder.run(Step::Place { path: rel("f"), staged, metadata: metadata(), over }));
    rest.join().unwrap();
    assert_eq!(folder.read("f"), b"half and half");
    assert!(folder.private("conflicts").is_empty());
}

/// Whoever planned it knew of another name, which may be gone by now.
#[test]
fn one_of_several_names_is_let_go_and_the_last_is_kept() {
    let mut folder = Folder::new();
    folder.write("one", b"linked");
    std::fs::hard_link(folder.at("one"), folder.at("other")).unwrap();
    let mut remove = |path: &str| {
        let expect = Expect::from(&folder.root.stat(&rel(path)).unwrap().unwrap());
        let keep = Keep::Linked { label: "node b".to_owned() };
        let outcome = folder.run(Step::Remove { path: rel(path), expect, keep });
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        (folder.private("trash").len(), folder.private("conflicts").len())
    };
    assert_eq!(remove("one"), (0, 0));
    assert_eq!(remove("other"), (0, 2), "the bytes, and what they were");
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
fn what_cannot_be_removed_from_the_trash_holds_up_nothing() {
    let folder = Folder::new();
    for name in ["20000101T000000.000000000Z-a", "20000102T000000.000000000Z-b"] {
        std::fs::write(folder.at(".replicator/trash").join(name), b"kept").unwrap();
    }
    let bound = folder.at(".replicator/trash/20000101T000000.000000000Z-a");
    let bound = std::fs::File::open(bound).unwrap();
    if set_flags(bound.as_fd(), Flags::IMMUTABLE).is_err() {
        return println!("skipped: this user cannot set flags here");
    }
    assert_eq!(trash::sweep(&folder.root, Duration::from_secs(3600)).unwrap().removed, 1);
    assert_eq!(folder.private("trash"), [b"20000101T000000.000000000Z-a"]);
}
