//! What changed elsewhere: records are merged, and the tree they describe is
//! kept whole.
//!
//! A merge only ever adds knowledge. What follows from it for the disk is
//! planned afterwards; what it means for names that hang in the air is
//! decided when a peer says that its records are complete.
//!
//! Several nodes that merge the same make the same state, each under a stamp of
//! its own. Who hears of both keeps the higher one. Else a peer could be told
//! of the state by nobody: one node leaves it to the author of the one stamp
//! and says that it told all of the other's log, another the other way round.

use super::core::Core;
use super::effect::Now;
use super::message::Records;
use super::record::{
    Binding, BodyRecord, BodyRow, Burial, Content, Held, Key, NameRecord, NameRow, Paths, Replaced,
};
use super::register::{Register, Sibling};
use super::settle::{Dirt, Spot};
use super::store::Store;
use super::tree::{held, held_at};
use super::version::{Dot, VersionVector};
use crate::entry::Kind;
use crate::id::{BodyId, NodeId};
use crate::path::RelPath;

impl<S: Store> Core<S> {
    pub(super) fn merge(&mut self, records: Records) {
        for patch in records.patches {
            if let Some(from) = patch.from {
                self.history.insert(patch.body, from, patch.to, patch.delta());
            }
            self.patches.insert(patch);
        }
        records.bodies.into_iter().for_each(|record| self.merge_body(record));
        records.names.into_iter().for_each(|record| self.merge_name(record));
    }

    /// The peer has sent all it has; its logs are held here up to this.
    pub(super) fn logs_complete(&mut self, now: Now, from: NodeId, claim: VersionVector) {
        let have = self.store.have();
        let news: Vec<Dot> = claim.iter().filter(|dot| !have.contains(*dot)).collect();
        if !news.is_empty() {
            self.advance_have(&news, Some(from));
            self.have_changed.get_or_insert(now.monotonic);
        }
        self.heard_claim(from, &claim);
    }

    pub(super) fn merge_body(&mut self, record: BodyRecord) {
        let id = record.id;
        let Some(before) = self.store.body(id) else {
            // A late copy of what was forgotten since.
            if !self.orphans.contains_key(&id) && self.store.have().contains(record.stamp) {
                return;
            }
            let bound = self.orphans.remove(&id).unwrap_or_default();
            self.adopted |= !bound.is_empty();
            let mut row = BodyRow {
                stamp: record.stamp,
                content: record.content,
                metadata: record.metadata,
                bound: Paths::new(),
                grave: None,
                disk: None,
            };
            for path in bound {
                let wants = self.store.name(&path).and_then(|name| name.wanted());
                if wants.is_some_and(|(body, _)| body == id) {
                    super::tree::insert_path(&mut row.bound, &path);
                    self.unchecked.insert(Key::Name(path.clone()));
                    self.pending_names.insert(path);
                }
            }
            self.put_body(id, row);
            return;
        };
        let mut row = BodyRow::clone(&before);
        // What lies on the disk stays what it is when the winner changes.
        let content_seen = row.content_seen().clone();
        let metadata_seen = row.metadata_seen().clone();
        let on_disk = row.content_on_disk().cloned().zip(row.metadata_on_disk().cloned());
        row.content.merge(&record.content);
        row.metadata.merge(&record.metadata);
        let theirs = row.content == record.content && row.metadata == record.metadata;
        if row.content == before.content && row.metadata == before.metadata {
            if theirs && record.stamp > row.stamp {
                row.stamp = record.stamp;
                self.put_body(id, row);
            }
            return;
        }
        if let (Some(disk), Some((content, metadata))) = (&mut row.disk, on_disk) {
            disk.content = held(&row.content, content, content_seen);
            disk.metadata = held(&row.metadata, metadata, metadata_seen);
        }
        row.stamp = if theirs { record.stamp } else { self.next_dot() };
        self.stand_in(id, &mut row);
        // Or another file of its names may be the one that was changed last.
        let (winner, former) = (row.content.winner(), before.content.winner());
        let is_found = former.value.is_lost();
        let gives_way = winner.value.is_lost() || is_found || winner.when < former.when;
        let deleted = row.bound.is_empty() && row.grave.is_some();
        let bound = row.bound.clone();
        // Of several contents who deleted it there may have known some.
        let grave = row.grave.clone().filter(|_| row.content.losers().next().is_some());
        self.put_body(id, row);
        self.unchecked.extend(grave.map(Key::Name));
        if deleted {
            self.unchecked.insert(Key::Body(id));
        }
        self.retries.remove(&Spot::Body(id));
        for path in bound {
            self.retries.remove(&Spot::Path(path.clone()));
            if gives_way {
                self.unchecked.insert(Key::Name(path));
            }
        }
    }

    pub(super) fn merge_name(&mut self, record: NameRecord) {
        let path = record.path.clone();
        let former = self.store.name(&path);
        let row = match &former {
            // A late copy of what was forgotten since.
            None if self.store.have().contains(record.stamp) => return,
            None => {
                let held = match record.binding.winner().value.body() {
                    None => Held::Winner,
                    Some(_) => Held::Behind { value: None, seen: VersionVector::new() },
                };
                NameRow { stamp: record.stamp, binding: record.binding, held }
            }
            Some(former) => {
                let mut binding = former.binding.clone();
                binding.merge(&record.binding);
                let theirs = binding == record.binding;
                if binding == former.binding {
                    if theirs && record.stamp > former.stamp {
                        let row = NameRow { stamp: record.stamp, ..NameRow::clone(former) };
                        self.put_name(&path, Some(former), row);
                    }
                    return;
                }
                let stamp = if theirs { record.stamp } else { self.next_dot() };
                let held = held_at(former, &binding);
                NameRow { stamp, binding, held }
            }
        };
        self.put_name(&path, former.as_deref(), row);
        self.retries.remove(&Spot::Path(path.clone()));
        self.unchecked.insert(Key::Name(path));
    }

    /// Mends what concurrent changes left hanging: a child without its
    /// directory, an edit of something deleted.
    pub(super) fn check_tree(&mut self, now: Now) {
        self.give_up_heard();
        // In the middle of a series a parent may seem to be missing.
        if self.unchecked.is_empty() || !self.mid_series.is_empty() {
            return;
        }
        let mut keys: Vec<Key> = std::mem::take(&mut self.unchecked).into_iter().collect();
        keys.sort_by(|a, b| match (a, b) {
            (Key::Name(a), Key::Name(b)) => b.cmp(a),
            (Key::Name(_), Key::Body(_)) => std::cmp::Ordering::Greater,
            (Key::Body(_), Key::Name(_)) => std::cmp::Ordering::Less,
            (Key::Body(a), Key::Body(b)) => a.cmp(b),
        });
        for key in keys {
            match key {
                Key::Body(id) => self.revive(now, id),
                Key::Name(path) => self.check_name(now, &path),
            }
        }
    }

    /// Could this name be one that a check would mend? The last life may have
    /// ended before it checked what had come.
    pub(super) fn is_to_be_checked(&self, row: &NameRow, has_directory: bool) -> bool {
        let hangs = match &row.binding.winner().value {
            Binding::Bound { .. } => !has_directory || self.deletion_of(row).is_some(),
            // A file that was changed, which its deletion did not know of.
            Binding::Gone { was, .. } => self
                .store
                .body(was.body)
                .is_some_and(|body| body.bound.is_empty() && body.outlives(was.body, &row.binding)),
        };
        hangs || row.is_pending() || row.binding.losers().next().is_some()
    }

    pub(super) fn is_to_be_directory(&self, path: &RelPath) -> bool {
        let wanted = self.store.name(path).and_then(|row| row.wanted());
        wanted.is_some_and(|(_, kind)| kind == Kind::Directory)
    }

    fn check_name(&mut self, now: Now, path: &RelPath) {
        let Some(row) = self.store.name(path) else {
            return;
        };
        if self.may_be_own(path) {
            // It may be what the others have by now.
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::whole());
        }
        let is_directory = row.wanted().is_some_and(|(_, kind)| kind == Kind::Directory);
        if !is_directory && self.any_below(path, |below| below.wanted().is_some()) {
            self.keep_directory(now, path);
            self.keep_parents(now, path);
            return;
        }
        if self.is_given_to_another(path, &row) {
            return;
        }
        match &row.binding.winner().value {
            Binding::Bound { .. } if self.stays_deleted(path, &row) => {}
            Binding::Bound { body, .. } => {
                if let Some((id, kind)) = self.latest_of(&row) {
                    self.rebind(now, path, id, kind);
                    self.keep_parents(now, path);
                } else if self.waits_to_give_up(path, *body) {
                    // Its directory, too, is needed only if it comes back.
                } else if !self.gave_up(now, path, *body) {
                    self.keep_parents(now, path);
                } else if let Some(row) = self.store.name(path) {
                    // At once: the older file would be taken away next.
                    self.fell_back(now, path, &row);
                }
            }
            Binding::Gone { was, .. } => {
                if !self.fell_back(now, path, &row) {
                    self.revive(now, was.body);
                }
            }
        }
        self.let_go(now, &row);
    }

    /// What somebody deleted here may have been bound again elsewhere, or be the
    /// later one of two contents.
    fn let_go(&mut self, now: Now, row: &NameRow) {
        for was in row.binding.values().filter_map(Binding::deleted) {
            self.show_what_was_not_deleted(now, was);
            let bound = self.store.body(was.body).map(|body| body.bound.clone());
            for path in bound.unwrap_or_default() {
                if let Some(name) = self.store.name(&path) {
                    self.stays_deleted(&path, &name);
                }
            }
        }
    }

    /// Who deleted one of several contents that were written at the same time did
    /// not delete the others: they are what is left of the file. Each node speaks
    /// for the one that lies here; else it could be one that nobody has any more.
    fn show_what_was_not_deleted(&mut self, now: Now, was: &Replaced) {
        let is_deleted = |one: &Sibling<Content>| was.seen.contains(one.dot);
        let is_left = |one: &Sibling<Content>| !is_deleted(one) && !one.value.is_lost();
        let Some(before) = self.store.body(was.body) else { return };
        let Some(lies) = before.content_on_disk().filter(|_| !self.locks.holds(was.body)) else {
            return;
        };
        let mut left = before.content.siblings().iter().filter(|one| is_left(one));
        if !is_deleted(before.content.winner()) || !left.any(|one| one.value == *lies) {
            return;
        }
        let mut row = BodyRow::clone(&before);
        row.content.discard(is_deleted);
        if let Some(disk) = &mut row.disk {
            disk.content = held(&row.content, lies.clone(), before.content_seen().clone());
        }
        row.stamp = self.next_dot();
        self.put_body(was.body, row);
        self.retries.remove(&Spot::Body(was.body));
        self.revive(now, was.body);
        self.unchecked.extend(before.bound.iter().cloned().map(Key::Name));
    }

    /// Files that came to one name on several nodes: the one that was changed
    /// last is shown, not the one that got its name last. `None` where it is
    /// shown already. Each node speaks for the file that lies here, as it lies
    /// here: who has none of them must not choose one that lies nowhere any more,
    /// and what is written elsewhere to one that others show no more at this
    /// name is no reason to show it there again.
    fn latest_of(&self, row: &NameRow) -> Option<(BodyId, Kind)> {
        let file = |(id, _)| self.store.body(id).filter(|body| body.kind() == Kind::File);
        let (lies, wanted) = (row.on_disk()?, row.wanted()?);
        if lies == wanted || !row.binding.losers().any(|loser| loser.value.body() == Some(lies)) {
            return None;
        }
        let (lying, shown) = (file(lies)?, file(wanted)?);
        (lying.written_on_disk()? > shown.content.winner().when).then_some(lies)
    }

    /// Takes a name away again that a node gave to what is deleted. True where
    /// that was so.
    fn stays_deleted(&mut self, path: &RelPath, row: &NameRow) -> bool {
        let Some((id, kind)) = row.wanted() else { return false };
        let Some(was) = self.deletion_of(row) else { return false };
        let when = row.binding.winner().when;
        let dot = self.next_dot();
        let mut binding = row.binding.clone();
        let is_it = |binding: &Binding| binding.body().is_some_and(|(body, _)| body == id);
        let gone = Binding::Gone { was, kind };
        binding.replace(|one| is_it(&one.value), |_| true, dot, when, gone);
        let held = held_at(row, &binding);
        self.put_name(path, Some(row), NameRow { stamp: dot, binding, held });
        self.unchecked.insert(Key::Name(path.clone()));
        true
    }

    /// The same of who gave its name to another in such knowledge. True where that
    /// was so.
    fn is_given_to_another(&mut self, path: &RelPath, row: &NameRow) -> bool {
        let values = || row.binding.values();
        let is_taken_from = |(id, kind): &(BodyId, Kind)| {
            let is_other = |value: &&Binding| value.body().is_some_and(|(body, _)| body != *id);
            let body = self.store.body(*id).filter(|_| *kind != Kind::Directory);
            body.is_some_and(|body| {
                values().filter(is_other).any(|value| body.is_known_to(*id, value))
            })
        };
        let mut again = values().filter(|value| value.is_bound_again()).filter_map(Binding::body);
        let Some((id, _)) = again.find(is_taken_from) else { return false };
        let mut binding = row.binding.clone();
        let is_it = |value: &Binding| value.body().is_some_and(|(body, _)| body == id);
        binding.discard(|one| one.value.is_bound_again() && is_it(&one.value));
        let held = held_at(row, &binding);
        let stamp = self.next_dot();
        self.put_name(path, Some(row), NameRow { stamp, binding, held });
        self.unchecked.insert(Key::Name(path.clone()));
        true
    }

    /// That a node bound a file again is nobody's change: who deleted it in
    /// knowledge of all that it contains has deleted it, were it under another
    /// name, unless a user gave it one since.
    fn deletion_of(&self, row: &NameRow) -> Option<Replaced> {
        let winner = &row.binding.winner().value;
        let (id, kind) = winner.body().filter(|_| winner.is_bound_again())?;
        let body = self.store.body(id).filter(|_| kind != Kind::Directory)?;
        let elsewhere = || {
            let grave = body.grave.as_ref().filter(|_| self.is_bound_by_nodes(&body))?;
            body.deletion_in(id, &self.store.name(grave)?.binding).cloned()
        };
        body.deletion_in(id, &row.binding).cloned().or_else(elsewhere)
    }

    /// Has it no names but those that a node gave it?
    pub(super) fn is_bound_by_nodes(&self, body: &BodyRow) -> bool {
        let mut names = body.bound.iter().map(|path| self.store.name(path));
        names.all(|name| name.is_some_and(|name| name.binding.winner().value.is_bound_again()))
    }

    /// A change beats a concurrent deletion: a body whose content was changed
    /// in a way none of its deletions had seen comes back.
    fn revive(&mut self, now: Now, id: BodyId) {
        let Some(body) = self.store.body(id).filter(|body| body.bound.is_empty()) else {
            return;
        };
        let grave = self.place_to_revive(id, &body).filter(|_| body.kind() != Kind::Directory);
        let Some((grave, name)) =
            grave.and_then(|grave| Some((grave.clone(), self.store.name(grave)?)))
        else {
            return;
        };
        if body.outlives(id, &name.binding) {
            // Should that change be lost, what was deleted here stays so.
            self.bind_again(now, &grave, id, body.kind(), |binding| binding.deleted().is_none());
        }
    }

    /// Where a body without names is to come back, should it have to. Of a name
    /// that somebody took from it who left it another nothing tells that it was not
    /// renamed, and deleted under its new name; unless another lost that to
    /// somebody who knew all of it, and left it this one.
    fn place_to_revive<'a>(&self, id: BodyId, body: &'a BodyRow) -> Option<&'a RelPath> {
        let grave = body.grave.as_ref()?;
        match self.burial_at(id, body, grave)? {
            Burial::Deleted | Burial::Meant => Some(grave),
            Burial::Spared => {
                let names = &body.disk.as_ref()?.names;
                names.iter().find(|path| self.burial_at(id, body, path) == Some(Burial::Moved))
            }
            Burial::Moved => None,
        }
    }

    /// A child needs its directory: every directory above comes back if it
    /// has gone, and takes the place of a file if one took its place.
    fn keep_parents(&mut self, now: Now, path: &RelPath) {
        let mut above = path.parent();
        while let Some(parent) = above.filter(|parent| !parent.is_root()) {
            let wanted = self.store.name(&parent).and_then(|row| row.wanted());
            match wanted {
                Some((_, Kind::Directory)) => return,
                // Not heard of yet: its record is on its way.
                None if self.store.name(&parent).is_none() => return,
                _ => self.keep_directory(now, &parent),
            }
            above = parent.parent();
        }
    }

    fn keep_directory(&mut self, now: Now, path: &RelPath) {
        let Some(name) = self.store.name(path) else {
            return;
        };
        let former = name.binding.winner().value.replaced().map(|replaced| replaced.body);
        let former = former.and_then(|id| Some((id, self.store.body(id)?)));
        let former = former.filter(|(_, body)| body.kind() == Kind::Directory);
        if let Some((id, body)) = &former
            && body.bound.is_empty()
        {
            self.rebind(now, path, *id, Kind::Directory);
            return;
        }
        // It was moved elsewhere, or there never was one here: what the child
        // needs is another directory.
        let root = || self.store.name(&RelPath::root())?.wanted();
        let template = former.map(|(_, body)| body).or_else(|| self.store.body(root()?.0));
        if let Some(template) = template {
            self.bind_fresh_directory(now, path, &template);
        }
    }

    /// Binds a name to a directory of its own that looks like another.
    pub(super) fn bind_fresh_directory(&mut self, now: Now, path: &RelPath, like: &BodyRow) {
        let metadata = like.metadata.winner().value.clone();
        let fresh = self.next_body();
        let dot = self.next_dot();
        let row = BodyRow {
            stamp: dot,
            content: Register::new(dot, now.wall, Content::Directory),
            metadata: Register::new(dot, now.wall, metadata),
            bound: Paths::new(),
            grave: None,
            disk: None,
        };
        self.put_body(fresh, row);
        self.rebind(now, path, fresh, Kind::Directory);
    }

    /// Binds a name in full knowledge of its register, whatever the disk
    /// shows.
    pub(super) fn rebind(&mut self, now: Now, path: &RelPath, id: BodyId, kind: Kind) {
        self.bind_again(now, path, id, kind, |_| true);
    }

    fn bind_again(
        &mut self,
        now: Now,
        path: &RelPath,
        id: BodyId,
        kind: Kind,
        gives_way: impl Fn(&Binding) -> bool,
    ) {
        let Some(former) = self.store.name(path) else {
            return;
        };
        let dot = self.next_dot();
        let mut binding = former.binding.clone();
        // Nobody meant to delete what gives way.
        let over = Some(Replaced { body: id, seen: VersionVector::new(), moved: false });
        let stays = |binding: &Binding| binding.body().is_some_and(|(body, _)| body == id);
        let bound = Binding::Bound { body: id, kind, over };
        binding.replace(|one| gives_way(&one.value), stays, dot, now.wall, bound);
        let held = held_at(&former, &binding);
        self.put_name(path, Some(&former), NameRow { stamp: dot, binding, held });
        self.progress.note(now.wall, "kept, since it changed", path);
    }
}
