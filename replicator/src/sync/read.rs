//! What a look read: whether it stands, and which bytes of it are kept for
//! those who ask what differs.
//!
//! A file that changes while it is read is read again until it is quiet. Where
//! capture tells all that changes in it, it need not be: what was read is a
//! version like any other, and what came later is told by itself. But peers
//! that ask for that version ask for bytes that are gone by then, so they are
//! kept; and the leaves that were read may hold bytes that were told of after
//! the look began, so these count as changed.

use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::{Now, Sighted};
use super::local::UNSETTLED_WAIT;
use super::message::{Delta, Patch};
use super::record::Content;
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::Stat;
use crate::hash::{Digest, Leaves};
use crate::id::BodyId;
use crate::path::RelPath;
use crate::range::RangeSet;
use crate::writes::{self, Writes};

/// Files that are written all the time and read nevertheless.
const BUSY_MAX: usize = 1024;

/// Bytes of one change that are kept for those who ask what differs.
const KEPT_BYTES_MAX: u64 = 8 << 20;

/// Content as a sight brought it.
pub(super) struct Read {
    pub content: Content,
    pub leaves: Option<Leaves>,
    changed: RangeSet,
    /// The changed bytes without the holes, where they are few.
    writes: Option<Writes>,
    holes: RangeSet,
}

/// How a file is read that is written all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    /// As it changes: each change is kept, and peers follow.
    Streamed,
    /// Its changes are too large to be kept: when it is quiet, or now and then.
    Seldom,
}

impl<S: Store> Core<S> {
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
            Some(Read { content, leaves: None, changed: none(), writes: None, holes: none() })
        };
        Ok(match sighted {
            Sighted::NotRead => None,
            Sighted::Directory => plain(Content::Directory),
            Sighted::Fifo => plain(Content::Fifo),
            Sighted::Symlink(target) => plain(Content::Symlink(target)),
            Sighted::File { leaves, changed, bytes, holes, stable } => {
                self.wait_for_quiet(now, path, stat, look, stable)?;
                let changed = self.told_since(stat, look, changed, &bytes);
                let writes = bytes.and_then(|bytes| {
                    let mut data = changed.clone();
                    data.subtract(&holes);
                    let is_little = data.bytes() <= KEPT_BYTES_MAX;
                    is_little.then(|| writes::copied(&bytes, &data))
                });
                self.was_kept(stat, writes.is_some());
                let content = Content::File { size: leaves.size(), digest: leaves.digest() };
                let leaves = (leaves.count() > 1).then_some(leaves);
                Some(Read { content, leaves, changed, writes, holes })
            }
        })
    }

    /// A file that changes while it is read is read again, unless all that
    /// changes in it after a look is told by itself. An error is how long to
    /// wait before.
    fn wait_for_quiet(
        &mut self,
        now: Now,
        path: &RelPath,
        stat: &Stat,
        look: &Looking,
        stable: bool,
    ) -> Result<(), Duration> {
        let body = self.known_as(stat).map(|(id, _)| id);
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
        if let Some(id) = body.filter(|_| stable) {
            self.busy.remove(&id);
        }
        Ok(())
    }

    /// May what was read of this file stand, though it changed meanwhile? The
    /// first time it is read once more, to keep what is read; from then on it
    /// is read no more than half of the time.
    fn may_stream(&mut self, now: Now, id: BodyId, look: &Looking) -> Result<bool, Duration> {
        if !self.busy.contains_key(&id) {
            if self.busy.len() >= BUSY_MAX {
                return Ok(false);
            }
            self.busy.insert(id, Busy::Streamed);
            return Err(Duration::ZERO);
        }
        let took = now.monotonic.saturating_sub(look.at);
        self.settle.rest(now.monotonic, took.max(UNSETTLED_WAIT), Spot::Body(id));
        Ok(true)
    }

    fn was_kept(&mut self, stat: &Stat, is_kept: bool) {
        let id = self.known_as(stat).map(|(id, _)| id);
        if let Some(busy) = id.and_then(|id| self.busy.get_mut(&id)) {
            *busy = if is_kept { Busy::Streamed } else { Busy::Seldom };
        }
    }

    /// What may differ from the known version, where these changed by what the
    /// look was asked for: of the bytes that were read also those may be newer
    /// that were told of since it began.
    fn told_since(
        &self,
        stat: &Stat,
        look: &Looking,
        mut changed: RangeSet,
        bytes: &Option<Writes>,
    ) -> RangeSet {
        let by_ranges = self.options.ranges_told && look.dirt.is_of_ranges();
        let known = self.known_as(stat).filter(|_| by_ranges);
        let told = known.and_then(|(id, _)| self.settle.ranges(&Spot::Body(id)));
        if let (Some(told), Some(bytes)) = (told, bytes) {
            let mut unread = told.clone();
            unread.subtract(&writes::spans(bytes));
            let mut read = told.clone();
            read.subtract(&unread);
            changed.extend(&read);
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
            let delta = Delta { ranges, holes: read.holes.clone() };
            self.history.insert(body, from, *digest, delta);
        }
        // Peers have the content of a copy already, most likely.
        let is_copy = from.is_none() && self.same_content(body, *digest).is_some();
        let Some(writes) = read.writes.as_ref().filter(|_| !is_copy) else { return };
        self.patches.insert(Patch {
            body,
            from,
            to: *digest,
            writes: writes.clone(),
            holes: read.holes.clone(),
        });
    }
}
