//! The bytes that lead from one version of a file to the next, on their way.
//!
//! They are gathered in memory, so that the file changes in one step. When a
//! line is cut, what has come is kept here for the next attempt, which asks
//! for the rest. No I/O here; large files that are fetched as a whole are
//! `arrivals.rs`.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::wanted::Wanted;
use crate::hash::Digest;
use crate::id::BodyId;
use crate::limits::PATCH_IN_PLACE_BYTES_MAX;
use crate::range::{Range, RangeSet};
use crate::sync::message::Delta;
use crate::writes::{Writes, bytes_of, outside, spans};

/// Largest change that is gathered. Only a file with several names changes by
/// more than [`PATCH_IN_PLACE_BYTES_MAX`] in this way.
pub(super) const CHANGE_BYTES_MAX: u64 = 4 * PATCH_IN_PLACE_BYTES_MAX;

/// Bytes of changes cut off that are kept: the largest one, or many.
const KEPT_BYTES_MAX: u64 = CHANGE_BYTES_MAX;

/// How long one is kept.
const KEPT_TIME_MAX: Duration = Duration::from_secs(600);

/// Fewer zeros than this are written as they are: a hole saves little there,
/// and a file of many small ones is slow.
const HOLE_BYTES_MIN: u64 = 64 << 10;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Change {
    body: BodyId,
    from: Digest,
    to: Digest,
    /// What differs, as far as is known.
    ranges: RangeSet,
    holes: RangeSet,
    /// What of `ranges` has come. None overlaps another.
    writes: Writes,
    /// Ranges of which nobody told what in them are holes.
    untold: RangeSet,
}

impl Change {
    /// Nothing is known of it yet.
    pub fn new(wanted: &Wanted, from: Digest) -> Self {
        Self {
            body: wanted.body,
            from,
            to: wanted.digest,
            ranges: RangeSet::new(),
            holes: RangeSet::new(),
            writes: Writes::new(),
            untold: RangeSet::new(),
        }
    }

    /// What a peer remembers of it.
    pub fn told(self, delta: Delta) -> Self {
        Self { ranges: delta.ranges, holes: delta.holes, ..self }
    }

    /// By the hash lists these differ, whatever was told of them before.
    pub fn differs(&mut self, ranges: &RangeSet) {
        self.writes = outside(&self.writes, ranges);
        self.holes.subtract(ranges);
        self.ranges.extend(ranges);
        self.untold.extend(ranges);
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.holes.is_empty()
    }

    /// What has not come yet.
    pub fn missing(&self) -> RangeSet {
        let mut missing = self.ranges.clone();
        missing.subtract(&spans(&self.writes));
        missing
    }

    /// Some missing bytes have come.
    pub fn put(&mut self, at: u64, bytes: Bytes) {
        self.writes.push((at, bytes));
    }

    pub fn writes(&self) -> &Writes {
        &self.writes
    }

    pub fn holes(&self) -> &RangeSet {
        &self.holes
    }

    /// What to write and what to punch.
    pub fn finish(mut self) -> (Writes, RangeSet) {
        let (untold, mut writes): (Writes, Writes) =
            self.writes.into_iter().partition(|(at, _)| self.untold.contains(*at));
        let (more, holes) = without_zeros(untold);
        writes.extend(more);
        self.holes.extend(&holes);
        (writes, self.holes)
    }

    fn bytes(&self) -> u64 {
        bytes_of(&self.writes)
    }
}

/// Changes that were cut off.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<VecDeque<(Instant, Change)>>);

impl Changes {
    pub fn keep(&self, change: Change) {
        let mut kept = self.lock();
        kept.push_back((Instant::now(), change));
        while kept.iter().map(|(_, change)| change.bytes()).sum::<u64>() > KEPT_BYTES_MAX {
            kept.pop_front();
        }
    }

    /// Takes what came of this change before.
    pub fn claim(&self, wanted: &Wanted, from: Digest) -> Option<Change> {
        let mut kept = self.lock();
        let is_it = |change: &Change| {
            (change.body, change.from, change.to) == (wanted.body, from, wanted.digest)
        };
        let at = kept.iter().position(|(_, change)| is_it(change))?;
        kept.remove(at).map(|(_, change)| change)
    }

    /// Lets go of what nobody came back for; of all where nothing is wanted
    /// any more.
    pub fn sweep(&self, is_done: bool) {
        self.lock().retain(|(since, _)| !is_done && since.elapsed() < KEPT_TIME_MAX);
    }

    /// Nothing is left half done while the lock is held.
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Change)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetched bytes do not tell which zeros were holes: long runs of them
/// become holes, as they do in a file that is fetched as a whole.
pub(super) fn without_zeros(fetched: Writes) -> (Writes, RangeSet) {
    let (mut writes, mut holes) = (Vec::with_capacity(fetched.len()), RangeSet::new());
    for (start, bytes) in fetched {
        let end = start + bytes.len() as u64;
        let piece =
            |from: u64, to: u64| bytes.slice((from - start) as usize..(to - start) as usize);
        let (mut at, mut data_from) = (start, start);
        while at < end {
            let next = (at / HOLE_BYTES_MIN + 1).saturating_mul(HOLE_BYTES_MIN).min(end);
            let is_aligned = at.is_multiple_of(HOLE_BYTES_MIN) && next - at == HOLE_BYTES_MIN;
            if is_aligned && piece(at, next).iter().all(|byte| *byte == 0) {
                holes.extend(&Range::new(at, next).into_iter().collect());
                if data_from < at {
                    writes.push((data_from, piece(data_from, at)));
                }
                data_from = next;
            }
            at = next;
        }
        if data_from < end {
            writes.push((data_from, piece(data_from, end)));
        }
    }
    (writes, holes)
}

#[cfg(test)]
mod tests {
    use super::super::staging::overlay;
    use super::*;

    #[test]
    fn long_runs_of_zeros_are_holes_and_all_else_is_written() {
        let hole = HOLE_BYTES_MIN as usize;
        let mut content = vec![0; 5 * hole + 10];
        content[hole - 1] = 1;
        content[3 * hole] = 2;
        let start = HOLE_BYTES_MIN * 7;
        let (writes, holes) = without_zeros(vec![(start, content.clone().into())]);
        let holes: Vec<_> = holes.iter().map(|hole| (hole.start - start, hole.len())).collect();
        assert_eq!(
            holes,
            [(HOLE_BYTES_MIN, 2 * HOLE_BYTES_MIN), (4 * HOLE_BYTES_MIN, HOLE_BYTES_MIN)]
        );
        let mut again = vec![0; content.len()];
        let whole = Range { start, end: start + content.len() as u64 };
        overlay(&mut again, whole, &writes);
        assert!(again == content);
        let written: usize = writes.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(written, 2 * hole + 10);
    }

    #[test]
    fn zeros_that_are_no_whole_block_are_written() {
        let content = Bytes::from(vec![0; HOLE_BYTES_MIN as usize]);
        let (writes, holes) = without_zeros(vec![(100, content.clone()), (0, Bytes::new())]);
        assert!(writes == [(100, content)] && holes.is_empty());
    }

    fn wanted() -> Wanted {
        let body = BodyId { origin: crate::id::Actor(1), counter: 1 };
        Wanted { body, size: 1 << 20, digest: Digest::from_bytes([2; 32]) }
    }

    fn set(start: u64, end: u64) -> RangeSet {
        Range::new(start, end).into_iter().collect()
    }

    #[test]
    fn what_came_of_a_change_is_not_missing() {
        let delta = Delta { ranges: set(10, 20), holes: set(30, 40) };
        let from = Digest::from_bytes([3; 32]);
        let mut change = Change::new(&wanted(), from).told(delta);
        change.put(10, Bytes::from_static(b"abcd"));
        assert_eq!(change.missing(), set(14, 20));
        let changes = Changes::default();
        changes.keep(change);
        let later = Digest::from_bytes([4; 32]);
        assert!(changes.claim(&Wanted { digest: later, ..wanted() }, from).is_none());
        assert!(changes.claim(&wanted(), later).is_none());
        let mut change = changes.claim(&wanted(), from).unwrap();
        change.put(14, Bytes::from_static(b"efghij"));
        assert!(change.missing().is_empty());
        assert_eq!(change.finish().1, set(30, 40));
        assert!(changes.claim(&wanted(), from).is_none(), "it was claimed twice");
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let changes = Changes::default();
        let piece = Bytes::from(vec![0; (KEPT_BYTES_MAX / 4) as usize]);
        for number in 0..6 {
            let mut change = Change::new(&wanted(), Digest::from_bytes([number; 32]));
            change.put(0, piece.clone());
            changes.keep(change);
        }
        let is_kept = |number| changes.claim(&wanted(), Digest::from_bytes([number; 32])).is_some();
        assert_eq!([0, 1, 2, 3, 4, 5].map(is_kept), [false, false, true, true, true, true]);
    }

    #[test]
    fn what_differs_by_hash_replaces_what_was_told() {
        let delta = Delta { ranges: set(0, 10), holes: set(20, 200_000) };
        let mut change = Change::new(&wanted(), Digest::from_bytes([3; 32])).told(delta);
        change.put(0, Bytes::from_static(b"0123456789"));
        change.differs(&set(4, 140_000));
        assert_eq!(change.missing(), set(4, 140_000));
        change.put(4, Bytes::from(vec![0; 140_000 - 4]));
        let (writes, holes) = change.finish();
        assert_eq!(writes[0], (0, Bytes::from_static(b"0123")));
        assert_eq!(
            holes,
            [set(65536, 131_072), set(140_000, 200_000)].iter().fold(
                RangeSet::new(),
                |mut all, set| {
                    all.extend(set);
                    all
                },
            )
        );
    }
}
