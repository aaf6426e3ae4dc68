//! The kernel programs: loads them, attaches them, collects what they mark.
//!
//! Owns everything that lies in the kernel for a folder: the dirty bitmaps,
//! the ring of notes about them and the verdicts about inodes. All of it is
//! bounded by what the user allows and goes away with this value.

mod btf;
mod code;
mod exits;
mod hooks;
mod load;
mod offsets;
mod slots;
mod sys;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use aya::maps::{MapData, RingBuf};
use replicator_ebpf::{FLAG_MAPPED, FLAG_SIZE, NOTE_RANGE, NOTE_SLOT, Note, word};

use self::code::Tracing;
pub use self::hooks::FileSystem;
pub use self::load::load;
use self::slots::{Collected, Mapped, SharedSlot};
use super::change::{Change, Extent, LossCause};
use super::counters::Tally;
use super::limits::{IDLE_CHECK_INTERVAL, LOSS_MARGIN, MISS_CHECK_DELAY, PENDING_INODES_MAX};
use super::outbox::{Outbox, Stopped};
use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};

/// The programs of one folder, attached.
pub struct Kernel {
    slots: Mapped<SharedSlot>,
    words: Mapped<AtomicU64>,
    notes: RingBuf<MapData>,
    programs: Vec<RawFd>,
    /// When each slot was last noted, in drains; 0 where it is free.
    noted: Vec<u64>,
    taken: usize,
    drains: u64,
    /// Notes that fit into the ring.
    notes_max: usize,
    slot_notes_dropped: u64,
    range_notes_dropped: u64,
    missed: u64,
    unremembered: u64,
    announcers: u64,
    /// More of them between two checks may have pushed each other out.
    announcers_max: u64,
    check_at: Instant,
    /// When the last drain began: what was dropped since then is not known.
    drained_at: Timestamp,
    /// When the programs were last asked what they skipped.
    checked_at: Timestamp,
    pending: BTreeMap<u64, Pending>,
    tally: Arc<Tally>,
    /// These two hold the programs in the kernel.
    _ebpf: aya::Ebpf,
    _tracing: Vec<Tracing>,
}

/// What was collected of one inode and not yet told.
#[derive(Default)]
struct Pending {
    ranges: RangeSet,
    whole: bool,
    flags: u64,
}

impl Kernel {
    /// Some name came to be, moved or went: what was decided about inodes is
    /// void. It costs each of them one walk, and comes once a drain at most.
    /// To be called before anybody looks at the new name, so that every write
    /// is either seen by that look or by the programs.
    pub fn names_moved(&self) {
        self.words[word::GENERATION as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// When to drain though nothing was noted: soon after every activity and
    /// now and then without any, to see what was counted and not noted.
    pub fn check_at(&self) -> Instant {
        self.check_at
    }

    /// Reports everything that is marked.
    pub fn drain(&mut self, outbox: &mut Outbox) -> Result<(), Stopped> {
        self.drains += 1;
        let started = SystemTime::now().into();
        let mut notes = 0;
        // As many as the ring can hold: what comes in meanwhile can wait for
        // the next drain.
        let most = self.notes_max;
        while notes < most {
            let Some(note) = self.next_note() else { break };
            notes += 1;
            self.take_note(note);
            if self.pending.len() >= PENDING_INODES_MAX {
                self.tell(outbox)?;
            }
        }
        self.tally.notes.add(notes as u64);
        self.sweep_if_dropped();
        self.tell(outbox)?;
        self.watch_losses(notes > 0, outbox)?;
        self.drained_at = started;
        self.free_idle_slots();
        self.tell(outbox)
    }

    fn next_note(&mut self) -> Option<Note> {
        let item = self.notes.next()?;
        let whole = item.len() == size_of::<Note>();
        // SAFETY: the programs write notes of exactly this size and layout,
        // whose fields are integers.
        whole.then(|| unsafe { std::ptr::read_unaligned(item.as_ptr().cast()) })
    }

    fn take_note(&mut self, note: Note) {
        match note.kind {
            NOTE_SLOT => self.collect(note.slot as usize),
            NOTE_RANGE => {
                let ranges = Range::new(note.start, note.end).into_iter().collect();
                let whole = note.start == 0 && note.end == u64::MAX;
                self.add(
                    Collected { inode: note.inode, ranges, flags: note.flags | FLAG_SIZE },
                    whole,
                );
            }
            _ => {}
        }
    }

    fn collect(&mut self, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let collected = slot.collect();
        if slot.is_ready() {
            self.taken += usize::from(self.noted[index] == 0);
            self.noted[index] = self.drains;
        }
        if let Some(collected) = collected {
            self.add(collected, false);
        }
    }

    fn add(&mut self, collected: Collected, whole: bool) {
        if collected.ranges.is_empty() && collected.flags == 0 {
            return;
        }
        self.tally.ranges.add(collected.ranges.count() as u64);
        let pending = self.pending.entry(collected.inode).or_default();
        pending.ranges.extend(&collected.ranges);
        pending.flags |= collected.flags;
        pending.whole |= whole;
    }

    fn tell(&mut self, outbox: &mut Outbox) -> Result<(), Stopped> {
        for (inode, pending) in std::mem::take(&mut self.pending) {
            let Pending { ranges, whole, flags } = pending;
            let extent = if whole { Extent::Whole } else { Extent::Ranges(ranges) };
            outbox.push(Change::Data { inode, extent, mapped: flags & FLAG_MAPPED != 0 })?;
        }
        Ok(())
    }

    /// A slot whose note found no room stays queued and is found by looking
    /// at all of them.
    fn sweep_if_dropped(&mut self) {
        let dropped = self.word(word::SLOT_NOTES_DROPPED);
        if dropped == self.slot_notes_dropped {
            return;
        }
        self.slot_notes_dropped = dropped;
        self.tally.swept.set(dropped);
        for index in 0..self.slots.len() {
            if self.slots[index].is_queued() {
                self.collect(index);
            }
        }
    }

    fn watch_losses(&mut self, active: bool, outbox: &mut Outbox) -> Result<(), Stopped> {
        self.tally.no_slot.set(self.word(word::NO_SLOT));
        self.tally.undecided.set(self.word(word::UNDECIDED));
        self.tally.decided.set(self.word(word::DECIDED));
        self.tally.evicted.set(self.word(word::EVICTED));
        self.tally.forgotten.set(self.word(word::FORGOTTEN));
        let dropped = self.word(word::RANGE_NOTES_DROPPED);
        if dropped != self.range_notes_dropped {
            self.range_notes_dropped = dropped;
            lost(LossCause::RingFull, self.drained_at.before(LOSS_MARGIN), outbox)?;
        }
        let now = Instant::now();
        if self.check_at <= now {
            self.check_at = now + IDLE_CHECK_INTERVAL;
            self.check(outbox)?;
        } else if active {
            self.check_at = self.check_at.min(now + MISS_CHECK_DELAY);
        }
        Ok(())
    }

    /// Asks what the programs could not do. By now whatever they should have
    /// told is done, or holds locks that readers wait for.
    fn check(&mut self, outbox: &mut Outbox) -> Result<(), Stopped> {
        let started = SystemTime::now().into();
        let since = self.checked_at.before(LOSS_MARGIN);
        let missed = self.programs.iter().map(|&program| misses(program)).sum();
        if std::mem::replace(&mut self.missed, missed) != missed {
            lost(LossCause::NestedPrograms, since, outbox)?;
        }
        let (full, announcers) = (self.word(word::UNREMEMBERED), self.word(word::ANNOUNCERS));
        let before = std::mem::replace(&mut self.announcers, announcers);
        let pushed_out = announcers - before > self.announcers_max;
        if std::mem::replace(&mut self.unremembered, full) != full || pushed_out {
            lost(LossCause::TableFull, since, outbox)?;
        }
        self.checked_at = started;
        Ok(())
    }

    /// Keeps half of the slots free, so that a new region finds one.
    fn free_idle_slots(&mut self) {
        if self.taken <= self.slots.len() / 2 {
            return;
        }
        for index in 0..self.slots.len() {
            if self.noted[index] == 0 || self.noted[index] == self.drains {
                continue;
            }
            let last = self.slots[index].retire();
            self.noted[index] = 0;
            self.taken -= 1;
            if let Some(last) = last {
                self.add(last, false);
            }
        }
    }

    fn word(&self, number: u32) -> u64 {
        self.words[number as usize].load(Ordering::SeqCst)
    }
}

impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notes.as_fd()
    }
}

/// Written ranges went unseen since then, anywhere in the folder.
fn lost(cause: LossCause, since: Timestamp, outbox: &mut Outbox) -> Result<(), Stopped> {
    outbox.lost(RelPath::root(), cause, Some(since))
}

/// How often the kernel skipped the program because it was running already on
/// the same processor.
fn misses(program: RawFd) -> u64 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{program}")).unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
