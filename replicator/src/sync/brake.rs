//! The brake on deletions that nobody saw happen.
//!
//! A scan that misses most of a folder has more likely met a disaster than a
//! user's wish: such deletions are held. Nothing of them is told to anybody,
//! the entries stay in the tree of all others, until a person confirms them
//! or asks for the entries back. Deletions that the kernel reported as they
//! happened are somebody's doing and pass.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::core::Core;
use super::effect::Now;
use super::record::{Held, NameRow};
use super::settle::{Dirt, Spot};
use super::store::Store;
use super::version::VersionVector;
use crate::choice::Mode;
use crate::entry::Kind;
use crate::id::BodyId;
use crate::limits::UNSEEN_DELETIONS_MAX;
use crate::path::RelPath;

/// Unseen deletions within this time count together.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Brake {
    held: BTreeSet<RelPath>,
    /// Deletions that passed unseen, since when.
    passed: Count,
    since: Duration,
}

/// Entries of any kind, and how many of them are no directories: most of
/// either is too much to lose unseen.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    entries: usize,
    files: usize,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self { entries: self.entries + other.entries, files: self.files + other.files }
    }

    /// Is this more than such a share of those, and more than a handful?
    fn is_beyond(self, percent: u8, in_all: Self) -> bool {
        let parts = [(self.entries, in_all.entries), (self.files, in_all.files)];
        parts.into_iter().any(|(missed, in_all)| {
            missed > UNSEEN_DELETIONS_MAX && missed * 100 > in_all * usize::from(percent)
        })
    }
}

impl Brake {
    pub fn holds(&self, path: &RelPath) -> bool {
        !self.held.is_empty() && self.held.contains(path)
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn held(&self) -> impl Iterator<Item = &RelPath> {
        self.held.iter()
    }

    /// Something lies there again, or nothing is known to have lain there.
    pub fn release(&mut self, path: &RelPath) {
        if !self.held.is_empty() {
            self.held.remove(path);
        }
    }
}

impl<S: Store> Core<S> {
    /// What a scan of everything beneath a path missed; `told` where an event
    /// of this path was the reason for it.
    pub(super) fn missed(
        &mut self,
        now: Now,
        beneath: &RelPath,
        there: usize,
        gone: Vec<RelPath>,
        told: bool,
    ) {
        let gone = if told { gone } else { self.bring_back_unwritten(gone) };
        let all = beneath.is_root() && gone.len() == there;
        let (seen, gone) = match told {
            true => (gone, Vec::new()),
            false => self.part_told(gone),
        };
        for path in seen {
            // Where a look waits that an event asked for, that one finds it.
            if !self.dirt_at(&path).any(|dirt| dirt.told) {
                self.look_for_missed(now, beneath, path, true);
            }
        }
        if self.options.mode == Mode::ReceiveOnly {
            gone.into_iter().for_each(|path| self.look_for_missed(now, beneath, path, false));
            return;
        }
        let gone = self.hold_what_came_since(gone);
        let fresh = self.count(gone.iter().filter(|path| !self.brake.holds(path)));
        if now.monotonic.saturating_sub(self.brake.since) > WINDOW {
            self.brake.passed = Count::default();
            self.brake.since = now.monotonic;
        }
        let missed = self.brake.passed.plus(self.count(&gone));
        if fresh.entries > 0 && self.is_too_much(all, missed) {
            self.brake.held.extend(gone);
            return;
        }
        self.brake.passed = self.brake.passed.plus(fresh);
        let passes = |path: &RelPath| !self.brake.holds(path);
        let gone: Vec<RelPath> = gone.into_iter().filter(passes).collect();
        gone.into_iter().for_each(|path| self.look_for_missed(now, beneath, path, false));
    }

    /// Holds what a backup lacks because it is older than that. Gives the others.
    fn hold_what_came_since(&mut self, gone: Vec<RelPath>) -> Vec<RelPath> {
        if self.surveyed || self.options.delete_brake.is_none() {
            return gone;
        }
        let (since, others) = self.restored.part_since(gone);
        self.brake.held.extend(since);
        others
    }

    /// The same of an entry that the scan met at another place: nothing is gone
    /// with it.
    pub(super) fn missed_what_moved(
        &mut self,
        now: Now,
        beneath: &RelPath,
        path: RelPath,
        told: bool,
    ) {
        self.brake.release(&path);
        self.look_for_missed(now, beneath, path, told);
    }

    /// A body was met at a place where it had not been: where it is held as
    /// missing it is not.
    pub(super) fn release_moved(&mut self, now: Now, id: BodyId) {
        if self.brake.held.is_empty() {
            return;
        }
        let Some(row) = self.store.body(id) else { return };
        let names = row.disk.iter().flat_map(|disk| &disk.names);
        let held: Vec<RelPath> = names.filter(|name| self.brake.holds(name)).cloned().collect();
        for path in held {
            self.brake.release(&path);
            self.settle.look(now.monotonic, Spot::Path(path), Dirt::compare());
        }
    }

    /// Parts what an event told of from what nobody did. Of what went with its
    /// directory that one's event alone tells; but before all was met once, a
    /// directory may have lost anything and be made anew since.
    fn part_told(&self, gone: Vec<RelPath>) -> (Vec<RelPath>, Vec<RelPath>) {
        let mut went = HashSet::new();
        gone.into_iter().partition(|path| {
            let mut above = std::iter::successors(path.parent(), RelPath::parent);
            let is_told = self.dirt_at(path).any(|dirt| dirt.told && dirt.entry)
                || self.is_scanned_as_told(path)
                || self.surveyed && above.any(|at| went.contains(&at) || self.is_told_by_name(&at));
            if is_told {
                went.insert(path.clone());
            }
            is_told
        })
    }

    /// Did an event tell of this directory itself, which may be another one?
    fn is_told_by_name(&self, directory: &RelPath) -> bool {
        let by_name = |dirt: &Dirt| dirt.told && dirt.list;
        !directory.is_root() && self.dirt_at(directory).any(by_name)
    }

    /// What of this place has not been looked at, or is being looked at.
    fn dirt_at(&self, path: &RelPath) -> impl Iterator<Item = &Dirt> {
        let waiting = self.settle.dirt(&Spot::Path(path.clone()));
        waiting.into_iter().chain(self.looks.get(path).map(|look| &look.dirt))
    }

    fn look_for_missed(&mut self, now: Now, beneath: &RelPath, path: RelPath, told: bool) {
        let mut dirt = Dirt { told, ..Dirt::compare() };
        if self.is_listing_to_verify(beneath) {
            self.mark_to_verify(&path, &mut dirt);
        }
        self.settle.look(now.monotonic, Spot::Path(path), dirt);
    }

    /// All of a folder, or more than the share of it that was set, beyond a
    /// handful. The folder that a running node looks at is the one it was
    /// looking at before: few entries may be all of it and somebody's to
    /// delete.
    fn is_too_much(&self, all: bool, missed: Count) -> bool {
        let Some(percent) = self.options.delete_brake else { return false };
        let entries = self.progress.entries();
        let files = entries - self.progress.directories;
        let lie = Count { entries: entries as usize, files: files as usize };
        (!self.surveyed && (all || self.restored.is_backup()))
            || missed.is_beyond(percent, lie.plus(self.brake.passed))
    }

    fn count<'a>(&self, paths: impl IntoIterator<Item = &'a RelPath>) -> Count {
        let mut count = Count::default();
        for path in paths {
            let lies = self.store.name(path).and_then(|row| row.on_disk());
            let is_file = lies.is_some_and(|(_, kind)| kind != Kind::Directory);
            count = count.plus(Count { entries: 1, files: usize::from(is_file) });
        }
        count
    }

    /// The held deletions are meant: they are looked at once more and told.
    pub fn confirm_deletions(&mut self, now: Now) -> u64 {
        let held = std::mem::take(&mut self.brake.held);
        for path in &held {
            // A person told of it: a scan that comes before the look does not
            // hold it once more.
            let dirt = Dirt { told: true, ..Dirt::compare() };
            self.settle.look(now.monotonic, Spot::Path(path.clone()), dirt);
        }
        self.turn(now);
        held.len() as u64
    }

    /// The held deletions were none: the entries come back from the peers.
    pub fn undo_deletions(&mut self, now: Now) -> u64 {
        let held = std::mem::take(&mut self.brake.held);
        held.iter().rev().for_each(|path| self.bring_back(path));
        self.turn(now);
        held.len() as u64
    }

    /// Absence was seen where deletions are held. False where it counts as
    /// any other.
    pub(super) fn is_held_back(&mut self, path: &RelPath, row: &NameRow) -> bool {
        if !self.brake.holds(path) {
            return false;
        }
        let body = row.on_disk().and_then(|(id, _)| self.store.body(id));
        if row.wanted().is_none() {
            return false;
        }
        if row.is_pending() || body.is_some_and(|body| body.content_is_pending()) {
            // It was changed elsewhere since, which beats a deletion.
            self.bring_back(path);
        }
        true
    }

    /// What is missing here counts as never having lain here: it comes back
    /// from the peers.
    pub(super) fn bring_back(&mut self, path: &RelPath) {
        let Some(former) = self.store.name(path) else { return };
        let held = Held::Behind { value: None, seen: VersionVector::new() };
        let row = NameRow { held, ..NameRow::clone(&former) };
        self.put_name(path, Some(&former), row);
    }
}
