//! A write is told by the number of its inode, which was another file's just
//! before.
//!
//! A file is replaced by a copy of itself and its number given to a second
//! file, which is written on right after it was read. The index still takes
//! the number for that of the first file, finds nothing new there, and must
//! nevertheless not miss the write.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use super::planted::{self, Bug};
use crate::hash::Digest;
use crate::path::RelPath;
use crate::range::Range;
use crate::sync::effect::Sight;

const BEFORE: &[u8] = b"read";
const AFTER: &[u8] = b"read, and written on";

#[test]
fn a_write_to_a_file_with_the_number_of_another_is_not_missed() {
    assert_eq!(indexed_in_the_end(), Some(Digest::of(AFTER)));
    planted::plant(Some(Bug::TrustNumber));
    let missed = indexed_in_the_end();
    planted::plant(None);
    assert_eq!(missed, Some(Digest::of(BEFORE)), "it is this that keeps it from being missed");
}

/// What the index holds of the second file once nothing is left to do.
fn indexed_in_the_end() -> Option<Digest> {
    let mut node = Alone::new();
    let [first, second] = ["first", "second"].map(path);
    let mut dead = BTreeSet::new();
    node.disk.write(&first, b"copied", &mut dead);
    node.core.scan(RelPath::root());
    node.rest();

    let number = node.number_of(&first);
    node.disk.renew(&first);
    node.disk.write(&second, BEFORE, &mut dead);
    assert_eq!(node.number_of(&second), number);
    for path in [&first, &second] {
        node.core.path_changed(node.clock(), path.clone());
    }
    node.now += Duration::from_millis(50);
    node.core.handle_timeout(node.clock());
    let looks = node.looks();
    let mut sights: Vec<Sight> = looks.iter().map(|look| node.disk.look(look, true)).collect();
    // Told before the core hears of what was read before it.
    node.disk.write(&second, AFTER, &mut dead);
    node.now += Duration::from_millis(1);
    let ranges = Range::new(0, 1 << 20).into_iter().collect();
    node.core.bytes_changed(node.clock(), number, Some(ranges), false);
    // The second file first.
    sights.sort_by(|one, other| other.path.cmp(&one.path));
    for sight in sights {
        node.core.handle_sights(node.clock(), vec![sight]);
    }
    node.rest();
    node.indexed(&second)
}
