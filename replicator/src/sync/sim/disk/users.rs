//! What users do to a disk.
//!
//! Each says what capture reports, and nothing at all where it cannot be done.
//! `dead` takes the contents that were destroyed.

use std::collections::BTreeSet;

use super::unwritten::is_unwritten;
use super::{Change, Disk};
use crate::entry::{Flags, Kind, Timestamp};
use crate::path::RelPath;

impl Disk {
    /// Creates a file or writes a new content into the one that is there.
    pub(in crate::sync::sim) fn write(
        &mut self,
        path: &RelPath,
        content: &[u8],
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        match self.kind(path) {
            None if self.parent_lies(path) => {
                let id = self.make(Kind::File, content.to_vec(), None);
                self.set_name(path, id);
                vec![Change::Name(path.clone()), Change::Data(id)]
            }
            Some(Kind::File) => {
                let id = self.names[path];
                let (now, old) = (self.tick(), self.inodes[&id].content.clone());
                dead.insert(old);
                self.had.insert(content.to_vec());
                let inode = self.inodes.get_mut(&id).expect("a name leads to an inode");
                inode.content = content.to_vec();
                inode.metadata.mtime = now;
                inode.ctime = now;
                vec![Change::Data(id)]
            }
            _ => Vec::new(),
        }
    }

    /// Stores through a mapping to a page that is writable already, and within
    /// the file: nothing tells of it.
    pub(in crate::sync::sim) fn store(&mut self, path: &RelPath, content: &[u8]) {
        self.had.insert(content.to_vec());
        let inode = self.inodes.get_mut(&self.names[path]).expect("a name leads to an inode");
        assert_eq!(inode.content.len(), content.len(), "a mapping makes no file longer");
        inode.content = content.to_vec();
    }

    /// Writes a new file beside and renames it over, as editors do.
    pub(in crate::sync::sim) fn replace(
        &mut self,
        path: &RelPath,
        content: &[u8],
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        if !self.parent_lies(path) || self.kind(path).is_some_and(|kind| kind == Kind::Directory) {
            return Vec::new();
        }
        self.take(path, dead);
        let id = self.make(Kind::File, content.to_vec(), None);
        self.set_name(path, id);
        vec![Change::Name(path.clone()), Change::Data(id)]
    }

    /// Puts a new file with the same content in a file's place, whose number
    /// is free only then.
    pub(in crate::sync::sim) fn renew(&mut self, path: &RelPath) -> Vec<Change> {
        let file = self.inode(path).filter(|inode| inode.kind == Kind::File).cloned();
        // Nobody copies what has no content any more.
        let file = file.filter(|file| !is_unwritten(&file.content));
        let Some(file) = file else { return Vec::new() };
        let id = self.make(Kind::File, file.content, None);
        self.take(path, &mut BTreeSet::new());
        self.set_name(path, id);
        vec![Change::Name(path.clone()), Change::Data(id)]
    }

    pub(in crate::sync::sim) fn make_entry(
        &mut self,
        path: &RelPath,
        kind: Kind,
        target: &[u8],
    ) -> Vec<Change> {
        if !self.parent_lies(path) || self.names.contains_key(path) {
            return Vec::new();
        }
        let id = self.make(kind, target.to_vec(), None);
        self.set_name(path, id);
        vec![Change::Name(path.clone())]
    }

    /// Removes an entry and everything below it.
    pub(in crate::sync::sim) fn remove_all(
        &mut self,
        path: &RelPath,
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        let inside: Vec<RelPath> = self.within(path).collect();
        inside.iter().rev().for_each(|path| self.take(path, dead));
        inside.into_iter().rev().map(Change::Name).collect()
    }

    /// Onto a free name, or a file over a file.
    pub(in crate::sync::sim) fn rename(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        let (Some(kind), there) = (self.kind(from), self.kind(to)) else { return Vec::new() };
        let plain = |kind: Kind| kind != Kind::Directory;
        let fits = there.is_none_or(|there| plain(there) && plain(kind));
        let same = self.names.get(from) == self.names.get(to);
        if !fits || same || to.is_within(from) || !self.parent_lies(to) {
            return Vec::new();
        }
        self.take(to, dead);
        self.move_names(from, to);
        vec![Change::Moved(from.clone(), to.clone())]
    }

    pub(in crate::sync::sim) fn link(&mut self, from: &RelPath, to: &RelPath) -> Vec<Change> {
        let fits = self.kind(from) == Some(Kind::File) && !self.names.contains_key(to);
        if !fits || !self.parent_lies(to) {
            return Vec::new();
        }
        let id = self.names[from];
        self.set_name(to, id);
        self.touch(id);
        vec![Change::Name(to.clone())]
    }

    pub(in crate::sync::sim) fn chmod(&mut self, path: &RelPath, mode: u32) -> Vec<Change> {
        let Some(id) = self.names.get(path).copied() else { return Vec::new() };
        if self.inodes[&id].kind == Kind::Symlink {
            return Vec::new();
        }
        self.touch(id);
        let inode = self.inodes.get_mut(&id).expect("a name leads to an inode");
        inode.metadata.mode = mode;
        vec![Change::Name(path.clone())]
    }

    /// Gives an entry other flags, of which capture may say nothing.
    pub(in crate::sync::sim) fn chattr(&mut self, path: &RelPath, flags: Flags) -> Vec<Change> {
        let Some(id) = self.names.get(path).copied() else { return Vec::new() };
        let flags = flags.among(self.flags);
        if !matches!(self.inodes[&id].kind, Kind::File | Kind::Directory) {
            return Vec::new();
        }
        self.touch(id);
        let inode = self.inodes.get_mut(&id).expect("a name leads to an inode");
        inode.metadata.flags = flags;
        vec![Change::Data(id)]
    }

    /// Writes the content of one file into another.
    pub(in crate::sync::sim) fn copy(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        match self.inode(from).map(|inode| (inode.kind, inode.content.clone())) {
            Some((Kind::File, content)) if self.names.get(from) != self.names.get(to) => {
                let changes = self.write(to, &content, dead);
                // Into a file that held the same.
                dead.remove(&content);
                changes
            }
            _ => Vec::new(),
        }
    }

    /// Two entries take each other's places.
    pub(in crate::sync::sim) fn swap(&mut self, one: &RelPath, other: &RelPath) -> Vec<Change> {
        let lie = self.names.contains_key(one) && self.names.contains_key(other);
        let same = self.names.get(one) == self.names.get(other);
        if !lie || same || one.is_within(other) || other.is_within(one) {
            return Vec::new();
        }
        self.exchange(one, other);
        [(one, other), (other, one)]
            .map(|(from, to)| Change::Moved(from.clone(), to.clone()))
            .into()
    }

    /// Sets the time of a file back by so many nanoseconds.
    pub(in crate::sync::sim) fn age(&mut self, path: &RelPath, by: i64) -> Vec<Change> {
        if self.kind(path) != Some(Kind::File) {
            return Vec::new();
        }
        let id = self.names[path];
        self.touch(id);
        let inode = self.inodes.get_mut(&id).expect("a name leads to an inode");
        let mtime = inode.metadata.mtime.as_nanos() - by;
        inode.metadata.mtime = Timestamp::from_nanos(mtime);
        vec![Change::Name(path.clone())]
    }

    /// Takes a name away, and the inode with its last name.
    fn take(&mut self, path: &RelPath, dead: &mut BTreeSet<Vec<u8>>) {
        let id = self.names.get(path).copied();
        self.bury(path, dead);
        let left = id.and_then(|id| self.inodes.get(&id));
        self.unlinked.extend(left.map(|inode| inode.content.clone()));
    }
}
