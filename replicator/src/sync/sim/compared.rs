//! A look compares what it reads with what the index says lies there. By then
//! another file may have been renamed onto the place, and differs from that
//! one in every byte; of what changed in it since it was read last, this says
//! nothing.

use std::collections::BTreeSet;

use super::alone::Alone;
use super::path;
use super::plan::Plan;
use crate::id::Actor;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::record::Content;
use crate::sync::store::{MemoryStore, Store};
use crate::sync::{Core, Options};

const LEAF: usize = 64 << 10;

#[test]
fn a_file_at_the_place_of_another_is_compared_with_what_it_was() {
    // Nobody tells which bytes were written.
    let options = Options { ranges_told: false, ..Plan::peaceful(0).options(0) };
    let core = Core::new(options, Actor(1), 1, MemoryStore::default());
    let mut node = Alone { core, ..Alone::new() };
    let [log, older] = ["log", "log.1"].map(path);
    let mut dead = BTreeSet::new();
    let mut content = vec![1; 4 * LEAF];
    node.disk.write(&log, &content, &mut dead);
    node.disk.write(&older, &vec![2; 4 * LEAF], &mut dead);
    node.core.scan(RelPath::root());
    node.rest();
    let before = node.indexed(&log).unwrap();
    let (body, _) = node.core.store().name(&log).unwrap().on_disk().unwrap();

    content[LEAF] = 3;
    node.disk.write(&log, &content, &mut dead);
    node.disk.rename(&log, &older, &mut dead);
    // Of the rename only that something happened at both names.
    for path in [&log, &older] {
        node.core.path_changed(node.clock(), path.clone());
    }
    node.rest();
    assert_eq!(node.core.store().name(&older).unwrap().on_disk().unwrap().0, body);
    let row = node.core.store().body(body).unwrap();
    let after = row.content_on_disk().and_then(Content::digest).unwrap();
    let one: RangeSet = Range::new(LEAF as u64, 2 * LEAF as u64).into_iter().collect();
    assert_eq!(node.core.changed_since(body, before, after).unwrap().ranges, one);
    let kept = node.core.kept_since(body, before, after).unwrap();
    assert_eq!(kept.delta().ranges, one);
}
