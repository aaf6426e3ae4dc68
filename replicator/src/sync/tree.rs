//! Keeping rows consistent with each other: the one place that writes them.
//!
//! A name's winner and the body's list of names, a name on disk and the
//! body's disk names, what is behind and the list of it: each pair changes
//! together here, whoever asks.

use std::sync::Arc;

use super::core::Core;
use super::record::{Binding, BodyRow, Burial, Disk, Held, Key, NameRow, Paths};
use super::register::{Rank, Register};
use super::store::Store;
use super::version::VersionVector;
use crate::entry::Kind;
use crate::hash::Leaves;
use crate::id::BodyId;
use crate::path::RelPath;

/// How the disk stands to a register when it shows `value`, written in
/// knowledge of `seen`.
pub(super) fn held<V: Rank + Clone + Eq>(
    register: &Register<V>,
    value: V,
    seen: VersionVector,
) -> Held<V> {
    if register.winner().value == value { Held::Winner } else { Held::Behind { value, seen } }
}

/// The same for a name.
pub(super) fn held_binding(
    register: &Register<Binding>,
    value: Option<(BodyId, Kind)>,
    seen: VersionVector,
) -> Held<Option<(BodyId, Kind)>> {
    match register.winner().value.body() == value {
        true => Held::Winner,
        false => Held::Behind { value, seen },
    }
}

/// How the disk stands to a name that was bound anew: what lies there stays.
pub(super) fn held_at(
    former: &NameRow,
    binding: &Register<Binding>,
) -> Held<Option<(BodyId, Kind)>> {
    held_binding(binding, former.on_disk(), former.seen().clone())
}

/// A body that lies on this disk.
#[derive(Clone)]
pub(super) struct Lying {
    pub id: BodyId,
    row: Arc<BodyRow>,
}

impl Lying {
    /// `None` where the row says that it does not.
    pub(super) fn of(id: BodyId, row: Arc<BodyRow>) -> Option<Self> {
        row.disk.is_some().then_some(Self { id, row })
    }

    pub(super) fn row(&self) -> &Arc<BodyRow> {
        &self.row
    }

    pub(super) fn kind(&self) -> Kind {
        self.row.kind()
    }

    pub(super) fn disk(&self) -> &Disk {
        self.row.disk.as_ref().expect("asked for when this was made")
    }
}

impl<S: Store> Core<S> {
    /// Writes a name's row. `former` is the row it replaces.
    pub(super) fn put_name(&mut self, path: &RelPath, former: Option<&NameRow>, row: NameRow) {
        let wanted_before = former.and_then(|former| former.wanted());
        let wanted = row.wanted();
        let disk_before = former.and_then(|former| former.on_disk());
        let disk = row.on_disk();
        if row.is_pending() {
            self.pending_names.insert(path.clone());
        } else {
            self.pending_names.remove(path);
        }
        let is_new = former.is_none_or(|former| former.binding != row.binding);
        let buried = if is_new { self.buried_by(&row.binding) } else { Vec::new() };
        self.sweep_again(&row);
        self.store.put_name(path, row);
        if let Some((body, _)) = wanted.filter(|_| wanted != wanted_before)
            && self.store.body(body).is_none()
        {
            self.orphans.entry(body).or_default().push(path.clone());
            self.orphaned = true;
        }
        // Each body is written once, whatever of it changes.
        let ids = [wanted_before, wanted, disk_before, disk].map(|body| body.map(|(id, _)| id));
        let mut bodies: Vec<BodyId> = ids.into_iter().flatten().collect();
        bodies.extend(&buried);
        bodies.sort();
        bodies.dedup();
        let is =
            |body: Option<(BodyId, Kind)>, id: BodyId| body.is_some_and(|(body, _)| body == id);
        for id in bodies {
            // It was deleted, and had a name yet until another took it.
            let mut unnamed = false;
            self.edit_body(id, |row| {
                match (is(wanted_before, id), is(wanted, id)) {
                    (true, false) => remove_path(&mut row.bound, path),
                    (false, true) => insert_path(&mut row.bound, path),
                    _ => {}
                }
                if buried.contains(&id) {
                    row.grave = Some(path.clone());
                }
                unnamed = is(wanted_before, id) && row.bound.is_empty() && row.grave.is_some();
                match (is(disk_before, id), is(disk, id), &mut row.disk) {
                    (true, false, _) => leave_disk(row, path),
                    (false, true, Some(disk)) => insert_path(&mut disk.names, path),
                    _ => {}
                }
            });
            if unnamed {
                self.unchecked.insert(Key::Body(id));
            }
        }
        if disk_before != disk {
            match disk {
                Some((id, _)) => self.scans_meet(path, id),
                None => self.brake.release(path),
            }
            disk_before.iter().for_each(|(_, kind)| self.progress.forget(*kind));
            disk.iter().for_each(|(_, kind)| self.progress.count(*kind));
        }
    }

    /// The bodies for which this name says most of what becomes of them without any.
    /// Also where this node never knew the name: what it knows of a body may be
    /// more than who took that.
    fn buried_by(&self, name: &Register<Binding>) -> Vec<BodyId> {
        let mut ids: Vec<BodyId> =
            name.values().filter_map(|value| Some(value.replaced()?.body)).collect();
        ids.retain(|id| {
            let Some(body) = self.store.body(*id) else { return false };
            let burial = body.burial_at(*id, name).filter(|burial| *burial != Burial::Moved);
            let before = body.grave.as_ref().and_then(|grave| self.burial_at(*id, &body, grave));
            burial.is_some() && burial >= before
        });
        ids
    }

    /// What a name says of a body that it was taken from.
    pub(super) fn burial_at(&self, id: BodyId, body: &BodyRow, path: &RelPath) -> Option<Burial> {
        body.burial_at(id, &self.store.name(path)?.binding)
    }

    /// Writes a body's row.
    pub(super) fn put_body(&mut self, id: BodyId, row: BodyRow) {
        if row.is_pending() {
            self.pending_bodies.insert(id);
        } else {
            self.pending_bodies.remove(&id);
        }
        self.sweep_body_again(&row);
        self.note_changed(id, &row);
        self.store.put_body(id, row);
    }

    /// Writes the hash list of what lies on the disk of a body.
    pub(super) fn put_leaves(&mut self, id: BodyId, leaves: Option<Leaves>) {
        self.copying.forget(id);
        self.store.put_leaves(id, leaves);
    }

    /// Changes a body's row where there is one.
    pub(super) fn edit_body(&mut self, id: BodyId, edit: impl FnOnce(&mut BodyRow)) {
        let Some(before) = self.store.body(id) else {
            return;
        };
        let mut row = BodyRow::clone(&before);
        edit(&mut row);
        if row != *before {
            if row.disk.is_none() && before.disk.is_some() {
                self.put_leaves(id, None);
            }
            self.put_body(id, row);
        }
    }

    /// The path's entry on this disk is now this body (or nothing). To be
    /// called after the body's own row says where it lies.
    pub(super) fn set_on_disk(
        &mut self,
        path: &RelPath,
        body: Option<(BodyId, Kind)>,
        seen: &VersionVector,
    ) {
        let Some(former) = self.store.name(path) else {
            return;
        };
        let held = held_binding(&former.binding, body, seen.clone());
        let row = NameRow { held, ..NameRow::clone(&former) };
        self.put_name(path, Some(&former), row);
    }

    /// All names at and below a path, in chunks so that memory stays bounded.
    pub(super) fn for_each_within(
        &mut self,
        within: &RelPath,
        mut visit: impl FnMut(&mut Self, RelPath, Arc<NameRow>),
    ) {
        const CHUNK: usize = 512;
        let mut after: Option<RelPath> = None;
        loop {
            let chunk = self.store.names_within(within, after.as_ref(), CHUNK);
            let Some((last, _)) = chunk.last() else {
                return;
            };
            after = Some(last.clone());
            let whole = chunk.len() == CHUNK;
            chunk.into_iter().for_each(|(path, row)| visit(self, path, row));
            if !whole {
                return;
            }
        }
    }

    /// Is there an entry below this directory for which `is_one` holds?
    pub(super) fn any_below(&self, path: &RelPath, is_one: impl Fn(&NameRow) -> bool) -> bool {
        const CHUNK: usize = 64;
        let mut after = Some(path.clone());
        loop {
            let chunk = self.store.names_within(path, after.as_ref(), CHUNK);
            if chunk.iter().any(|(_, row)| is_one(row)) {
                return true;
            }
            if chunk.len() < CHUNK {
                return false;
            }
            after = chunk.last().map(|(path, _)| path.clone());
        }
    }

    /// What lies at this path on this disk, with its row.
    pub(super) fn lying_at(&self, path: &RelPath) -> Option<Lying> {
        self.lying_as(self.store.name(path)?.on_disk())
    }

    /// The same, of a name that was read already.
    pub(super) fn lying_as(&self, held: Option<(BodyId, Kind)>) -> Option<Lying> {
        let (id, _) = held?;
        Lying::of(id, self.store.body(id)?)
    }
}

/// Those of one sorted list of paths that another lacks. A body has some
/// thousand names at times, so the lists are gone through once.
pub(super) fn lacking<'a>(
    paths: &'a [RelPath],
    others: &'a [RelPath],
) -> impl Iterator<Item = &'a RelPath> {
    let mut others = others.iter().peekable();
    paths.iter().filter(move |path| {
        while others.next_if(|other| other < path).is_some() {}
        others.next_if_eq(path).is_none()
    })
}

pub(super) fn insert_path(paths: &mut Paths, path: &RelPath) {
    if let Err(at) = paths.binary_search(path) {
        paths.insert(at, path.clone());
    }
}

fn remove_path(paths: &mut Paths, path: &RelPath) {
    if let Ok(at) = paths.binary_search(path) {
        paths.remove(at);
    }
}

/// The body no longer lies at this path; without any path left it does not
/// lie on this disk.
fn leave_disk(row: &mut BodyRow, path: &RelPath) {
    if let Some(disk) = &mut row.disk {
        remove_path(&mut disk.names, path);
        if disk.names.is_empty() {
            row.disk = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_lacks() {
        let list = |names: &[&str]| -> Vec<RelPath> {
            names.iter().map(|name| RelPath::parse(name.as_bytes()).unwrap()).collect()
        };
        let all = list(&["a", "c", "e", "g"]);
        let lacks = |others: &[&str]| {
            let others = list(others);
            lacking(&all, &others).cloned().collect::<Vec<_>>()
        };
        assert_eq!(lacks(&["b", "c", "d", "g", "h"]), list(&["a", "e"]));
        assert_eq!(lacks(&[]), all);
        assert!(lacks(&["a", "c", "e", "g"]).is_empty());
    }
}
