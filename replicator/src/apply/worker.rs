//! Carries out steps, one after the other, and patches together.
//!
//! Every step opens the directories it works in anew, beneath the root. A
//! cache of them would be quicker by a microsecond or two a step, and a
//! directory that a user moves out of the folder would go on being written
//! to where it went.

use std::collections::HashMap;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beside::Beside;
use super::bound::Lifted;
use super::lease::Patience;
use super::patch::Patch;
use super::place::Made;
use super::settled::{own_bytes, unbound};
use super::together::{Due, Together};
use super::{Error, Expect, Outcome, Step, metadata, redo};
use crate::entry::{Fingerprint, Flags, Kind, Metadata, Stat};
use crate::path::RelPath;
use crate::root::Root;

pub(super) struct Worker {
    pub(super) root: Arc<Root>,
    /// What the steps of this run made of the fingerprints their caller
    /// knows: a rename changes the ctime that a later step expects.
    lineage: HashMap<Fingerprint, Fingerprint>,
    /// Directories in which nobody may change names, by inode: free for as
    /// long as this run works in them.
    opened: HashMap<u64, Lifted>,
    /// With who has a file open that is to be written.
    pub(super) patience: Patience,
    /// A patch was cut short and its redo record waits.
    pub(super) unfinished: bool,
}

impl Worker {
    pub(super) fn new(root: Arc<Root>) -> Self {
        let (lineage, opened) = (HashMap::new(), HashMap::new());
        Self { root, lineage, opened, patience: Patience::new(), unfinished: false }
    }

    pub(super) fn run(&mut self, steps: Vec<Step>) -> Vec<Outcome> {
        self.lineage.clear();
        self.patience.renew();
        if self.unfinished {
            self.finish_patches();
        }
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut together = Together::default();
        for step in steps {
            if !together.takes(&step) {
                outcomes.extend(self.patch(mem::take(&mut together)));
            }
            let outcome = self.step(step, &mut together).transpose();
            outcomes.extend(outcome.map(|outcome| outcome.unwrap_or_else(Outcome::Failed)));
        }
        outcomes.extend(self.patch(together));
        self.opened.clear();
        outcomes
    }

    fn finish_patches(&mut self) {
        match redo::recover(&self.root) {
            Ok(_) => self.unfinished = false,
            Err(error) => tracing::warn!(%error, "an interrupted patch still waits"),
        }
    }

    /// `None` for a patch, which is put to those that are carried out together.
    fn step(&mut self, step: Step, together: &mut Together) -> Result<Option<Outcome>, Error> {
        let outcome = match step {
            Step::MakeDirectory { path, metadata, over } => {
                let mode = Mode::RWXU;
                let made = self.make(&path, Kind::Directory, &metadata, |beside| {
                    fs::mkdirat(beside.dir(), beside.name(), mode)
                })?;
                self.put(&path, made, over.as_ref())
            }
            Step::MakeSymlink { path, target, metadata, over } => {
                let made = self.make(&path, Kind::Symlink, &metadata, |beside| {
                    fs::symlinkat(target.as_slice(), beside.dir(), beside.name())
                })?;
                self.put(&path, made, over.as_ref())
            }
            Step::MakeFifo { path, metadata, over } => {
                let mode = Mode::RUSR | Mode::WUSR;
                let made = self.make(&path, Kind::Fifo, &metadata, |beside| {
                    fs::mknodat(beside.dir(), beside.name(), FileType::Fifo, mode, 0)
                })?;
                self.put(&path, made, over.as_ref())
            }
            Step::Place { path, staged, metadata, over } => {
                let (stat, binding) = self.dress(&path, staged.file.as_fd(), &metadata)?;
                let made = Made { beside: staged.beside, handle: staged.file, stat, binding };
                self.put(&path, made, over.as_ref())
            }
            Step::Rename { from, to, expect } => self.rename(&from, &to, &expect),
            Step::Exchange { a, b, expect_a, expect_b } => {
                self.exchange((&a, &expect_a), (&b, &expect_b))
            }
            Step::Link { from, to, expect, over } => self.link(&from, &to, &expect, over.as_ref()),
            Step::Remove { path, expect, keep } => self.remove(&path, &expect, &keep),
            Step::Patch { path, expect, writes, holes, size, metadata, keep } => {
                let patch = Patch { writes, holes, size, metadata };
                together.push(Due { path, expect, patch, keep });
                return Ok(None);
            }
            Step::Touch { path, expect, mtime } => {
                self.set_metadata(&path, &expect, |now| Metadata { mtime, ..now.clone() })
            }
            Step::SetMetadata { path, expect, metadata } => {
                self.set_metadata(&path, &expect, |_| metadata)
            }
        };
        outcome.map(Some)
    }

    fn make(
        &self,
        path: &RelPath,
        kind: Kind,
        metadata: &Metadata,
        make: impl FnOnce(&Beside) -> Result<(), Errno>,
    ) -> Result<Made, Error> {
        let beside = Beside::reserve(&self.root);
        make(&beside).map_err(|errno| Error::entry(path, "make", errno))?;
        let handle = open_private(beside.dir(), beside.name().as_bytes())
            .map_err(|errno| Error::entry(path, "make", errno))?;
        let (stat, binding) = self.dress(path, handle.as_fd(), metadata)?;
        debug_assert_eq!(stat.kind, kind);
        Ok(Made { beside: Some(beside), handle: Arc::new(handle), stat, binding })
    }

    /// All but the flags that would keep the entry from its place: these it
    /// gives.
    fn dress(
        &self,
        path: &RelPath,
        fd: BorrowedFd<'_>,
        wanted: &Metadata,
    ) -> Result<(Stat, Flags), Error> {
        let now = self.root.stat_fd(fd)?;
        let free = Metadata { flags: wanted.flags.without(Flags::BINDING), ..wanted.clone() };
        self.set(path, fd, &now, &free)?;
        let binding = match now.kind {
            Kind::File | Kind::Directory => wanted.flags.among(Flags::BINDING),
            Kind::Symlink | Kind::Fifo => Flags::NONE,
        };
        Ok((self.root.stat_fd(fd)?, binding.among(self.root.flags())))
    }

    /// XFS counts another parent as a change of a directory that is exchanged
    /// (`xfs_cross_rename`, Linux 6.18).
    pub(super) fn give_back_mtime(&self, path: &RelPath, was: &Stat, fd: BorrowedFd<'_>) {
        if was.kind != Kind::Directory {
            return;
        }
        let set = || {
            let now = self.root.stat_fd(fd)?;
            if now.metadata.mtime == was.metadata.mtime {
                return Ok(());
            }
            let mtime = was.metadata.mtime;
            self.set(path, fd, &now, &Metadata { mtime, ..now.metadata.clone() })
        };
        if let Err(error) = set() {
            tracing::warn!(%path, %error, "a directory keeps the time of its exchange");
        }
    }

    fn set(
        &self,
        path: &RelPath,
        fd: BorrowedFd<'_>,
        now: &Stat,
        wanted: &Metadata,
    ) -> Result<(), Error> {
        metadata::set(&self.root, fd, now, wanted)
            .map_err(|errno| Error::entry(path, "set the metadata of", errno))
    }

    fn set_metadata(
        &mut self,
        path: &RelPath,
        expect: &Expect,
        wanted: impl FnOnce(&Metadata) -> Metadata,
    ) -> Result<Outcome, Error> {
        refuse_private(path)?;
        let Some((held, mut found)) = self.look(path)? else {
            return Ok(Outcome::Raced);
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced);
        }
        let lifted = match self.opened.remove(&found.fingerprint.inode) {
            Some(lifted) => {
                found.metadata.flags = lifted.flags();
                Some(lifted)
            }
            None => Lifted::lift(&self.root, &[path], &held, &found)?,
        };
        let wanted = wanted(&found.metadata);
        self.set(path, held.as_fd(), &unbound(found.clone()), &wanted)?;
        lifted.into_iter().for_each(Lifted::let_go);
        let mut after = self.root.stat_fd(held.as_fd())?;
        own_bytes(&mut after, found.fingerprint.size, wanted.mtime);
        self.remember(&found, &after);
        Ok(Outcome::Done(Some(after)))
    }

    pub(super) fn look(&self, path: &RelPath) -> Result<Option<(Arc<OwnedFd>, Stat)>, Error> {
        let looked = self.root.look(path)?;
        Ok(looked.map(|(held, found)| (Arc::new(held), found)))
    }

    /// The directory that holds a name, freshly resolved, where names can be
    /// changed; `None` where it is missing.
    pub(super) fn parent_of<'path>(
        &mut self,
        path: &'path RelPath,
    ) -> Result<Option<(OwnedFd, &'path [u8])>, Error> {
        refuse_private(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(Error::RootEntry);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let Some(dir) = self.root.resolve(&parent, flags)? else { return Ok(None) };
        if !self.root.binding_flags(dir.as_fd())?.is_empty()
            && let Some((dir, found)) = self.look(&parent)?
            && let Some(lifted) = Lifted::lift(&self.root, &[&parent], &dir, &found)?
        {
            self.opened.insert(found.fingerprint.inode, lifted);
        }
        Ok(Some((dir, name)))
    }

    pub(super) fn is_expected(&self, expect: &Expect, found: &Stat) -> bool {
        let mut fingerprint = expect.fingerprint;
        while let Some(next) = self.lineage.get(&fingerprint) {
            fingerprint = *next;
        }
        expect.is(found) || Expect { kind: expect.kind, fingerprint }.is(found)
    }

    pub(super) fn is_free_of_entries(&self, path: &RelPath, found: &Stat) -> Result<bool, Error> {
        if found.kind != Kind::Directory {
            return Ok(true);
        }
        Ok(self.root.read_dir(path)?.is_some_and(|entries| entries.is_empty()))
    }

    /// A fingerprint leads to the one after it; ctimes only grow, so no
    /// chain of them closes.
    pub(super) fn remember(&mut self, before: &Stat, after: &Stat) {
        let (before, after) = (before.fingerprint, after.fingerprint);
        if before.ctime < after.ctime {
            self.lineage.insert(before, after);
        }
    }
}

pub(super) fn open_private(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn refuse_private(path: &RelPath) -> Result<(), Error> {
    if path.is_private() { Err(Error::Private { path: path.clone() }) } else { Ok(()) }
}

pub(super) fn no_parent(path: &RelPath) -> Error {
    Error::NoParent { path: path.clone() }
}
