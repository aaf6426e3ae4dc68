//! A copy of a file that is seen while it is made: half of it is nothing that
//! anybody is told.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alone::Alone;
use super::path;
use crate::hash::{Digest, Leaves};
use crate::path::RelPath;
use crate::sync::store::Store;

const LEAF: usize = 64 << 10;

/// In which a look comes, and less than a copy may rest.
const SOON: Duration = Duration::from_millis(100);

/// More than a copy may rest.
const LONG: Duration = Duration::from_millis(700);

/// A node with a file of a few leaves, of which somebody makes a copy.
struct Story {
    node: Alone,
    original: Vec<u8>,
    copy: RelPath,
}

impl Story {
    fn new() -> Self {
        let original: Vec<u8> = (0..6 * LEAF + 100).map(|at| (at / 999) as u8).collect();
        let mut story = Self { node: Alone::new(), original, copy: path("copy") };
        story.write("original", story.original.clone());
        story.node.wait(LONG);
        story
    }

    /// One whose copy was seen when it was empty.
    fn begun() -> Self {
        let mut story = Self::new();
        story.write("copy", Vec::new());
        story.node.wait(SOON);
        assert_eq!(story.told(), Some(Digest::of(b"")));
        story
    }

    fn write(&mut self, name: &str, content: Vec<u8>) {
        self.node.disk.set_clock(self.node.clock().wall);
        let told = self.node.disk.write(&path(name), &content, &mut BTreeSet::new());
        self.node.tell(told);
    }

    /// So much of the original is there by now.
    fn copies(&mut self, bytes: usize) -> Digest {
        let half = self.original[..bytes].to_vec();
        let digest = Digest::of(&half);
        self.write("copy", half);
        digest
    }

    fn told(&self) -> Option<Digest> {
        self.node.indexed(&self.copy)
    }

    fn is_at_rest(&mut self) {
        self.node.wait(LONG);
        assert_eq!(self.node.core.settle.len(), 0);
        assert_eq!(self.node.core.copying.len(), 0);
    }
}

#[test]
fn a_copy_is_told_when_it_is_whole() {
    let mut story = Story::begun();
    for leaves in [2, 3, 5, 6] {
        story.copies(leaves * LEAF + 10);
        story.node.wait(SOON);
        assert_eq!(story.told(), Some(Digest::of(b"")), "{leaves} leaves");
    }
    let whole = story.copies(story.original.len());
    story.node.wait(SOON);
    assert_eq!(story.told(), Some(whole));
    let (body, _) = story.node.core.store().name(&story.copy).unwrap().on_disk().unwrap();
    assert_eq!(story.node.core.store().leaves(body), Some(Leaves::of(&story.original)));
    story.is_at_rest();
}

#[test]
fn a_copy_that_is_met_half_written_counts_as_empty() {
    let mut story = Story::new();
    story.copies(2 * LEAF);
    story.node.wait(SOON);
    assert_eq!(story.told(), Some(Digest::of(b"")));
    let whole = story.copies(story.original.len());
    story.node.wait(SOON);
    assert_eq!(story.told(), Some(whole));
    story.is_at_rest();
}

/// What lay there before is known until then.
#[test]
fn a_copy_over_another_file_is_told_when_it_is_whole() {
    let mut story = Story::new();
    let other = vec![7; 8 * LEAF];
    story.write("copy", other.clone());
    story.node.wait(LONG);
    for leaves in [2, 4] {
        story.copies(leaves * LEAF);
        story.node.wait(SOON);
        assert_eq!(story.told(), Some(Digest::of(&other)));
    }
    let whole = story.copies(story.original.len());
    story.node.wait(SOON);
    assert_eq!(story.told(), Some(whole));
}

/// What was read of the half is not what lies there then: the next look must not
/// build on it.
#[test]
fn a_copy_that_is_undone_leaves_nothing_behind() {
    for small in [false, true] {
        let mut story = Story::new();
        let other = vec![7; if small { 100 } else { 8 * LEAF }];
        story.write("copy", other.clone());
        story.node.wait(LONG);
        story.copies(4 * LEAF);
        story.node.wait(SOON);
        assert_eq!(story.node.core.copying.len(), 1);
        story.write("copy", other.clone());
        story.node.wait(SOON);
        assert_eq!(story.told(), Some(Digest::of(&other)));
        assert_eq!(story.node.core.copying.len(), 0);
        story.is_at_rest();
    }
}

#[test]
fn half_a_copy_is_told_when_nothing_more_comes() {
    for is_new in [false, true] {
        let mut story = if is_new { Story::new() } else { Story::begun() };
        let half = story.copies(3 * LEAF + 7);
        story.node.wait(Duration::from_millis(400));
        assert_eq!(story.told(), Some(Digest::of(b"")));
        story.node.wait(LONG);
        assert_eq!(story.told(), Some(half));
        story.is_at_rest();
    }
}

#[test]
fn what_becomes_another_file_is_told_at_once() {
    let mut story = Story::begun();
    story.copies(3 * LEAF);
    story.node.wait(SOON);
    let mut other = story.original[..3 * LEAF].to_vec();
    other.extend(vec![9; 2 * LEAF]);
    story.write("copy", other.clone());
    story.node.wait(SOON);
    assert_eq!(story.told(), Some(Digest::of(&other)));
    story.is_at_rest();
}

/// Neither is to wait for the other to rest.
#[test]
fn two_files_that_are_written_alike_are_told_as_they_grow() {
    let mut story = Story::new();
    let mut told = BTreeSet::new();
    for bytes in (2 * LEAF..6 * LEAF).step_by(LEAF / 4) {
        let content = vec![5; bytes];
        for name in ["twin", "copy"] {
            story.write(name, content[..bytes - name.len()].to_vec());
            story.node.wait(SOON / 2);
        }
        told.extend(story.told());
    }
    assert!(told.len() > 6, "{} versions were told", told.len());
}

#[test]
fn a_copy_that_moves_or_goes_away_leaves_nothing_behind() {
    let mut story = Story::begun();
    let half = story.copies(3 * LEAF);
    story.node.wait(SOON);
    let moved = path("moved");
    let told = story.node.disk.rename(&story.copy, &moved, &mut BTreeSet::new());
    story.node.tell(told);
    story.node.wait(LONG);
    assert_eq!((story.told(), story.node.indexed(&moved)), (None, Some(half)));
    story.copies(2 * LEAF);
    story.node.wait(SOON);
    let told = story.node.disk.remove_all(&story.copy, &mut BTreeSet::new());
    story.node.tell(told);
    story.is_at_rest();
    assert_eq!(story.told(), None);
}
