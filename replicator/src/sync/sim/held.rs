//! The edges of what the brake lets pass, and what a person says of what it
//! holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::alone::Alone;
use super::disk::{Change, Disk};
use super::path;
use super::plan::Plan;
use crate::entry::Kind;
use crate::id::{Actor, NodeId};
use crate::limits::UNSEEN_DELETIONS_MAX;
use crate::path::RelPath;
use crate::sync::core::{Core, Options};
use crate::sync::effect::Effect;
use crate::sync::members::Introduction;
use crate::sync::roster::MemberRecord;
use crate::sync::store::Store;

/// What a user does, and what is told of it.
type Doing<'a> = &'a dyn Fn(&mut Disk) -> Vec<Change>;

/// In which all that is looked at is looked at.
const SOON: Duration = Duration::from_secs(1);

/// A node that knows so many entries, the folder itself among them.
fn knowing(entries: usize) -> Alone {
    let mut node = Alone::new();
    write(&mut node, 0..entries - 1);
    node.core.scan(RelPath::root());
    node.rest();
    assert_eq!((known(&node), held(&node)), (entries, 0));
    node
}

fn file(number: usize) -> RelPath {
    path(&format!("{number:04}"))
}

fn write(node: &mut Alone, numbers: std::ops::Range<usize>) {
    for number in numbers {
        node.disk.write(&file(number), b"precious", &mut BTreeSet::new());
    }
}

/// Nobody sees them go.
fn lose(node: &mut Alone, numbers: std::ops::Range<usize>) {
    for number in numbers {
        node.disk.remove_all(&file(number), &mut BTreeSet::new());
    }
}

fn options(delete_brake: Option<u8>) -> Options {
    Options { delete_brake, ..Plan::peaceful(0).options(0) }
}

fn start_again(node: &mut Alone, delete_brake: Option<u8>) {
    let store = std::mem::take(node.core.store_mut());
    node.core = Core::new(options(delete_brake), Actor(2), 1, store);
    node.core.scan(RelPath::root());
    node.wait(SOON);
}

/// There is somebody else who may hold what is missing here.
fn is_not_alone(node: &mut Alone) {
    let member = |number: u8| NodeId::of_public_key(&[number]);
    let retention = Duration::from_secs(3600);
    let mut roster = node.core.store().roster().unwrap_or_default();
    roster.accept(&MemberRecord {
        node: member(1),
        version: 1,
        name: "other".into(),
        retention,
        retired: false,
        have: Arc::default(),
    });
    node.core.store_mut().put_roster(roster);
    node.core.introduce(Introduction { node: member(2), name: "this".into(), retention });
}

fn scan(node: &mut Alone) {
    node.core.scan(RelPath::root());
    node.wait(SOON);
}

fn known(node: &Alone) -> usize {
    node.core.progress().entries() as usize
}

fn held(node: &Alone) -> usize {
    node.core.progress().deletions_held as usize
}

#[test]
fn half_of_a_folder_and_a_hundred_entries_pass_and_no_more() {
    let most = UNSEEN_DELETIONS_MAX;
    let half = most + 20;
    // The folder itself is no file.
    let edges = [(2 * half + 1, half, false), (2 * half + 1, half + 1, true)];
    let few = [(most + 50, most, false), (most + 50, most + 1, true)];
    for (entries, lost, is_held) in edges.into_iter().chain(few) {
        for starts in [false, true] {
            let mut node = knowing(entries);
            lose(&mut node, 0..lost);
            match starts {
                true => start_again(&mut node, Some(50)),
                false => scan(&mut node),
            }
            let expected = if is_held { (lost, entries) } else { (0, entries - lost) };
            assert_eq!((held(&node), known(&node)), expected, "{lost} of {entries}");
        }
    }
}

/// However many directories stay, and the other way round.
#[test]
fn most_of_the_files_or_most_of_all_is_too_much() {
    let most = UNSEEN_DELETIONS_MAX;
    for (files, directories, is_held) in [(most + 1, 5 * most, true), (most, 5 * most, false)] {
        let mut node = Alone::new();
        write(&mut node, 0..files + 1);
        for number in 0..directories {
            node.disk.make_entry(&path(&format!("empty {number}")), Kind::Directory, b"");
        }
        scan(&mut node);
        let entries = known(&node);
        lose(&mut node, 0..files);
        scan(&mut node);
        let expected = if is_held { (files, entries) } else { (0, entries - files) };
        assert_eq!((held(&node), known(&node)), expected, "{files} of {entries}");
    }
}

#[test]
fn all_of_a_small_folder_is_held_where_it_is_missing_at_the_start() {
    let mut node = knowing(4);
    lose(&mut node, 0..3);
    start_again(&mut node, Some(50));
    assert_eq!(known(&node) - held(&node), 1, "the folder itself is there");
}

#[test]
fn a_brake_that_is_off_holds_nothing() {
    let mut node = knowing(300);
    lose(&mut node, 0..300);
    start_again(&mut node, None);
    assert_eq!((held(&node), known(&node)), (0, 1));
}

/// What its users removed before the eyes of the node counts for nothing in
/// what goes missing then.
#[test]
fn removals_that_were_seen_do_not_count() {
    let mut node = knowing(300);
    for number in 0..150 {
        let told = node.disk.remove_all(&file(number), &mut BTreeSet::new());
        node.tell(told);
    }
    node.rest();
    lose(&mut node, 150..150 + UNSEEN_DELETIONS_MAX);
    scan(&mut node);
    assert_eq!((held(&node), known(&node)), (0, 150 - UNSEEN_DELETIONS_MAX));
}

/// A start lists what is being written: what lies there when it has come as far
/// is later than what it listed, and no backup.
#[test]
fn what_is_written_while_a_start_lists_it_makes_no_backup_of_the_folder() {
    let folder = path("folder");
    let inside = |name: &str| path(&format!("folder/{name}"));
    let overwritten = |disk: &mut Disk| disk.write(&file(1), b"changed", &mut BTreeSet::new());
    let replaced = |disk: &mut Disk| {
        let mut told = disk.write(&path("next"), b"changed", &mut BTreeSet::new());
        told.extend(disk.rename(&path("next"), &file(1), &mut BTreeSet::new()));
        told
    };
    let removed = |disk: &mut Disk| disk.remove_all(&inside("other"), &mut BTreeSet::new());
    let changes: [(&str, Doing); 3] =
        [("overwritten", &overwritten), ("replaced", &replaced), ("removed", &removed)];
    for (story, change) in changes {
        let mut node = knowing(4);
        node.disk.make_entry(&folder, Kind::Directory, b"");
        for name in ["lost", "other", "third"] {
            node.disk.write(&inside(name), b"precious", &mut BTreeSet::new());
        }
        scan(&mut node);
        node.disk.remove_all(&inside("lost"), &mut BTreeSet::new());
        let store = std::mem::take(node.core.store_mut());
        node.core = Core::new(options(Some(50)), Actor(2), 1, store);
        is_not_alone(&mut node);
        node.core.scan(RelPath::root());
        let asked = std::iter::from_fn(|| node.core.poll_effect());
        assert!(asked.into_iter().any(|effect| matches!(effect, Effect::Scan { .. })));
        let listed = node.disk.list(&RelPath::root());
        let told = change(&mut node.disk);
        node.tell(told);
        node.wait(SOON);
        node.core.handle_listed(node.clock(), &RelPath::root(), listed);
        node.core.handle_scanned(node.clock(), &RelPath::root());
        node.wait(SOON);
        assert_eq!(held(&node), 0, "{story}");
        let lost = node.core.store().name(&inside("lost"));
        assert!(lost.is_none_or(|row| row.on_disk().is_none()), "{story}");
    }
}

#[test]
fn what_goes_missing_beside_what_is_held_is_held_with_it() {
    let mut node = knowing(200);
    lose(&mut node, 0..120);
    scan(&mut node);
    lose(&mut node, 120..130);
    scan(&mut node);
    assert_eq!((held(&node), known(&node)), (130, 200));
    assert_eq!(node.core.confirm_deletions(node.clock()), 130);
    node.wait(SOON);
    assert_eq!((held(&node), known(&node)), (0, 70));
}

/// What a person said was deleted is not held once more by a scan that comes
/// before the looks at it.
#[test]
fn a_scan_does_not_take_a_confirmation_back() {
    let mut node = knowing(200);
    lose(&mut node, 0..120);
    scan(&mut node);
    lose(&mut node, 120..130);
    assert_eq!(node.core.confirm_deletions(node.clock()), 120);
    let listed = node.disk.list(&RelPath::root());
    node.core.scan(RelPath::root());
    node.core.handle_listed(node.clock(), &RelPath::root(), listed);
    node.core.handle_scanned(node.clock(), &RelPath::root());
    node.wait(SOON);
    assert_eq!((held(&node), known(&node)), (0, 70));
}

#[test]
fn a_start_holds_what_was_held_and_lets_go_of_what_is_back() {
    let mut node = knowing(200);
    lose(&mut node, 0..120);
    scan(&mut node);
    start_again(&mut node, Some(50));
    assert_eq!((held(&node), known(&node)), (120, 200));
    write(&mut node, 0..20);
    scan(&mut node);
    assert_eq!((held(&node), known(&node)), (100, 200));
}

/// A node that knows so many files in two directories, all of which move into
/// another while nobody looks.
fn moving_all(files: usize) -> Alone {
    let mut node = Alone::new();
    for folder in ["one", "two"] {
        node.disk.make_entry(&path(folder), Kind::Directory, b"");
    }
    for (number, folder) in (0..files).zip(["one", "two"].into_iter().cycle()) {
        let file = path(&format!("{folder}/{number:04}"));
        node.disk.write(&file, b"precious", &mut BTreeSet::new());
    }
    node.core.scan(RelPath::root());
    node.rest();
    node.disk.make_entry(&path("below"), Kind::Directory, b"");
    for folder in ["one", "two"] {
        let below = path(&format!("below/{folder}"));
        node.disk.rename(&path(folder), &below, &mut BTreeSet::new());
    }
    node
}

#[test]
fn what_is_met_elsewhere_is_not_missing() {
    let mut node = moving_all(2 * UNSEEN_DELETIONS_MAX);
    let before = known(&node);
    let listed = node.disk.list(&RelPath::root());
    node.core.scan(RelPath::root());
    node.core.handle_listed(node.clock(), &RelPath::root(), listed);
    node.core.handle_scanned(node.clock(), &RelPath::root());
    assert_eq!(held(&node), 0, "nothing is gone");
    node.rest();
    assert_eq!((held(&node), known(&node)), (0, before + 1));
}

/// A listing may have passed by both places of what moved meanwhile.
#[test]
fn what_is_held_and_turns_up_elsewhere_is_held_no_more() {
    let mut node = moving_all(2 * UNSEEN_DELETIONS_MAX);
    let before = known(&node);
    node.core.scan(RelPath::root());
    node.core.handle_scanned(node.clock(), &RelPath::root());
    assert_eq!(held(&node), before - 1, "nothing of it was met");
    scan(&mut node);
    assert_eq!((held(&node), known(&node)), (0, before + 1));
}

#[test]
fn files_that_are_held_and_turn_up_elsewhere_are_held_no_more() {
    for is_told in [false, true] {
        let mut node = knowing(200);
        let away = Alone::new().disk;
        let there = std::mem::replace(&mut node.disk, away);
        scan(&mut node);
        assert_eq!((held(&node), known(&node)), (199, 200));
        node.disk = there;
        for number in 0..199 {
            let to = path(&format!("{number:04} moved"));
            node.disk.rename(&file(number), &to, &mut BTreeSet::new());
            if is_told {
                node.core.path_came(node.clock(), to);
            }
        }
        match is_told {
            true => node.rest(),
            false => scan(&mut node),
        }
        assert_eq!((held(&node), known(&node)), (0, 200), "told {is_told}");
    }
}
