//! Entries that could not be read, and when to try again.
//!
//! No event tells that a disk answers again, that a process may open more
//! files or that a mandatory lock is gone; so what failed is looked at after a
//! while, with all that was dirty about it. Until then the node does not say
//! that it holds what the folder does.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::Now;
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::path::RelPath;

/// The first pause, doubled with every failure up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Entries remembered. Where more cannot be read, everything is looked at
/// after the longest pause.
const ENTRIES_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Unread {
    /// By body, where its bytes are dirty: it may be moved meanwhile.
    entries: BTreeMap<Spot, Failure>,
    /// When to look at everything, since not all is remembered.
    scan_at: Option<Duration>,
}

#[derive(Debug)]
struct Failure {
    dirt: Dirt,
    attempts: u32,
    /// `None`: the look is under way or about to be.
    due: Option<Duration>,
}

impl Unread {
    /// How many entries are known to be unread.
    pub fn len(&self) -> usize {
        self.entries.len() + usize::from(self.scan_at.is_some())
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.entries.values().filter_map(|entry| entry.due).chain(self.scan_at).min()
    }

    /// There is nothing left to be read.
    pub fn forget(&mut self, spot: &Spot) {
        self.entries.remove(spot);
    }

    /// It was looked at. That may have been a shorter look than the one that
    /// failed, which follows at once.
    fn read(&mut self, now: Duration, spot: &Spot) {
        match self.entries.get_mut(spot) {
            Some(Failure { due: Some(due), .. }) => *due = now,
            _ => self.forget(spot),
        }
    }

    fn failed(&mut self, now: Duration, spot: Spot, dirt: Dirt) {
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&spot) {
            self.scan_at.get_or_insert(now + PAUSE_MAX);
            return;
        }
        let fresh = || Failure { dirt: Dirt::default(), attempts: 0, due: None };
        let entry = self.entries.entry(spot).or_insert_with(fresh);
        entry.dirt.merge(&dirt);
        let pause = PAUSE_MIN.saturating_mul(1 << entry.attempts.min(16)).min(PAUSE_MAX);
        entry.attempts += 1;
        entry.due = Some(now + pause);
    }

    fn take_due(&mut self, now: Duration) -> Vec<(Spot, Dirt)> {
        let is_due = |entry: &Failure| entry.due.is_some_and(|due| due <= now);
        let due = self.entries.iter_mut().filter(|(_, entry)| is_due(entry));
        due.map(|(spot, entry)| {
            entry.due = None;
            (spot.clone(), std::mem::take(&mut entry.dirt))
        })
        .collect()
    }
}

impl<S: Store> Core<S> {
    /// A look has told what is there, or that nothing is: then what was dirty
    /// about the body has been handed on to where it lies.
    pub(super) fn was_read(&mut self, now: Now, path: &RelPath, look: &Looking) {
        if self.unread.entries.is_empty() {
            return;
        }
        self.unread.read(now.monotonic, &Spot::Path(path.clone()));
        look.bodies.iter().for_each(|body| self.unread.read(now.monotonic, &Spot::Body(*body)));
    }

    pub(super) fn was_unreadable(
        &mut self,
        now: Now,
        path: &RelPath,
        reason: String,
        look: Looking,
    ) {
        self.progress.error(path, reason);
        // The verification that asked has its answer.
        let dirt = Dirt { check: false, ..look.dirt };
        let body = look.bodies.first().filter(|_| dirt.bytes || dirt.whole);
        let spot = body.map_or_else(|| Spot::Path(path.clone()), |body| Spot::Body(*body));
        self.unread.failed(now.monotonic, spot, dirt);
    }

    /// Looks again at what may be readable by now.
    pub(super) fn try_unread(&mut self, now: Now) {
        if self.unread.next_due().is_none_or(|due| due > now.monotonic) {
            return;
        }
        for (spot, dirt) in self.unread.take_due(now.monotonic) {
            self.settle.look(now.monotonic, spot, dirt);
        }
        if self.unread.scan_at.is_some_and(|at| at <= now.monotonic) {
            self.unread.scan_at = None;
            self.scan(RelPath::root());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(number: usize) -> Spot {
        Spot::Path(RelPath::parse(number.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn pauses_grow_and_what_was_dirty_stays_so() {
        let mut unread = Unread::default();
        let mut now = Duration::ZERO;
        unread.failed(now, spot(1), Dirt::whole());
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert!(unread.take_due(now).is_empty());
            now += Duration::from_secs(seconds);
            assert_eq!(unread.next_due(), Some(now));
            let due = unread.take_due(now);
            assert_eq!(due, [(spot(1), Dirt::whole())]);
            assert_eq!((unread.next_due(), unread.len()), (None, 1), "it is under way");
            unread.failed(now, spot(1), Dirt::whole());
        }
    }

    #[test]
    fn beyond_the_limit_everything_is_looked_at() {
        let mut unread = Unread::default();
        for number in 0..2 * ENTRIES_MAX {
            unread.failed(Duration::ZERO, spot(number), Dirt::entry());
        }
        assert_eq!(unread.len(), ENTRIES_MAX + 1);
        assert_eq!(unread.scan_at, Some(PAUSE_MAX));
    }
}
