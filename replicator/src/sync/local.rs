//! What changed here: looks go out, sights come back, changes are written to
//! the log.
//!
//! Events are hints. What counts is what a look finds, compared with what the
//! index says lies there; only a difference becomes a change.

use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::{Depth, Found, Known, Look, Now, Sight, Sighted};
use super::read::Read;
use super::record::{Binding, BodyRow, Content, Disk, Held, Key, NameRow, Replaced};
use super::register::Register;
use super::settle::{Dirt, Spot};
use super::store::Store;
use super::tree::held;
use super::version::VersionVector;
use crate::choice::Mode;
use crate::entry::{Flags, Kind, Stat};
use crate::hash::Digest;
use crate::id::BodyId;
use crate::limits::LOOKS_MAX;
use crate::path::RelPath;
use crate::range::RangeSet;

/// How long to leave an entry alone that is being looked at or changed.
const LOCKED_WAIT: Duration = Duration::from_millis(2);

/// So many are asked for again at once: the names of one file wait for one
/// another, and there may be thousands.
const LOCKED_TOGETHER: u32 = 32;

/// How long to wait for the directory of an entry to be met.
const PARENT_WAIT: Duration = Duration::from_millis(5);

/// How long to leave an entry alone that does not stay the same while it is
/// read.
pub(super) const UNSETTLED_WAIT: Duration = Duration::from_millis(20);

impl<S: Store> Core<S> {
    /// Sends out looks at what has fallen quiet.
    pub(super) fn issue_looks(&mut self, now: Now) {
        let mut looks = Vec::new();
        let mut locked = 0;
        while self.looks.len() < LOOKS_MAX && !self.draining {
            let Some((spot, dirt)) = self.settle.pop(now.monotonic) else {
                break;
            };
            let Some(path) = self.place_of(&spot) else {
                self.unread.forget(&spot);
                continue;
            };
            // Before the body is read: it may have thousands of names, all of
            // which wait for one another here.
            let named = self.store.name(&path).and_then(|row| row.on_disk());
            if !self.locks.is_free(&path, named.map(|(id, _)| id).as_slice()) {
                let wait = LOCKED_WAIT * (1 + locked / LOCKED_TOGETHER);
                self.settle.look_after(now.monotonic, wait, spot, dirt);
                locked += 1;
                continue;
            }
            let lying = self.lying_as(named);
            let bodies: Vec<BodyId> = lying.iter().map(|(id, _, _)| *id).collect();
            let lay = lying.as_ref().map(|(id, _, disk)| (*id, disk.fingerprint.inode));
            self.locks.lock(&path, &bodies);
            let known = lying.map(|(id, row, disk)| Known {
                kind: row.kind(),
                fingerprint: disk.fingerprint,
                leaves: self.store.leaves(id),
            });
            let ranges_told = self.options.ranges_told && !self.is_unmet(&path);
            let depth = depth(&dirt, known.is_some(), ranges_told);
            let busy = bodies.iter().any(|id| self.busy.contains_key(id));
            // Elsewhere nobody was told of what mappings stored.
            let sync = dirt.mapped || dirt.came;
            looks.push(Look { path: path.clone(), depth, sync, busy, known });
            self.looks.insert(path, Looking { at: now.monotonic, bodies, lay, dirt });
        }
        self.ask_to_look(looks);
        if self.looks.is_empty() && self.jobs.is_empty() {
            self.told.forget();
            if self.settle.len() == 0 {
                self.moves.clear();
                self.unsettled.clear();
            }
        } else if self.told.is_full() {
            let looks = self.looks.values().map(|look| look.at);
            let first = looks.chain(self.jobs.values().map(|job| job.at)).min();
            self.told.forget_before(first.unwrap_or_default());
        }
    }

    fn place_of(&self, spot: &Spot) -> Option<RelPath> {
        match spot {
            Spot::Path(path) => Some(path.clone()),
            Spot::Body(body) => self.store.body(*body)?.disk?.names.into_iter().next(),
        }
    }

    /// A look found this, and it is believed.
    pub(super) fn saw(&mut self, now: Now, mut sight: Sight, look: Looking) {
        if let Found::Entry(stat, _) = &mut sight.found {
            self.take_flags_as_told(&sight.path, stat);
        }
        let check = self.begin_check(&sight, &look);
        if !matches!(sight.found, Found::Unreadable(_)) {
            self.was_read(now, &sight.path, &look);
        }
        match self.options.mode {
            Mode::ReceiveOnly => self.compare_sight(now, &sight.path, sight.found, look),
            _ => self.take_sight(now, &sight.path, sight.found, look),
        }
        if let Some(check) = check {
            self.end_check(now, &sight.path, check);
        }
    }

    /// Flags that this node can neither give nor take say nothing about what
    /// somebody did here: an entry has those it is to have.
    fn take_flags_as_told(&self, path: &RelPath, stat: &mut Stat) {
        let foreign = Flags::ALL.without(self.options.flags);
        if foreign.is_empty() || !matches!(stat.kind, Kind::File | Kind::Directory) {
            return;
        }
        let lying = self.known_as(stat).map(|(_, row)| row);
        let lying = lying.or_else(|| self.lying_at(path).map(|(_, row, _)| row));
        let told = match &lying {
            Some(row) => row.metadata_on_disk().map(|metadata| metadata.flags),
            None => {
                let wanted = self.store.name(path).and_then(|row| row.wanted());
                let row = wanted.and_then(|(id, _)| self.store.body(id));
                row.map(|row| row.metadata.winner().value.flags)
            }
        };
        let told = told.unwrap_or_default().among(foreign);
        stat.metadata.flags = stat.metadata.flags.without(foreign).with(told);
    }

    /// Logs what differs from the index.
    fn take_sight(&mut self, now: Now, path: &RelPath, found: Found, look: Looking) {
        // What lay there when the look began, and what has come to since.
        let now_lies = self.lying_at(path);
        let now_lies = now_lies.map(|(id, _, disk)| (id, disk.fingerprint.inode));
        let lay = [look.lay, now_lies.filter(|lies| Some(*lies) != look.lay)];
        let dirt = look.dirt.clone();
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
                self.saw_entry(now, path, stat, sighted, look);
            }
            Found::Unsettled => self.look_again(now, path, look),
            Found::Unreadable(reason) => self.was_unreadable(now, path, reason, look),
            Found::Excluded(reason) => self.progress.error(path, reason),
        }
        for (id, inode) in lay.into_iter().flatten() {
            self.hand_on_bytes(now, path, (id, inode), dirt.clone());
        }
    }

    /// It did not stay the same while it was read. Not sooner than the look
    /// took: it may be a large file.
    pub(super) fn look_again(&mut self, now: Now, path: &RelPath, look: Looking) {
        let wait = now.monotonic.saturating_sub(look.at).max(UNSETTLED_WAIT);
        let dirt = self.keep_bytes(now, wait, look);
        self.look_later(now, wait, path, dirt);
    }

    /// Before a place is looked at once more: bytes that changed stay with the
    /// body that lay there, which may be moved before that look.
    pub(super) fn keep_bytes(&mut self, now: Now, wait: Duration, look: Looking) -> Dirt {
        let dirt = look.dirt;
        let Some(id) = look.bodies.first().filter(|_| dirt.bytes || dirt.whole) else {
            return dirt;
        };
        let compare = dirt.compare || dirt.whole;
        let none = RangeSet::new();
        let rest = Dirt {
            compare,
            bytes: false,
            whole: false,
            mapped: false,
            ranges: none,
            ..dirt.clone()
        };
        let bytes =
            Dirt { entry: false, compare: false, list: false, came: false, gone: 0, ..dirt };
        self.settle.look_after(now.monotonic, wait, Spot::Body(*id), bytes);
        rest
    }

    fn look_later(&mut self, now: Now, wait: Duration, path: &RelPath, dirt: Dirt) {
        if !dirt.is_empty() {
            self.settle.look_after(now.monotonic, wait, Spot::Path(path.clone()), dirt);
        }
    }

    /// Bytes that changed belong to the body and not to the place it was
    /// looked for at: if it moved away before the look, they are still unread.
    fn hand_on_bytes(&mut self, now: Now, path: &RelPath, lay: (BodyId, u64), dirt: Dirt) {
        let (id, inode) = lay;
        let is_dirty = dirt.bytes || dirt.whole;
        match self.store.body(id).and_then(|row| row.disk) {
            Some(disk) if is_dirty && !disk.names.contains(path) => {
                self.settle.look(now.monotonic, Spot::Body(id), dirt);
            }
            Some(_) => {}
            // Its inode is another body's by now.
            None => {
                if let Some(heir) = self.store.body_of_inode(inode).filter(|heir| *heir != id) {
                    if is_dirty {
                        self.settle.look(now.monotonic, Spot::Body(heir), dirt);
                    }
                    self.settle.pass_on(now.monotonic, &Spot::Body(id), Spot::Body(heir));
                }
            }
        }
    }

    /// The body whose inode this is.
    pub(super) fn known_as(&self, stat: &Stat) -> Option<(BodyId, BodyRow)> {
        let id = self.store.body_of_inode(stat.fingerprint.inode)?;
        let row = self.store.body(id)?;
        (lies_in(&row, stat) && row.kind() == stat.kind).then_some((id, row))
    }

    fn saw_entry(&mut self, now: Now, path: &RelPath, stat: Stat, sighted: Sighted, look: Looking) {
        if self.displaces_directory(path, stat.kind) {
            // The directory may have been moved, and be met elsewhere.
            if look.dirt.gone == 0 || self.may_be_moving(&look) {
                return self.look_for_move(now, path, look);
            }
            self.saw_nothing(now, path);
        }
        let known = self.known_as(&stat);
        // Which directory it is matters less than where it is: one made anew
        // goes on as the one that was here.
        let known = known.or_else(|| {
            let (id, row, _) = self.lying_at(path)?;
            (row.kind() == Kind::Directory && stat.kind == Kind::Directory).then_some((id, row))
        });
        if !self.parent_lies(path) {
            // Its directory was moved while this look was under way, or has
            // not been met yet: what is there is to be asked again.
            if let Some(parent) = path.parent() {
                self.settle.look(now.monotonic, Spot::Path(parent), Dirt::entry());
            }
            let dirt = self.keep_bytes(now, PARENT_WAIT, look);
            self.look_later(now, PARENT_WAIT, path, dirt);
            return;
        }
        let kind = stat.kind;
        // Another directory in its place holds other entries, and of a removal
        // in one that is gone nothing is told.
        let list = match &known {
            Some((_, row)) => look.dirt.came || !lies_in(row, &stat),
            None => look.dirt.list,
        };
        let read = match self.digest_sight(now, path, &stat, sighted, &look) {
            Ok(read) => read,
            Err(retry) => {
                let dirt = self.keep_bytes(now, retry, look);
                self.look_later(now, retry, path, dirt);
                return;
            }
        };
        let known = known.or_else(|| self.same_again(path, read.as_ref()?));
        if self.is_older(path, known.as_ref().map(|(id, _)| *id), &stat, read.as_ref()) {
            self.progress.older_files += 1;
            self.progress.note(now.wall, "replaced by an older one here", path);
        }
        // It may have been written to where nobody was told of it.
        let is_doubted = look.dirt.came && !look.dirt.whole && kind == Kind::File;
        match (known, read) {
            (Some(_), None) if is_doubted => return self.look_at_all(now, path, &look),
            (Some(known), read) => self.saw_known(now, path, known, &stat, read, look.dirt.told),
            (None, Some(read)) => self.saw_new(now, path, &stat, read),
            (None, None) => return self.look_at_all(now, path, &look),
        }
        if list && kind == Kind::Directory {
            self.scan_found(path.clone(), look.dirt.told, look.dirt.came);
        }
        self.look_where_mapped(now, &stat);
    }

    /// Was a file replaced, or written over, by one from before it? Somebody
    /// may be bringing back a backup. A file of the tree that was moved here is
    /// none.
    fn is_older(
        &self,
        path: &RelPath,
        known: Option<BodyId>,
        stat: &Stat,
        read: Option<&Read>,
    ) -> bool {
        let Some((id, row, disk)) = self.lying_at(path) else { return false };
        let is_other = |read: &Read| row.content_on_disk() != Some(&read.content);
        self.surveyed
            && (row.kind(), stat.kind) == (Kind::File, Kind::File)
            && known.is_none_or(|known| known == id)
            && stat.fingerprint.mtime < disk.fingerprint.mtime
            && read.is_some_and(is_other)
    }

    fn look_at_all(&mut self, now: Now, path: &RelPath, look: &Looking) {
        let Dirt { mapped, came, .. } = look.dirt;
        let dirt = Dirt { mapped, came, ..Dirt::whole() };
        self.settle.look(now.monotonic, Spot::Path(path.clone()), dirt);
    }

    /// Was it stored to through a mapping before anybody knew the file? It was
    /// read then, but its pages were not written back, so that the next store
    /// would go untold.
    fn look_where_mapped(&mut self, now: Now, stat: &Stat) {
        let inode = stat.fingerprint.inode;
        if let Some(id) = self.store.body_of_inode(inode)
            && let Some(dirt) = self.mapped.take(inode)
        {
            self.settle.look(now.monotonic, Spot::Body(id), dirt);
        }
    }

    /// Does something else lie where a directory lay, of which nothing is told
    /// but that?
    fn displaces_directory(&self, path: &RelPath, kind: Kind) -> bool {
        let lay = || self.lying_at(path).is_some_and(|(_, row, _)| row.kind() == Kind::Directory);
        kind != Kind::Directory && lay()
    }

    /// A file that took the place of one with the same content, as in a copied
    /// tree, goes on as that one: what others change of it lands in it.
    fn same_again(&self, path: &RelPath, read: &Read) -> Option<(BodyId, BodyRow)> {
        let (id, row, disk) = self.lying_at(path)?;
        let is_same = row.content_on_disk() == Some(&read.content) && row.kind() == Kind::File;
        (is_same && disk.names == [path.clone()]).then_some((id, row))
    }

    fn saw_known(
        &mut self,
        now: Now,
        path: &RelPath,
        (id, row): (BodyId, BodyRow),
        stat: &Stat,
        read: Option<Read>,
        told: bool,
    ) {
        let Some(disk) = row.disk.clone() else { return };
        let moved_from = match stat.kind {
            Kind::Directory if !disk.names.contains(path) => disk.names.first().cloned(),
            _ => None,
        };
        let unread = stat.kind == Kind::File && read.is_none();
        let same_bytes = disk.fingerprint.same_bytes(&stat.fingerprint);
        let same_size = disk.fingerprint.size == stat.fingerprint.size;
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
            self.update_body(now, path, id, row, stat, read);
        }
        if let Some(from) = moved_from {
            self.move_together(now, &[(from, path.clone())], told);
        } else if self.store.name(path).and_then(|row| row.on_disk()).map(|held| held.0) != Some(id)
        {
            // One of several links is as old as the file: found by two nodes in
            // equal trees, all its names go to one body.
            let when = if stat.links > 1 { stat.metadata.mtime.as_nanos() } else { now.wall };
            self.bind(path, id, stat.kind, when);
            self.progress.note(now.wall, "linked here", path);
        }
    }

    /// Compares a body with what was seen of it and logs what differs.
    fn update_body(
        &mut self,
        now: Now,
        path: &RelPath,
        id: BodyId,
        mut row: BodyRow,
        stat: &Stat,
        read: Option<Read>,
    ) {
        let before = row.clone();
        let when = stat.metadata.mtime.as_nanos();
        let mut dot = None;
        let mut restored = self.restored.take(path);
        if let Some(read) = read {
            let from = digest_of(row.content_on_disk());
            if row.content_on_disk() != Some(&read.content) {
                let mut seen = match restored {
                    true => VersionVector::new(),
                    false => row.content_seen().clone(),
                };
                if row.content.winner().value != read.content {
                    let written = self.next_dot();
                    dot = Some(written);
                    let lay = row.content_on_disk().cloned();
                    let is_shown = |content: &Content| Some(content) == lay.as_ref();
                    row.content.write(&seen, is_shown, written, when, read.content.clone());
                    seen.advance(written);
                    self.remember_patch(id, from, &read);
                    self.progress.note(now.wall, "changed here", path);
                }
                let content = held(&row.content, read.content, seen);
                if let Some(disk) = &mut row.disk {
                    disk.content = content;
                }
                self.store.put_leaves(id, read.leaves);
            } else {
                // Not a backup's, but somebody who set its time.
                restored = false;
            }
        }
        if row.metadata_on_disk() != Some(&stat.metadata) {
            let mut seen = match restored {
                true => VersionVector::new(),
                false => row.metadata_seen().clone(),
            };
            if row.metadata.winner().value != stat.metadata {
                let written = dot.unwrap_or_else(|| self.next_dot());
                dot = Some(written);
                // When it was, and not when a start found it, or a backup was
                // brought back.
                let when = if restored { when } else { stat.fingerprint.ctime.as_nanos() };
                row.metadata.write(&seen, |_| true, written, when, stat.metadata.clone());
                seen.advance(written);
            }
            let metadata = held(&row.metadata, stat.metadata.clone(), seen);
            if let Some(disk) = &mut row.disk {
                disk.metadata = metadata;
            }
        }
        if let Some(disk) = &mut row.disk {
            disk.fingerprint = stat.fingerprint;
        }
        row.stamp = dot.unwrap_or(row.stamp);
        if row != before {
            let deleted_elsewhere = row.bound.is_empty() && row.grave.is_some();
            // Where it is to give way to another file, it may be the later one
            // from now on.
            let names = row.disk.iter().flat_map(|disk| &disk.names);
            let contested: Vec<Key> =
                names.filter(|at| !row.bound.contains(at)).cloned().map(Key::Name).collect();
            self.put_body(id, row);
            if dot.is_some() {
                self.unchecked.extend(contested);
                self.unchecked.extend(deleted_elsewhere.then_some(Key::Body(id)));
            }
        }
    }

    fn saw_new(&mut self, now: Now, path: &RelPath, stat: &Stat, read: Read) {
        if self.adopt(path, stat, &read) {
            return;
        }
        let when = stat.metadata.mtime.as_nanos();
        let id = self.next_body();
        let dot = self.next_dot();
        self.remember_patch(id, None, &read);
        let row = BodyRow {
            stamp: dot,
            content: Register::new(dot, when, read.content),
            metadata: Register::new(dot, when, stat.metadata.clone()),
            bound: Vec::new(),
            grave: None,
            disk: Some(Disk {
                fingerprint: stat.fingerprint,
                names: Vec::new(),
                content: Held::Winner,
                metadata: Held::Winner,
            }),
        };
        self.store.put_leaves(id, read.leaves);
        self.put_body(id, row);
        match self.restored.take(path) {
            true => self.bind_beside(path, id, stat.kind, when),
            false => self.bind(path, id, stat.kind, when),
        }
        self.progress.note(now.wall, "created here", path);
    }

    /// What was found is what the tree is to show here anyway: the node was
    /// seeded, or died between applying and remembering it. Its metadata is
    /// taken from the record.
    pub(super) fn adopt(&mut self, path: &RelPath, stat: &Stat, read: &Read) -> bool {
        let Some(name) = self.store.name(path) else {
            return false;
        };
        let Some((id, _)) = name.wanted() else {
            return false;
        };
        let Some(mut row) = self.store.body(id) else {
            return false;
        };
        if let Some(disk) = &row.disk {
            let is_link = disk.fingerprint.is_inode(&stat.fingerprint);
            if is_link {
                self.set_on_disk(path, Some((id, stat.kind)), &VersionVector::new());
            }
            return is_link;
        }
        if row.content.winner().value != read.content {
            return false;
        }
        let metadata = held(&row.metadata, stat.metadata.clone(), VersionVector::new());
        row.disk = Some(Disk {
            fingerprint: stat.fingerprint,
            names: Vec::new(),
            content: Held::Winner,
            metadata,
        });
        self.store.put_leaves(id, read.leaves.clone());
        self.put_body(id, row);
        self.set_on_disk(path, Some((id, stat.kind)), &VersionVector::new());
        true
    }

    /// Logs that a path leads to a body now.
    pub(super) fn bind(&mut self, path: &RelPath, id: BodyId, kind: Kind, when: i64) {
        let former = self.store.name(path);
        let over = former.as_ref().and_then(|row| match row.on_disk() {
            Some((body, _)) => {
                let seen = self.store.body(body).map(|row| row.content_seen().clone());
                Some(Replaced { body, seen: seen.unwrap_or_default() })
            }
            // What was deleted here has not come back for all that.
            None => match &row.binding.winner().value {
                Binding::Gone { was, .. } => Some(was.clone()),
                Binding::Bound { .. } => None,
            },
        });
        let dot = self.next_dot();
        let binding = Binding::Bound { body: id, kind, over };
        let row = write_name(former.as_ref(), dot, when, binding, Some((id, kind)));
        self.put_name(path, former.as_ref(), row);
        // It may have taken the place of a directory that is not empty.
        let may_displace = former.is_some() && kind != Kind::Directory;
        if may_displace || self.is_in_what_goes(path) {
            self.unchecked.insert(Key::Name(path.clone()));
        }
    }

    /// Is its directory still here, and deleted elsewhere? By now this node may
    /// be the only one that remembers.
    fn is_in_what_goes(&self, path: &RelPath) -> bool {
        let parent = path.parent().and_then(|parent| self.store.name(&parent));
        parent.is_some_and(|row| row.wanted().is_none_or(|(_, kind)| kind != Kind::Directory))
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
    fn may_have_changed(&mut self, now: Now, (body, kind): (BodyId, Kind)) {
        if kind != Kind::Directory && self.place_of(&Spot::Body(body)).is_some() {
            self.settle.touch(now.monotonic, Spot::Body(body), Dirt::entry());
        }
    }

    /// Logs that what lay at a path is there no more.
    pub(super) fn vanish(&mut self, now: Now, path: &RelPath) {
        let Some(former) = self.store.name(path) else {
            return;
        };
        let Some((body, kind)) = former.on_disk() else {
            return;
        };
        if former.wanted().is_none() {
            self.set_on_disk(path, None, former.seen());
            return;
        }
        let row = self.store.body(body);
        let names = row.as_ref().and_then(|row| row.disk.as_ref()).map_or(0, |d| d.names.len());
        let seen = row.map(|row| row.content_seen().clone()).unwrap_or_default();
        let was = Replaced { body, seen };
        let dot = self.next_dot();
        let binding = Binding::Gone { was, kind, moved: names > 1 };
        let row = write_name(Some(&former), dot, now.wall, binding, None);
        self.put_name(path, Some(&former), row);
        self.unchecked.insert(Key::Name(path.clone()));
        self.progress.note(now.wall, if names > 1 { "moved here" } else { "deleted here" }, path);
    }
}

pub(super) fn digest_of(content: Option<&Content>) -> Option<Digest> {
    match content {
        Some(Content::File { digest, .. }) => Some(*digest),
        _ => None,
    }
}

/// A name's row after this node wrote it.
pub(super) fn write_name(
    former: Option<&NameRow>,
    dot: super::version::Dot,
    when: i64,
    binding: Binding,
    on_disk: Option<(BodyId, Kind)>,
) -> NameRow {
    let mut seen = former.map(|row| row.seen().clone()).unwrap_or_default();
    let register = match former {
        Some(row) => {
            let mut register = row.binding.clone();
            let lay = row.on_disk();
            register.write(&seen, |binding| binding.body() == lay, dot, when, binding);
            register
        }
        None => Register::new(dot, when, binding),
    };
    seen.advance(dot);
    let held = match register.winner().value.body() == on_disk {
        true => Held::Winner,
        false => Held::Behind { value: on_disk, seen },
    };
    NameRow { stamp: dot, binding: register, held }
}

/// Is this the inode that the body lies in?
fn lies_in(row: &BodyRow, stat: &Stat) -> bool {
    row.disk.as_ref().is_some_and(|disk| disk.fingerprint.is_inode(&stat.fingerprint))
}

/// How deep to look for what may have changed.
fn depth(dirt: &Dirt, known: bool, ranges_told: bool) -> Depth {
    if dirt.whole || (dirt.came && known) {
        Depth::Whole
    } else if dirt.compare {
        Depth::Changed
    } else if dirt.bytes && !ranges_told {
        Depth::Whole
    } else if known && dirt.bytes {
        Depth::Ranges(dirt.ranges.clone())
    } else if ranges_told {
        Depth::Metadata
    } else {
        Depth::Changed
    }
}
