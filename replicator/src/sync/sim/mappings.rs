//! More files are stored to through mappings than are remembered before any of
//! them is known: what was let go is read again, and nothing older.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use crate::hash::Digest;
use crate::path::RelPath;
use crate::range::Range;

/// More than `INODES_MAX` of `sync::mapped`.
const STRANGERS: u64 = 4100;

#[test]
fn stores_to_more_unknown_files_than_are_remembered_are_counted_and_read() {
    let mut node = Alone::new();
    let [old, new] = ["old", "new"].map(path);
    let mut dead = BTreeSet::new();
    node.disk.write(&old, b"old one", &mut dead);
    node.core.scan(RelPath::root());
    node.rest();

    node.now = Duration::from_secs(1000);
    node.disk.set_clock(node.clock().wall);
    let mut told = node.disk.write(&new, b"stored 1", &mut dead);
    let number = node.number_of(&new);
    // Of it, and of as many others, before the name is told.
    for inode in std::iter::once(number).chain(1_000_000..1_000_000 + STRANGERS) {
        let ranges = Range::new(0, 4096).into_iter().collect();
        node.core.bytes_changed(node.clock(), inode, Some(ranges), true);
    }
    told.truncate(1);
    node.tell(told);
    // Met and read, but its page was not written back: the next store to it
    // goes untold, as one to a file that was mapped long ago would.
    node.now += Duration::from_millis(100);
    node.core.handle_timeout(node.clock());
    let scan = node.core.poll_effect().expect("a scan comes first");
    for look in node.looks() {
        let sight = node.disk.look(&look, true);
        node.core.handle_sights(node.clock(), vec![sight]);
    }
    assert_eq!(node.indexed(&new), Some(Digest::of(b"stored 1")));
    node.disk.store(&new, b"stored 2");
    node.disk.store(&old, b"old two");
    node.carry_out(scan);
    node.rest();
    assert_eq!(node.indexed(&new), Some(Digest::of(b"stored 2")), "what was let go is read");
    assert_eq!(node.indexed(&old), Some(Digest::of(b"old one")), "what is older is not read");
    assert_eq!(node.core.progress().unmet_mappings, 1);
}
