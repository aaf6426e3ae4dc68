//! Whole files, written beside their place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::beside::Beside;
use super::content::{copy_bytes, punch, write_at};
use super::durable::flush_files;
use super::{Error, metadata};
use crate::entry::{Flags, Metadata, Stat};
use crate::path::RelPath;
use crate::range::Range;
use crate::root::{Access, Root};

/// A file being written, without a name or in `.replicator/tmp`; gone when it
/// is dropped unplaced.
#[derive(Debug)]
pub struct Staged {
    /// `None` where it has no name.
    pub(super) beside: Option<Beside>,
    pub(super) file: Arc<OwnedFd>,
}

impl Staged {
    /// An empty file of this size: one hole, until it is written.
    ///
    /// Without a name where the file system can: names that are all made in one
    /// directory and moved out of it wait for its lock (40,000 small files on
    /// ext4: 1.3 s of system time with names, 0.7 s without).
    pub fn create(root: &Root, size: u64) -> Result<Self, Error> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let staged = match fs::openat(root.tmp(), c".", flags, USUAL) {
            Ok(file) => Self { beside: None, file: Arc::new(file) },
            // The kernel's answers where it, or the file system, cannot.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => Self::with_name(root)?,
            Err(errno) => return Err(cannot_make(errno)),
        };
        if size > 0 {
            staged.resize(size)?;
        }
        Ok(staged)
    }

    pub(super) fn with_name(root: &Root) -> Result<Self, Error> {
        let beside = Beside::reserve(root);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(beside.dir(), beside.name(), flags, OWN).map_err(cannot_make)?;
        Ok(Self { beside: Some(beside), file: Arc::new(file) })
    }

    /// The same bytes and holes as a file of the folder: shared blocks where
    /// the file system has them.
    pub fn copy_of(root: &Root, path: &RelPath) -> Result<Self, Error> {
        let gone = || Error::Gone { path: path.clone() };
        let source = root.open_file(path, Access::Read)?.ok_or_else(gone)?;
        let before = root.glance_fd(source.as_fd())?.fingerprint;
        let copy = Self::create(root, 0)?;
        copy_bytes(source.as_fd(), copy.file.as_fd(), before.size)
            .map_err(|errno| Error::entry(path, "copy", errno))?;
        if root.glance_fd(source.as_fd())?.fingerprint != before {
            return Err(Error::Changed { path: path.clone() });
        }
        Ok(copy)
    }

    /// For the engine to write to. Positions are explicit; the file's own
    /// offset is nobody's.
    pub fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// All of these bytes, each run at its offset.
    pub fn write_all(&self, writes: &[(u64, Bytes)]) -> Result<(), Error> {
        let failed = |errno| Error::private("write a temporary file", errno);
        let mut writes = writes.iter();
        writes.try_for_each(|(at, bytes)| write_at(self.file.as_fd(), bytes, *at)).map_err(failed)
    }

    /// These bytes read as zeros from now on.
    pub fn punch(&self, hole: Range) -> Result<(), Error> {
        punch(self.file.as_fd(), hole)
            .map_err(|errno| Error::private("punch a hole into a temporary file", errno))
    }

    /// Cuts off what lies behind, or ends it with a hole.
    pub fn resize(&self, size: u64) -> Result<(), Error> {
        fs::ftruncate(&self.file, size)
            .map_err(|errno| Error::private("size a temporary file", errno))
    }
}

/// The mode of a file that nobody can open yet: what most are to have, which
/// spares a call for each.
const USUAL: Mode = Mode::from_raw_mode(0o644);
/// That of one with a name, until it is given what it is to have.
const OWN: Mode = Mode::RUSR.union(Mode::WUSR);

fn cannot_make(errno: Errno) -> Error {
    Error::private("make a temporary file", errno)
}

/// Makes the bytes of staged files durable, before their names are.
pub fn flush<'a>(root: &Root, staged: impl IntoIterator<Item = &'a Staged>) -> Result<(), Error> {
    let files: Vec<_> = staged.into_iter().map(|one| one.file.as_fd()).collect();
    flush_files(root, &files).map_err(|errno| Error::private("flush temporary files", errno))
}

/// Would this many more bytes leave `min_free` bytes free?
pub fn check_room(root: &Root, needed: u64, min_free: u64) -> Result<(), Error> {
    let free = root.free_space()?.free;
    if free < min_free.saturating_add(needed) {
        return Err(Error::BelowMinFree { free, min_free });
    }
    Ok(())
}

/// Copies a file of the tree to a name in a private directory, durably. Its
/// flags stay behind: what is kept can be removed.
pub(super) fn copy_into(
    root: &Root,
    (dir, name): (BorrowedFd<'_>, &[u8]),
    file: BorrowedFd<'_>,
    stat: &Stat,
) -> Result<(), Error> {
    let failed = |errno| Error::private("keep a copy", errno);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    copy_bytes(file, copy.as_fd(), stat.fingerprint.size).map_err(failed)?;
    let now = root.stat_fd(copy.as_fd())?;
    let wanted = Metadata { flags: Flags::NONE, ..stat.metadata.clone() };
    metadata::set(root, copy.as_fd(), &now, &wanted).map_err(failed)?;
    fs::fsync(&copy).map_err(failed)
}
