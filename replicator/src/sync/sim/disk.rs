//! A file system in memory: what users do to it, and what the daemon does.
//!
//! Users act without asking. The daemon's changes are refused where what lies
//! there is not what it expected, as the apply room refuses them.

mod daemon;
mod told;
mod unwritten;
mod users;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

pub(super) use self::told::{Change, Queued};
use self::unwritten::is_unwritten;
use crate::entry::{Fingerprint, Flags, Kind, Metadata, Stat, Timestamp};
use crate::hash::Leaves;
use crate::look::{Depth, Look};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::effect::{Found, Listed, Sight, Sighted};

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
    /// Where symbolic links led that did. What they say is nobody's content.
    pub(super) kept_links: Vec<Vec<u8>>,
    pub(super) trash: Vec<Vec<u8>>,
    /// What the daemon's own steps made of fingerprints its core knows.
    lineage: Vec<(Fingerprint, Fingerprint)>,
    /// Contents from which a user took a name while another was left.
    pub(super) unlinked: BTreeSet<Vec<u8>>,
    /// Contents of files that ever lay here.
    pub(super) had: BTreeSet<Vec<u8>>,
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
            kept_links: Vec::new(),
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
        Timestamp::from_nanos(self.clock)
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
        if inode.kind == Kind::File && !is_unwritten(&inode.content) {
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
