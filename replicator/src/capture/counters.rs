//! What capture counts, so that nothing it drops goes unsaid.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::change::LossCause;

/// A snapshot for status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Events of fanotify or inotify that were read.
    pub events: u64,
    /// Notes of the kernel programs that were read.
    pub notes: u64,
    /// Ranges drained from the kernel's bitmaps.
    pub ranges: u64,
    /// Changes handed over.
    pub changes: u64,
    /// Events dropped because this process caused them.
    pub own_filtered: u64,
    /// Events in directories that no longer exist; the removal of the
    /// directory itself was reported.
    pub vanished: u64,
    /// Writes that found no free bitmap and were reported as whole files.
    pub no_slot: u64,
    /// Inodes whose place could not be decided in the kernel and that were
    /// taken to be inside.
    pub undecided: u64,
    /// Inodes whose place was decided by a walk.
    pub decided: u64,
    /// Verdicts that were pushed out of the kernel's table by others, at least:
    /// the table is smaller than the number of files that are written.
    pub evicted: u64,
    /// Stores through a mapping whose page the kernel's table had forgotten,
    /// and that were reported as whole files.
    pub forgotten: u64,
    /// Directories that inotify does not watch now.
    pub unwatched: u64,
    /// Notes that found the ring full; their bitmaps were swept instead.
    pub swept: u64,
    pub lost: Lost,
}

/// How often knowledge was dropped and a repair was asked for, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    pub ring_full: u64,
    pub nested_programs: u64,
    pub table_full: u64,
    pub fanotify_overflow: u64,
    pub inotify_overflow: u64,
    pub watch_limit: u64,
    pub unresolved: u64,
    pub malformed: u64,
}

/// The living counters, written by the capture thread alone.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub events: Count,
    pub notes: Count,
    pub ranges: Count,
    pub changes: Count,
    pub own_filtered: Count,
    pub vanished: Count,
    pub no_slot: Count,
    pub undecided: Count,
    pub decided: Count,
    pub evicted: Count,
    pub forgotten: Count,
    pub unwatched: Count,
    pub swept: Count,
    lost: [Count; 8],
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    pub fn lost(&self, cause: LossCause) {
        self.lost[index_of(cause)].add(1);
    }

    pub fn snapshot(&self) -> Counters {
        let lost = |cause| self.lost[index_of(cause)].get();
        Counters {
            events: self.events.get(),
            notes: self.notes.get(),
            ranges: self.ranges.get(),
            changes: self.changes.get(),
            own_filtered: self.own_filtered.get(),
            vanished: self.vanished.get(),
            no_slot: self.no_slot.get(),
            undecided: self.undecided.get(),
            decided: self.decided.get(),
            evicted: self.evicted.get(),
            forgotten: self.forgotten.get(),
            unwatched: self.unwatched.get(),
            swept: self.swept.get(),
            lost: Lost {
                ring_full: lost(LossCause::RingFull),
                nested_programs: lost(LossCause::NestedPrograms),
                table_full: lost(LossCause::TableFull),
                fanotify_overflow: lost(LossCause::FanotifyOverflow),
                inotify_overflow: lost(LossCause::InotifyOverflow),
                watch_limit: lost(LossCause::WatchLimit),
                unresolved: lost(LossCause::Unresolved),
                malformed: lost(LossCause::Malformed),
            },
        }
    }
}

fn index_of(cause: LossCause) -> usize {
    match cause {
        LossCause::RingFull => 0,
        LossCause::NestedPrograms => 1,
        LossCause::FanotifyOverflow => 2,
        LossCause::InotifyOverflow => 3,
        LossCause::WatchLimit => 4,
        LossCause::Unresolved => 5,
        LossCause::Malformed => 6,
        LossCause::TableFull => 7,
    }
}
