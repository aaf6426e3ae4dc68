//! A tree that was restored from a backup while its node did not look.
//!
//! A file that is older than the one that lay there is a change like any
//! other where somebody is seen to make it. Found at the start, it is more
//! likely a backup's: it then counts as made beside what the cluster holds,
//! not after it, so the later version is shown and the older one is kept as a
//! conflict. What is missing beside such files is held like a disaster. So is
//! what is missing in a directory whose time went back: who deletes an entry
//! gives its directory a later one, and who puts a backup in its place puts
//! that back, too.

use std::collections::HashSet;

use super::core::Core;
use super::effect::Listed;
use super::record::{Binding, BodyRow, Key, NameRow};
use super::store::Store;
use super::tree::held_binding;
use super::version::VersionVector;
use crate::entry::{Fingerprint, Kind, Timestamp};
use crate::id::BodyId;
use crate::path::RelPath;

/// What the first look at a folder found to be older than it was. No more than
/// lies there.
#[derive(Debug, Default)]
pub(super) struct Restored {
    files: HashSet<RelPath>,
    older: usize,
    /// Changed as files change, to a later time.
    newer: usize,
    /// Directories that bear an earlier time than they did.
    directories: HashSet<RelPath>,
    /// What was seen to change since the start: a listing made before that is
    /// older, and no backup.
    changed: HashSet<BodyId>,
    /// The folder is not the one that was served before.
    is_copy: bool,
}

impl Restored {
    /// Is the folder a backup's, or a copy? Of what changed in a backup most is
    /// older; a single old file among many changes is somebody's.
    pub fn is_backup(&self) -> bool {
        self.is_copy || self.older > self.newer
    }

    /// Parts what came into a directory after the backup of it that lies there now
    /// from the rest. Of what is missing directories come before what they hold.
    pub fn part_since(&self, missing: Vec<RelPath>) -> (Vec<RelPath>, Vec<RelPath>) {
        let mut since = HashSet::new();
        missing.into_iter().partition(|path| {
            let is_one = |parent| self.directories.contains(&parent) || since.contains(&parent);
            let is_since = path.parent().is_some_and(is_one);
            if is_since {
                since.insert(path.clone());
            }
            is_since
        })
    }

    /// Nothing more is found missing for it.
    pub fn folder_is_met(&mut self) {
        self.directories = HashSet::new();
        self.changed = HashSet::new();
    }

    /// Was this one found older? It is asked once.
    pub fn take(&mut self, path: &RelPath) -> bool {
        !self.files.is_empty() && self.files.remove(path)
    }
}

impl<S: Store> Core<S> {
    /// The folder was copied since the last life: what is missing in it is
    /// held until somebody says that it was deleted.
    pub fn folder_is_copy(&mut self) {
        self.restored.is_copy = true;
    }

    /// The row of a body is about to be replaced: notes whether it lies in
    /// another state from now on.
    pub(super) fn note_changed(&mut self, id: BodyId, row: &BodyRow) {
        if self.surveyed {
            return;
        }
        let before = self.store.body(id);
        let lay = before.as_ref().and_then(|row| row.disk.as_ref());
        if lay.zip(row.disk.as_ref()).is_some_and(|(lay, lies)| lay.fingerprint != lies.fingerprint)
        {
            self.restored.changed.insert(id);
        }
    }

    /// Notes a listed entry that is older than the one known at its place. The
    /// folder itself is in no listing: it is noted before all others.
    pub fn note_restored(&mut self, entry: &Listed) {
        if self.surveyed || !self.has_other_members() {
            return;
        }
        let lies = self.store.name(&entry.path).and_then(|row| row.on_disk());
        if lies.is_some_and(|(id, _)| self.restored.changed.contains(&id)) {
            return;
        }
        match entry.kind {
            Kind::File => self.note_restored_file(entry),
            Kind::Directory => self.note_restored_directory(entry),
            _ => {}
        }
    }

    fn note_restored_directory(&mut self, entry: &Listed) {
        let Some(lying) = self.lying_at(&entry.path) else { return };
        let is_behind = self.is_behind(&entry.path, &lying, entry.kind, &entry.fingerprint);
        let (found, lay) = (&entry.fingerprint, &lying.disk().fingerprint);
        // Who changed it since the node saw it did so later than that, however far
        // ahead its own time lay.
        let is_older = found.mtime < lay.mtime && found.mtime < lay.ctime;
        if lying.kind() == Kind::Directory && is_older && !is_behind {
            self.restored.directories.insert(entry.path.clone());
        }
    }

    fn note_restored_file(&mut self, entry: &Listed) {
        let Some(lying) = self.lying_at(&entry.path) else { return };
        if self.is_behind(&entry.path, &lying, entry.kind, &entry.fingerprint) {
            // Another file lay here, which the disk never got.
            let is_other = !lying.disk().fingerprint.is_inode(&entry.fingerprint);
            self.restored.files.extend(is_other.then(|| entry.path.clone()));
            return;
        }
        // A file of the tree that was moved here is no backup's.
        let moved = self.store.body_of_inode(entry.fingerprint.inode);
        let moved = moved.filter(|there| *there != lying.id).is_some_and(|there| {
            let there = self.store.body(there);
            let lies = there.as_ref().and_then(|row| row.disk.as_ref());
            lies.is_some_and(|disk| disk.fingerprint.is_inode(&entry.fingerprint))
        });
        let (found, lay) = (&entry.fingerprint, &lying.disk().fingerprint);
        let is_older = found.mtime < lay.mtime && !is_written_after(found, lay);
        if lying.kind() != Kind::File || moved {
            return;
        }
        match is_older {
            true => {
                self.restored.older += 1;
                self.restored.files.insert(entry.path.clone());
            }
            false => self.restored.newer += 1,
        }
    }

    /// Logs that a path leads to a body, beside what it leads to elsewhere.
    pub(super) fn bind_beside(&mut self, path: &RelPath, id: BodyId, kind: Kind, when: i64) {
        let Some(former) = self.store.name(path) else {
            self.bind(path, id, kind, when);
            return;
        };
        let dot = self.next_dot();
        let mut binding = former.binding.clone();
        let bound = Binding::Bound { body: id, kind, over: None };
        binding.write(&VersionVector::new(), |_| true, dot, when, bound);
        let mut seen = VersionVector::new();
        seen.advance(dot);
        let held = held_binding(&binding, Some((id, kind)), seen);
        self.put_name(path, Some(&former), NameRow { stamp: dot, binding, held });
        self.unchecked.insert(Key::Name(path.clone()));
    }
}

/// Do all times of a file say that it was written here, after the other came,
/// whose own time lies ahead then? What a backup brings bears a time from before
/// it was made anew. A file system that tells no birth cannot say so.
fn is_written_after(found: &Fingerprint, other: &Fingerprint) -> bool {
    let is_born = found.birth != Timestamp::default() && found.birth <= found.mtime;
    is_born && other.ctime <= found.mtime && found.mtime <= found.ctime
}
