//! Writes in place: a small part of a large file, or a file with several
//! links.
//!
//! The order is the promise: room is reserved, the record is made durable,
//! the bytes are written and made durable, the time is set, the record goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::fs::{self, FallocateFlags};
use rustix::io::Errno;

use super::content::{punch, write_at};
use super::metadata::{self, Skipped};
use super::redo::Record;
use super::{Error, bound, worker};
use crate::entry::{Metadata, Stat};
use crate::path::RelPath;
use crate::range::Range;
use crate::root::{Access, Root, set_flags};

/// Bytes one patch may carry. They are written twice and held in memory once;
/// a larger change is a whole file.
pub(super) const PATCH_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct Patch {
    pub(super) writes: Vec<(u64, Bytes)>,
    pub(super) holes: Vec<Range>,
    pub(super) size: u64,
    pub(super) metadata: Metadata,
}

/// An error, and whether bytes of the file may have been written before it.
type Cut = (Error, bool);

impl Patch {
    /// `None` where the file is no longer the one that was found; nothing
    /// was changed then.
    pub(super) fn carry_out(
        &self,
        root: &Root,
        path: &RelPath,
        found: &Stat,
        skipped: &Skipped,
    ) -> Result<Option<Stat>, Cut> {
        let unbegun = |error| (error, false);
        self.check(path).map_err(unbegun)?;
        let is_bound = found.metadata.flags.is_binding();
        // Nobody can open it for writing before the record lets it be freed.
        let access = if is_bound { Access::Read } else { Access::ReadWrite };
        let opened = root.open_file(path, access);
        let Some(file) = opened.map_err(|error| unbegun(error.into()))? else {
            return Ok(None);
        };
        let unchanged = || root.stat_fd(file.as_fd()).map(|now| now == *found);
        let still = |error: crate::root::Error| unbegun(error.into());
        if !unchanged().map_err(still)? {
            return Ok(None);
        }
        let record = Record::write(root, path, found, self).map_err(unbegun)?;
        // The flush of the record took long enough for a local writer.
        if !unchanged().map_err(still)? {
            record.remove(root).map_err(unbegun)?;
            return Ok(None);
        }
        let prepared = self.prepare(root, path, &file, is_bound).map_err(unbegun);
        let file = match prepared {
            Ok(Some(freed)) => freed,
            Ok(None) => file,
            Err(error) => {
                if is_bound {
                    let back = set_flags(file.as_fd(), found.metadata.flags);
                    back.map_err(|errno| {
                        (Error::entry(path, "put back the flags of", errno), true)
                    })?;
                }
                record.remove(root).map_err(unbegun)?;
                return Err(error);
            }
        };
        let begun = |error| (error, true);
        let before = found.fingerprint.size;
        let after = self.write(root, path, file.as_fd(), before, skipped).map_err(begun)?;
        record.remove(root).map_err(begun)?;
        Ok(Some(after))
    }

    /// What can fail before a byte is written, though it moves the ctime.
    /// Gives another handle where the file could not be written to.
    fn prepare(
        &self,
        root: &Root,
        path: &RelPath,
        file: &OwnedFd,
        is_bound: bool,
    ) -> Result<Option<OwnedFd>, Error> {
        let freed = match is_bound {
            true => {
                bound::free(root, path, file.as_fd())?;
                let gone = || Error::Gone { path: path.clone() };
                Some(root.open_file(path, Access::ReadWrite)?.ok_or_else(gone)?)
            }
            false => None,
        };
        self.reserve(freed.as_ref().unwrap_or(file).as_fd())
            .map_err(|errno| Error::entry(path, "reserve room in", errno))?;
        Ok(freed)
    }

    /// Everything after the record; a replay comes here again.
    pub(super) fn write(
        &self,
        root: &Root,
        path: &RelPath,
        file: BorrowedFd<'_>,
        size_before: u64,
        skipped: &Skipped,
    ) -> Result<Stat, Error> {
        self.write_bytes(file, size_before)
            .map_err(|errno| Error::entry(path, "write to", errno))?;
        let now = root.stat_fd(file)?;
        metadata::set(root, file, &now, &self.metadata, skipped)
            .map_err(|errno| Error::entry(path, "set the metadata of", errno))?;
        let mut after = root.stat_fd(file)?;
        worker::own_bytes(&mut after, self.size, self.metadata.mtime);
        Ok(after)
    }

    fn write_bytes(&self, file: BorrowedFd<'_>, size_before: u64) -> Result<(), Errno> {
        for (offset, bytes) in &self.writes {
            write_at(file, bytes, *offset)?;
        }
        // Only where it is to become shorter: somebody may have appended to
        // it just now. That is a change of theirs, found by the next look.
        if self.size < size_before || (fs::fstat(file)?.st_size as u64) < self.size {
            fs::ftruncate(file, self.size)?;
        }
        for hole in &self.holes {
            punch(file, *hole)?;
        }
        fs::fdatasync(file)
    }

    /// Running out of room half-way is the one failure that can be met
    /// before it happens.
    fn reserve(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        for (offset, bytes) in &self.writes {
            match fs::fallocate(file, FallocateFlags::KEEP_SIZE, *offset, bytes.len() as u64) {
                Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Does it leave every byte of a file of this size as it is?
    pub(super) fn only_appends_to(&self, size: u64) -> bool {
        self.size >= size
            && self.writes.iter().all(|(offset, _)| *offset >= size)
            && self.holes.iter().all(|hole| hole.start >= size)
    }

    pub(super) fn check(&self, path: &RelPath) -> Result<(), Error> {
        let wrong = |reason| Err(Error::BadPatch { path: path.clone(), reason });
        if self.writes.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() > PATCH_BYTES_MAX {
            return wrong("it is larger than a patch may be");
        }
        let writes = self.writes.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64));
        let holes = self.holes.iter().map(|hole| (hole.start, hole.end.saturating_sub(hole.start)));
        for (offset, length) in writes.chain(holes) {
            if length == 0 {
                return wrong("it has an empty range");
            }
            if offset.checked_add(length).is_none_or(|end| end > self.size) {
                return wrong("it writes beyond the end it gives the file");
            }
        }
        if self.size > i64::MAX as u64 {
            return wrong("no file is that large");
        }
        Ok(())
    }
}
