//! What a look found to be different, written to the log.
//!
//! Each difference is one change with a number of its own. It is written in
//! knowledge of what this disk showed, and of nothing it did not show: that
//! makes a conflict of what others did meanwhile.

use std::sync::Arc;

use super::core::Core;
use super::effect::Now;
use super::read::Read;
use super::record::{Binding, BodyRow, Burial, Content, Disk, Held, Key, NameRow, Paths, Replaced};
use super::register::Register;
use super::store::Store;
use super::tree::{Lying, held, held_binding, lacking};
use super::version::VersionVector;
use crate::entry::{Kind, Stat};
use crate::id::BodyId;
use crate::path::RelPath;

impl<S: Store> Core<S> {
    /// Compares a body with what was seen of it and logs what differs.
    pub(super) fn update_body(
        &mut self,
        now: Now,
        path: &RelPath,
        known: &Lying,
        stat: &Stat,
        read: Option<Read>,
    ) {
        if self.is_behind(path, known, stat.kind, &stat.fingerprint) {
            return self.lies_behind(now, path, known, stat, read);
        }
        let (id, before) = (known.id, known.row());
        let mut row = BodyRow::clone(before);
        let when = self.when_written(path, stat);
        let mut dot = None;
        let mut restored =
            self.restored.take(path) || self.is_in_doubt(path, stat, || Some(known.clone()));
        if let Some(read) = read {
            let from = row.content_on_disk().and_then(Content::digest);
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
                self.put_leaves(id, read.leaves);
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
        if row != **before {
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

    pub(super) fn saw_new(&mut self, now: Now, path: &RelPath, stat: &Stat, read: Read) {
        self.give_back_inode(now, path, stat);
        if self.adopt(path, stat, &read) {
            return;
        }
        let when = self.when_written(path, stat);
        let id = self.next_body();
        let dot = self.next_dot();
        self.remember_patch(id, None, &read);
        let row = BodyRow {
            stamp: dot,
            content: Register::new(dot, when, read.content),
            metadata: Register::new(dot, when, stat.metadata.clone()),
            bound: Paths::new(),
            grave: None,
            disk: Some(Disk {
                fingerprint: stat.fingerprint,
                names: Paths::new(),
                content: Held::Winner,
                metadata: Held::Winner,
            }),
        };
        self.put_leaves(id, read.leaves);
        self.put_body(id, row);
        let is_in_doubt = self.is_in_doubt(path, stat, || self.lying_at(path));
        match self.restored.take(path) || is_in_doubt {
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
        let Some(row) = self.store.body(id) else {
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
        let disk = Disk {
            fingerprint: stat.fingerprint,
            names: Paths::new(),
            content: Held::Winner,
            metadata,
        };
        self.put_leaves(id, read.leaves.clone());
        self.put_body(id, BodyRow { disk: Some(disk), ..Arc::unwrap_or_clone(row) });
        self.set_on_disk(path, Some((id, stat.kind)), &VersionVector::new());
        true
    }

    /// Logs that a path leads to a body now.
    pub(super) fn bind(&mut self, path: &RelPath, id: BodyId, kind: Kind, when: i64) {
        let former = self.store.name(path);
        if let Some(row) = former.as_ref().filter(|_| kind != Kind::Directory)
            && let Some(place) = self.goes_back(path, row)
        {
            self.bind(&place, id, kind, when);
            self.set_on_disk(path, Some((id, kind)), row.seen());
            self.set_on_disk(&place, None, row.seen());
            return;
        }
        let over = former.as_ref().and_then(|row| match row.on_disk() {
            Some((body, _)) => Some(self.taken_from(body)),
            // What was deleted here has not come back for all that.
            None => match &row.binding.winner().value {
                Binding::Gone { was, .. } => Some(was.clone()),
                Binding::Bound { .. } => None,
            },
        });
        let dot = self.next_dot();
        let binding = Binding::Bound { body: id, kind, over };
        let row = write_name(former.as_deref(), dot, when, binding, Some((id, kind)));
        self.put_name(path, former.as_deref(), row);
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

    /// Logs that what lay at a path is there no more, and notes it for people.
    pub(super) fn vanish(&mut self, now: Now, path: &RelPath) {
        if let Some(was) = self.take_away(now, path) {
            let what = if was.moved { "moved away" } else { "deleted here" };
            self.progress.note(now.wall, what, path);
        }
    }

    /// Logs it, and gives what it took the name from; `None` where the tree was
    /// to show nothing there anyway.
    pub(super) fn take_away(&mut self, now: Now, path: &RelPath) -> Option<Replaced> {
        let former = self.store.name(path)?;
        let (body, kind) = former.on_disk()?;
        if let Some(place) = self.goes_back(path, &former) {
            return self.take_away(now, &place);
        }
        let was = self.taken_from(body);
        if former.wanted().is_none() && !self.deletes_more(path, &was) {
            self.set_on_disk(path, None, former.seen());
            return None;
        }
        let dot = self.next_dot();
        let binding = Binding::Gone { was: was.clone(), kind };
        let row = write_name(Some(&former), dot, now.wall, binding, None);
        self.put_name(path, Some(&former), row);
        self.unchecked.insert(Key::Name(path.clone()));
        Some(was)
    }

    /// A directory that was moved elsewhere took along what is to go back to its
    /// place. What a user does with it on that way is done to it there: for the
    /// index it is back. Not where another user renamed it from here.
    fn goes_back(&mut self, path: &RelPath, row: &NameRow) -> Option<RelPath> {
        let lies = row.on_disk().filter(|_| row.is_pending() && !row.seen().is_empty())?;
        let was = row.binding.winner().value.replaced().filter(|was| was.body == lies.0);
        if was.is_some_and(|was| !was.seen.is_empty()) {
            return None;
        }
        let body = self.store.body(lies.0)?;
        // The move left both places in knowledge of the same changes: those of the
        // directory's new name.
        let took_along = |there: &NameRow| there.on_disk().is_none() && there.seen() == row.seen();
        let mut places = lacking(&body.bound, &body.disk.as_ref()?.names);
        let place =
            places.find(|at| self.store.name(at).is_some_and(|there| took_along(&there)))?;
        self.set_on_disk(place, Some(lies), &VersionVector::new());
        self.set_on_disk(path, None, row.seen());
        Some(place.clone())
    }

    /// Another user took this name away, too, and left the file others. Who takes
    /// the last one here deletes it, unless a user gave it one since.
    fn deletes_more(&self, path: &RelPath, was: &Replaced) -> bool {
        let Some(body) = self.store.body(was.body) else { return false };
        let is_left =
            matches!(self.burial_at(was.body, &body, path), Some(Burial::Moved | Burial::Spared));
        !was.moved && is_left && self.is_bound_by_nodes(&body)
    }

    /// A body is about to lose one of the names that it has on this disk.
    fn taken_from(&self, body: BodyId) -> Replaced {
        let row = self.store.body(body);
        let names = row.as_ref().and_then(|row| row.disk.as_ref()).map_or(0, |d| d.names.len());
        let seen = row.map(|row| row.content_seen().clone()).unwrap_or_default();
        Replaced { body, seen, moved: names > 1 }
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
    let held = held_binding(&register, on_disk, seen);
    NameRow { stamp: dot, binding: register, held }
}
