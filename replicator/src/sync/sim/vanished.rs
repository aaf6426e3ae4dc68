//! Most of a folder goes, before the eyes of its node or not: who was told of
//! a removal holds nothing back.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::disk::Change;
use super::path;
use super::plan::Plan;
use crate::entry::Kind;
use crate::id::Actor;
use crate::limits::UNSEEN_DELETIONS_MAX;
use crate::path::RelPath;
use crate::range::Range;
use crate::sync::core::Core;

/// More than pass unseen, of which each story takes all.
const FILES: usize = UNSEEN_DELETIONS_MAX + 20;

/// A node that knows a full directory.
fn full() -> Alone {
    let mut node = Alone::new();
    node.disk.make_entry(&path("d"), Kind::Directory, b"");
    for number in 0..FILES {
        node.disk.write(&file("d", number), b"precious", &mut BTreeSet::new());
    }
    node.core.scan(RelPath::root());
    node.rest();
    assert_eq!(known(&node), FILES as u64);
    node
}

fn file(directory: &str, number: usize) -> RelPath {
    path(&format!("{directory}/{number}"))
}

fn empty(node: &mut Alone, directory: &str) -> Vec<Change> {
    let files = (0..FILES).map(|number| file(directory, number));
    files.flat_map(|file| node.disk.remove_all(&file, &mut BTreeSet::new())).collect()
}

/// A scan passes by, and is over before anything is looked at.
fn scan(node: &mut Alone, beneath: &RelPath) {
    let listed = node.disk.list(beneath);
    node.core.scan(beneath.clone());
    node.core.handle_listed(node.clock(), beneath, listed);
    node.core.handle_scanned(node.clock(), beneath);
}

fn known(node: &Alone) -> u64 {
    node.core.progress().files
}

fn held(node: &Alone) -> u64 {
    node.core.progress().deletions_held
}

#[test]
fn removals_that_were_told_are_not_a_scans_affair() {
    for beneath in [path("d"), RelPath::root()] {
        let mut node = full();
        let told = empty(&mut node, "d");
        node.tell(told);
        scan(&mut node, &beneath);
        assert_eq!(held(&node), 0);
        node.rest();
        assert_eq!((held(&node), known(&node)), (0, 0));
    }
}

#[test]
fn removals_that_nobody_told_are_held() {
    for beneath in [path("d"), RelPath::root()] {
        let mut node = full();
        empty(&mut node, "d");
        scan(&mut node, &beneath);
        node.pass(Duration::from_secs(1));
        assert_eq!((held(&node), known(&node)), (FILES as u64, FILES as u64));
    }
}

/// Two losses that are each too small to be held count together within a
/// minute, and not beyond.
#[test]
fn removals_that_nobody_told_add_up_for_a_minute() {
    for (apart, is_held) in [(30, true), (70, false)] {
        let mut node = full();
        node.disk.write(&path("lasting"), b"lasting", &mut BTreeSet::new());
        node.tell(vec![Change::Name(path("lasting"))]);
        node.rest();
        let lose = |node: &mut Alone, part: std::ops::Range<usize>| {
            for number in part {
                node.disk.remove_all(&file("d", number), &mut BTreeSet::new());
            }
            scan(node, &path("d"));
        };
        lose(&mut node, 0..FILES / 2);
        node.rest();
        node.pass(Duration::from_secs(apart));
        lose(&mut node, FILES / 2..FILES);
        node.pass(Duration::from_secs(1));
        let expected = if is_held { FILES - FILES / 2 } else { 0 };
        assert_eq!(held(&node), expected as u64, "{apart} seconds apart");
    }
}

/// Of what was removed in a directory that is gone itself nothing is told but
/// that.
#[test]
fn a_directory_removed_and_made_anew_takes_its_files_along() {
    for scanned in [false, true] {
        let mut node = full();
        empty(&mut node, "d");
        let mut told = node.disk.remove_all(&path("d"), &mut BTreeSet::new());
        told.extend(node.disk.make_entry(&path("d"), Kind::Directory, b""));
        node.tell(told);
        if scanned {
            scan(&mut node, &RelPath::root());
        }
        node.rest();
        assert_eq!((held(&node), known(&node)), (0, 0));
    }
}

#[test]
fn a_directory_replaced_while_nobody_looked_keeps_its_files() {
    let mut node = full();
    empty(&mut node, "d");
    node.disk.remove_all(&path("d"), &mut BTreeSet::new());
    node.disk.make_entry(&path("d"), Kind::Directory, b"");
    scan(&mut node, &RelPath::root());
    node.pass(Duration::from_secs(1));
    assert_eq!((held(&node), known(&node)), (FILES as u64, FILES as u64));
}

/// It was gone when the node began, and is made anew while that meets its
/// folder.
#[test]
fn a_directory_lost_before_the_start_keeps_its_files() {
    let mut node = full();
    empty(&mut node, "d");
    node.disk.remove_all(&path("d"), &mut BTreeSet::new());
    let store = std::mem::take(node.core.store_mut());
    let options = Plan::peaceful(0).options(0);
    node.core = Core::new(options, Actor(2), 1, store);
    let listed = node.disk.list(&RelPath::root());
    node.core.scan(RelPath::root());
    node.core.handle_listed(node.clock(), &RelPath::root(), listed);
    let told = node.disk.make_entry(&path("d"), Kind::Directory, b"");
    node.tell(told);
    node.core.handle_scanned(node.clock(), &RelPath::root());
    node.pass(Duration::from_secs(1));
    assert_eq!((held(&node), known(&node)), (FILES as u64, FILES as u64));
}

/// The kernel lets go of its last bytes when the node has begun.
#[test]
fn bytes_of_a_file_lost_before_the_start_do_not_tell_that_it_was_removed() {
    let mut node = full();
    let last = node.number_of(&file("d", 7));
    empty(&mut node, "d");
    let store = std::mem::take(node.core.store_mut());
    node.core = Core::new(Plan::peaceful(0).options(0), Actor(2), 1, store);
    node.core.scan(RelPath::root());
    for told in [Some(Range::new(0, 4096).into_iter().collect()), None] {
        node.core.bytes_changed(node.clock(), last, told, false);
        for _ in 0..50 {
            node.now += Duration::from_millis(5);
            node.core.handle_timeout(node.clock());
            for look in node.looks() {
                let sight = node.disk.look(&look, true);
                node.core.handle_sights(node.clock(), vec![sight]);
                node.core.handle_heard(node.clock());
            }
        }
    }
    node.core.bytes_changed(node.clock(), last, None, false);
    let listed = node.disk.list(&RelPath::root());
    node.core.handle_listed(node.clock(), &RelPath::root(), listed);
    node.core.handle_scanned(node.clock(), &RelPath::root());
    node.pass(Duration::from_secs(1));
    assert_eq!((held(&node), known(&node)), (FILES as u64, FILES as u64));
}

/// The removals are looked at before it is known that the files lay there.
#[test]
fn a_directory_moved_and_then_emptied_is_empty() {
    let mut node = full();
    let moved = node.disk.rename(&path("d"), &path("e"), &mut BTreeSet::new());
    let told = empty(&mut node, "e");
    node.tell(told);
    node.tell(moved);
    node.now += Duration::from_millis(5);
    node.core.handle_timeout(node.clock());
    let mut looks = node.looks();
    looks.sort_by(|one, other| other.path.cmp(&one.path));
    let (inside, others): (Vec<_>, Vec<_>) =
        looks.into_iter().partition(|look| look.path.parent() != Some(RelPath::root()));
    for look in inside.iter().chain(&others) {
        let sight = node.disk.look(look, true);
        node.core.handle_sights(node.clock(), vec![sight]);
    }
    node.rest();
    assert_eq!((held(&node), known(&node)), (0, 0));
}
