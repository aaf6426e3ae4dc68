//! Machines that lose their power: the index falls back to its last commit, and
//! the disk to something between what was flushed before that and what it
//! showed.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::forgetting::{contents_known, known_at};
use super::{Node, World};
use crate::hash::Digest;
use crate::path::RelPath;
use crate::sync::Outage;
use crate::sync::sim::disk::Disk;
use crate::sync::store::MemoryStore;

/// A disk as it was flushed last, and as it was then.
pub(super) struct Disks {
    flushed: Rc<Disk>,
    shown: Rc<Disk>,
}

impl Node {
    /// The index is committed: what a job changed is flushed before.
    pub(super) fn disks(&mut self) -> Disks {
        let shown = Rc::new(self.disk.clone());
        if std::mem::take(&mut self.is_changed) {
            self.flushed = shown.clone();
        }
        Disks { flushed: self.flushed.clone(), shown }
    }
}

impl World {
    /// Takes from a disk what was not written out, where the index falls back to
    /// this one of its states.
    pub(super) fn lose_power(&mut self, at: usize, back: usize) -> Outage {
        self.trace(|| format!("{at}: LOSES ITS POWER"));
        let node = &self.nodes[at];
        let disks: Vec<&Disks> =
            node.snapshots.iter().skip(back).filter_map(|one| one.disks.as_ref()).collect();
        let flushed = disks.first().map_or(&node.flushed, |disks| &disks.flushed).clone();
        let older = match self.random.below(disks.len() as u64 + 2) as usize {
            0 => Some(&flushed),
            number => disks.get(number - 1).map(|disks| &disks.shown),
        };
        let mut disk = older.map_or_else(|| node.disk.clone(), |older| Disk::clone(older));
        disk.set_clock(node.disk.next_time().as_nanos());
        disk.lose_unwritten(&flushed, &mut self.random);
        let store = node.snapshots.get(back).map(|one| one.store.clone()).unwrap_or_default();
        self.excuse_what_is_lost(at, &disk, &store);
        self.overwrite(at, disk);
        let node = &mut self.nodes[at];
        node.flushed = Rc::new(node.disk.clone());
        node.is_after_outage = true;
        Outage { since: flushed.next_time(), until: node.disk.next_time() }
    }

    /// What only that disk had may be nowhere, and be shown again by who was told
    /// of it. So may what it had written over, or thrown away, and what the index
    /// says that it has.
    fn excuse_what_is_lost(&mut self, at: usize, left: &Disk, store: &MemoryStore) {
        let had = |disk: &Disk| -> BTreeSet<Vec<u8>> {
            let lying = disk.contents_within(&RelPath::root());
            lying.into_iter().chain(disk.kept.clone()).chain(disk.trash.clone()).collect()
        };
        let (had, has) = (had(&self.nodes[at].disk), had(left));
        let contents = &self.contents;
        let lost = had.difference(&has).flat_map(|content| contents.with_earlier(content));
        let known: BTreeSet<Digest> = contents_known(store).into_iter().collect();
        let is_known = |content: &&Vec<u8>| known.contains(&Digest::of(content));
        let destroyed = contents.dead.iter().filter(is_known);
        let found = left.contents_within(&RelPath::root());
        let forgotten: Vec<Vec<u8>> = lost.chain(found).chain(destroyed.cloned()).collect();
        self.contents.forgotten.extend(forgotten);
    }

    /// What a user removed or replaced before this start seems to be what the disk
    /// had lost; and what the index says that lay there is taken for removed.
    pub(super) fn excuse_what_was_removed_since(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !std::mem::take(&mut node.is_after_outage) {
            return;
        }
        let inode = |disk: &Disk, path: &RelPath| Some(disk.stat(path)?.fingerprint.inode);
        let (lay, lies, store) = (&*node.flushed, &node.disk, node.core.store());
        let is_other = |path: &RelPath| inode(lay, path) != inode(lies, path);
        let known = known_at(store).into_iter().filter(|(path, _)| is_other(path));
        let known: BTreeSet<Digest> = known.map(|(_, digest)| digest).collect();
        let [lay, lies] = [lay, lies].map(|disk| disk.contents_within(&RelPath::root()));
        let contents = &mut self.contents;
        contents.forgotten.extend(lay.into_iter().filter(|content| !lies.contains(content)));
        let seen = contents.written.iter().filter(|content| known.contains(&Digest::of(content)));
        let seen: Vec<Vec<u8>> = seen.cloned().collect();
        contents.unnamed.extend(seen);
    }
}
