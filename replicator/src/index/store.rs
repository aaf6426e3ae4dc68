//! [`Store`] for the index: batches over the database.
//!
//! A read looks where the row was written last: in the cache of decoded rows,
//! in the batch that is being filled, in the one being committed, in the
//! database. Ranges are merged out of the last three.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::batch::{Batch, ByBytes};
use super::cache::Cache;
use super::error::Error;
use super::merge::{Sorted, merge};
use super::snapshot::Encoded;
use super::tables::{self, META_HAVE};
use super::{Index, Snapshot};
use crate::hash::{Digest, LeafHash, Leaves};
use crate::id::{Actor, BodyId};
use crate::path::RelPath;
use crate::sync::record::{BodyRow, Key, NameRow};
use crate::sync::roster::Roster;
use crate::sync::store::{Claim, HOLDERS_MAX, Store, beginning_key, content_key, hash_key};
use crate::sync::version::{Dot, VersionVector};

impl Store for Index {
    fn name(&self, path: &RelPath) -> Option<Arc<NameRow>> {
        if let Some(row) = lock(&self.names).get(path) {
            return row;
        }
        let row = match self.pending(|batch| batch.names.get(path.as_bytes())) {
            Some(row) => row.clone(),
            None => self.read(|snapshot| snapshot.name(path)).map(Arc::new),
        };
        lock(&self.names).insert(path.clone(), row.clone());
        row
    }

    fn put_name(&mut self, path: &RelPath, row: NameRow) {
        match self.name(path) {
            Some(old) => self.leave_place(old.stamp),
            None => self.stats.names += 1,
        }
        self.take_place(row.stamp, Key::Name(path.clone()));
        let row = Arc::new(row);
        lock(&self.names).insert(path.clone(), Some(row.clone()));
        self.active.names.insert(ByBytes(path.clone()), Some(row));
    }

    fn remove_name(&mut self, path: &RelPath) {
        let Some(old) = self.name(path) else { return };
        self.leave_place(old.stamp);
        self.stats.names = self.stats.names.saturating_sub(1);
        lock(&self.names).insert(path.clone(), None);
        self.active.names.insert(ByBytes(path.clone()), None);
    }

    fn names_within(
        &self,
        within: &RelPath,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Vec<(RelPath, Arc<NameRow>)> {
        let mut found = Vec::new();
        // What is below `a` begins with `a/`. Between `a` and these names
        // may lie any number of `a-b`, which are jumped over.
        if limit > 0 && after.is_none_or(|after| after < within) {
            found.extend(self.name(within).map(|row| (within.clone(), row)));
        }
        let (mut start, end) = below(within);
        if let Some(after) = after.filter(|after| after.as_bytes() > start.as_slice()) {
            start = after.as_bytes().to_vec();
        }
        if end.is_empty() || start < end {
            let wanted = limit - found.len();
            let rows = self.names_between(&start, &end);
            found.extend(rows.filter_map(|(path, row)| Some((path, row?))).take(wanted));
        }
        found
    }

    fn body(&self, id: BodyId) -> Option<Arc<BodyRow>> {
        if let Some(row) = lock(&self.bodies).get(&id) {
            return row;
        }
        let row = match self.pending(|batch| batch.bodies.get(&id)) {
            Some(row) => row.clone(),
            None => self.read(|snapshot| snapshot.body(id)).map(Arc::new),
        };
        lock(&self.bodies).insert(id, row.clone());
        row
    }

    fn put_body(&mut self, id: BodyId, row: BodyRow) {
        let old = self.body(id);
        let former = old.as_ref().and_then(|old| Claim::of(old));
        let former_content = old.as_ref().and_then(|old| content_key(old));
        match old {
            Some(old) => self.leave_place(old.stamp),
            None => self.stats.bodies += 1,
        }
        self.take_place(row.stamp, Key::Body(id));
        self.lead_inode(id, former, Claim::of(&row));
        self.hold(id, former_content, content_key(&row));
        let row = Arc::new(row);
        lock(&self.bodies).insert(id, Some(row.clone()));
        self.active.bodies.insert(id, Some(row));
    }

    fn remove_body(&mut self, id: BodyId) {
        let Some(old) = self.body(id) else { return };
        self.leave_place(old.stamp);
        self.lead_inode(id, Claim::of(&old), None);
        self.hold(id, content_key(&old), None);
        self.put_leaves(id, None);
        self.stats.bodies = self.stats.bodies.saturating_sub(1);
        lock(&self.bodies).insert(id, None);
        self.active.bodies.insert(id, None);
    }

    fn body_of_inode(&self, inode: u64) -> Option<BodyId> {
        match self.pending(|batch| batch.inodes.get(&inode)) {
            Some(body) => *body,
            None => self.read(|snapshot| snapshot.body_of_inode(inode)),
        }
    }

    fn bodies_of_content(&self, digest: Digest) -> Vec<BodyId> {
        self.holders(hash_key(digest.as_bytes()))
    }

    fn bodies_beginning_with(&self, leaf: &LeafHash) -> Vec<BodyId> {
        self.holders(hash_key(leaf))
    }

    fn leaves(&self, id: BodyId) -> Option<Leaves> {
        match self.pending(|batch| batch.leaves.get(&id)) {
            Some(leaves) => leaves.as_deref().cloned(),
            None => self.read(|snapshot| snapshot.leaves(id)),
        }
    }

    fn put_leaves(&mut self, id: BodyId, leaves: Option<Leaves>) {
        let former = self.leaves(id);
        // Most bodies are small and never had a list.
        if leaves.is_none() && former.is_none() {
            return;
        }
        let [former, beginning] = [&former, &leaves].map(|list| beginning_key(list.as_ref()?));
        self.hold(id, former, beginning);
        self.active.hashes += leaves.as_ref().map_or(0, Leaves::count);
        let former = self.active.leaves.insert(id, leaves.map(Arc::new)).flatten();
        self.active.hashes -= former.map_or(0, |former| former.count());
    }

    fn log(&self, actor: Actor, after: u64, up_to: u64, limit: usize) -> Vec<(u64, Key)> {
        if after >= up_to {
            return Vec::new();
        }
        let places = self.places_between(actor, after, up_to);
        places.filter_map(|((_, counter), key)| Some((counter, key?))).take(limit).collect()
    }

    fn have(&self) -> VersionVector {
        match self.pending(|batch| batch.have.as_ref()) {
            Some(have) => have.clone(),
            None => self.read(read_have),
        }
    }

    fn put_have(&mut self, have: VersionVector) {
        self.active.have = Some(have);
    }

    fn roster(&self) -> Option<Roster> {
        let note = self.note(ROSTER_NOTE)?;
        tables::decode(&note).map_err(|error| self.fail(&error)).ok()
    }

    fn put_roster(&mut self, roster: Roster) {
        self.put_note(ROSTER_NOTE, tables::encode(&roster));
    }

    fn unmet(&self) -> Option<Dot> {
        let note = self.note(UNMET_NOTE)?;
        tables::decode(&note).map_err(|error| self.fail(&error)).ok().flatten()
    }

    fn put_unmet(&mut self, unmet: Option<Dot>) {
        self.put_note(UNMET_NOTE, tables::encode(&unmet));
    }
}

/// Where the members are remembered.
const ROSTER_NOTE: &str = "roster";

/// Holders of one content that a batch is asked about: of one that thousands of
/// files have, those that come first will do.
const NEWS_MAX: usize = 4 * HOLDERS_MAX;

/// Where the first change is that nobody was told of.
const UNMET_NOTE: &str = "unmet";

/// A value in a batch, or one of the database that was not decoded yet.
enum Found<T> {
    Here(T),
    There(Encoded),
}

impl Index {
    /// What the newest batch that has something says.
    fn pending<'a, T>(&'a self, look: impl Fn(&'a Batch) -> Option<T>) -> Option<T> {
        self.batches().find_map(look)
    }

    fn take_place(&mut self, stamp: Dot, key: Key) {
        self.active.log.insert((stamp.actor, stamp.counter), Some(key));
    }

    fn leave_place(&mut self, stamp: Dot) {
        self.active.log.insert((stamp.actor, stamp.counter), None);
    }

    /// From now on this body holds what has the second hash, and no longer what
    /// has the first.
    fn hold(&mut self, id: BodyId, former: Option<u64>, hash: Option<u64>) {
        if former == hash {
            return;
        }
        self.active.holders.extend(former.map(|former| ((former, id), false)));
        self.active.holders.extend(hash.map(|hash| ((hash, id), true)));
    }

    fn holders(&self, hash: u64) -> Vec<BodyId> {
        let stored = self.read(|snapshot| snapshot.holders(hash, HOLDERS_MAX));
        let mut held: BTreeMap<BodyId, bool> = stored.into_iter().map(|id| (id, true)).collect();
        // The oldest first: what the newest says counts.
        let batches: Vec<&Batch> = self.batches().collect();
        for batch in batches.into_iter().rev() {
            let ends = (hash, BodyId::FIRST)..=(hash, BodyId::LAST);
            let news = batch.holders.range(ends).take(NEWS_MAX);
            held.extend(news.map(|((_, id), is_held)| (*id, *is_held)));
        }
        let held = held.into_iter().filter(|(_, is_held)| *is_held);
        held.map(|(id, _)| id).take(HOLDERS_MAX).collect()
    }

    /// The same for inodes, of which a body claims one.
    fn lead_inode(&mut self, id: BodyId, former: Option<Claim>, claim: Option<Claim>) {
        if former == claim {
            return;
        }
        let lost = former.filter(|former| self.body_of_inode(former.inode) == Some(id));
        self.active.inodes.extend(lost.map(|lost| (lost.inode, None)));
        let owner = |inode| self.body(self.body_of_inode(inode)?).and_then(|row| Claim::of(&row));
        let won = claim.filter(|claim| claim.holds_against(owner(claim.inode)));
        self.active.inodes.extend(won.map(|won| (won.inode, Some(id))));
    }

    /// Names with `start < path < end`; no end where `end` is empty. `None`
    /// in place of a row that was removed or cannot be read.
    fn names_between<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = (RelPath, Option<Arc<NameRow>>)> + use<'a> {
        let bound = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let batches = self.batches().map(|batch| {
            let rows = batch.names.range::<[u8], _>((Bound::Excluded(start), bound));
            Box::new(rows.map(|(path, row)| (path.0.clone(), Found::Here(row)))) as Sorted<_, _>
        });
        let stored =
            self.stored::<_, &Option<Arc<NameRow>>>(self.snapshot.names_between(start, end));
        let merged = merge(batches.chain([stored]).collect());
        merged.map(|(path, row)| match row {
            Found::Here(row) => (path, row.clone()),
            Found::There(row) => (path, self.decoded(&row).map(Arc::new)),
        })
    }

    /// As above, for the places of a log; `None` where one was left.
    fn places_between(
        &self,
        actor: Actor,
        after: u64,
        up_to: u64,
    ) -> impl Iterator<Item = ((Actor, u64), Option<Key>)> {
        let bounds = (Bound::Excluded((actor, after)), Bound::Included((actor, up_to)));
        let batches = self.batches().map(|batch| {
            let places = batch.log.range(bounds);
            Box::new(places.map(|(place, key)| (*place, Found::Here(key)))) as Sorted<_, _>
        });
        let stored = self.stored::<_, &Option<Key>>(self.snapshot.log(actor, after, up_to));
        let merged = merge(batches.chain([stored]).collect());
        merged.map(|(place, key)| match key {
            Found::Here(key) => (place, key.clone()),
            Found::There(key) => (place, self.decoded(&key)),
        })
    }

    /// The newest first.
    fn batches(&self) -> impl Iterator<Item = &Batch> {
        [Some(&self.active), self.committing.as_deref()].into_iter().flatten()
    }

    /// Entries of the database, up to the first that cannot be read.
    fn stored<'a, K: 'a, T: 'a>(
        &'a self,
        entries: Result<impl Iterator<Item = Result<(K, Encoded), Error>> + 'a, Error>,
    ) -> Sorted<'a, K, Found<T>> {
        let note = |error| self.fail(&error);
        let entries = entries.map_err(note).into_iter().flatten();
        Box::new(entries.map_while(move |entry| {
            let (key, row) = entry.map_err(note).ok()?;
            Some((key, Found::There(row)))
        }))
    }

    fn decoded<T: serde::de::DeserializeOwned>(&self, row: &Encoded) -> Option<T> {
        tables::decode(row.value()).map_err(|error| self.fail(&error)).ok()
    }
}

/// Every path below `within` lies between these two; no end for the root.
fn below(within: &RelPath) -> (Vec<u8>, Vec<u8>) {
    if within.is_root() {
        return (Vec::new(), Vec::new());
    }
    // The byte after the slash.
    let [start, end] = [b'/', b'/' + 1].map(|byte| [within.as_bytes(), &[byte]].concat());
    (start, end)
}

fn read_have(snapshot: &Snapshot) -> Result<VersionVector, Error> {
    let have = snapshot.meta(META_HAVE)?;
    have.map_or(Ok(VersionVector::new()), |have| tables::decode(&have))
}

fn lock<K, V>(cache: &Mutex<Cache<K, V>>) -> MutexGuard<'_, Cache<K, V>> {
    // A cache is whole between any two of its steps.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
