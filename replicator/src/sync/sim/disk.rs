//! A file system in memory: what users do to it, and what the daemon does.
//!
//! Users act without asking. The daemon's changes are refused where what lies
//! there is not what it expected, as the apply room refuses them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::entry::{Fingerprint, Flags, Kind, Metadata, Stat, Timestamp};
use crate::hash::{Digest, Leaves};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::effect::{
    Action, Depth, Found, Keep, Listed, Look, Outcome, Over, Sight, Sighted, Update, What,
};

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    /// Of a link: its target.
    content: Vec<u8>,
    metadata: Metadata,
    ctime: Timestamp,
    birth: Timestamp,
}

/// One tree, with its conflict store and trash.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    names: BTreeMap<RelPath, u64>,
    inodes: BTreeMap<u64, Inode>,
    first_inode: u64,
    /// Files may change where they lie.
    in_place: bool,
    /// What entries can be given here.
    flags: Flags,
    /// The last time that was given out: no two changes share one.
    clock: i64,
    /// The conflict store: what lost against a concurrent change.
    pub(super) kept: Vec<Vec<u8>>,
    pub(super) trash: Vec<Vec<u8>>,
    /// What the daemon's own steps made of fingerprints its core knows.
    lineage: Vec<(Fingerprint, Fingerprint)>,
    /// Contents from which a name was taken while another was left.
    pub(super) unlinked: BTreeSet<Vec<u8>>,
    /// Contents of files that ever lay here.
    pub(super) had: BTreeSet<Vec<u8>>,
}

/// What capture would report of a user's change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Name(RelPath),
    Moved(RelPath, RelPath),
    Came(RelPath),
    Data(u64),
}

/// A change as the kernel queues it: an entry by the directory that it is in
/// and its name there. Which path that is, is asked for when it is told of; by
/// then the directory may lie elsewhere, or be gone.
#[derive(Clone, Debug)]
pub(super) enum Queued {
    Name(Entry),
    Moved(Entry, Entry),
    Came(Entry),
    Data(u64),
}

/// `None` is in a directory that went together with it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    directory: Option<u64>,
    path: RelPath,
}

/// An entry as trees are compared: hard links by the first of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub kind: Kind,
    pub content: Vec<u8>,
    pub metadata: Metadata,
    pub first_name: RelPath,
}

impl Disk {
    pub(super) fn new(first_inode: u64, in_place: bool) -> Self {
        let mut disk = Self {
            in_place,
            flags: Flags::ALL,
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            first_inode,
            clock: 0,
            kept: Vec::new(),
            trash: Vec::new(),
            lineage: Vec::new(),
            unlinked: BTreeSet::new(),
            had: BTreeSet::new(),
        };
        let root = disk.make(Kind::Directory, Vec::new(), None);
        disk.names.insert(RelPath::root(), root);
        disk
    }

    pub(super) fn bear(&mut self, flags: Flags) {
        self.flags = flags;
    }

    /// The wall clock goes on, whatever it is set to.
    pub(super) fn set_clock(&mut self, wall: i64) {
        self.clock = self.clock.max(wall);
    }

    pub(super) fn kind(&self, path: &RelPath) -> Option<Kind> {
        Some(self.inode(path)?.kind)
    }

    /// The first name that leads to this inode.
    pub(super) fn place_of(&self, inode: u64) -> Option<RelPath> {
        self.names.iter().find(|(_, id)| **id == inode).map(|(path, _)| path.clone())
    }

    /// The contents of files at and below a path.
    pub(super) fn contents_within(&self, path: &RelPath) -> Vec<Vec<u8>> {
        let inodes = self.within(path).filter_map(|path| self.inode(&path).cloned());
        inodes.filter(|inode| inode.kind == Kind::File).map(|inode| inode.content).collect()
    }

    pub(super) fn stat(&self, path: &RelPath) -> Option<Stat> {
        let id = *self.names.get(path)?;
        let inode = &self.inodes[&id];
        let size = inode.content.len() as u64;
        let mtime = inode.metadata.mtime;
        let fingerprint =
            Fingerprint { inode: id, size, mtime, ctime: inode.ctime, birth: inode.birth };
        let links = self.names.values().filter(|other| **other == id).count() as u32;
        Some(Stat { kind: inode.kind, fingerprint, links, metadata: inode.metadata.clone() })
    }

    /// The content of the file that lies here with these bytes.
    pub(super) fn read(&self, path: &RelPath, fingerprint: &Fingerprint) -> Option<&[u8]> {
        let found = self.stat(path)?;
        let same = found.kind == Kind::File && found.fingerprint.same_bytes(fingerprint);
        same.then(|| self.inode(path).map(|inode| inode.content.as_slice()))?
    }

    pub(super) fn shown(&self) -> BTreeMap<RelPath, Shown> {
        let show = |(path, id): (&RelPath, &u64)| {
            let inode = &self.inodes[id];
            let first_name = self.names.iter().find(|(_, other)| *other == id);
            let first_name = first_name.map_or_else(RelPath::root, |(name, _)| name.clone());
            let (kind, content) = (inode.kind, inode.content.clone());
            (path.clone(), Shown { kind, content, metadata: inode.metadata.clone(), first_name })
        };
        self.names.iter().map(show).collect()
    }

    // What the daemon sees.

    pub(super) fn look(&self, look: &Look, with_bytes: bool) -> Sight {
        let path = look.path.clone();
        let (Some(stat), Some(inode)) = (self.stat(&path), self.inode(&path)) else {
            return Sight { path, found: Found::Nothing };
        };
        let unchanged = look.known.as_ref().is_some_and(|known| {
            known.kind == stat.kind && known.fingerprint.same_bytes(&stat.fingerprint)
        });
        let sighted = match stat.kind {
            Kind::Directory => Sighted::Directory,
            Kind::Fifo => Sighted::Fifo,
            Kind::Symlink => Sighted::Symlink(inode.content.clone()),
            Kind::File if unchanged && look.depth == Depth::Changed => Sighted::NotRead,
            Kind::File if look.known.is_some() && look.depth == Depth::Metadata => Sighted::NotRead,
            Kind::File => {
                let leaves = Leaves::of(&inode.content);
                let whole = vec![(0, Bytes::from(inode.content.clone()))];
                Sighted::File {
                    changed: Range::new(0, leaves.size()).into_iter().collect(),
                    leaves,
                    bytes: with_bytes.then_some(whole),
                    holes: RangeSet::new(),
                    stable: true,
                }
            }
        };
        Sight { path, found: Found::Entry(stat, sighted) }
    }

    pub(super) fn list(&self, beneath: &RelPath) -> Vec<Listed> {
        let inside = self.names.keys().filter(|path| path.is_within(beneath) && *path != beneath);
        let listed = inside.filter_map(|path| {
            let stat = self.stat(path)?;
            Some(Listed { path: path.clone(), kind: stat.kind, fingerprint: stat.fingerprint })
        });
        listed.collect()
    }

    /// To be asked right after the change.
    pub(super) fn queue(&self, change: Change) -> Queued {
        let entry = |path: RelPath| {
            let directory = path.parent().and_then(|parent| self.names.get(&parent).copied());
            Entry { directory, path }
        };
        match change {
            Change::Name(path) => Queued::Name(entry(path)),
            Change::Moved(from, to) => Queued::Moved(entry(from), entry(to)),
            Change::Came(path) => Queued::Came(entry(path)),
            Change::Data(inode) => Queued::Data(inode),
        }
    }

    /// As of a directory that is gone nothing is told but that it is.
    pub(super) fn told(&self, queued: Queued) -> Option<Change> {
        let place = |entry: Entry| match entry.path.name() {
            Some(name) => self.place_of(entry.directory?)?.join(name).ok(),
            None => Some(entry.path),
        };
        match queued {
            Queued::Name(entry) => place(entry).map(Change::Name),
            Queued::Moved(from, to) => match (place(from), place(to)) {
                (Some(from), Some(to)) => Some(Change::Moved(from, to)),
                (None, Some(to)) => Some(Change::Came(to)),
                (from, None) => from.map(Change::Name),
            },
            Queued::Came(entry) => place(entry).map(Change::Came),
            Queued::Data(inode) => Some(Change::Data(inode)),
        }
    }

    // What users do. Each says what capture reports, and nothing at all where
    // it cannot be done. `dead` takes the contents that were destroyed.

    /// Creates a file or writes a new content into the one that is there.
    pub(super) fn write(
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

    /// Writes a new file beside and renames it over, as editors do.
    pub(super) fn replace(
        &mut self,
        path: &RelPath,
        content: &[u8],
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        if !self.parent_lies(path) || self.kind(path).is_some_and(|kind| kind == Kind::Directory) {
            return Vec::new();
        }
        self.bury(path, dead);
        let id = self.make(Kind::File, content.to_vec(), None);
        self.set_name(path, id);
        vec![Change::Name(path.clone()), Change::Data(id)]
    }

    /// Puts a new file with the same content in a file's place, whose number
    /// is free only then.
    pub(super) fn renew(&mut self, path: &RelPath) -> Vec<Change> {
        let file = self.inode(path).filter(|inode| inode.kind == Kind::File).cloned();
        let Some(file) = file else { return Vec::new() };
        let id = self.make(Kind::File, file.content, None);
        self.bury(path, &mut BTreeSet::new());
        self.set_name(path, id);
        vec![Change::Name(path.clone()), Change::Data(id)]
    }

    pub(super) fn make_entry(&mut self, path: &RelPath, kind: Kind, target: &[u8]) -> Vec<Change> {
        if !self.parent_lies(path) || self.names.contains_key(path) {
            return Vec::new();
        }
        let id = self.make(kind, target.to_vec(), None);
        self.set_name(path, id);
        vec![Change::Name(path.clone())]
    }

    /// Removes an entry and everything below it.
    pub(super) fn remove_all(
        &mut self,
        path: &RelPath,
        dead: &mut BTreeSet<Vec<u8>>,
    ) -> Vec<Change> {
        let inside: Vec<RelPath> = self.within(path).collect();
        inside.iter().rev().for_each(|path| self.bury(path, dead));
        inside.into_iter().rev().map(Change::Name).collect()
    }

    /// Onto a free name, or a file over a file.
    pub(super) fn rename(
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
        self.bury(to, dead);
        self.move_names(from, to);
        vec![Change::Moved(from.clone(), to.clone())]
    }

    pub(super) fn link(&mut self, from: &RelPath, to: &RelPath) -> Vec<Change> {
        let fits = self.kind(from) == Some(Kind::File) && !self.names.contains_key(to);
        if !fits || !self.parent_lies(to) {
            return Vec::new();
        }
        let id = self.names[from];
        self.set_name(to, id);
        self.touch(id);
        vec![Change::Name(to.clone())]
    }

    pub(super) fn chmod(&mut self, path: &RelPath, mode: u32) -> Vec<Change> {
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
    pub(super) fn chattr(&mut self, path: &RelPath, flags: Flags) -> Vec<Change> {
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
    pub(super) fn copy(
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
    pub(super) fn swap(&mut self, one: &RelPath, other: &RelPath) -> Vec<Change> {
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
    pub(super) fn age(&mut self, path: &RelPath, by: i64) -> Vec<Change> {
        if self.kind(path) != Some(Kind::File) {
            return Vec::new();
        }
        let id = self.names[path];
        self.touch(id);
        let inode = self.inodes.get_mut(&id).expect("a name leads to an inode");
        let mtime = inode.metadata.mtime.as_nanos() - by;
        inode.metadata.mtime = timestamp(mtime);
        vec![Change::Name(path.clone())]
    }

    // What the daemon does.

    /// Begins a job: its steps know of each other's doings.
    pub(super) fn begin_job(&mut self) {
        self.lineage.clear();
    }

    /// Carries out one action. `fetched`: the whole content from a peer.
    pub(super) fn apply(&mut self, action: &Action, fetched: Option<Vec<u8>>) -> Outcome {
        let Action { path, kind, what, .. } = action;
        let needs_parent =
            !matches!(what, What::Remove { .. } | What::SetMetadata { .. } | What::Touch { .. });
        if needs_parent && !self.parent_lies(path) {
            return Outcome::Failed("there is no directory for it".into());
        }
        match what {
            What::MakeDirectory { metadata } => {
                self.put_new(path, Kind::Directory, Vec::new(), metadata, None)
            }
            What::MakeSymlink { target, metadata, over } => {
                self.put_new(path, Kind::Symlink, target.clone(), metadata, over.as_ref())
            }
            What::MakeFifo { metadata, over } => {
                self.put_new(path, Kind::Fifo, Vec::new(), metadata, over.as_ref())
            }
            What::Write { size, digest, metadata, over, source } => {
                let content = fetched.unwrap_or_else(|| overlaid(&[], *size, source));
                if Digest::of(&content) != *digest {
                    return Outcome::NotHeld;
                }
                self.put_new(path, Kind::File, content, metadata, over.as_ref())
            }
            What::Update(update) => self.update(path, update, fetched),
            What::Rename { from, expect } => {
                if !self.is(from, *kind, expect) || self.names.contains_key(path) {
                    return Outcome::Raced;
                }
                self.move_names(from, path);
                self.remember_now(path, expect);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
            What::Exchange { with, expect, kind_here, expect_here } => {
                if !self.is(with, *kind, expect) || !self.is(path, *kind_here, expect_here) {
                    return Outcome::Raced;
                }
                self.exchange(path, with);
                self.remember_now(path, expect);
                self.remember_now(with, expect_here);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
            What::Link { from, expect, over } => {
                if !self.is(from, *kind, expect) {
                    return Outcome::Raced;
                }
                let id = self.names[from];
                let outcome = self.put(path, id, over.as_ref());
                self.touch(id);
                self.remember_now(from, expect);
                match outcome {
                    Outcome::Done(..) => Outcome::Done(self.stat(path).map(Box::new), None),
                    other => other,
                }
            }
            What::Remove { expect, keep } => self.remove(path, *kind, expect, *keep),
            What::Touch { expect, mtime } => {
                if !self.is(path, *kind, expect) {
                    return Outcome::Raced;
                }
                let id = self.names[path];
                let metadata = match self.stat(path) {
                    Some(stat) => Metadata { mtime: *mtime, ..stat.metadata },
                    None => return Outcome::Raced,
                };
                self.touch(id);
                self.dress(id, &metadata);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
            What::SetMetadata { expect, metadata } => {
                if !self.is(path, *kind, expect) {
                    return Outcome::Raced;
                }
                let id = self.names[path];
                self.touch(id);
                self.dress(id, metadata);
                self.remember_now(path, expect);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
        }
    }

    fn update(&mut self, path: &RelPath, update: &Update, fetched: Option<Vec<u8>>) -> Outcome {
        if !self.is(path, Kind::File, &update.expect) {
            return Outcome::Raced;
        }
        let id = self.names[path];
        let old = self.inodes[&id].content.clone();
        let is_whole = fetched.is_some();
        let content = fetched.unwrap_or_else(|| overlaid(&old, update.size, &update.source));
        if Digest::of(&content) != update.to {
            return Outcome::NotHeld;
        }
        let leaves = Some(Leaves::of(&content));
        let is_conflict = matches!(update.keep, Keep::Conflict(_));
        let is_replaced = is_whole || is_conflict || update.is_own || !self.in_place;
        if !update.linked && is_replaced {
            let over = Over { kind: Kind::File, expect: update.expect, keep: update.keep };
            return self.put_new(path, Kind::File, content, &update.metadata, Some(&over));
        }
        match update.keep {
            Keep::Conflict(_) => self.kept.push(old),
            Keep::Trash if update.is_own => self.trash.push(old),
            _ => {}
        }
        self.touch(id);
        self.dress(id, &update.metadata);
        self.had.insert(content.clone());
        self.inodes.get_mut(&id).expect("a name leads to an inode").content = content;
        self.remember_now(path, &update.expect);
        Outcome::Done(self.stat(path).map(Box::new), leaves)
    }

    fn remove(&mut self, path: &RelPath, kind: Kind, expect: &Fingerprint, keep: Keep) -> Outcome {
        let full = self.within(path).nth(1).is_some();
        if !self.is(path, kind, expect) || full {
            return Outcome::Raced;
        }
        let id = self.names[path];
        self.lay_to_rest(path, keep);
        let other = self.names.iter().find(|(_, other)| **other == id);
        let other = other.map(|(other, _)| other.clone());
        if let Some(other) = &other {
            self.remember_now(other, expect);
        }
        Outcome::Done(other.and_then(|other| self.stat(&other)).map(Box::new), None)
    }

    fn put_new(
        &mut self,
        path: &RelPath,
        kind: Kind,
        content: Vec<u8>,
        metadata: &Metadata,
        over: Option<&Over>,
    ) -> Outcome {
        let leaves = (kind == Kind::File).then(|| Leaves::of(&content));
        let id = self.make(kind, content, Some(metadata.clone()));
        match self.put(path, id, over) {
            Outcome::Done(stat, _) => Outcome::Done(stat, leaves),
            other => {
                self.inodes.remove(&id);
                other
            }
        }
    }

    fn put(&mut self, path: &RelPath, id: u64, over: Option<&Over>) -> Outcome {
        match (self.names.get(path).copied(), over) {
            (None, None) => {}
            (Some(there), Some(_)) if there == id => {
                return Outcome::Done(self.stat(path).map(Box::new), None);
            }
            (Some(_), Some(over)) => {
                let full = self.within(path).nth(1).is_some();
                if full || !self.is(path, over.kind, &over.expect) {
                    return Outcome::Raced;
                }
                let there = self.names[path];
                self.lay_to_rest(path, over.keep);
                let other = self.names.iter().find(|(_, other)| **other == there);
                if let Some(other) = other.map(|(other, _)| other.clone()) {
                    self.remember_now(&other, &over.expect);
                }
            }
            _ => return Outcome::Raced,
        }
        self.set_name(path, id);
        Outcome::Done(self.stat(path).map(Box::new), None)
    }

    fn lay_to_rest(&mut self, path: &RelPath, keep: Keep) {
        let mut destroyed = BTreeSet::new();
        self.bury(path, &mut destroyed);
        match keep {
            Keep::Conflict(_) => self.kept.extend(destroyed),
            Keep::Trash => self.trash.extend(destroyed),
            Keep::Discard => {}
        }
    }

    /// Is this what lies there, as far as the daemon can tell?
    fn is(&self, path: &RelPath, kind: Kind, expect: &Fingerprint) -> bool {
        let mut expect = *expect;
        while let Some((_, next)) = self.lineage.iter().find(|(before, _)| *before == expect) {
            expect = *next;
        }
        self.stat(path).is_some_and(|stat| {
            stat.kind == kind
                && match kind {
                    Kind::Directory => stat.fingerprint.inode == expect.inode,
                    _ => stat.fingerprint == expect,
                }
        })
    }

    fn remember_now(&mut self, path: &RelPath, before: &Fingerprint) {
        let mut before = *before;
        while let Some((_, next)) = self.lineage.iter().find(|(known, _)| *known == before) {
            before = *next;
        }
        let after = self.stat(path).map(|stat| stat.fingerprint);
        let after = after.filter(|after| after.inode == before.inode && after.ctime > before.ctime);
        self.lineage.extend(after.map(|after| (before, after)));
    }

    // The file system itself.

    fn inode(&self, path: &RelPath) -> Option<&Inode> {
        self.inodes.get(self.names.get(path)?)
    }

    fn within(&self, path: &RelPath) -> impl Iterator<Item = RelPath> {
        self.names.keys().filter(|other| other.is_within(path)).cloned()
    }

    fn parent_lies(&self, path: &RelPath) -> bool {
        path.parent().is_some_and(|parent| self.kind(&parent) == Some(Kind::Directory))
    }

    fn tick(&mut self) -> Timestamp {
        self.clock += 1;
        timestamp(self.clock)
    }

    fn make(&mut self, kind: Kind, content: Vec<u8>, metadata: Option<Metadata>) -> u64 {
        let now = self.tick();
        let fresh = Metadata { mode: 0o644, uid: 0, gid: 0, mtime: now, ..Metadata::default() };
        // A number is given again as soon as it is free.
        let taken = |id: &u64| self.inodes.contains_key(id);
        let id = (self.first_inode..).find(|id| !taken(id)).expect("numbers do not run out");
        let metadata = self.borne(metadata.unwrap_or(fresh));
        self.inodes.insert(id, Inode { kind, content, metadata, ctime: now, birth: now });
        id
    }

    fn dress(&mut self, id: u64, metadata: &Metadata) {
        let metadata = self.borne(metadata.clone());
        self.inodes.get_mut(&id).expect("the caller has it").metadata = metadata;
    }

    fn borne(&self, metadata: Metadata) -> Metadata {
        Metadata { flags: metadata.flags.among(self.flags), ..metadata }
    }

    fn touch(&mut self, id: u64) {
        let now = self.tick();
        self.inodes.get_mut(&id).expect("the caller has it").ctime = now;
    }

    fn touch_parent(&mut self, path: &RelPath) {
        let now = self.tick();
        let parent = path.parent().and_then(|parent| self.names.get(&parent).copied());
        if let Some(inode) = parent.and_then(|parent| self.inodes.get_mut(&parent)) {
            inode.metadata.mtime = now;
            inode.ctime = now;
        }
    }

    fn set_name(&mut self, path: &RelPath, id: u64) {
        let inode = &self.inodes[&id];
        if inode.kind == Kind::File {
            self.had.insert(inode.content.clone());
        }
        self.names.insert(path.clone(), id);
        self.touch_parent(path);
    }

    /// Takes a name away, and the inode with its last name.
    fn bury(&mut self, path: &RelPath, dead: &mut BTreeSet<Vec<u8>>) {
        let Some(id) = self.names.remove(path) else { return };
        self.touch_parent(path);
        if self.names.values().any(|other| *other == id) {
            self.touch(id);
            self.unlinked.insert(self.inodes[&id].content.clone());
        } else if let Some(inode) = self.inodes.remove(&id)
            && inode.kind == Kind::File
        {
            dead.insert(inode.content);
        }
    }

    fn move_names(&mut self, from: &RelPath, to: &RelPath) {
        self.relocate(from, to);
        self.touch(self.names[to]);
        self.touch_parent(from);
        self.touch_parent(to);
    }

    fn exchange(&mut self, one: &RelPath, other: &RelPath) {
        let aside = RelPath::parse(b"aside, while two entries change places").expect("a name");
        self.relocate(one, &aside);
        self.relocate(other, one);
        self.relocate(&aside, other);
        for path in [one, other] {
            self.touch(self.names[path]);
            self.touch_parent(path);
        }
    }

    fn relocate(&mut self, from: &RelPath, to: &RelPath) {
        let moved: Vec<RelPath> = self.within(from).collect();
        for old in moved {
            let new = old.rebased(from, to).expect("short names stay short");
            if let Some(id) = self.names.remove(&old) {
                self.names.insert(new, id);
            }
        }
    }
}

fn timestamp(at: i64) -> Timestamp {
    let seconds = at.div_euclid(1_000_000_000);
    Timestamp { seconds, nanos: at.rem_euclid(1_000_000_000) as u32 }
}

/// A content of `size` bytes: the old one with the source's writes in it.
fn overlaid(old: &[u8], size: u64, source: &crate::sync::effect::Source) -> Vec<u8> {
    let mut content = old.to_vec();
    content.resize(size as usize, 0);
    if let crate::sync::effect::Source::Inline { writes, .. } = source {
        for (at, bytes) in writes {
            let start = (*at as usize).min(content.len());
            let end = (start + bytes.len()).min(content.len());
            content[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }
    content
}
