//! Files that are being written as copies of others.
//!
//! Half of a copy is a content that nobody holds: told, it would be sent, and
//! all that follows likewise. So what is written is not told as long as another
//! file of this disk begins with all of it. It is told when it is that file,
//! of which peers have the bytes; when it goes on in another way; or when
//! nothing more comes.

use std::collections::HashMap;
use std::time::Duration;

use super::core::Core;
use super::effect::{Now, Sighted};
use super::read::Read;
use super::settle::{Dirt, Spot};
use super::store::Store;
use super::tree::Lying;
use crate::entry::{Fingerprint, Stat};
use crate::hash::Leaves;
use crate::id::BodyId;
use crate::path::RelPath;

/// How long nothing more of a copy comes before what came is told: over twice
/// the longest that Linux holds a writer at once until pages are on the disk
/// (`MAX_PAUSE` in mm/page-writeback.c, 200 ms).
const COPY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Files that are copied at once and not told; others are, as they grow.
const COPIES_MAX: usize = 64;

/// Files of which more was seen than the index knows.
#[derive(Debug, Default)]
pub(super) struct Copying(HashMap<BodyId, Half>);

/// What was seen of one.
#[derive(Debug)]
struct Half {
    leaves: Leaves,
    fingerprint: Fingerprint,
    /// When it was seen to be more than before.
    at: Duration,
    /// When it was first seen to be half of another, by the clock on the wall.
    since: i64,
}

impl Copying {
    /// What was read of it last.
    pub fn leaves(&self, id: BodyId) -> Option<&Leaves> {
        Some(&self.0.get(&id)?.leaves)
    }

    /// The index knows better what lies there.
    pub fn forget(&mut self, id: BodyId) {
        self.0.remove(&id);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing is written any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl<S: Store> Core<S> {
    /// A new file is found half written, and is half of another: it counts as
    /// empty, as it was, until more is known of it.
    pub(super) fn is_begun_copy(
        &mut self,
        now: Now,
        path: &RelPath,
        stat: &Stat,
        sighted: &Sighted,
    ) -> bool {
        let Sighted::File { leaves, stable, .. } = sighted else { return false };
        let age = now.wall.saturating_sub(stat.fingerprint.mtime.as_nanos());
        let is_at_rest = *stable && age >= COPY_PAUSE_MAX.as_nanos() as i64;
        let is_begun = self.surveyed
            && !is_at_rest
            && self.has_room_for_copies()
            && self.is_half_of_another(None, leaves, now.wall);
        if is_begun {
            let dirt = Dirt { bytes: true, ..Dirt::default() };
            self.settle.look(now.monotonic, Spot::Path(path.clone()), dirt);
        }
        is_begun
    }

    /// Is what was read of this file half of another, and is it being written
    /// yet? Then it is looked at again.
    pub(super) fn is_being_copied(
        &mut self,
        now: Now,
        path: &RelPath,
        stat: &Stat,
        read: &Read,
    ) -> bool {
        let Some(known) = self.known_as(stat) else { return false };
        // Whatever becomes of it, all of it was read just now.
        let (id, before) = (known.id, self.copying.0.remove(&known.id));
        let untold = read.leaves.as_ref().filter(|_| self.is_half_told(path, &known, read));
        let Some(leaves) = untold else { return false };
        let since = before.as_ref().map_or(now.wall, |half| half.since);
        if !self.has_room_for_copies() || !self.is_half_of_another(Some(id), leaves, since) {
            return false;
        }
        let fingerprint = stat.fingerprint;
        let same = before.filter(|half| half.fingerprint.same_bytes(&fingerprint));
        let at = same.map_or(now.monotonic, |half| half.at);
        if now.monotonic.saturating_sub(at) >= COPY_PAUSE_MAX {
            return false;
        }
        self.copying.0.insert(id, Half { leaves: leaves.clone(), fingerprint, at, since });
        let dirt = Dirt { bytes: true, seldom: true, ..Dirt::default() };
        self.settle.look_after(now.monotonic, COPY_PAUSE_MAX, Spot::Body(id), dirt);
        true
    }

    /// Is what was read of a file not told yet, and no other's content as a whole?
    /// Of one that has moved the new name is to be told.
    fn is_half_told(&self, path: &RelPath, known: &Lying, read: &Read) -> bool {
        let is_told = known.row().content_on_disk() == Some(&read.content);
        let digest = read.content.digest();
        let is_copied = digest.is_none_or(|digest| self.same_content(known.id, digest).is_some());
        known.disk().names.contains(path) && !is_told && !is_copied
    }

    /// Does another file begin with all of this, that nobody wrote since then? Two
    /// that are written alike are not copies of each other.
    fn is_half_of_another(&self, id: Option<BodyId>, half: &Leaves, since: i64) -> bool {
        let begins_so = |other: &BodyId| {
            let row = self.store.body(*other);
            let disk = row.as_ref().and_then(|row| row.disk.as_ref());
            let is_at_rest = disk.is_some_and(|disk| disk.fingerprint.mtime.as_nanos() <= since);
            let leaves = || self.store.leaves(*other);
            is_at_rest && leaves().is_some_and(|leaves| leaves.begins_with(half))
        };
        half.first_of_longer().any(|first| {
            let others = self.store.bodies_beginning_with(&first).into_iter();
            others.filter(|other| Some(*other) != id).any(|other| begins_so(&other))
        })
    }

    /// The hash list of what was read of this file last.
    pub(super) fn leaves_read(&self, id: BodyId) -> Option<Leaves> {
        self.copying.leaves(id).cloned().or_else(|| self.store.leaves(id))
    }

    fn has_room_for_copies(&self) -> bool {
        self.copying.len() < COPIES_MAX
    }
}
