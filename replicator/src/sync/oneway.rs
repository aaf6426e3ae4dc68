//! A node that only receives: what changes here is nobody else's affair.
//!
//! Looks are compared with the index as everywhere, but a difference is
//! noted instead of logged. It stays as it is, untouched by what others
//! change, until a person reverts it: then what lies here counts as an older
//! version, and the tree of the others takes its place. What was here rests
//! in the trash.

use std::collections::BTreeMap;
use std::time::Duration;

use super::applied::Step;
use super::core::{Core, Looking};
use super::effect::{Action, Found, Keep, Now, What};
use super::read::Read;
use super::settle::{Dirt, Spot};
use super::store::Store;
use super::tree::held;
use super::version::VersionVector;
use crate::entry::{Kind, Metadata, Stat};
use crate::id::{Actor, BodyId};
use crate::path::RelPath;

/// Removals tried for one entry: a directory has to be emptied first.
const REVERTS_MAX: u32 = 12;

/// How long to wait for a removal before looking what became of it.
const REVERT_WAIT: Duration = Duration::from_millis(20);

/// What changed on a node that only receives.
#[derive(Debug, Default)]
pub(super) struct Own {
    changes: BTreeMap<RelPath, &'static str>,
    /// To be undone, with how often that was tried.
    reverting: BTreeMap<RelPath, u32>,
}

impl Own {
    pub fn holds(&self, path: &RelPath) -> bool {
        !self.changes.is_empty() && self.changes.contains_key(path)
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }
}

impl<S: Store> Core<S> {
    /// What changed here and is not replicated, with how.
    pub fn own_changes(&self) -> impl Iterator<Item = (&RelPath, &'static str)> {
        self.own.changes.iter().map(|(path, what)| (path, *what))
    }

    /// Undoes what changed here. Says how many entries that is.
    pub fn revert(&mut self, now: Now) -> u64 {
        let paths: Vec<RelPath> = self.own.changes.keys().cloned().collect();
        for path in &paths {
            self.own.reverting.insert(path.clone(), 0);
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::whole());
        }
        self.turn(now);
        paths.len() as u64
    }

    /// A look at a node that only receives.
    pub(super) fn compare_sight(&mut self, now: Now, path: &RelPath, found: Found, look: Looking) {
        match found {
            Found::Nothing => self.found_nothing(path),
            Found::Entry(stat, sighted) => {
                self.progress.no_error(path);
                let list = look.dirt.list && self.lying_at(path).is_none();
                let is_directory = stat.kind == Kind::Directory;
                match self.digest_sight(now, path, &stat, sighted, &look) {
                    Ok(read) => self.found_entry(now, path, &stat, read),
                    Err(retry) => {
                        let spot = Spot::Path(path.clone());
                        self.settle.look_after(now.monotonic, retry, spot, look.dirt);
                    }
                }
                if list && is_directory {
                    self.scan(path.clone());
                }
            }
            Found::Unsettled => self.look_again(now, path, look),
            Found::Unreadable(reason) => self.was_unreadable(now, path, reason, look),
            Found::Excluded(reason) => self.progress.error(path, reason),
        }
    }

    fn found_nothing(&mut self, path: &RelPath) {
        let mut gone = Vec::new();
        self.for_each_within(path, |_, below, row| {
            gone.extend(row.on_disk().map(|_| (below, row.wanted().is_some(), row.seen().clone())));
        });
        if gone.is_empty() {
            self.is_as_known(path);
        }
        for (below, is_wanted, seen) in gone.into_iter().rev().filter(|gone| !gone.0.is_root()) {
            let reverts = [path, &below].iter().any(|at| self.own.reverting.contains_key(*at));
            if !is_wanted {
                self.set_on_disk(&below, None, &seen);
                self.is_as_known(&below);
            } else if reverts {
                self.bring_back(&below);
                self.is_as_known(&below);
            } else {
                self.own.changes.insert(below, "deleted here");
            }
        }
    }

    fn found_entry(&mut self, now: Now, path: &RelPath, stat: &Stat, read: Option<Read>) {
        let lying = self.lying_at(path).filter(|(_, row, disk)| {
            let same_inode = disk.fingerprint.is_inode(&stat.fingerprint);
            row.kind() == stat.kind && (same_inode || stat.kind == Kind::Directory)
        });
        let Some((id, mut row, mut disk)) = lying else {
            let is_free = self.lying_at(path).is_none();
            match read {
                Some(read) if is_free && self.adopt(path, stat, &read) => self.is_as_known(path),
                _ if self.own.reverting.contains_key(path) => self.remove_own(now, path, stat),
                _ => {
                    let what = if is_free { "added here" } else { "replaced here" };
                    self.own.changes.insert(path.clone(), what);
                }
            }
            return;
        };
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
        let reverts = self.own.reverting.contains_key(path);
        let is_as_known = same_content && same_metadata;
        if !is_as_known && !reverts {
            let what = if same_content { "metadata changed here" } else { "changed here" };
            self.own.changes.insert(path.clone(), what);
            return;
        }
        // What lies here is known, or counts as an older version from now on.
        disk.fingerprint = stat.fingerprint;
        if let Some(read) = read.filter(|read| row.content_on_disk() != Some(&read.content)) {
            disk.content = held(&row.content, read.content, VersionVector::new());
            self.store.put_leaves(id, read.leaves);
        }
        if !lies {
            disk.metadata = held(&row.metadata, stat.metadata.clone(), VersionVector::new());
        }
        row.disk = Some(disk);
        self.put_body(id, row);
        self.is_as_known(path);
    }

    /// Something that is nobody else's goes to the trash.
    fn remove_own(&mut self, now: Now, path: &RelPath, stat: &Stat) {
        let below = self.own.reverting.range(path.clone()..).skip(1);
        if below.take_while(|(other, _)| starts_with(other, path)).any(|(o, _)| o.is_within(path)) {
            // What is in it goes first.
            let spot = Spot::Path(path.clone());
            self.settle.look_after(now.monotonic, REVERT_WAIT, spot, Dirt::compare());
            return;
        }
        let tries = self.own.reverting.get_mut(path).map_or(REVERTS_MAX, |tries| {
            *tries += 1;
            *tries
        });
        if tries > REVERTS_MAX {
            self.own.reverting.remove(path);
            self.progress.error(path, "cannot be reverted: remove it by hand".to_owned());
            return;
        }
        let wait = REVERT_WAIT * (1 << tries.min(6));
        self.settle.look_after(now.monotonic, wait, Spot::Path(path.clone()), Dirt::compare());
        let parent = path.parent().unwrap_or_else(RelPath::root);
        if !self.locks.is_free(path, &[]) || !self.locks.may_share(&parent) {
            return;
        }
        let keep = if stat.kind == Kind::Directory { Keep::Discard } else { Keep::Trash };
        let what = What::Remove { expect: stat.fingerprint, keep };
        let nobody = BodyId { origin: Actor(0), counter: 0 };
        let action = Action { path: path.clone(), body: nobody, kind: stat.kind, what };
        let lying = self.store.name(path);
        let name_seen = lying.map(|row| row.seen().clone()).unwrap_or_default();
        let step = Step { action, bodies: Vec::new(), name_seen, content: None, metadata: None };
        self.locks.lock(path, &[]);
        self.locks.share(parent);
        self.start_job(now, vec![step]);
    }

    fn is_as_known(&mut self, path: &RelPath) {
        self.own.changes.remove(path);
        self.own.reverting.remove(path);
    }
}

fn starts_with(path: &RelPath, beginning: &RelPath) -> bool {
    path.as_bytes().starts_with(beginning.as_bytes())
}

/// A directory's time follows what happens in it.
fn looks_alike(known: &Metadata, stat: &Stat) -> bool {
    match stat.kind {
        Kind::Directory => Metadata { mtime: known.mtime, ..stat.metadata.clone() } == *known,
        _ => stat.metadata == *known,
    }
}
