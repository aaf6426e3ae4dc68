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
use super::bound::{Lifted, Note};
use super::metadata::{self, Skipped};
use super::patch::Patch;
use super::trash::Resting;
use super::{Error, Expect, Keep, Outcome, Over, Step, conflicts, redo, trash};
use crate::entry::{Fingerprint, Flags, Kind, Metadata, Stat, Timestamp};
use crate::path::RelPath;
use crate::root::{Access, Root, proc_path, set_flags};

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
    /// Directories in which nobody may change names, by inode: free for as
    /// long as this run works in them.
    opened: HashMap<u64, Lifted>,
    /// A patch was cut short and its redo record waits.
    pub(super) unfinished: bool,
}

/// A new entry beside its place, complete.
struct Made {
    beside: Beside,
    handle: Arc<OwnedFd>,
    stat: Stat,
    /// What it is to bear once it has its place, which these would keep it
    /// from.
    binding: Flags,
}

impl Worker {
    pub(super) fn new(root: Arc<Root>, shared: Arc<Shared>) -> Self {
        Self { root, shared, lineage: HashMap::new(), opened: HashMap::new(), unfinished: false }
    }

    pub(super) fn run(&mut self, steps: Vec<Step>) -> Vec<Outcome> {
        self.lineage.clear();
        if self.unfinished {
            self.finish_patches();
        }
        let step = |step| self.step(step).unwrap_or_else(Outcome::Failed);
        let outcomes = steps.into_iter().map(step).collect();
        self.opened.clear();
        outcomes
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
                self.patch(&path, &expect, &Patch { writes, holes, size, metadata }, &keep)
            }
            Step::Touch { path, expect, mtime } => {
                self.set_metadata(&path, &expect, |now| Metadata { mtime, ..now.clone() })
            }
            Step::SetMetadata { path, expect, metadata } => {
                self.set_metadata(&path, &expect, |_| metadata)
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
        let (stat, binding) = self.dress(path, handle.as_fd(), metadata)?;
        debug_assert_eq!(stat.kind, kind);
        Ok(Made { beside, handle: Arc::new(handle), stat, binding })
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
        let settable = binding.among(self.root.flags());
        if settable != binding {
            self.shared.skipped.flags.fetch_add(1, Ordering::Relaxed);
        }
        Ok((self.root.stat_fd(fd)?, settable))
    }

    fn set(
        &self,
        path: &RelPath,
        fd: BorrowedFd<'_>,
        now: &Stat,
        wanted: &Metadata,
    ) -> Result<(), Error> {
        metadata::set(&self.root, fd, now, wanted, &self.shared.skipped)
            .map_err(|errno| Error::entry(path, "set the metadata of", errno))
    }

    /// From beside into its place.
    fn put(&mut self, path: &RelPath, made: Made, over: Option<&Over>) -> Result<Outcome, Error> {
        let (dir, name) = self.parent_of(path)?.ok_or_else(|| no_parent(path))?;
        // Until it has its flags, a start would give it them.
        let _note = Note::of_new(&self.root, path, &made.stat, made.binding)?;
        let Some(over) = over else {
            let (tmp, new) = (made.beside.dir(), made.beside.name());
            return match fs::renameat_with(tmp, new, &dir, name, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    made.beside.placed();
                    Ok(Outcome::Done(Some(placed(path, made.stat, &made.handle, made.binding))))
                }
                Err(Errno::EXIST) => Ok(Outcome::Raced(self.root.stat(path)?)),
                Err(errno) => Err(Error::entry(path, "place", errno)),
            };
        };
        let Some((held, found)) = self.look(path)? else {
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
        (held, found): (Arc<OwnedFd>, Stat),
        keep: &Keep,
    ) -> Result<Outcome, Error> {
        let lifted = Lifted::lift(&self.root, &[path], &held, &found)?;
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
        let stat = placed(path, made.stat, &made.handle, made.binding);
        self.lay_to_rest(path, resting, (held, found, lifted), keep);
        Ok(Outcome::Done(Some(stat)))
    }

    /// The displaced entry lies in the trash: is it what was expected, and
    /// where does it belong? The new entry is in place, so trouble here is
    /// logged and the bytes stay in the trash.
    fn lay_to_rest(
        &mut self,
        path: &RelPath,
        resting: Resting,
        (held, found, lifted): (Arc<OwnedFd>, Stat, Option<Lifted>),
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
        // What rests bears no flags; what still is in the tree gets them back.
        if let Some(lifted) = lifted
            && now.links <= 1
            && now.fingerprint.is_inode(&found.fingerprint)
        {
            lifted.let_go();
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
        let Some((held, found)) = self.look(from)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        let lifted = Lifted::lift(&self.root, &[from, to], &held, &found)?;
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
        drop(lifted);
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
            match self.look(path)? {
                Some((held, found)) if self.is_expected(expect, &found) => {
                    looked.push((held, found));
                }
                other => return Ok(Outcome::Raced(other.map(|(_, found)| found))),
            }
        }
        let mut lifted = Vec::new();
        for (held, found) in &looked {
            lifted.extend(Lifted::lift(&self.root, &[a, b], held, found)?);
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
        drop(lifted);
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
        let Some((held, found)) = self.look(from)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        let lifted = Lifted::lift(&self.root, &[from, to], &held, &found)?;
        let beside = Beside::reserve(&self.root);
        let source = proc_path(held.as_fd());
        let follow = AtFlags::SYMLINK_FOLLOW;
        match fs::linkat(CWD, source.as_str(), beside.dir(), beside.name(), follow) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Outcome::Raced(None)),
            Err(errno) => return Err(Error::entry(from, "link", errno)),
        }
        let made = Made { beside, handle: held.clone(), stat: found.clone(), binding: Flags::NONE };
        let outcome = self.put(to, made, over)?;
        drop(lifted);
        // Even a link that was taken back has moved the ctime.
        let after = settled(found.clone(), held.as_fd());
        self.remember(&found, &after);
        Ok(match outcome {
            Outcome::Done(Some(_)) => Outcome::Done(Some(after)),
            other => other,
        })
    }

    fn remove(&mut self, path: &RelPath, expect: &Expect, keep: &Keep) -> Result<Outcome, Error> {
        let Some((dir, name)) = self.parent_of(path)? else {
            return Ok(Outcome::Raced(None));
        };
        let Some((held, found)) = self.look(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
        let lifted = Lifted::lift(&self.root, &[path], &held, &found)?;
        if found.kind == Kind::Directory {
            return match fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => {
                    lifted.into_iter().for_each(Lifted::let_go);
                    Ok(Outcome::Done(None))
                }
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
                Err(_) => self.lay_to_rest(path, resting, (held, found, lifted), keep),
            }
            return Ok(Outcome::Raced(self.root.stat(path)?));
        }
        let (others, before) = (found.links > 1, found.clone());
        self.lay_to_rest(path, resting, (held.clone(), found, lifted), keep);
        let rest = others.then(|| settled(before, held.as_fd()));
        Ok(Outcome::Done(rest.filter(|stat| stat.links > 0)))
    }

    fn patch(
        &mut self,
        path: &RelPath,
        expect: &Expect,
        patch: &Patch,
        keep: &Keep,
    ) -> Result<Outcome, Error> {
        refuse_private(path)?;
        let Some(found) = self.root.stat(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if found.kind != Kind::File || !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
        }
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
        wanted: impl FnOnce(&Metadata) -> Metadata,
    ) -> Result<Outcome, Error> {
        refuse_private(path)?;
        let Some((held, mut found)) = self.look(path)? else {
            return Ok(Outcome::Raced(None));
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced(Some(found)));
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

    fn look(&self, path: &RelPath) -> Result<Option<(Arc<OwnedFd>, Stat)>, Error> {
        let looked = self.root.look(path)?;
        Ok(looked.map(|(held, found)| (Arc::new(held), found)))
    }

    /// The directory that holds a name, freshly resolved, where names can be
    /// changed; `None` where it is missing.
    fn parent_of<'path>(
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

/// A new entry has its place, and is given what would have kept it from there.
fn placed(path: &RelPath, mut stat: Stat, handle: &OwnedFd, binding: Flags) -> Stat {
    let flags = stat.metadata.flags.with(binding);
    if binding.is_binding() {
        match set_flags(handle.as_fd(), flags) {
            Ok(()) => stat.metadata.flags = flags,
            Err(errno) => tracing::warn!(%path, ?flags, "flags cannot be set: {errno}"),
        }
    }
    settled(stat, handle.as_fd())
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

/// Is what came out what was seen before? Its ctime has moved with it, and what
/// would have kept it there was taken off.
fn is_same(found: &Stat, out: &Stat) -> bool {
    let metadata = |stat: &Stat| unbound(stat.clone()).metadata;
    found.kind == out.kind
        && match found.kind {
            Kind::Directory => found.fingerprint.inode == out.fingerprint.inode,
            _ => found.fingerprint.same_bytes(&out.fingerprint) && metadata(found) == metadata(out),
        }
}

/// The entry as it is while its flags are off.
fn unbound(mut stat: Stat) -> Stat {
    stat.metadata.flags = stat.metadata.flags.without(Flags::BINDING);
    stat
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
