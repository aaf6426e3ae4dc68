//! A node that only receives: what changes here is nobody else's affair.
//!
//! Looks are compared with the index as everywhere, but a difference is
//! noted instead of logged. It stays as it is, untouched by what others
//! change, until a person reverts it: then what lies here counts as an older
//! version, and the tree of the others takes its place. What was here rests
//! in the trash. A step that would meet such a difference waits for that, but
//! a directory that others move takes along what changed in it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::{Action, Found, Keep, Now, What};
use super::look::UNSETTLED_WAIT;
use super::read::Read;
use super::record::{BodyRow, Disk};
use super::settle::{Dirt, Spot};
use super::step::{Step, Weight};
use super::store::Store;
use super::tree::held;
use super::version::VersionVector;
use crate::choice::Mode;
use crate::entry::{Fingerprint, Kind, Metadata, Stat};
use crate::id::{Actor, BodyId};
use crate::limits::JOBS_MAX;
use crate::path::RelPath;

/// Removals tried for one entry.
const REVERTS_MAX: u32 = 12;

/// How long to wait for a removal before looking what became of it.
const REVERT_WAIT: Duration = Duration::from_millis(20);

/// What changed on a node that only receives.
#[derive(Debug, Default)]
pub(super) struct Own {
    changes: BTreeMap<RelPath, Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    how: How,
    /// To be undone, with how often a removal was tried.
    reverting: Option<u32>,
    /// The entry as it was seen, where its content is what the index says.
    seen: Option<Fingerprint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Added,
    Replaced,
    Content,
    Metadata,
    Deleted,
}

impl Own {
    pub fn holds(&self, path: &RelPath) -> bool {
        !self.changes.is_empty() && self.changes.contains_key(path)
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Two entries took each other's places, or one a free one, and what is in
    /// them came along.
    fn exchange(&mut self, one: &RelPath, other: &RelPath) {
        if self.changes.is_empty() {
            return;
        }
        let mut moved = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            let rebased = |(path, change): (&RelPath, &Change)| {
                Some((path.clone(), path.rebased(from, to)?, *change))
            };
            moved.extend(self.below(from).filter_map(rebased));
        }
        moved.iter().for_each(|(old, ..)| {
            self.changes.remove(old);
        });
        self.changes.extend(moved.into_iter().map(|(_, new, change)| (new, change)));
    }

    fn note(&mut self, path: &RelPath, how: How) {
        let change = Change { how, reverting: None, seen: None };
        let change = self.changes.entry(path.clone()).or_insert(change);
        (change.how, change.seen) = (how, None);
    }

    fn note_metadata(&mut self, path: &RelPath, stat: &Stat) {
        self.note(path, How::Metadata);
        if let Some(change) = self.changes.get_mut(path) {
            change.seen = Some(stat.fingerprint);
        }
    }

    fn forget(&mut self, path: &RelPath) {
        self.changes.remove(path);
    }

    /// A directory has gone.
    fn forget_added_below(&mut self, path: &RelPath) {
        let added = self.below(path).filter(|(_, change)| change.how == How::Added);
        let added: Vec<RelPath> = added.map(|(path, _)| path.clone()).collect();
        added.iter().for_each(|path| self.forget(path));
    }

    fn set_reverting(&mut self, path: &RelPath, tries: Option<u32>) {
        if let Some(change) = self.changes.get_mut(path) {
            change.reverting = tries;
        }
    }

    fn reverts(&self, path: &RelPath) -> bool {
        self.changes.get(path).is_some_and(|change| change.reverting.is_some())
    }

    fn below<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = (&'a RelPath, &'a Change)> {
        let starts = |below: &RelPath| below.as_bytes().starts_with(path.as_bytes());
        let after = (Bound::Excluded(path), Bound::Unbounded);
        let alike = self.changes.range(after).take_while(move |(below, _)| starts(below));
        alike.filter(|(below, _)| below.is_within(path))
    }

    /// Is a directory gone that the index knows above this path?
    fn lacks_directory_of(&self, path: &RelPath) -> bool {
        let mut above = std::iter::successors(path.parent(), RelPath::parent);
        let is_gone = |change: &Change| matches!(change.how, How::Replaced | How::Deleted);
        above.any(|directory| self.changes.get(&directory).is_some_and(is_gone))
    }
}

impl How {
    fn says(self) -> &'static str {
        match self {
            How::Added => "added here",
            How::Replaced => "replaced here",
            How::Content => "changed here",
            How::Metadata => "metadata changed here",
            How::Deleted => "deleted here",
        }
    }
}

impl<S: Store> Core<S> {
    /// What changed here and is not replicated, with how.
    pub fn own_changes(&self) -> impl Iterator<Item = (&RelPath, &'static str)> {
        self.own.changes.iter().map(|(path, change)| (path, change.how.says()))
    }

    /// Undoes what changed here. Says how many entries that is.
    pub fn revert(&mut self, now: Now) -> u64 {
        for (path, change) in &mut self.own.changes {
            change.reverting = Some(0);
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::whole());
        }
        self.turn(now);
        self.own.len() as u64
    }

    /// A place on this disk where the bytes are those that the index knows, and
    /// how the file looks there.
    pub(super) fn place_of_bytes(&self, disk: &Disk) -> Option<(RelPath, Fingerprint)> {
        disk.names.iter().find_map(|path| {
            let fingerprint = match self.own.changes.get(path) {
                Some(change) => change.seen?,
                None => disk.fingerprint,
            };
            Some((path.clone(), fingerprint))
        })
    }

    /// May what lies at this path be nobody else's? Of the folder itself too
    /// only others tell what it is.
    pub(super) fn may_be_own(&self, path: &RelPath) -> bool {
        let is_unmet = || path.is_root() && self.lying_at(path).is_none();
        self.own.holds(path) || (self.options.mode == Mode::ReceiveOnly && is_unmet())
    }

    /// Does a step have to do with what is nobody else's: where it changes
    /// something, in what it takes away, or where the directory was that it
    /// needs?
    pub(super) fn meets_own(&self, step: &Step) -> bool {
        if self.own.changes.is_empty() {
            return false;
        }
        let Action { path, what, .. } = &step.action;
        let other = match what {
            What::Link { from, .. } => Some(from),
            _ => step.other_path(),
        };
        let is_met = |path: &RelPath| self.own.holds(path) || self.own.lacks_directory_of(path);
        let takes_away = matches!(what, What::Remove { .. });
        [Some(path), other].into_iter().flatten().any(is_met)
            || (takes_away && self.own.below(path).next().is_some())
    }

    /// A look at a node that only receives. False where it is to be repeated.
    pub(super) fn compare_sight(
        &mut self,
        now: Now,
        path: &RelPath,
        found: Found,
        look: Looking,
    ) -> bool {
        let is_of_bytes = look.dirt.bytes;
        let mut is_seen = !matches!(found, Found::Unsettled);
        match found {
            Found::Nothing => self.found_nothing(path),
            Found::Entry(stat, _)
                if self.may_be_other_soon(path, self.known_as(&stat).as_ref()) =>
            {
                let spot = Spot::Path(path.clone());
                self.settle.look_after(now.monotonic, UNSETTLED_WAIT, spot, look.dirt);
                is_seen = false;
            }
            Found::Entry(stat, sighted) => {
                self.progress.no_error(path);
                let list =
                    stat.kind == Kind::Directory && self.is_other_directory(path, &stat, &look);
                match self.digest_sight(now, path, &stat, sighted, &look) {
                    Ok(read) => {
                        let is_read = read.is_some() && !look.is_part;
                        self.found_entry(now, path, &stat, read);
                        is_seen = is_read || self.is_seen(path, stat.kind);
                    }
                    Err(retry) => {
                        let spot = Spot::Path(path.clone());
                        self.settle.look_after(now.monotonic, retry, spot, look.dirt);
                        is_seen = false;
                    }
                }
                if list {
                    self.scan(path.clone());
                }
            }
            Found::Unsettled => self.look_again(now, path, look),
            Found::Unreadable(reason) => self.was_unreadable(now, path, reason, look),
            Found::Excluded(reason) => self.progress.error(path, reason),
        }
        if is_of_bytes {
            self.look_at_links(now, path);
        }
        is_seen
    }

    /// May a directory hold what nothing was told of?
    fn is_other_directory(&self, path: &RelPath, stat: &Stat, look: &Looking) -> bool {
        let lying = self.lying_at(path).filter(|lying| lying.kind() == Kind::Directory);
        let seen = self.own.changes.get(path).and_then(|change| change.seen);
        lying.map_or(look.dirt.list, |lying| {
            look.dirt.came || !seen.unwrap_or(lying.disk().fingerprint).is_inode(&stat.fingerprint)
        })
    }

    /// What lay at a path is gone, with all in it.
    fn found_nothing(&mut self, path: &RelPath) {
        if self.store.name(path).is_none_or(|row| row.on_disk().is_none()) {
            self.own.forget(path);
        }
        self.own.forget_added_below(path);
        self.found_nothing_within(path, true);
    }

    fn found_nothing_within(&mut self, path: &RelPath, itself: bool) {
        let mut gone = Vec::new();
        self.for_each_within(path, |_, below, row| {
            if itself || below != *path {
                let seen = row.on_disk().map(|_| row.seen().clone());
                gone.extend(seen.map(|seen| (below, row.wanted().is_some(), seen)));
            }
        });
        for (below, is_wanted, seen) in gone.into_iter().rev().filter(|gone| !gone.0.is_root()) {
            let reverts = [path, &below].iter().any(|at| self.own.reverts(at));
            if !is_wanted {
                self.set_on_disk(&below, None, &seen);
                self.own.forget(&below);
            } else if reverts {
                self.bring_back(&below);
                self.own.forget(&below);
            } else {
                self.own.note(&below, How::Deleted);
            }
        }
    }

    fn found_entry(&mut self, now: Now, path: &RelPath, stat: &Stat, read: Option<Read>) {
        let lying = self.lying_at(path).filter(|lying| {
            let same_inode = lying.disk().fingerprint.is_inode(&stat.fingerprint);
            lying.kind() == stat.kind && (same_inode || stat.kind == Kind::Directory)
        });
        let Some(lying) = lying else {
            let is_free = self.lying_at(path).is_none();
            match read {
                // In a directory that is nobody else's all is so.
                Some(read)
                    if is_free && self.parent_lies(path) && self.adopt(path, stat, &read) =>
                {
                    self.own.forget(path);
                    self.look_at_links(now, path);
                    // What is in one that others know, they may know as well.
                    self.look_at_own_in(now, path);
                }
                _ if path.is_root() => {}
                _ if self.own.reverts(path) => self.remove_own(now, path, stat),
                _ if is_free => self.own.note(path, How::Added),
                _ => self.own.note(path, How::Replaced),
            }
            if !is_free {
                self.found_nothing_within(path, false);
            }
            self.look_at_places_of(now, stat);
            return;
        };
        let (id, row) = (lying.id, lying.row());
        let mut disk = lying.disk().clone();
        let unread = stat.kind == Kind::File && read.is_none();
        if unread && !disk.fingerprint.same_bytes(&stat.fingerprint) {
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::whole());
            return;
        }
        // What is to lie here may do so already: the node ended before it knew.
        let same_content = read.as_ref().is_none_or(|read| {
            let wanted = &row.content.winner().value;
            row.content_on_disk() == Some(&read.content) || *wanted == read.content
        });
        let lies = row.metadata_on_disk().is_some_and(|known| looks_alike(known, stat));
        let same_metadata = lies || looks_alike(&row.metadata.winner().value, stat);
        let is_as_known = same_content && same_metadata;
        if !is_as_known && !self.own.reverts(path) {
            match same_content {
                true => self.own.note_metadata(path, stat),
                false => self.own.note(path, How::Content),
            }
            self.look_at_links(now, path);
            return;
        }
        // What lies here is known, or counts as an older version from now on.
        disk.fingerprint = stat.fingerprint;
        if let Some(read) = read.filter(|read| row.content_on_disk() != Some(&read.content)) {
            disk.content = held(&row.content, read.content, VersionVector::new());
            self.put_leaves(id, read.leaves);
        }
        if row.metadata_on_disk() != Some(&stat.metadata) {
            disk.metadata = held(&row.metadata, stat.metadata.clone(), VersionVector::new());
        }
        self.put_body(id, BodyRow { disk: Some(disk), ..BodyRow::clone(row) });
        self.own.forget(path);
        self.look_at_links(now, path);
    }

    /// What was found of a file holds for each of its names; and where it is
    /// gone from one it is still to be looked for at the others.
    fn look_at_links(&mut self, now: Now, path: &RelPath) {
        let Some(lying) = self.lying_at(path) else { return };
        let is_own = self.own.holds(path);
        let names = lying.disk().names.iter();
        for link in names.filter(|link| self.own.holds(link) != is_own) {
            self.settle.look(now.monotonic, Spot::Path(link.clone()), Dirt::whole());
        }
    }

    /// What is nobody else's in this directory may be so no more.
    fn look_at_own_in(&mut self, now: Now, directory: &RelPath) {
        for (path, _) in self.own.below(directory) {
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::whole());
        }
    }

    /// Two entries took each other's places, with what changed in them: what was
    /// about to be looked at there lies here now, or is gone.
    pub(super) fn own_exchanged(&mut self, now: Now, one: &RelPath, other: &RelPath) {
        self.own.exchange(one, other);
        [one, other].into_iter().for_each(|place| self.look_at_own_in(now, place));
    }

    /// One more name may have been given to a file here: what was written to it
    /// under that name is a change at all of them.
    fn look_at_places_of(&mut self, now: Now, stat: &Stat) {
        let known = self.known_as(stat);
        let known = known.filter(|known| known.disk().fingerprint != stat.fingerprint);
        let Some(known) = known else { return };
        for place in known.disk().names.iter().filter(|place| !self.own.holds(place)) {
            self.settle.look(now.monotonic, Spot::Path(place.clone()), Dirt::whole());
        }
    }

    /// Something that is nobody else's goes to the trash.
    fn remove_own(&mut self, now: Now, path: &RelPath, stat: &Stat) {
        let Some(change) = self.own.changes.get(path).copied() else { return };
        let inside = self.own.below(path).next().map(|(_, change)| change.reverting);
        // Something came after this was to be undone, or could not be undone.
        let has_to_stay = inside.is_some_and(|tries| tries.is_none());
        let tries = change.reverting.filter(|tries| *tries < REVERTS_MAX && !has_to_stay);
        let Some(tries) = tries else {
            self.own.set_reverting(path, None);
            if !has_to_stay {
                self.progress.error(path, "cannot be reverted: remove it by hand".to_owned());
            }
            return;
        };
        let wait = REVERT_WAIT * (1 << tries.min(6));
        self.settle.look_after(now.monotonic, wait, Spot::Path(path.clone()), Dirt::compare());
        let parent = path.parent().unwrap_or_else(RelPath::root);
        let is_free = self.locks.is_free(path, &[]) && self.locks.may_share(&parent);
        if inside.is_some() || !is_free || self.quick_jobs() >= JOBS_MAX {
            return;
        }
        self.own.set_reverting(path, Some(tries + 1));
        let keep = if stat.kind == Kind::Directory { Keep::Discard } else { Keep::Trash };
        let what = What::Remove { expect: stat.fingerprint, keep };
        let nobody = BodyId { origin: Actor(0), counter: 0 };
        let action = Action { path: path.clone(), body: nobody, kind: stat.kind, what };
        let lying = self.store.name(path);
        let name_seen = lying.map(|row| row.seen().clone()).unwrap_or_default();
        let step = Step {
            weight: Weight::Light,
            action,
            bodies: Vec::new(),
            name_seen,
            content: None,
            metadata: None,
        };
        self.locks.lock(path, &[]);
        self.locks.share(parent);
        self.start_job(now, vec![step]);
    }
}

/// A directory's time follows what happens in it.
fn looks_alike(known: &Metadata, stat: &Stat) -> bool {
    match stat.kind {
        Kind::Directory => Metadata { mtime: known.mtime, ..stat.metadata.clone() } == *known,
        _ => stat.metadata == *known,
    }
}
