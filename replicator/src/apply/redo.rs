//! Redo records: what a write in place is going to do, durable before it
//! does it.
//!
//! What only appends is not written twice: its record has no bytes, and a
//! crash in the middle leads back to the version before, by cutting off what
//! was appended.
//!
//! ```text
//! magic (8) | length of the header (4, little endian) | header (postcard)
//! | bytes of the writes, one after the other | BLAKE3 of all before (32)
//! ```
//! A record without a right hash was cut short itself, so its patch had not
//! begun. A record with one is carried out again after a crash: writing the
//! same bytes twice does no harm.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{self, AtFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::durable::flush_named;
use super::patch::{PATCH_BYTES_MAX, Patch};
use super::{Error, beside, bound, conflicts, metadata, moment, sealed};
use crate::entry::{Metadata, Stat, Timestamp};
use crate::path::RelPath;
use crate::range::Range;
use crate::root::{Access, Root, set_flags};

const MAGIC: &[u8; 8] = b"rplredo3";

/// A record's bytes beside those of the patch: paths, ranges, attributes.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// A file whose mtime is this much later than its record was written by
/// somebody else after the crash: patches take milliseconds from their
/// beginning, of which the record's mtime tells. A copy of it is kept before
/// the patch is carried out again.
const PATCH_NANOS_MAX: i64 = 1_000_000_000;

/// What a start found to repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Patches that were carried out again, and appends that were undone.
    pub replayed: Vec<RelPath>,
    /// Patches that were complete, that had not begun, or whose file has been
    /// removed or replaced since: only their record was removed.
    pub dropped: u64,
    /// Entries that were given back the flags that keep them from changes.
    pub bound: u64,
    /// Temporary entries that were removed.
    pub temporary: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    path: RelPath,
    inode: u64,
    /// Birth time: tells a file from a later one with its inode number.
    born: Timestamp,
    before: Timestamp,
    before_size: u64,
    written: Timestamp,
    size: u64,
    metadata: Metadata,
    holes: Vec<Range>,
    writes: Vec<(u64, u64)>,
    /// The metadata to go back to, where the patch only appends.
    undo: Option<Metadata>,
}

/// A record, durable once it is flushed.
pub(super) struct Record {
    name: String,
    file: OwnedFd,
}

/// Makes records durable, before the first byte of their patches is written.
pub(super) fn flush<'a>(
    root: &Root,
    records: impl Iterator<Item = &'a Record>,
) -> Result<(), Errno> {
    let files: Vec<_> = records.map(|record| record.file.as_fd()).collect();
    flush_named(root, root.redo(), &files)
}

impl Record {
    pub(super) fn write(
        root: &Root,
        path: &RelPath,
        found: &Stat,
        patch: &Patch,
    ) -> Result<Self, Error> {
        let failed = |errno| Error::private("write a redo record", errno);
        let now = SystemTime::now();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let appends = patch.only_appends_to(found.fingerprint.size);
        let header = Header {
            path: path.clone(),
            inode: found.fingerprint.inode,
            born: found.fingerprint.birth,
            before: found.fingerprint.mtime,
            before_size: found.fingerprint.size,
            written: Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() },
            size: patch.size,
            metadata: patch.metadata.clone(),
            holes: patch.holes.clone(),
            writes: match appends {
                true => Vec::new(),
                false => patch.writes.iter().map(|(at, bytes)| (*at, bytes.len() as u64)).collect(),
            },
            undo: appends.then(|| found.metadata.clone()),
        };
        let header = postcard::to_stdvec(&header).map_err(|error| {
            Error::private_io("write a redo record", std::io::Error::other(error))
        })?;
        if header.len() as u64 > HEADER_BYTES_MAX {
            return Err(Error::BadPatch { path: path.clone(), reason: "it has too many ranges" });
        }
        let name = moment::name(now);
        let bytes = if appends { &[][..] } else { &patch.writes[..] };
        match write_parts(root, &name, &header, bytes) {
            Ok(file) => Ok(Self { name, file }),
            Err(errno) => {
                // The patch has not begun; what stays is dropped at the start.
                let _ = fs::unlinkat(root.redo(), name.as_str(), AtFlags::empty());
                Err(failed(errno))
            }
        }
    }

    /// The patch begins, which may be a while after its record was written:
    /// that tells its own time from one of somebody else's.
    pub(super) fn begin(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // Without it a copy too many is kept after a crash.
        let _ = fs::futimens(&self.file, &times);
    }

    pub(super) fn remove(&self, root: &Root) -> Result<(), Error> {
        remove(root, self.name.as_bytes())
    }
}

fn write_parts(
    root: &Root,
    name: &str,
    header: &[u8],
    writes: &[(u64, Bytes)],
) -> Result<OwnedFd, Errno> {
    let length = (header.len() as u32).to_le_bytes();
    let fixed = [&MAGIC[..], &length, header].into_iter();
    let parts = fixed.chain(writes.iter().map(|(_, bytes)| bytes.as_ref()));
    sealed::write(root.redo(), name, parts)
}

/// Carries out again what a crash cut short. The first failure ends it, for
/// instance a full disk; the records left are for the next call.
pub(super) fn recover(root: &Root) -> Result<Recovered, Error> {
    let mut names = beside::names(root.redo())?;
    names.sort_unstable();
    let mut recovered = Recovered::default();
    for name in names {
        if bound::is_note(&name) {
            recovered.bound += u64::from(bound::keep_promise(root, &name)?);
            remove(root, &name)?;
            continue;
        }
        match read(root, &name)? {
            Some((header, patch)) if replay(root, &header, &patch, begun(root, &name)?)? => {
                recovered.replayed.push(header.path);
            }
            _ => recovered.dropped += 1,
        }
        remove(root, &name)?;
    }
    Ok(recovered)
}

fn remove(root: &Root, name: &[u8]) -> Result<(), Error> {
    fs::unlinkat(root.redo(), name, AtFlags::empty())
        .map_err(|errno| Error::private("remove a redo record", errno))
}

/// When the patch of a record began, or its record was written.
fn begun(root: &Root, name: &[u8]) -> Result<Timestamp, Error> {
    let stat = fs::statat(root.redo(), name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Error::private("look at a redo record", errno))?;
    Ok(Timestamp { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 })
}

/// `false` where there is nothing to do again.
fn replay(root: &Root, header: &Header, patch: &Patch, begun: Timestamp) -> Result<bool, Error> {
    let path = &header.path;
    let Some(file) = root.open_file(path, Access::Read)? else {
        return Ok(false);
    };
    let now = root.stat_fd(file.as_fd())?;
    if (now.fingerprint.inode, now.fingerprint.birth) != (header.inode, header.born) {
        return Ok(false);
    }
    // The mtime is set after the bytes are durable. It proves nothing where
    // the patch leaves it as it was.
    let moves = (header.before, header.before_size) != (header.metadata.mtime, header.size);
    let seen = (now.fingerprint.mtime, now.fingerprint.size);
    if moves && seen == (header.metadata.mtime, header.size) {
        // Only the flags are set after it.
        let flags = header.metadata.flags.among(root.flags());
        if flags != now.metadata.flags {
            set_flags(file.as_fd(), flags)
                .map_err(|errno| Error::entry(path, "set the flags of", errno))?;
        }
        return Ok(false);
    }
    let begun = begun.as_nanos().max(header.written.as_nanos());
    let latest = begun.saturating_add(PATCH_NANOS_MAX);
    let by_others = now.fingerprint.mtime != header.before;
    let longer = header.undo.is_some() && now.fingerprint.size > header.size;
    if longer || (by_others && now.fingerprint.mtime.as_nanos() > latest) {
        let label = "changed here after a crash, before an interrupted change was completed";
        conflicts::keep_copy(root, file.as_fd(), path, &now, label)?;
    }
    bound::free(root, path, file.as_fd())?;
    let Some(file) = root.open_file(path, Access::ReadWrite)? else {
        return Ok(false);
    };
    let file = file.as_fd();
    match &header.undo {
        Some(metadata) => undo(root, header, metadata, file)?,
        None => {
            let written = patch.write(root, path, file, header.before_size)?;
            fs::fdatasync(file).map_err(|errno| Error::entry(path, "write to", errno))?;
            patch.dress(root, path, file, written)?;
        }
    }
    Ok(true)
}

/// Cuts off what was appended.
fn undo(
    root: &Root,
    header: &Header,
    metadata: &Metadata,
    file: BorrowedFd<'_>,
) -> Result<(), Error> {
    let path = &header.path;
    let failed = |errno| Error::entry(path, "undo an unfinished append to", errno);
    let now = root.stat_fd(file)?;
    if now.fingerprint.size > header.before_size {
        fs::ftruncate(file, header.before_size).map_err(failed)?;
    }
    fs::fdatasync(file).map_err(failed)?;
    metadata::set(root, file, &now, metadata).map_err(failed)
}

/// `None` where the record is not whole.
fn read(root: &Root, name: &[u8]) -> Result<Option<(Header, Patch)>, Error> {
    let limit = HEADER_BYTES_MAX + PATCH_BYTES_MAX + 4096;
    let record = sealed::read(root.redo(), name, MAGIC, limit)
        .map_err(|error| Error::private_io("read a redo record", error))?;
    Ok(record.and_then(parse))
}

fn parse(rest: Bytes) -> Option<(Header, Patch)> {
    let length = rest.get(..4)?.try_into().ok().map(u32::from_le_bytes)? as usize;
    let mut at = 4_usize.checked_add(length)?;
    let header: Header = postcard::from_bytes(rest.get(4..at)?).ok()?;
    let mut writes = Vec::new();
    for &(offset, length) in &header.writes {
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        if end > rest.len() {
            return None;
        }
        writes.push((offset, rest.slice(at..end)));
        at = end;
    }
    let patch = Patch {
        writes,
        holes: header.holes.clone(),
        size: header.size,
        metadata: header.metadata.clone(),
    };
    Some((header, patch))
}
