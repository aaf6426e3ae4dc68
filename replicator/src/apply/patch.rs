//! Writes in place: a small part of a large file, or a file with several
//! links. What is written, and with what it ends; `in_place.rs` sees to it
//! that a crash in the middle does no harm, and `redo.rs` comes here again
//! after one.

use std::os::fd::BorrowedFd;

use bytes::Bytes;
use rustix::fs;
use rustix::io::Errno;

use super::content::{punch, write_at};
use super::settled::own_bytes;
use super::{Error, metadata};
use crate::entry::{Metadata, Stat, Timestamp};
use crate::path::RelPath;
use crate::range::Range;
use crate::root::Root;

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

impl Patch {
    /// Writes the bytes, which are not durable by that. Gives the time that
    /// the file has then.
    pub(super) fn write(
        &self,
        root: &Root,
        path: &RelPath,
        file: BorrowedFd<'_>,
        size_before: u64,
    ) -> Result<Timestamp, Error> {
        self.write_bytes(file, size_before)
            .map_err(|errno| Error::entry(path, "write to", errno))?;
        Ok(root.glance_fd(file)?.fingerprint.mtime)
    }

    /// Gives the file its metadata, once its bytes are durable. Where it no
    /// longer has the time that it had when they were `written`, somebody wrote
    /// to it since: it keeps that time, so that the next look finds a change.
    pub(super) fn dress(
        &self,
        root: &Root,
        path: &RelPath,
        file: BorrowedFd<'_>,
        written: Timestamp,
    ) -> Result<Stat, Error> {
        let now = root.stat_fd(file)?;
        let seen = now.metadata.mtime;
        let mtime = if seen == written { self.metadata.mtime } else { seen };
        metadata::set(root, file, &now, &Metadata { mtime, ..self.metadata.clone() })
            .map_err(|errno| Error::entry(path, "set the metadata of", errno))?;
        let mut after = root.stat_fd(file)?;
        own_bytes(&mut after, self.size, self.metadata.mtime);
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
