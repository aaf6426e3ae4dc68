//! A file that is written all the time: no look finds it quiet.
//!
//! What is read must still become versions, soon, and each with exactly the
//! bytes that lead to it, because by the time a peer asks the disk has others.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::alone::Alone;
use super::disk::Change;
use super::path;
use crate::hash::{Digest, Leaves};
use crate::id::NodeId;
use crate::limits::BUSY_LOOK_BYTES_MAX;
use crate::look::{Depth, Look};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::effect::{Found, Sighted};
use crate::sync::store::Store;
use crate::writes::{bytes_of, spans};

const LEAF: u64 = 64 << 10;

/// A node with a file of a few leaves, whose disk the story speaks for.
struct Busy {
    node: Alone,
    file: RelPath,
    content: Vec<u8>,
    /// What a look that brings all it reads tells of these.
    holes: RangeSet,
    /// Does a look bring bytes along?
    brings: bool,
}

impl Busy {
    fn new() -> Self {
        Self::of(4)
    }

    fn of(leaves: u64) -> Self {
        let mut node = Alone::new();
        let (file, content) = (path("hot"), vec![0; (leaves * LEAF) as usize]);
        node.disk.write(&file, &content, &mut BTreeSet::new());
        node.core.scan(RelPath::root());
        node.rest();
        assert_eq!(node.indexed(&file), Some(Digest::of(&content)));
        Self { node, file, content, holes: RangeSet::new(), brings: true }
    }

    /// Somebody writes a few bytes, and capture tells it.
    fn write(&mut self, at: u64, byte: u8) {
        self.write_all([at], byte);
    }

    /// The same at several places at once.
    fn write_all(&mut self, places: impl IntoIterator<Item = u64>, byte: u8) {
        let mut ranges = RangeSet::new();
        for at in places {
            self.content[at as usize..at as usize + 10].fill(byte);
            ranges.insert(Range { start: at / 4096 * 4096, end: at / 4096 * 4096 + 4096 });
        }
        for change in self.node.disk.write(&self.file, &self.content, &mut BTreeSet::new()) {
            if let Change::Data(inode) = change {
                let ranges = Some(ranges.clone());
                self.node.core.bytes_changed(self.node.clock(), inode, ranges, false);
            }
        }
    }

    /// The next look, after so long, if there is one.
    fn look_after(&mut self, ms: u64) -> Option<Look> {
        self.node.now += Duration::from_millis(ms);
        self.node.core.handle_timeout(self.node.clock());
        let looks = self.node.looks();
        assert!(looks.len() <= 1, "{looks:?}");
        looks.into_iter().next()
    }

    /// The answer to a look by ranges, as the engine would give it: it reads
    /// the leaves that were touched, as they are now.
    fn answer(&mut self, look: &Look, stable: bool) {
        let whole = [range((0, self.content.len() as u64))].into_iter().collect();
        let ranges = match &look.depth {
            Depth::Ranges(ranges) => ranges,
            Depth::Whole => &whole,
            other => panic!("{other:?}"),
        };
        let known = look.known.as_ref().unwrap();
        let mut leaves = known.leaves.clone().unwrap();
        let mut bytes = Vec::new();
        for leaf in leaves.clone().touched(ranges) {
            let Range { start, end } = leaves.range_of(leaf);
            let read = &self.content[start as usize..end as usize];
            leaves.set(leaf, read);
            bytes.push((start, Bytes::copy_from_slice(read)));
        }
        let changed = match &look.depth {
            Depth::Whole => leaves.differing(known.leaves.as_ref().unwrap()),
            _ => ranges.clone(),
        };
        let mut sight = self.node.disk.look(look, false);
        let Found::Entry(_, sighted) = &mut sight.found else { panic!("it is gone") };
        let fits = bytes_of(&bytes) <= BUSY_LOOK_BYTES_MAX;
        *sighted = Sighted::File {
            leaves,
            changed,
            bytes: (self.brings && fits).then_some(bytes),
            holes: if look.busy { self.holes.clone() } else { RangeSet::new() },
            stable,
        };
        self.node.core.handle_sights(self.node.clock(), vec![sight]);
    }

    fn indexed(&self) -> Digest {
        self.node.indexed(&self.file).unwrap()
    }
}

/// Found at a start: nobody has to wait until it is quiet.
#[test]
fn others_are_greeted_beside_a_new_file_that_is_never_quiet() {
    // Nothing could be read before it changed, or something could.
    for unsettled in [true, false] {
        let mut node = Alone::new();
        for name in ["hot", "quiet"] {
            node.disk.write(&path(name), b"x", &mut BTreeSet::new());
        }
        node.changing.insert(path("hot"), unsettled);
        node.core.scan(RelPath::root());
        let peer = NodeId::from_bytes([7; 16]);
        node.core.handle_connected(node.clock(), peer);
        while !node.core.peers[&peer].greeted {
            node.pass(Duration::from_millis(1));
            assert!(node.now < node.core.options.max_delay, "nobody was greeted");
        }
        assert!(node.indexed(&path("quiet")).is_some(), "greeted before all was looked at");
    }
}

#[test]
fn what_is_read_of_a_busy_file_stands_and_is_kept() {
    let mut busy = Busy::new();
    let before = (busy.content.clone(), busy.indexed());
    busy.write(5, 1);
    let look = busy.look_after(60).expect("nobody looks");
    assert!(!look.busy);
    busy.answer(&look, false);
    assert_eq!(busy.indexed(), before.1, "the first such look is made once more");

    let look = busy.look_after(1).expect("nobody looks again");
    assert!(look.busy);
    // In a leaf that is read, told before the look ends; and in one that is not.
    busy.write(20_000, 2);
    busy.write(3 * LEAF, 3);
    let mut expected = before.0.clone();
    expected[..LEAF as usize].copy_from_slice(&busy.content[..LEAF as usize]);
    busy.answer(&look, false);
    assert_eq!(busy.indexed(), Digest::of(&expected));

    let (body, _) = busy.node.core.store().name(&busy.file).unwrap().on_disk().unwrap();
    // The disk goes on; what is asked for is what was read.
    busy.write(5, 9);
    let patch = busy.node.core.kept_since(body, before.1, busy.indexed()).expect("not kept");
    let told: RangeSet = [(0, 4096), (16_384, 20_480)].map(range).into_iter().collect();
    assert_eq!(spans(&patch.writes), told);
    let mut patched = before.0;
    for (at, bytes) in &patch.writes {
        patched[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
    }
    assert_eq!(Leaves::of(&patched).digest(), busy.indexed());

    // Who holds nothing of it asks for all, and it has changed.
    let known = busy.node.core.locate(body, busy.indexed()).unwrap().fingerprint;
    busy.node.core.found_stale(busy.node.clock(), busy.file.clone(), &known);
    let look = busy.look_after(60).expect("nobody reads all of it");
    assert!(look.busy && look.depth == Depth::Whole);
    busy.answer(&look, false);
    assert_eq!(busy.indexed(), Digest::of(&busy.content));
    busy.write(70_000, 5);
    let look = busy.look_after(60).expect("nobody looks");
    assert!(matches!(look.depth, Depth::Ranges(_)), "{look:?}");
    busy.answer(&look, false);
    let content = busy.content.clone();
    busy.write(70_000, 6);
    let kept = busy.node.core.kept_whole(body, busy.indexed(), 4 * LEAF).expect("not kept");
    let kept: Vec<u8> = kept.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert_eq!(busy.indexed(), Digest::of(&content));
    let differs = kept.iter().zip(&content).position(|(one, other)| one != other);
    assert_eq!((kept.len(), differs), (content.len(), None), "the parts are in another order");
}

/// Or it would be missing in what is told to lead from there to a later version.
#[test]
fn what_was_told_while_it_was_read_counts_as_changed() {
    for brings in [false, true] {
        let mut busy = Busy { brings, ..Busy::new() };
        let before = busy.indexed();
        busy.write(5, 1);
        let look = busy.look_after(60).expect("nobody looks");
        busy.write(20_000, 2);
        busy.write(3 * LEAF, 3);
        // As of a store through a mapping, which leaves the file's time alone.
        busy.answer(&look, true);
        let (body, _) = busy.node.core.store().name(&busy.file).unwrap().on_disk().unwrap();
        let told = busy.node.core.changed_since(body, before, busy.indexed()).unwrap();
        assert_eq!(told.ranges, [(0, 4096), (16_384, 20_480)].map(range).into_iter().collect());
    }
}

/// Who holds an earlier version is not sent all of it because another asked
/// for all.
#[test]
fn what_was_kept_as_a_whole_is_sent_as_what_differs() {
    let mut busy = Busy::new();
    let (body, _) = busy.node.core.store().name(&busy.file).unwrap().on_disk().unwrap();
    let before = busy.indexed();
    let known = busy.node.core.locate(body, before).unwrap().fingerprint;
    busy.write(LEAF, 1);
    busy.node.core.found_stale(busy.node.clock(), busy.file.clone(), &known);
    let look = busy.look_after(60).expect("nobody reads all of it");
    assert!(look.busy && look.depth == Depth::Whole);
    busy.answer(&look, false);
    let between = busy.indexed();
    busy.write(3 * LEAF, 2);
    let look = busy.look_after(60).expect("nobody looks");
    busy.answer(&look, false);
    let patch = busy.node.core.kept_since(body, before, busy.indexed()).expect("not kept");
    let told = [(LEAF, 2 * LEAF), (3 * LEAF, 3 * LEAF + 4096)].map(range);
    assert_eq!((patch.from, spans(&patch.writes)), (Some(before), told.into_iter().collect()));
    let patch = busy.node.core.kept_since(body, between, busy.indexed()).expect("not kept");
    assert_eq!(spans(&patch.writes), [told[1]].into_iter().collect());
    let whole = busy.node.core.kept_whole(body, busy.indexed(), 4 * LEAF).expect("not kept");
    assert_eq!(spans(&whole), [range((0, 4 * LEAF))].into_iter().collect());
}

/// Or who follows it would fill its holes with zeros.
#[test]
fn the_holes_of_a_busy_file_are_kept() {
    let mut busy = Busy::new();
    busy.holes = [range((2 * LEAF, 4 * LEAF))].into_iter().collect();
    busy.write(5, 1);
    let (body, _) = busy.node.core.store().name(&busy.file).unwrap().on_disk().unwrap();
    let known = busy.node.core.locate(body, busy.indexed()).unwrap().fingerprint;
    busy.node.core.found_stale(busy.node.clock(), busy.file.clone(), &known);
    let before = busy.indexed();
    let look = busy.look_after(60).expect("nobody reads all of it");
    assert!(look.busy && look.depth == Depth::Whole);
    busy.answer(&look, false);
    let patch = busy.node.core.kept_since(body, Digest::of(b"another"), busy.indexed());
    let patch = patch.expect("not kept");
    assert_eq!(patch.from, None);
    assert_eq!(spans(&patch.writes), [range((0, 2 * LEAF))].into_iter().collect());
    assert_eq!(patch.holes, busy.holes);

    // What only the changed bytes are asked of says nothing of the others.
    busy.write(LEAF, 2);
    let between = busy.indexed();
    let look = busy.look_after(1000).expect("nobody looks");
    assert!(look.busy && look.depth != Depth::Whole);
    busy.answer(&look, false);
    let patch = busy.node.core.kept_since(body, between, busy.indexed()).expect("not kept");
    assert!(patch.from == Some(between) && patch.holes.is_empty(), "{patch:?}");
    assert_ne!(before, between);
}

#[test]
fn a_busy_file_is_not_read_all_the_time_and_to_its_end() {
    let mut busy = Busy::new();
    let mut looks = 0;
    for ms in 0..1000 {
        busy.write(ms % 40_000 * 5, ms as u8);
        if let Some(look) = busy.look_after(1) {
            looks += 1;
            busy.answer(&look, false);
        }
    }
    assert!((10..60).contains(&looks), "{looks} looks in a second");
    busy.write(7, 77);
    let look = busy.look_after(60).expect("the last write waits for a look");
    busy.answer(&look, true);
    assert_eq!(busy.indexed(), Digest::of(&busy.content));
    assert!(busy.look_after(1000).is_none() && busy.node.core.busy.is_empty());
}

/// A pause of the daemon is enough for that, and what peers cannot follow once
/// would change further before the next look at all of it.
#[test]
fn more_than_one_look_can_bring_along_is_read_in_parts() {
    let leaves = 2 * BUSY_LOOK_BYTES_MAX / LEAF + 2;
    let mut busy = Busy::of(leaves);
    busy.write(5, 1);
    for _ in 0..2 {
        let look = busy.look_after(60).expect("nobody looks");
        busy.answer(&look, false);
    }
    let (body, _) = busy.node.core.store().name(&busy.file).unwrap().on_disk().unwrap();
    let before = busy.indexed();
    let lies = |busy: &Busy| busy.node.core.locate(body, busy.indexed()).unwrap().fingerprint;
    busy.write_all((0..leaves).map(|leaf| leaf * LEAF), 2);
    for part in 0..3 {
        let from = busy.indexed();
        let look = busy.look_after(60).expect("nobody looks");
        busy.answer(&look, false);
        busy.node.core.kept_since(body, from, busy.indexed()).expect("not kept");
        let disk = busy.node.disk.stat(&busy.file).unwrap().fingerprint;
        let is_rest = part == 2;
        assert_eq!(lies(&busy).same_bytes(&disk), is_rest, "after a restart nobody reads the rest");
        // What comes first does not come first again.
        busy.write_all([0, LEAF], 3);
    }
    let patch = busy.node.core.kept_since(body, before, busy.indexed()).expect("not kept");
    assert_eq!(spans(&patch.writes).count() as u64, leaves, "some are not read");
    while let Some(look) = busy.look_after(60) {
        busy.answer(&look, true);
    }
    assert_eq!(busy.indexed(), Digest::of(&busy.content));
    let disk = busy.node.disk.stat(&busy.file).unwrap().fingerprint;
    assert!(lies(&busy).same_bytes(&disk));
}

/// A process that was held for a while has looked for as long.
#[test]
fn a_look_that_was_held_is_followed_by_another_soon() {
    let mut busy = Busy::new();
    busy.write(5, 1);
    for ms in [60, 60_000] {
        let look = busy.look_after(60).expect("nobody looks");
        busy.write(7, 2);
        busy.node.now += Duration::from_millis(ms);
        busy.answer(&look, false);
    }
    let look = busy.look_after(10_000).expect("nobody looks, for as long as it was held");
    busy.answer(&look, true);
    assert_eq!(busy.indexed(), Digest::of(&busy.content));
}

fn range((start, end): (u64, u64)) -> Range {
    Range { start, end }
}
