//! A store in memory, for the simulator and the unit tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::*;

/// A [`Store`] of maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    names: BTreeMap<RelPath, Arc<NameRow>>,
    bodies: BTreeMap<BodyId, Arc<BodyRow>>,
    inodes: BTreeMap<u64, BodyId>,
    hashes: BTreeSet<(u64, BodyId)>,
    leaves: BTreeMap<BodyId, Leaves>,
    log: BTreeMap<(Actor, u64), Key>,
    have: VersionVector,
    roster: Option<Roster>,
    unmet: Option<Dot>,
}

impl MemoryStore {
    pub fn bodies(&self) -> impl Iterator<Item = BodyId> {
        self.bodies.keys().copied()
    }

    /// Names and bodies.
    pub fn rows(&self) -> usize {
        self.names.len() + self.bodies.len()
    }

    /// Places that the logs have.
    pub fn places(&self) -> usize {
        self.log.len()
    }

    fn holders(&self, hash: u64) -> Vec<BodyId> {
        let held = self.hashes.range((hash, BodyId::FIRST)..=(hash, BodyId::LAST));
        held.map(|(_, id)| *id).take(HOLDERS_MAX).collect()
    }
}

impl Store for MemoryStore {
    fn name(&self, path: &RelPath) -> Option<Arc<NameRow>> {
        self.names.get(path).cloned()
    }

    fn put_name(&mut self, path: &RelPath, row: NameRow) {
        let place = (row.stamp.actor, row.stamp.counter);
        if let Some(old) = self.names.insert(path.clone(), Arc::new(row)) {
            self.log.remove(&(old.stamp.actor, old.stamp.counter));
        }
        self.log.insert(place, Key::Name(path.clone()));
    }

    fn remove_name(&mut self, path: &RelPath) {
        if let Some(old) = self.names.remove(path) {
            self.log.remove(&(old.stamp.actor, old.stamp.counter));
        }
    }

    fn names_within(
        &self,
        within: &RelPath,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Vec<(RelPath, Arc<NameRow>)> {
        let start = match after {
            Some(path) => Bound::Excluded(path.clone()),
            None => Bound::Included(within.clone()),
        };
        self.names
            .range((start, Bound::Unbounded))
            .take_while(|(path, _)| path.as_bytes().starts_with(within.as_bytes()))
            .filter(|(path, _)| path.is_within(within))
            .take(limit)
            .map(|(path, row)| (path.clone(), row.clone()))
            .collect()
    }

    fn body(&self, id: BodyId) -> Option<Arc<BodyRow>> {
        self.bodies.get(&id).cloned()
    }

    fn put_body(&mut self, id: BodyId, row: BodyRow) {
        let place = (row.stamp.actor, row.stamp.counter);
        let content = content_key(&row);
        let former = self.bodies.get(&id).and_then(|row| content_key(row));
        if former != content {
            former.map(|former| self.hashes.remove(&(former, id)));
            content.map(|content| self.hashes.insert((content, id)));
        }
        let claim = Claim::of(&row);
        let old = self.bodies.insert(id, Arc::new(row));
        let former = old.as_deref().and_then(Claim::of);
        if let Some(old) = old {
            self.log.remove(&(old.stamp.actor, old.stamp.counter));
        }
        self.log.insert(place, Key::Body(id));
        if former == claim {
            return;
        }
        if let Some(former) = former.filter(|former| self.inodes.get(&former.inode) == Some(&id)) {
            self.inodes.remove(&former.inode);
        }
        let owner =
            |inode| self.bodies.get(self.inodes.get(&inode)?).and_then(|row| Claim::of(row));
        if let Some(claim) = claim.filter(|claim| claim.holds_against(owner(claim.inode))) {
            self.inodes.insert(claim.inode, id);
        }
    }

    fn remove_body(&mut self, id: BodyId) {
        if let Some(old) = self.bodies.remove(&id) {
            self.log.remove(&(old.stamp.actor, old.stamp.counter));
        }
        self.inodes.retain(|_, body| *body != id);
        self.hashes.retain(|(_, body)| *body != id);
        self.put_leaves(id, None);
    }

    fn body_of_inode(&self, inode: u64) -> Option<BodyId> {
        self.inodes.get(&inode).copied()
    }

    fn bodies_of_content(&self, digest: Digest) -> Vec<BodyId> {
        self.holders(hash_key(digest.as_bytes()))
    }

    fn bodies_beginning_with(&self, leaf: &LeafHash) -> Vec<BodyId> {
        self.holders(hash_key(leaf))
    }

    fn leaves(&self, id: BodyId) -> Option<Leaves> {
        self.leaves.get(&id).cloned()
    }

    fn put_leaves(&mut self, id: BodyId, leaves: Option<Leaves>) {
        let beginning = leaves.as_ref().and_then(beginning_key);
        let former = match leaves {
            Some(leaves) => self.leaves.insert(id, leaves),
            None => self.leaves.remove(&id),
        };
        former.as_ref().and_then(beginning_key).map(|key| self.hashes.remove(&(key, id)));
        beginning.map(|key| self.hashes.insert((key, id)));
    }

    fn log(&self, actor: Actor, after: u64, up_to: u64, limit: usize) -> Vec<(u64, Key)> {
        if after >= up_to {
            return Vec::new();
        }
        self.log
            .range((Bound::Excluded((actor, after)), Bound::Included((actor, up_to))))
            .take(limit)
            .map(|((_, counter), key)| (*counter, key.clone()))
            .collect()
    }

    fn have(&self) -> VersionVector {
        self.have.clone()
    }

    fn put_have(&mut self, have: VersionVector) {
        self.have = have;
    }

    fn roster(&self) -> Option<Roster> {
        self.roster.clone()
    }

    fn put_roster(&mut self, roster: Roster) {
        self.roster = Some(roster);
    }

    fn unmet(&self) -> Option<Dot> {
        self.unmet
    }

    fn put_unmet(&mut self, unmet: Option<Dot>) {
        self.unmet = unmet;
    }
}
