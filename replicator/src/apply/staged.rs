//! Whole files, written beside their place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Error;
use super::beside::Beside;
use super::metadata::{self, Skipped};
use crate::entry::{Flags, Metadata, Stat};
use crate::path::RelPath;
use crate::root::{Access, Root};

/// Up to this many files are flushed one by one; beyond it one `syncfs` is
/// cheaper (measured: `fdatasync` 0.15 to 0.3 ms each, `syncfs` with 1,000
/// small files 7 ms).
const FLUSH_EACH_MAX: usize = 16;

/// What one round of a copy without kernel help moves.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// A file being written in `.replicator/tmp`; removed when it is dropped
/// unplaced.
#[derive(Debug)]
pub struct Staged {
    pub(super) beside: Beside,
    pub(super) file: Arc<OwnedFd>,
}

impl Staged {
    /// An empty file of this size: one hole, until it is written.
    pub fn create(root: &Root, size: u64) -> Result<Self, Error> {
        let beside = Beside::reserve(root);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(beside.dir(), beside.name(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::private("make a temporary file", errno))?;
        if size > 0 {
            fs::ftruncate(&file, size)
                .map_err(|errno| Error::private("size a temporary file", errno))?;
        }
        Ok(Self { beside, file: Arc::new(file) })
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
}

/// Makes the bytes of staged files durable, before their names are.
pub fn flush<'a, I>(root: &Root, staged: I) -> Result<(), Error>
where
    I: IntoIterator<Item = &'a Staged, IntoIter: ExactSizeIterator>,
{
    let mut staged = staged.into_iter();
    if staged.len() > FLUSH_EACH_MAX {
        return flush_all(root);
    }
    staged.try_for_each(|one| {
        fs::fdatasync(&one.file).map_err(|errno| Error::private("flush a temporary file", errno))
    })
}

/// Makes everything durable: bytes, names and metadata. To be called before
/// an index commit that says the tree holds them.
pub fn flush_all(root: &Root) -> Result<(), Error> {
    fs::syncfs(root.dir()).map_err(|errno| Error::private("flush the file system", errno))
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
    metadata::set(root, copy.as_fd(), &now, &wanted, &Skipped::default()).map_err(failed)?;
    fs::fsync(&copy).map_err(failed)
}

/// Copies `size` bytes into an empty file, leaving holes holes.
pub(super) fn copy_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let data = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(errno),
        };
        let end = fs::seek(from, SeekFrom::Hole(data)).unwrap_or(size).min(size);
        copy_segment(from, to, data, end)?;
        at = end.max(data + 1);
    }
    Ok(())
}

fn copy_segment(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<(), Errno> {
    while at < end {
        let (mut read_at, mut write_at) = (at, at);
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        let copied = fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length);
        match copied {
            Ok(0) => return Ok(()),
            Ok(copied) => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::NOTSUP | Errno::INVAL | Errno::PERM) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<(), Errno> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    while at < end {
        let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read =
            rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..wanted], at))?;
        if read == 0 {
            return Ok(());
        }
        write_at(to, &buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

/// Writes all the bytes at an offset.
pub(super) fn write_at(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let at = offset + done as u64;
        done += match rustix::io::retry_on_intr(|| rustix::io::pwrite(file, rest, at))? {
            // A write of nothing without an error would repeat for ever.
            0 => return Err(Errno::IO),
            written => written,
        };
    }
    Ok(())
}
