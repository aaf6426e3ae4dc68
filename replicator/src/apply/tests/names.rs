//! Entries that get other names, more of them, or none.

use super::*;
use crate::entry::Kind;

#[test]
fn removal_respects_what_is_there() {
    let mut folder = Folder::new();
    let known = folder.write("f", b"known");
    std::fs::hard_link(folder.at("f"), folder.at("g")).unwrap();
    let remove = |path: &str, expect| Step::Remove { path: rel(path), expect, keep: Keep::Trash };
    // The new link moved the ctime.
    raced(folder.run(remove("f", known)));
    let known = folder.expect("f");
    let rest = done(folder.run(remove("f", known)));
    assert_eq!(rest, folder.stat("g"), "the other name lives and its new ctime is told");
    assert!(folder.private("trash").is_empty(), "bytes with a name need no trash");
    let known = folder.expect("g");
    assert!(matches!(folder.run(remove("g", known)), Outcome::Done(None)));
    assert_eq!(folder.private("trash").len(), 1);
    raced(folder.run(remove("g", known)));
    std::fs::create_dir(folder.at("d")).unwrap();
    folder.write("d/x", b"");
    let dir = folder.expect("d");
    raced(folder.run(remove("d", dir)));
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
    raced(outcome);
    assert_eq!(folder.stat("g"), linked);
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
    raced(folder.run(swap(a, b)));
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
