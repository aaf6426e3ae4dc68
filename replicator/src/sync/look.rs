//! Looks: what is asked of the disk, how deep, and what is asked once more.
//!
//! A look holds its place and what lies there, so that none overlaps another
//! or a change. Bytes that were told of belong to the body, which may move
//! before it is read; what was told of a place stays with the place.

use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::Now;
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::Stat;
use crate::id::BodyId;
use crate::limits::LOOKS_MAX;
use crate::look::{Depth, Known, Look};
use crate::path::RelPath;
use crate::range::RangeSet;

/// How long to leave an entry alone that is being looked at or changed.
const LOCKED_WAIT: Duration = Duration::from_millis(2);

/// So many are asked for again at once: the names of one file wait for one
/// another, and there may be thousands.
const LOCKED_TOGETHER: u32 = 32;

/// How long to leave an entry alone that does not stay the same while it is
/// read.
pub(super) const UNSETTLED_WAIT: Duration = Duration::from_millis(20);

impl<S: Store> Core<S> {
    /// Sends out looks at what has fallen quiet.
    pub(super) fn issue_looks(&mut self, now: Now) {
        let mut looks = Vec::new();
        let mut locked = 0;
        while self.looks.len() < LOOKS_MAX && !self.draining {
            let Some((spot, dirt)) = self.settle.pop(now.monotonic) else {
                break;
            };
            let Some(path) = self.place_of(&spot) else {
                self.unread.forget(&spot);
                continue;
            };
            // Before the body is read: it may have thousands of names, all of
            // which wait for one another here.
            let named = self.store.name(&path).and_then(|row| row.on_disk());
            if !self.locks.is_free(&path, named.map(|(id, _)| id).as_slice()) {
                self.make_way_to(now, &path, named.map(|(id, _)| id));
                let wait = LOCKED_WAIT * (1 + locked / LOCKED_TOGETHER);
                self.settle.look_after(now.monotonic, wait, spot, dirt);
                locked += 1;
                continue;
            }
            let lying = self.lying_as(named);
            let bodies: Vec<BodyId> = lying.iter().map(|lying| lying.id).collect();
            let lay = lying.as_ref().map(|lying| (lying.id, lying.disk().fingerprint.inode));
            self.locks.lock(&path, &bodies);
            let known = lying.map(|lying| Known {
                kind: lying.kind(),
                fingerprint: lying.disk().fingerprint,
                leaves: self.leaves_read(lying.id),
            });
            let ranges_told = self.options.ranges_told && !self.is_unmet(&path);
            let leaves = known.as_ref().and_then(|known| known.leaves.as_ref());
            let (dirt, is_part) = self.part_of(now, &spot, dirt, leaves);
            let depth = depth(&dirt, known.is_some(), ranges_told);
            let busy = bodies.iter().any(|id| self.busy.contains_key(id));
            // Elsewhere nobody was told of what mappings stored.
            let sync = dirt.mapped || dirt.came;
            looks.push(Look { path: path.clone(), depth, sync, wait: false, busy, known });
            let (at, is_over) = (now.monotonic, false);
            self.looks.insert(path, Looking { at, bodies, lay, dirt, is_part, is_over });
        }
        self.ask_to_look(looks);
        if self.looks.is_empty() && self.jobs.is_empty() {
            self.told.forget();
            if self.settle.len() == 0 {
                self.moves.clear();
                self.unsettled.clear();
                self.copying.clear();
                self.all_is_seen();
            }
        } else if self.told.is_full() {
            let looks = self.looks.values().map(|look| look.at);
            let first = looks.chain(self.jobs.values().map(|job| job.at)).min();
            self.told.forget_before(first.unwrap_or_default());
        }
    }

    pub(super) fn place_of(&self, spot: &Spot) -> Option<RelPath> {
        match spot {
            Spot::Path(path) => Some(path.clone()),
            Spot::Body(body) => self.store.body(*body)?.disk.as_ref()?.names.first().cloned(),
        }
    }

    /// How long to leave alone what changes while it is read: as long as the
    /// look took, for it may be a large file. Unless all of this process was
    /// held meanwhile: then that says nothing of the file.
    pub(super) fn pause_after(&self, now: Now, look: &Looking) -> Duration {
        let took = now.monotonic.saturating_sub(look.at);
        took.max(UNSETTLED_WAIT).min(self.options.max_delay)
    }

    /// Is nothing to be looked at but files that were looked at in vain, since
    /// they are written all the time? Nobody is to wait for those.
    pub(super) fn is_quiet_but_for_restless(&self) -> bool {
        let is_busy = |id: &BodyId| self.busy.contains_key(id);
        let is_restless = |spot: &Spot| {
            matches!(spot, Spot::Body(id) if is_busy(id))
                || self.place_of(spot).is_some_and(|path| self.unsettled.contains_key(&path))
        };
        let mut looks = self.looks.iter();
        looks.all(|(path, look)| {
            self.unsettled.contains_key(path) || look.bodies.iter().any(is_busy)
        }) && self.settle.spots().all(is_restless)
    }

    /// It did not stay the same while it was read.
    pub(super) fn look_again(&mut self, now: Now, path: &RelPath, look: Looking) {
        self.unsettled.entry(path.clone()).or_insert(look.at);
        let wait = self.pause_after(now, &look);
        let dirt = self.keep_bytes(now, wait, look);
        self.look_later(now, wait, path, dirt);
    }

    /// Before a place is looked at once more: bytes that changed stay with the
    /// body that lay there, which may be moved before that look.
    pub(super) fn keep_bytes(&mut self, now: Now, wait: Duration, look: Looking) -> Dirt {
        let dirt = look.dirt;
        let Some((id, bytes)) = look.bodies.first().zip(dirt.of_bytes()) else {
            return dirt;
        };
        let compare = dirt.compare || dirt.whole;
        let none = RangeSet::new();
        let rest =
            Dirt { compare, bytes: false, whole: false, mapped: false, ranges: none, ..dirt };
        self.settle.look_after(now.monotonic, wait, Spot::Body(*id), bytes);
        rest
    }

    pub(super) fn look_later(&mut self, now: Now, wait: Duration, path: &RelPath, dirt: Dirt) {
        if !dirt.is_empty() {
            self.settle.look_after(now.monotonic, wait, Spot::Path(path.clone()), dirt);
        }
    }

    /// Bytes that changed belong to the body and not to the place it was
    /// looked for at: if it moved away before the look, they are still unread.
    pub(super) fn hand_on_bytes(
        &mut self,
        now: Now,
        path: &RelPath,
        lay: (BodyId, u64),
        dirt: Dirt,
    ) {
        let (id, inode) = lay;
        let is_dirty = dirt.bytes || dirt.whole;
        match self.store.body(id).as_ref().and_then(|row| row.disk.as_ref()) {
            Some(disk) if is_dirty && !disk.names.contains(path) => {
                self.settle.look(now.monotonic, Spot::Body(id), dirt);
            }
            // Told of a name that another file took since: it may have been the
            // metadata of one that has others.
            Some(disk) if dirt.entry && !disk.names.contains(path) && !self.moves.is_told(path) => {
                self.settle.touch(now.monotonic, Spot::Body(id), Dirt::entry());
            }
            Some(_) => {}
            // Its inode is another body's by now.
            None => {
                if let Some(heir) = self.store.body_of_inode(inode).filter(|heir| *heir != id) {
                    if is_dirty {
                        self.settle.look(now.monotonic, Spot::Body(heir), dirt);
                    }
                    self.settle.pass_on(now.monotonic, &Spot::Body(id), Spot::Body(heir));
                }
            }
        }
    }

    pub(super) fn look_at_all(&mut self, now: Now, path: &RelPath, look: &Looking) {
        let Dirt { mapped, came, .. } = look.dirt;
        let dirt = Dirt { mapped, came, ..Dirt::whole() };
        self.settle.look(now.monotonic, Spot::Path(path.clone()), dirt);
    }

    /// Was it stored to through a mapping before anybody knew the file? It was
    /// read then, but its pages were not written back, so that the next store
    /// would go untold.
    pub(super) fn look_where_mapped(&mut self, now: Now, stat: &Stat) {
        let inode = stat.fingerprint.inode;
        // Most files are not mapped: the index is asked of few.
        if let Some(dirt) = self.mapped.take(inode)
            && let Some(id) = self.store.body_of_inode(inode)
        {
            self.settle.look(now.monotonic, Spot::Body(id), dirt);
        }
    }
}

/// How deep to look for what may have changed.
fn depth(dirt: &Dirt, known: bool, ranges_told: bool) -> Depth {
    if dirt.whole || (dirt.came && known) {
        Depth::Whole
    } else if dirt.compare {
        Depth::Changed
    } else if dirt.bytes && !ranges_told {
        Depth::Whole
    } else if known && dirt.bytes {
        Depth::Ranges(dirt.ranges.clone())
    } else if ranges_told {
        Depth::Metadata
    } else {
        Depth::Changed
    }
}
