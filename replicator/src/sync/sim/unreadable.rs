//! A file that cannot be read for a while, and of which nothing is told when
//! it can.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use crate::hash::Digest;
use crate::path::RelPath;

/// Longer than any pause.
const LATER: Duration = Duration::from_secs(301);

/// A node that holds a file, and was told of a write that it could not read.
fn with_unread_write() -> Alone {
    let mut node = Alone::new();
    let mut dead = BTreeSet::new();
    node.disk.write(&path("file"), b"old", &mut dead);
    node.core.scan(RelPath::root());
    node.rest();
    node.unreadable.extend([path("file"), path("moved")]);
    // Of the same size, so that no look at its metadata tells.
    let told = node.disk.write(&path("file"), b"new", &mut dead);
    node.tell(told);
    node.wait(Duration::from_millis(200));
    assert_eq!(node.indexed(&path("file")), Some(Digest::of(b"old")));
    assert!(node.core.unfinished() > 0 && !node.core.is_read(), "it says that it holds it");
    assert!(!node.core.is_at_work(), "it waits");
    node
}

#[test]
fn what_could_not_be_read_is_read_later() {
    let mut node = with_unread_write();
    node.wait(LATER);
    assert!(node.core.unfinished() > 0, "it is no more readable than it was");
    node.unreadable.clear();
    node.wait(LATER);
    node.rest();
    assert_eq!(node.indexed(&path("file")), Some(Digest::of(b"new")));
}

#[test]
fn what_could_not_be_read_is_followed_where_it_moves() {
    let mut node = with_unread_write();
    let told = node.disk.rename(&path("file"), &path("moved"), &mut BTreeSet::new());
    node.tell(told);
    node.wait(LATER);
    node.unreadable.clear();
    node.wait(LATER);
    node.rest();
    assert_eq!(node.indexed(&path("moved")), Some(Digest::of(b"new")));
}

#[test]
fn what_could_not_be_read_and_is_gone_is_not_waited_for() {
    let mut node = with_unread_write();
    let told = node.disk.remove_all(&path("file"), &mut BTreeSet::new());
    node.unreadable.clear();
    node.tell(told);
    node.wait(LATER);
    node.rest();
    assert_eq!(node.indexed(&path("file")), None);
}
