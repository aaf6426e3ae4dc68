//! Carries out steps, one after the other.
//!
//! Every step opens the directories it works in anew, beneath the root. A
//! cache of them would be quicker by a microsecond or two a step, and a
//! directory that a user moves out of the folder would go on being written
//! to where it went.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::beside::Beside;
use super::metadata::{self, Skipped};
use super::patch::Patch;
use super::trash::Resting;
use super::{Error, Expect, Keep, Outcome, Over, Step, conflicts, redo, trash};
use crate::entry::{Fingerprint, Kind, Metadata, Stat, Timestamp};
use crate::path::RelPath;
use crate::root::{Access, Root, proc_path};

/// What the worker tells while it works.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) skipped: Skipped,
    /// Local changes that raced a remote one and went to the conflict store.
    pub(super) races_kept: AtomicU64,
}

pub(super) struct Worker {
    pub(super) root: Arc<Root>,
    pub(super) shared: Arc<Shared>,
    /// What the steps of this run made of the fingerprints their caller
    /// knows: a rename changes the ctime that a later step expects.
    lineage: HashMap<Fingerprint, Fingerprint>,
    /// A patch was cut short and its redo record waits.
    pub(super) unfinished: bool,
}

/// A new entry beside its place, complete.
struct Made {
    beside: Beside,
    handle: Arc<OwnedFd>,
    stat: Stat,
}

impl Worker {
    pub(super) fn new(root: Arc<Root>, shared: Arc<Shared>) -> Self {
        Self { root, shared, lineage: HashMap::new(), unfinished: false }
    }

    pub(super) fn run(&mut self, steps: Vec<Step>) -> Vec<Outcome> {
        self.lineage.clear();
        if self.unfinished {
            self.finish_patches();
        }
        steps.into_iter().map(|step| self.step(step).unwrap_or_else(Outcome::Failed)).collect()
    }

    fn finish_patches(&mut self) {
        match redo::recover(&self.root, &self.shared.skipped) {
            Ok(_) => self.unfinished = false,
            Err(error) => tracing::warn!(%error, "an interrupted patch still waits"),
        }
    }

    fn step(&mut self, step: Step) -> Result<Outcome, Error> {
        match step {
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
                let stat = self.dress(&path, staged.file.as_fd(), &metadata)?;
                let made = Made { beside: staged.beside, handle: staged.file, stat };
                self.put(&path, made, over.as_ref())
            }
            Step::Rename { from, to, expect } => self.rename(&from, &to, &expect),
            Step::Exchange { a, b, expect_a, expect_b } => {
                self.exchange((&a, &expect_a), (&b, &expect_b))
            }
            Step::Link { from, to, expect, over } => self.link(&from, &to, &expect, over.as_ref()),
            Step::Remove { path, expect, keep } => self.remove(&path, &expect, &keep),
            Step::Patch { path, expect, writes, holes, size, metadata, keep } => {
                self.patch(&path, &expect, &Patch { writes, holes, size, metadata }, &keep)
            }
            Step::Touch { path, expect, mtime } => {
                let now = self.root.stat(&path)?;
                match now {
                    Some(Stat { metadata, .. }) => {
                        self.set_metadata(&path, &expect, &Metadata { mtime, ..metadata })
                    }
                    None => Ok(Outcome::Raced(None)),
                }
            }
            Step::SetMetadata { path, expect, metadata } => {
                self.set_metadata(&path, &expect, &metadata)
            }
        }
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
        let stat = self.dress(path, handle.as_fd(), metadata)?;
        debug_assert_eq!(stat.kind, kind);
        Ok(Made { beside, handle: Arc::new(handle), stat })
    }

    fn dress(&self, path: &RelPath, fd: BorrowedFd<'_>, wanted: &Metadata) -> Result<Stat, Error> {
        let now = self.root.stat_fd(fd)?;
        metadata::set(fd, &now, wanted, &self.shared.skipped)
            .map_err(|errno| Error::entry(path, "set the metadata of", errno))?;
        Ok(self.root.stat_fd(fd)?)
    }

    /// From beside into its place.
    fn put(&mut self, path: &RelPath, made: Made, over: Option<&Over>) -> Result<Outcome, Error> {
        let (dir, name) = self.parent_of(path)?.ok_or_else(|| no_parent(path))?;
        let Some(over) = over else {
            let (tmp, new) = (made.beside.dir(), made.beside.name());
            return match fs::renameat_with(tmp, new, &dir, name, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    made.beside.placed();
                    Ok(Outcome::Done(Some(settled(made.stat, made.handle.as_fd()))))
                }
                Err(Errno::EXIST) => Ok(Outcome::Raced(self.root.stat(path)?)),
                Err(errno) => Err(Error::entry(path, "place", errno)),
            };
        };
        let Some((held, found)) = self.root.look(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if found.fingerprint.inode == made.stat.fingerprint.inode {
            // A link that is there already.
            drop(made.beside);
            return Ok(Outcome::Done(Some(settled(found, held.as_fd()))));
        }
        if !self.is_expected(&over.expect, &found) || !self.is_free_of_entries(path, &found)? {
            return Ok(Outcome::Raced(Some(found)));
        }
        self.swap(path, (dir.as_fd(), name), made, (held, found), &over.keep)
    }

    /// By way of the trash: whenever this process is killed, the displaced
    /// entry is in its place or has its name and time there.
    fn swap(
        &mut self,
        path: &RelPath,
        at: (BorrowedFd<'_>, &[u8]),
        made: Made,
        (held, found): (OwnedFd, Stat),
        keep: &Keep,
    ) -> Result<Outcome, Error> {
        let resting = Resting::reserve(&self.root, path)?;
        let trash = self.root.trash();
        let (tmp, new) = (made.beside.dir(), made.beside.name());
        fs::renameat_with(tmp, new, trash, resting.name.as_slice(), RenameFlags::NOREPLACE)
            .map_err(|errno| Error::private("use the trash", errno))?;
        made.beside.placed();
        let swapped =
            fs::renameat_with(trash, resting.name.as_slice(), at.0, at.1, RenameFlags::EXCHANGE);
        if let Err(errno) = swapped {
            resting.discard(&self.root);
            return match errno {
                Errno::NOENT => Ok(Outcome::Raced(None)),
                errno => Err(Error::entry(path, "replace", errno)),
            };
        }
        let stat = settled(made.stat, made.handle.as_fd());
        self.lay_to_rest(path, resting, (held, found), keep);
        Ok(Outcome::Done(Some(stat)))
    }

    /// The displaced entry lies in the trash: is it what was expected, and
    /// where does it belong? The new entry is in place, so trouble here is
    /// logged and the bytes stay in the trash.
    fn lay_to_rest(
        &mut self,
        path: &RelPath,
        resting: Resting,
        (held, found): (OwnedFd, Stat),
        keep: &Keep,
    ) {
        let out = self.displaced(&resting);
        let raced = !out.as_ref().is_some_and(|out| is_same(&found, out));
        let now = out.unwrap_or_else(|| found.clone());
        let trash = self.root.trash();
        let full_directory = now.kind == Kind::Directory && {
            let name = resting.name.as_slice();
            !raced && fs::unlinkat(trash, name, AtFlags::REMOVEDIR).is_err()
        };
        let label = match keep {
            _ if raced || full_directory => Some("changed here while a remote change arrived"),
            Keep::Conflict { label } if now.kind != Kind::Directory => Some(label.as_str()),
            _ => None,
        };
        if let Some(label) = label {
            let kept = conflicts::keep(&self.root, (trash, &resting.name), path, &now, label);
            match kept {
                Ok(id) => tracing::info!(%path, %id, label, "kept as a conflict"),
                Err(error) => tracing::error!(%path, %error, "a conflict stays in the trash"),
            }
            resting.forget(&self.root);
        } else if now.kind == Kind::Directory {
            resting.forget(&self.root);
        } else if *keep == Keep::Discard || now.links > 1 {
            resting.discard(&self.root);
        }
        if raced || full_directory {
            self.shared.races_kept.fetch_add(1, Ordering::Relaxed);
        }
        if now.links > 1 {
            let after = settled(found.clone(), held.as_fd());
            self.remember(&found, &after);
        }
    }

    fn displaced(&self, resting: &Resting) -> Option<Stat> {
        let handle = open_private(self.root.trash(), &resting.name).ok()?;
        self.root.stat_fd(handle.as_fd()).ok()
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath, expect: &Expect) -> Result<Outcome, Error> {
        let Some((dir, name)) = self.parent_of(from)? else {
            return Ok(Outcome::Raced(None));
        };
        let (to_dir, to_name) = self.parent_of(to)?.ok_or_else(|| no_parent(to))?;
        let Some((held, found)) = self.root.look(from)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        match fs::renameat_with(&dir, name, &to_dir, to_name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Outcome::Raced(self.root.stat(to)?)),
            Err(Errno::NOENT) => return Ok(Outcome::Raced(None)),
            Err(errno) => return Err(Error::entry(from, "rename", errno)),
        }
        if !names_inode(to_dir.as_fd(), to_name, found.fingerprint.inode) {
            // Something else took the old name since the look: it goes back,
            // unless a third one is there by now.
            let back = RenameFlags::NOREPLACE;
            if fs::renameat_with(&to_dir, to_name, &dir, name, back).is_err() {
                tracing::warn!(%from, %to, "a raced rename could not be undone");
            }
            return Ok(Outcome::Raced(self.root.stat(from)?));
        }
        let after = settled(found.clone(), held.as_fd());
        self.remember(&found, &after);
        Ok(Outcome::Done(Some(after)))
    }

    fn exchange(
        &mut self,
        (a, expect_a): (&RelPath, &Expect),
        (b, expect_b): (&RelPath, &Expect),
    ) -> Result<Outcome, Error> {
        let (Some((dir_a, name_a)), Some((dir_b, name_b))) =
            (self.parent_of(a)?, self.parent_of(b)?)
        else {
            return Ok(Outcome::Raced(None));
        };
        let mut looked = Vec::with_capacity(2);
        for (path, expect) in [(a, expect_a), (b, expect_b)] {
            match self.root.look(path)? {
                Some((held, found)) if self.is_expected(expect, &found) => {
                    looked.push((held, found));
                }
                other => return Ok(Outcome::Raced(other.map(|(_, found)| found))),
            }
        }
        let swap = || fs::renameat_with(&dir_a, name_a, &dir_b, name_b, RenameFlags::EXCHANGE);
        match swap() {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Outcome::Raced(None)),
            Err(errno) => return Err(Error::entry(a, "exchange", errno)),
        }
        let [(_, was_a), (_, was_b)] = &looked[..] else {
            return Ok(Outcome::Raced(None));
        };
        let right = names_inode(dir_a.as_fd(), name_a, was_b.fingerprint.inode)
            && names_inode(dir_b.as_fd(), name_b, was_a.fingerprint.inode);
        if !right {
            if swap().is_err() {
                tracing::warn!(%a, %b, "a raced exchange could not be undone");
            }
            return Ok(Outcome::Raced(self.root.stat(a)?));
        }
        let mut last = None;
        for (held, found) in looked {
            let after = settled(found.clone(), held.as_fd());
            self.remember(&found, &after);
            last = Some(after);
        }
        // What was at `b` is what is at `a`.
        Ok(Outcome::Done(last))
    }

    fn link(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        expect: &Expect,
        over: Option<&Over>,
    ) -> Result<Outcome, Error> {
        if self.parent_of(from)?.is_none() {
            return Ok(Outcome::Raced(None));
        }
        let Some((held, found)) = self.root.look(from)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        let beside = Beside::reserve(&self.root);
        let source = proc_path(held.as_fd());
        let follow = AtFlags::SYMLINK_FOLLOW;
        match fs::linkat(CWD, source.as_str(), beside.dir(), beside.name(), follow) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Outcome::Raced(None)),
            Err(errno) => return Err(Error::entry(from, "link", errno)),
        }
        let held = Arc::new(held);
        let made = Made { beside, handle: held.clone(), stat: found.clone() };
        let outcome = self.put(to, made, over)?;
        // Even a link that was taken back has moved the ctime.
        let after = settled(found.clone(), held.as_fd());
        self.remember(&found, &after);
        Ok(outcome)
    }

    fn remove(&mut self, path: &RelPath, expect: &Expect, keep: &Keep) -> Result<Outcome, Error> {
        let Some((dir, name)) = self.parent_of(path)? else {
            return Ok(Outcome::Raced(None));
        };
        let Some((held, found)) = self.root.look(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        if found.kind == Kind::Directory {
            return match fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => Ok(Outcome::Done(None)),
                Err(Errno::NOENT) => Ok(Outcome::Raced(None)),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                    Ok(Outcome::Raced(self.root.stat(path)?))
                }
                Err(errno) => Err(Error::entry(path, "remove", errno)),
            };
        }
        let resting = Resting::reserve(&self.root, path)?;
        let trash = self.root.trash();
        let taken = resting.name.as_slice();
        if let Err(errno) = fs::renameat_with(&dir, name, trash, taken, RenameFlags::NOREPLACE) {
            resting.forget(&self.root);
            return match errno {
                Errno::NOENT => Ok(Outcome::Raced(None)),
                errno => Err(Error::entry(path, "remove", errno)),
            };
        }
        let out = self.displaced(&resting);
        if !out.is_some_and(|out| is_same(&found, &out)) {
            let back = fs::renameat_with(trash, taken, &dir, name, RenameFlags::NOREPLACE);
            match back {
                Ok(()) => resting.forget(&self.root),
                // A new entry has the name by now.
                Err(_) => self.lay_to_rest(path, resting, (held, found), keep),
            }
            return Ok(Outcome::Raced(self.root.stat(path)?));
        }
        let (others, before) = (found.links > 1, found.clone());
        let shared = held.try_clone().ok();
        self.lay_to_rest(path, resting, (held, found), keep);
        let rest = shared.filter(|_| others).map(|held| settled(before, held.as_fd()));
        Ok(Outcome::Done(rest.filter(|stat| stat.links > 0)))
    }

    fn patch(
        &mut self,
        path: &RelPath,
        expect: &Expect,
        patch: &Patch,
        keep: &Keep,
    ) -> Result<Outcome, Error> {
        self.parent_of(path)?;
        let Some((held, found)) = self.root.look(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if found.kind != Kind::File || !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        drop(held);
        if *keep != Keep::Discard {
            let Some(file) = self.root.open_file(path, Access::Read)? else {
                return Ok(Outcome::Raced(None));
            };
            let (root, file) = (&self.root, file.as_fd());
            match keep {
                Keep::Conflict { label } => {
                    conflicts::keep_copy(root, file, path, &found, label)?;
                }
                _ => trash::keep_copy(root, file, path, &found)?,
            }
        }
        let outcome = patch.carry_out(&self.root, path, &found, &self.shared.skipped);
        match outcome {
            Ok(Some(after)) => {
                self.remember(&found, &after);
                Ok(Outcome::Done(Some(after)))
            }
            Ok(None) => Ok(Outcome::Raced(self.root.stat(path)?)),
            Err((error, begun)) => {
                self.unfinished |= begun;
                Err(error)
            }
        }
    }

    fn set_metadata(
        &mut self,
        path: &RelPath,
        expect: &Expect,
        metadata: &Metadata,
    ) -> Result<Outcome, Error> {
        refuse_private(path)?;
        let Some((held, found)) = self.root.look(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        metadata::set(held.as_fd(), &found, metadata, &self.shared.skipped)
            .map_err(|errno| Error::entry(path, "set the metadata of", errno))?;
        let mut after = self.root.stat_fd(held.as_fd())?;
        own_bytes(&mut after, found.fingerprint.size, metadata.mtime);
        self.remember(&found, &after);
        Ok(Outcome::Done(Some(after)))
    }

    /// The directory that holds a name, freshly resolved; `None` where it is
    /// missing.
    fn parent_of<'path>(
        &self,
        path: &'path RelPath,
    ) -> Result<Option<(OwnedFd, &'path [u8])>, Error> {
        refuse_private(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(Error::RootEntry);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        Ok(self.root.resolve(&parent, flags)?.map(|dir| (dir, name)))
    }

    fn is_expected(&self, expect: &Expect, found: &Stat) -> bool {
        let mut fingerprint = expect.fingerprint;
        while let Some(next) = self.lineage.get(&fingerprint) {
            fingerprint = *next;
        }
        expect.is(found) || Expect { kind: expect.kind, fingerprint }.is(found)
    }

    fn is_free_of_entries(&self, path: &RelPath, found: &Stat) -> Result<bool, Error> {
        if found.kind != Kind::Directory {
            return Ok(true);
        }
        Ok(self.root.read_dir(path)?.is_some_and(|entries| entries.is_empty()))
    }

    /// A fingerprint leads to the one after it; ctimes only grow, so no
    /// chain of them closes.
    fn remember(&mut self, before: &Stat, after: &Stat) {
        let (before, after) = (before.fingerprint, after.fingerprint);
        if before.ctime < after.ctime {
            self.lineage.insert(before, after);
        }
    }
}

/// The entry as this room left it: what a rename changes is read anew, the
/// rest is what was set or seen before, so that a local change made in the
/// meantime stays a difference that the next look finds.
fn settled(mut stat: Stat, fd: BorrowedFd<'_>) -> Stat {
    let fields = StatxFlags::CTIME | StatxFlags::NLINK;
    if let Ok(now) = fs::statx(fd, c"", AtFlags::EMPTY_PATH, fields) {
        stat.fingerprint.ctime =
            Timestamp { seconds: now.stx_ctime.tv_sec, nanos: now.stx_ctime.tv_nsec };
        stat.links = now.stx_nlink;
    }
    stat
}

/// The same for steps that set the time after everything else.
pub(super) fn own_bytes(stat: &mut Stat, size: u64, mtime: Timestamp) {
    if stat.kind == Kind::File {
        stat.fingerprint.size = size;
        stat.fingerprint.mtime = mtime;
        stat.metadata.mtime = mtime;
    }
}

/// Is what came out what was seen before? Its ctime has moved with it.
fn is_same(found: &Stat, out: &Stat) -> bool {
    found.kind == out.kind
        && match found.kind {
            Kind::Directory => found.fingerprint.inode == out.fingerprint.inode,
            _ => found.fingerprint.same_bytes(&out.fingerprint) && found.metadata == out.metadata,
        }
}

fn names_inode(dir: BorrowedFd<'_>, name: &[u8], inode: u64) -> bool {
    fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO)
        .is_ok_and(|now| now.stx_ino == inode)
}

fn open_private(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn refuse_private(path: &RelPath) -> Result<(), Error> {
    if path.is_private() { Err(Error::Private { path: path.clone() }) } else { Ok(()) }
}

fn no_parent(path: &RelPath) -> Error {
    Error::NoParent { path: path.clone() }
}
