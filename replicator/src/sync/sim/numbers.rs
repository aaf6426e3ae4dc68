//! A write is told by the number of its inode, which was another file's just
//! before.
//!
//! A file is replaced by a copy of itself and its number given to a second
//! file, which is written on right after it was read. The index still takes
//! the number for that of the first file, finds nothing new there, and must
//! nevertheless not miss the write.

use std::collections::BTreeSet;
use std::time::Duration;

use super::disk::Disk;
use super::plan::Plan;
use super::planted::{self, Bug};
use crate::hash::Digest;
use crate::id::Actor;
use crate::path::RelPath;
use crate::range::Range;
use crate::sync::core::Core;
use crate::sync::effect::{Effect, Now};
use crate::sync::local::digest_of;
use crate::sync::store::{MemoryStore, Store};

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

/// A node that is alone with its disk.
struct Alone {
    core: Core<MemoryStore>,
    disk: Disk,
    now: Duration,
}

/// What the index holds of the second file once nothing is left to do.
fn indexed_in_the_end() -> Option<Digest> {
    let core = Core::new(Plan::peaceful(0).options(0), Actor(1), 1, MemoryStore::default());
    let mut node = Alone { core, disk: Disk::new(1000, true), now: Duration::ZERO };
    let [first, second] = [b"first".as_slice(), b"second"].map(path);
    let mut dead = BTreeSet::new();
    node.disk.write(&first, b"copied", &mut dead);
    node.core.scan(RelPath::root());
    node.rest();

    let number = node.number_of(&first);
    node.disk.renew(&first);
    node.disk.write(&second, BEFORE, &mut dead);
    assert_eq!(node.number_of(&second), number);
    for path in [&first, &second] {
        node.core.path_changed(node.clock(), path.clone(), true);
    }
    node.now += Duration::from_millis(50);
    node.core.handle_timeout(node.clock());
    let mut sights = Vec::new();
    while let Some(effect) = node.core.poll_effect() {
        let Effect::Look(looks) = effect else { continue };
        sights.extend(looks.iter().map(|look| node.disk.look(look, true)));
    }
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
    let (body, _) = node.core.store().name(&second)?.on_disk()?;
    digest_of(node.core.store().body(body)?.content_on_disk())
}

impl Alone {
    /// Looks where the core asks for it, until it asks no more.
    fn rest(&mut self) {
        for _ in 0..1000 {
            self.now += Duration::from_millis(1);
            self.core.handle_timeout(self.clock());
            while let Some(effect) = self.core.poll_effect() {
                match effect {
                    Effect::Look(looks) => {
                        let sights = looks.iter().map(|look| self.disk.look(look, true));
                        self.core.handle_sights(self.clock(), sights.collect());
                    }
                    Effect::Scan(beneath) => {
                        let listed = self.disk.list(&beneath);
                        self.core.handle_listed(self.clock(), &beneath, listed);
                        self.core.handle_scanned(self.clock(), &beneath);
                    }
                    Effect::Listen => self.core.handle_heard(self.clock()),
                    _ => {}
                }
            }
            if self.core.unfinished() == 0 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn number_of(&self, path: &RelPath) -> u64 {
        self.disk.stat(path).expect("it lies there").fingerprint.inode
    }

    fn clock(&self) -> Now {
        Now { monotonic: self.now, wall: self.now.as_nanos() as i64 }
    }
}

fn path(name: &[u8]) -> RelPath {
    RelPath::parse(name).expect("a path")
}
