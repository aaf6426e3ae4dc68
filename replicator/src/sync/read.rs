//! What a look read: whether it stands, and which bytes of it are kept for
//! those who ask what differs.
//!
//! A file that changes while it is read is read again until it is quiet. Where
//! capture tells all that changes in it, it need not be: what was read is a
//! version like any other, and what came later is told by itself. But peers
//! that ask for that version ask for bytes that are gone by then, so they are
//! kept; and the leaves that were read may hold bytes that were told of after
//! the look began, so these count as changed. Of more than one look can bring
//! along a part is read, and the next look goes on behind it.

use std::time::Duration;

use bytes::Bytes;

use super::core::{Core, Looking};
use super::effect::{Now, Sighted};
use super::message::{Delta, Patch};
use super::record::Content;
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::{Fingerprint, Stat};
use crate::hash::{Digest, Leaves};
use crate::id::BodyId;
use crate::limits::{ANSWER_RANGES_MAX, BUSY_LOOK_BYTES_MAX, PATCH_IN_PLACE_BYTES_MAX};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::writes::{self, Writes};

/// Files that are written all the time and read nevertheless.
const BUSY_MAX: usize = 1024;

/// Bytes of one change that are kept for those who ask what differs.
const KEPT_BYTES_MAX: u64 = 8 << 20;

/// And those that are looked at together: as many may be told of beside them
/// before the look ends.
const PART_BYTES_MAX: u64 = KEPT_BYTES_MAX / 2;

/// Content as a sight brought it.
pub(super) struct Read {
    pub content: Content,
    pub leaves: Option<Leaves>,
    changed: RangeSet,
    /// The changed bytes without the holes, where they are few.
    writes: Option<Writes>,
    holes: RangeSet,
    /// Are both all there are, changed or not?
    is_all: bool,
}

/// How a file is read that is written all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    /// As it changes: each change is kept, and peers follow. Where not all that
    /// changed can be read at once, the next part begins here.
    Streamed { next: u64 },
    /// It grows by more than can be kept: when it is quiet, or now and then.
    Seldom,
    /// A peer that holds no version from which it could follow has asked for
    /// it: the next time as a whole, which is kept.
    Asked,
}

impl Read {
    /// Of an empty file.
    pub fn of_nothing() -> Self {
        let none = RangeSet::new;
        let content = Content::File { size: 0, digest: Digest::of(b"") };
        let (changed, holes) = (none(), none());
        Self { content, leaves: None, changed, writes: None, holes, is_all: false }
    }
}

impl<S: Store> Core<S> {
    /// What of this to look at now, of a file that is written all the time: not
    /// more than one look can bring along. The rest waits for the next look.
    /// Gives whether there is a rest.
    pub(super) fn part_of(
        &mut self,
        now: Now,
        spot: &Spot,
        dirt: Dirt,
        leaves: Option<&Leaves>,
    ) -> (Dirt, bool) {
        let Spot::Body(id) = spot else { return (dirt, false) };
        let next = match self.busy.get(id).filter(|_| dirt.is_of_ranges()) {
            Some(Busy::Streamed { next }) => *next,
            Some(Busy::Seldom) => 0,
            Some(Busy::Asked) | None => return (dirt, false),
        };
        let Some((part, next)) = leaves.and_then(|leaves| part(&dirt.ranges, leaves, next)) else {
            return (dirt, false);
        };
        self.busy.insert(*id, Busy::Streamed { next });
        let mut rest = dirt.clone();
        rest.ranges.subtract(&part);
        self.settle.look(now.monotonic, spot.clone(), rest);
        (Dirt { ranges: part, ..dirt }, true)
    }

    /// Not all that changed in this body has been looked at: it must not look
    /// known by its time, or after a restart nobody would read the rest.
    pub(super) fn is_read_in_part(&mut self, id: BodyId, before: &Fingerprint) {
        let Fingerprint { mtime, ctime, .. } = *before;
        self.edit_body(id, |row| {
            if let Some(disk) = &mut row.disk {
                disk.fingerprint = Fingerprint { mtime, ctime, ..disk.fingerprint };
            }
        });
    }

    /// What was read, if it was read in one piece. An error is how long to
    /// wait before reading again.
    pub(super) fn digest_sight(
        &mut self,
        now: Now,
        path: &RelPath,
        stat: &Stat,
        sighted: Sighted,
        look: &Looking,
    ) -> Result<Option<Read>, Duration> {
        let none = RangeSet::new;
        let plain = |content| {
            let (changed, holes) = (none(), none());
            Some(Read { content, leaves: None, changed, writes: None, holes, is_all: false })
        };
        Ok(match sighted {
            Sighted::NotRead => None,
            Sighted::Directory => {
                // Flags, which are told of an inode, as bytes are.
                let body = self.known_as(stat).map(|lying| lying.id);
                if self.told.is_astray(stat.fingerprint.inode, look.at, body) {
                    self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::entry());
                }
                plain(Content::Directory)
            }
            Sighted::Fifo => plain(Content::Fifo),
            Sighted::Symlink(target) => plain(Content::Symlink(target)),
            Sighted::File { leaves, changed, bytes, holes, stable } => {
                let body = self.known_as(stat).map(|lying| lying.id);
                self.wait_for_quiet(now, path, (stat, body), look, stable)?;
                let changed = self.compared(body, look, &leaves).unwrap_or(changed);
                let changed = self.told_since(body, look, changed, leaves.leaf_bytes());
                let (writes, is_all) = self.writes_of(body, leaves.size(), &changed, &holes, bytes);
                let holes = if is_all { holes } else { holes.intersection(&changed) };
                let content = Content::File { size: leaves.size(), digest: leaves.digest() };
                let leaves = (leaves.count() > 1).then_some(leaves);
                Some(Read { content, leaves, changed, writes, holes, is_all })
            }
        })
    }

    /// What differs from the known version, where a look could not tell,
    /// because another file lay there when it began, or because more was read of
    /// it since than is known.
    fn compared(&self, body: Option<BodyId>, look: &Looking, leaves: &Leaves) -> Option<RangeSet> {
        let (body, lay) = (body?, look.lay.map(|(id, _)| id));
        match (self.copying.leaves(body), self.store.leaves(body)) {
            (None, _) if lay == Some(body) => None,
            (_, Some(before)) => Some(leaves.differing(&before)),
            (Some(_), None) => Some(Range::new(0, leaves.size()).into_iter().collect()),
            (None, None) => None,
        }
    }

    /// The changed bytes, or all of them where a peer waits for these.
    fn writes_of(
        &mut self,
        body: Option<BodyId>,
        size: u64,
        changed: &RangeSet,
        holes: &RangeSet,
        bytes: Option<Writes>,
    ) -> (Option<Writes>, bool) {
        let mut data = changed.clone();
        let mut is_all = false;
        if self.is_asked(body) {
            let whole = Range::new(0, size).into_iter().collect();
            is_all = bytes.as_ref().is_some_and(|bytes| writes::spans(bytes) == whole);
            data = if is_all { whole } else { data };
        }
        data.subtract(holes);
        let is_little = data.bytes() <= KEPT_BYTES_MAX;
        let bytes = bytes.filter(|bytes| {
            let mut missing = data.clone();
            missing.subtract(&writes::spans(bytes));
            is_little && missing.is_empty()
        });
        let writes = bytes.map(|bytes| writes::copied(&bytes, &data));
        if let Some(busy) = body.and_then(|id| self.busy.get_mut(&id)) {
            *busy = match (writes.is_some(), *busy) {
                (true, Busy::Asked) if !is_all => Busy::Asked,
                (true, Busy::Streamed { next }) => Busy::Streamed { next },
                (true, _) => Busy::Streamed { next: 0 },
                (false, _) => Busy::Seldom,
            };
        }
        (writes, is_all)
    }

    /// A file that changes while it is read is read again, unless all that
    /// changes in it after a look is told by itself. An error is how long to
    /// wait before.
    fn wait_for_quiet(
        &mut self,
        now: Now,
        path: &RelPath,
        (stat, body): (&Stat, Option<BodyId>),
        look: &Looking,
        stable: bool,
    ) -> Result<(), Duration> {
        let told = body.filter(|_| self.options.ranges_told);
        let stands = match told.filter(|_| !stable && look.dirt.is_of_ranges()) {
            Some(id) => self.may_stream(now, id, look)?,
            None => stable || told.is_some(),
        };
        if !stands || self.told.is_astray(stat.fingerprint.inode, look.at, body) {
            let first = *self.unsettled.entry(path.clone()).or_insert(look.at);
            if now.monotonic.saturating_sub(first) < self.options.max_delay {
                // As long as the look took, so that a growing file is not read
                // over and over.
                let took = now.monotonic.saturating_sub(look.at);
                return Err(took.max(self.options.delay));
            }
            // It never falls quiet: what was read stands, and is read again
            // later.
            let again = self.options.max_delay;
            self.settle.look_after(now.monotonic, again, Spot::Path(path.clone()), Dirt::whole());
        }
        self.unsettled.remove(path);
        if let Some(id) = body.filter(|_| stable && !self.is_asked(body)) {
            self.busy.remove(&id);
        }
        Ok(())
    }

    /// May what was read of this file stand, though it changed meanwhile? The
    /// first time it is read once more, to keep what is read; from then on it
    /// is read no more than half of the time.
    fn may_stream(&mut self, now: Now, id: BodyId, look: &Looking) -> Result<bool, Duration> {
        if !self.busy.contains_key(&id) {
            if !self.has_room_for_busy() {
                return Ok(false);
            }
            self.busy.insert(id, Busy::Streamed { next: 0 });
            return Err(Duration::ZERO);
        }
        self.settle.rest(now.monotonic, self.pause_after(now, look), Spot::Body(id));
        Ok(true)
    }

    fn has_room_for_busy(&mut self) -> bool {
        if self.busy.len() >= BUSY_MAX {
            // Gone, or quiet for now.
            self.busy.retain(|id, _| self.settle.holds(&Spot::Body(*id)));
        }
        self.busy.len() < BUSY_MAX
    }

    fn is_asked(&self, body: Option<BodyId>) -> bool {
        body.and_then(|id| self.busy.get(&id)) == Some(&Busy::Asked)
    }

    /// A file that a peer asked for is not as the index had it. Where it has no
    /// later version of it by now, and no change is known that has not been
    /// looked at, one was missed; else it is written faster than it can be
    /// asked for.
    pub fn found_stale(&mut self, now: Now, path: RelPath, known: &Fingerprint) {
        let lying = self.lying_at(&path).map(|lying| (lying.id, lying.disk().fingerprint));
        let told = lying
            .filter(|(id, lies)| !lies.same_bytes(known) || self.is_told(&path, *id))
            .map(|(id, lies)| (id, lies.size));
        let Some((id, size)) = told else {
            return self.bytes_changed_at(now, path);
        };
        if self.options.ranges_told && size <= KEPT_BYTES_MAX && self.has_room_for_busy() {
            self.busy.insert(id, Busy::Asked);
            self.settle.look(now.monotonic, Spot::Body(id), Dirt::whole());
        }
    }

    /// Is something known to have changed at the path of this body that has not
    /// been looked at?
    pub fn is_told(&self, path: &RelPath, body: BodyId) -> bool {
        self.looks.contains_key(path)
            || self.settle.holds(&Spot::Path(path.clone()))
            || self.settle.holds(&Spot::Body(body))
    }

    /// What leads to this version with the bytes, where they are kept: a file
    /// that is written all the time has gone on before they are asked for.
    pub fn kept_since(&self, body: BodyId, from: Digest, to: Digest) -> Option<Patch> {
        let mut patch = self.patches.between(body, Some(from), to)?;
        // All of a version was kept for who had none.
        let known = self.history.between(body, from, to).filter(|_| patch.from.is_none());
        if let Some(delta) = known {
            patch = patch.since(from, &delta);
        }
        let Delta { ranges, holes } = patch.delta();
        let fits = ranges.bytes() <= PATCH_IN_PLACE_BYTES_MAX
            && ranges.count() + holes.count() <= ANSWER_RANGES_MAX;
        fits.then_some(patch)
    }

    /// All bytes of a version of this size, in their order, where they are kept.
    pub fn kept_whole(&self, body: BodyId, to: Digest, size: u64) -> Option<Writes> {
        let patch = self.patches.between(body, None, to);
        let mut patch = patch.filter(|_| size <= KEPT_BYTES_MAX)?;
        patch.truncate(size);
        let zeros = |hole: Range| (hole.start, Bytes::from(vec![0; hole.len() as usize]));
        patch.writes.extend(patch.holes.iter().map(zeros));
        patch.writes.sort_unstable_by_key(|(at, _)| *at);
        let whole = Range::new(0, size).into_iter().collect();
        (writes::spans(&patch.writes) == whole).then_some(patch.writes)
    }

    /// What may differ from the known version, where these changed by what the
    /// look was asked for: whole leaves were read, and what was told of these
    /// since it began may have been read, too.
    fn told_since(
        &self,
        body: Option<BodyId>,
        look: &Looking,
        mut changed: RangeSet,
        leaf_bytes: u64,
    ) -> RangeSet {
        let by_ranges = self.options.ranges_told && look.dirt.is_of_ranges();
        let body = body.filter(|_| by_ranges);
        if let Some(told) = body.and_then(|id| self.settle.dirt(&Spot::Body(id))) {
            changed.extend(&changed.aligned(leaf_bytes).intersection(&told.ranges));
        }
        changed
    }

    /// What a peer may ask for: the bytes, where they are few, and which they
    /// are.
    pub(super) fn remember_patch(&mut self, body: BodyId, from: Option<Digest>, read: &Read) {
        let Content::File { digest, .. } = &read.content else { return };
        if let Some(from) = from {
            let mut ranges = read.changed.clone();
            ranges.subtract(&read.holes);
            let delta = Delta { ranges, holes: read.holes.intersection(&read.changed) };
            self.history.insert(body, from, *digest, delta);
        }
        // Of a tree that is being met each peer fetches what it lacks.
        if from.is_none() && !self.surveyed {
            return;
        }
        // Peers have the content of a copy already, most likely.
        let is_copy = from.is_none() && self.same_content(body, *digest).is_some();
        let Some(writes) = read.writes.as_ref().filter(|_| !is_copy) else { return };
        self.patches.insert(Patch {
            body,
            from: from.filter(|_| !read.is_all),
            to: *digest,
            writes: writes.clone(),
            holes: read.holes.clone(),
        });
    }
}

/// Of what changed, as much as one look can bring along, in whole leaves from
/// `next` on and around, and where the following part begins. What lies behind
/// the known end belongs to every part. `None`: all of it.
fn part(changed: &RangeSet, leaves: &Leaves, next: u64) -> Option<(RangeSet, u64)> {
    let most = (BUSY_LOOK_BYTES_MAX / leaves.leaf_bytes()) as usize;
    let mut touched: Vec<Range> =
        leaves.touched(changed).map(|index| leaves.range_of(index)).collect();
    let mut known = changed.clone();
    known.truncate(leaves.size());
    if touched.len() <= most && known.bytes() <= PART_BYTES_MAX {
        return None;
    }
    let first = touched.partition_point(|leaf| leaf.start < next);
    touched.rotate_left(first);
    touched.truncate(most);
    loop {
        let of_leaves = known.intersection(&touched.iter().copied().collect());
        if of_leaves.bytes() > PART_BYTES_MAX && touched.len() > 1 {
            touched.truncate(touched.len() / 2);
            continue;
        }
        let next = touched.last()?.end;
        let mut part = changed.clone();
        part.subtract(&known);
        part.extend(&of_leaves);
        return Some((part, next));
    }
}
