//! What changed here: sights come back, and what differs from the index is a
//! change.
//!
//! Events are hints. What counts is what a look finds, compared with what the
//! index says lies there; only a difference becomes a change.

use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::{Found, Now, Sight, Sighted};
use super::look::UNSETTLED_WAIT;
use super::read::Read;
use super::settle::{Dirt, Spot};
use super::store::Store;
use super::tree::Lying;
use crate::choice::Mode;
use crate::entry::{Fingerprint, Flags, Kind, Stat, Timestamp};
use crate::id::BodyId;
use crate::path::RelPath;

/// How long to wait for the directory of an entry to be met.
const PARENT_WAIT: Duration = Duration::from_millis(5);

/// What was written here so lately may be the beginning of a copy that goes on.
const COPYING_MAX: Duration = Duration::from_secs(60);

impl<S: Store> Core<S> {
    /// A look found this, and it is believed.
    pub(super) fn saw(&mut self, now: Now, mut sight: Sight, look: Looking) {
        if let Found::Entry(stat, _) = &mut sight.found {
            self.take_flags_as_told(&sight.path, stat);
        }
        if matches!(sight.found, Found::Nothing) {
            self.unsettled.remove(&sight.path);
        }
        let check = self.begin_check(&sight, &look);
        if !matches!(sight.found, Found::Unreadable(_)) {
            self.was_read(now, &sight.path, &look);
        }
        let is_seen = match self.options.mode {
            Mode::ReceiveOnly => self.compare_sight(now, &sight.path, sight.found, look),
            _ => self.take_sight(now, &sight.path, sight.found, look),
        };
        if let Some(check) = check {
            self.end_check(now, &sight.path, check);
        }
        if is_seen {
            self.outage_is_over_at(&sight.path);
        }
    }

    /// Flags that this node can neither give nor take say nothing about what
    /// somebody did here: an entry has those it is to have.
    fn take_flags_as_told(&self, path: &RelPath, stat: &mut Stat) {
        let foreign = Flags::ALL.without(self.options.flags);
        if foreign.is_empty() || !matches!(stat.kind, Kind::File | Kind::Directory) {
            return;
        }
        let lying = self.known_as(stat).or_else(|| self.lying_at(path));
        let told = match &lying {
            Some(lying) => lying.row().metadata_on_disk().map(|metadata| metadata.flags),
            None => {
                let wanted = self.store.name(path).and_then(|row| row.wanted());
                let row = wanted.and_then(|(id, _)| self.store.body(id));
                row.map(|row| row.metadata.winner().value.flags)
            }
        };
        let told = told.unwrap_or_default().among(foreign);
        stat.metadata.flags = stat.metadata.flags.without(foreign).with(told);
    }

    /// Logs what differs from the index. False where it is to be looked at again.
    fn take_sight(&mut self, now: Now, path: &RelPath, found: Found, look: Looking) -> bool {
        // What lay there when the look began, and what has come to since.
        let now_lies = self.lying_at(path);
        let now_lies = now_lies.map(|lying| (lying.id, lying.disk().fingerprint.inode));
        let lay = [look.lay, now_lies.filter(|lies| Some(*lies) != look.lay)];
        let dirt = look.dirt.clone();
        let mut is_seen = !matches!(found, Found::Unsettled);
        match found {
            // Bytes were told of, and of the last of a file that went before:
            // the scan says whether it is missing.
            Found::Nothing if !look.dirt.entry && self.is_scanning_all() => {
                self.keep_bytes(now, UNSETTLED_WAIT, look);
            }
            Found::Nothing if self.may_be_moving(&look) => self.look_for_move(now, path, look),
            Found::Nothing => self.saw_nothing(now, path),
            Found::Entry(stat, sighted) => {
                self.progress.no_error(path);
                self.brake.release(path);
                is_seen = self.saw_entry(now, path, stat, sighted, look);
            }
            Found::Unsettled => self.look_again(now, path, look),
            Found::Unreadable(reason) => self.was_unreadable(now, path, reason, look),
            Found::Excluded(reason) => self.progress.error(path, reason),
        }
        for (id, inode) in lay.into_iter().flatten() {
            self.hand_on_bytes(now, path, (id, inode), dirt.clone());
        }
        is_seen
    }

    /// The body whose inode this is.
    pub(super) fn known_as(&self, stat: &Stat) -> Option<Lying> {
        let id = self.store.body_of_inode(stat.fingerprint.inode)?;
        let lying = Lying::of(id, self.store.body(id)?)?;
        (lies_in(&lying, stat) && lying.kind() == stat.kind).then_some(lying)
    }

    /// False where it is to be looked at again.
    fn saw_entry(
        &mut self,
        now: Now,
        path: &RelPath,
        mut stat: Stat,
        sighted: Sighted,
        look: Looking,
    ) -> bool {
        if self.displaces_directory(path, stat.kind) {
            // The directory may have been moved, and be met elsewhere.
            if look.dirt.gone == 0 || self.may_be_moving(&look) {
                self.look_for_move(now, path, look);
                return false;
            }
            self.saw_nothing(now, path);
        }
        let known = self.known_as(&stat);
        // Which directory it is matters less than where it is: one made anew
        // goes on as the one that was here.
        let known = known.or_else(|| {
            let lying = self.lying_at(path).filter(|_| stat.kind == Kind::Directory);
            lying.filter(|lying| lying.kind() == Kind::Directory)
        });
        if !self.parent_lies(path) {
            // Its directory was moved while this look was under way, or has
            // not been met yet: what is there is to be asked again.
            if let Some(parent) = path.parent() {
                self.settle.look(now.monotonic, Spot::Path(parent), Dirt::entry());
            }
            let dirt = self.keep_bytes(now, PARENT_WAIT, look);
            self.look_later(now, PARENT_WAIT, path, dirt);
            return false;
        }
        if self.may_be_other_soon(path, known.as_ref()) {
            let dirt = self.keep_bytes(now, UNSETTLED_WAIT, look);
            self.look_later(now, UNSETTLED_WAIT, path, dirt);
            return false;
        }
        let kind = stat.kind;
        // Another directory in its place holds other entries, and of a removal
        // in one that is gone nothing is told.
        let list = match &known {
            Some(lying) => look.dirt.came || !lies_in(lying, &stat),
            None => look.dirt.list,
        };
        if known.is_none() && self.is_begun_copy(now, path, &stat, &sighted) {
            // After a restart it must not look known.
            let (size, never) = (0, Timestamp::default());
            let fingerprint = Fingerprint { size, mtime: never, ctime: never, ..stat.fingerprint };
            self.saw_new(now, path, &Stat { fingerprint, ..stat }, Read::of_nothing());
            return false;
        }
        let read = match self.digest_sight(now, path, &stat, sighted, &look) {
            Ok(read) => read,
            Err(retry) => {
                let dirt = self.keep_bytes(now, retry, look);
                self.look_later(now, retry, path, dirt);
                return false;
            }
        };
        if read.as_ref().is_some_and(|read| self.is_being_copied(now, path, &stat, read)) {
            return false;
        }
        let outdated = known.as_ref().filter(|lying| is_outdated(lying, &stat, &look));
        let read = match outdated.map(|lying| (lying.id, as_known(lying, &stat))) {
            Some((id, as_known)) => {
                let dirt = Dirt { whole: look.dirt.whole, ..Dirt::compare() };
                self.settle.look(now.monotonic, Spot::Body(id), dirt);
                stat = as_known;
                None
            }
            None => read,
        };
        let known = known.or_else(|| self.same_again(path, read.as_ref()?));
        if self.is_older(now, path, known.as_ref().map(|lying| lying.id), &stat, read.as_ref()) {
            self.progress.older_files += 1;
            self.progress.note(now.wall, "replaced by an older one here", path);
        }
        // It may have been written to where nobody was told of it.
        let is_doubted = look.dirt.came && !look.dirt.whole && kind == Kind::File;
        let is_read = read.is_some() && !look.is_part;
        match (known, read) {
            (Some(_), None) if is_doubted => {
                self.look_at_all(now, path, &look);
                return false;
            }
            (Some(known), read) => {
                let (id, before) = (known.id, known.disk().fingerprint);
                self.saw_known(now, path, known, &stat, read, look.dirt.told);
                if look.is_part {
                    self.is_read_in_part(id, &before);
                }
            }
            (None, Some(read)) => self.saw_new(now, path, &stat, read),
            (None, None) => {
                self.look_at_all(now, path, &look);
                return false;
            }
        }
        if list && kind == Kind::Directory {
            self.scan_found(path.clone(), look.dirt.told, look.dirt.came);
        }
        self.look_where_mapped(now, &stat);
        is_read || self.is_seen(path, kind)
    }

    /// Was a file replaced, or written over, by one from before it? Somebody
    /// may be bringing back a backup. A file of the tree that was moved here is
    /// none; nor is one that was being written here just now, whose time is set
    /// when all of it is there.
    fn is_older(
        &self,
        now: Now,
        path: &RelPath,
        known: Option<BodyId>,
        stat: &Stat,
        read: Option<&Read>,
    ) -> bool {
        let Some(read) = read.filter(|_| self.surveyed && stat.kind == Kind::File) else {
            return false;
        };
        let Some(lying) = self.lying_at(path) else { return false };
        let (row, lies) = (lying.row(), lying.disk().fingerprint);
        let age = now.wall.saturating_sub(lies.mtime.as_nanos());
        let is_going_on = known.is_some()
            && self.lives.contains(&row.content.winner().dot.actor)
            && age < COPYING_MAX.as_nanos() as i64;
        row.kind() == Kind::File
            && known.is_none_or(|known| known == lying.id)
            && !is_going_on
            && stat.fingerprint.mtime < lies.mtime
            && row.content_on_disk() != Some(&read.content)
    }

    /// Is the file that was seen here, or that is to lie here, being changed just
    /// now by another of its names? What lies here then may be another file.
    pub(super) fn may_be_other_soon(&self, path: &RelPath, known: Option<&Lying>) -> bool {
        let wanted = self.store.name(path).and_then(|row| row.wanted()).map(|(id, _)| id);
        let mut bodies = known.map(|lying| lying.id).into_iter().chain(wanted);
        bodies.any(|id| self.is_being_changed(id))
    }

    fn is_being_changed(&self, body: BodyId) -> bool {
        let mut steps = self.jobs.values().flat_map(|job| &job.steps);
        self.locks.holds(body) && steps.any(|step| step.bodies.contains(&body))
    }

    /// Does something else lie where a directory lay, of which nothing is told
    /// but that?
    fn displaces_directory(&self, path: &RelPath, kind: Kind) -> bool {
        let lay = || self.lying_at(path).is_some_and(|lying| lying.kind() == Kind::Directory);
        kind != Kind::Directory && lay()
    }

    /// A file that took the place of one with the same content, as in a copied
    /// tree, goes on as that one: what others change of it lands in it.
    fn same_again(&self, path: &RelPath, read: &Read) -> Option<Lying> {
        let lying = self.lying_at(path).filter(|lying| lying.kind() == Kind::File)?;
        let is_same = lying.row().content_on_disk() == Some(&read.content);
        let is_all = lying.disk().names.as_slice() == std::slice::from_ref(path);
        (is_same && is_all).then_some(lying)
    }

    fn saw_known(
        &mut self,
        now: Now,
        path: &RelPath,
        known: Lying,
        stat: &Stat,
        read: Option<Read>,
        told: bool,
    ) {
        let (id, disk) = (known.id, known.disk());
        let moved_from = match stat.kind {
            Kind::Directory if !disk.names.contains(path) => disk.names.first().cloned(),
            _ => None,
        };
        let unread = stat.kind == Kind::File && read.is_none();
        let same_bytes = disk.fingerprint.same_bytes(&stat.fingerprint);
        let same_size = disk.fingerprint.size == stat.fingerprint.size;
        let is_behind = self.is_behind(path, &known, stat.kind, &stat.fingerprint);
        // Where capture tells of bytes, another mtime alone tells of none.
        if unread && !same_bytes && !(self.options.ranges_told && same_size) {
            if !self.settle.holds(&Spot::Body(id)) {
                let dirt = match self.options.ranges_told {
                    true => Dirt { bytes: true, ..Dirt::default() },
                    false => Dirt::whole(),
                };
                self.settle.look(now.monotonic, Spot::Body(id), dirt);
            }
        } else {
            let names = disk.names.len() + usize::from(!disk.names.contains(path));
            let moved = disk.fingerprint.ctime != stat.fingerprint.ctime;
            let linked = stat.kind == Kind::File && stat.links as usize > names && moved;
            if linked || (unread && !same_bytes) {
                self.note_touched(now, id);
            } else if !unread {
                self.touched.remove(id);
            }
            self.update_body(now, path, &known, stat, read);
        }
        if let Some(from) = moved_from {
            self.move_together(now, &[(from, path.clone())], told);
        } else if self.store.name(path).and_then(|row| row.on_disk()).map(|held| held.0) != Some(id)
        {
            // One of several links is as old as the file: found by two nodes in
            // equal trees, all its names go to one body.
            let when = match stat.links > 1 {
                _ if is_behind => 0,
                true => stat.metadata.mtime.as_nanos(),
                false => now.wall,
            };
            match self.is_in_doubt(path, stat, || self.lying_at(path)) {
                true => self.bind_beside(path, id, stat.kind, when),
                false => self.bind(path, id, stat.kind, when),
            }
            self.release_moved(now, id);
            let is_link = stat.links as usize > disk.names.len();
            self.progress.note(now.wall, if is_link { "linked here" } else { "moved here" }, path);
        }
    }

    /// Something was seen of a file of which the word has not come.
    fn note_touched(&mut self, now: Now, id: BodyId) {
        if !self.touched.insert(now.monotonic, id) {
            self.settle.look(now.monotonic, Spot::Body(id), Dirt::whole());
        }
    }

    fn saw_nothing(&mut self, now: Now, path: &RelPath) {
        self.progress.no_error(path);
        let Some(row) = self.store.name(path) else {
            return;
        };
        let Some((body, kind)) = row.on_disk() else {
            return;
        };
        if path.is_root() || self.is_held_back(path, &row) {
            return;
        }
        if kind == Kind::Directory {
            let mut inside = Vec::new();
            self.for_each_within(path, |core, below, row| {
                let lies = row.on_disk().filter(|_| below != *path && !core.brake.holds(&below));
                inside.extend(lies.map(|lies| (below, lies)));
            });
            inside.iter().rev().for_each(|(below, _)| self.vanish(now, below));
            inside.into_iter().for_each(|(_, lies)| self.may_have_changed(now, lies));
        }
        self.vanish(now, path);
        // Of what was renamed the new name was told as well.
        if !self.moves.is_told(path) {
            self.may_have_changed(now, (body, kind));
        }
    }

    /// What was told of a name that is gone may have been the metadata of a
    /// file that has others; of one in a directory that is gone nothing is told.
    pub(super) fn may_have_changed(&mut self, now: Now, (body, kind): (BodyId, Kind)) {
        if kind != Kind::Directory && self.place_of(&Spot::Body(body)).is_some() {
            self.settle.touch(now.monotonic, Spot::Body(body), Dirt::entry());
        }
    }
}

/// Was this seen at a name that was not known to lead to the body, before the
/// body was changed at another? The look held nothing of it then.
fn is_outdated(lying: &Lying, stat: &Stat, look: &Looking) -> bool {
    !look.bodies.contains(&lying.id) && stat.fingerprint.ctime < lying.disk().fingerprint.ctime
}

/// What was seen, but for all that the index knows better.
fn as_known(lying: &Lying, stat: &Stat) -> Stat {
    let (row, fingerprint) = (lying.row(), lying.disk().fingerprint);
    let metadata = row.metadata_on_disk().unwrap_or(&stat.metadata).clone();
    Stat { fingerprint, metadata, ..stat.clone() }
}

/// Is this the inode that the body lies in?
fn lies_in(lying: &Lying, stat: &Stat) -> bool {
    lying.disk().fingerprint.is_inode(&stat.fingerprint)
}
