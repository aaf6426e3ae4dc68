//! A patch is carried out.
//!
//! The order is the promise: the record is made durable, nobody else has the
//! file open, room is reserved, the bytes are written and made durable, the
//! time is set, the record goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FallocateFlags};
use rustix::io::Errno;

use super::lease::{Lease, Patience};
use super::patch::Patch;
use super::redo::Record;
use super::{Error, bound};
use crate::entry::Stat;
use crate::path::RelPath;
use crate::root::{Access, Root, set_flags};

/// An error, and whether bytes of the file may have been written before it.
type Cut = (Error, bool);

/// `None` where the file is no longer the one that was found; nothing
/// was changed then.
pub(super) fn carry_out(
    patch: &Patch,
    root: &Root,
    path: &RelPath,
    found: &Stat,
    patience: &mut Patience,
) -> Result<Option<Stat>, Cut> {
    let unbegun = |error| (error, false);
    patch.check(path).map_err(unbegun)?;
    let unchanged = |file: &OwnedFd| root.stat_fd(file.as_fd()).is_ok_and(|now| now == *found);
    let opened = root.open_file(path, Access::Read).map_err(|error| unbegun(error.into()))?;
    let Some(file) = opened.filter(unchanged) else {
        return Ok(None);
    };
    let record = Record::write(root, path, found, patch).map_err(unbegun)?;
    let give_up = |outcome| {
        record.remove(root).map_err(unbegun)?;
        outcome
    };
    let is_bound = found.metadata.flags.is_binding();
    let file = match open_alone(root, path, file, found, patience) {
        Ok(Some(file)) => file,
        Ok(None) => return give_up(Ok(None)),
        Err(error) => return give_up(Err(unbegun(error))),
    };
    let lease = match is_bound {
        true => None,
        false => Lease::take(file.as_fd(), found.fingerprint.inode, patience),
    };
    // It took long enough for a local writer.
    if !unchanged(&file) {
        return give_up(Ok(None));
    }
    let freed = match prepare(patch, root, path, &file, is_bound) {
        Ok(freed) => freed,
        Err(error) => {
            if is_bound {
                let back = set_flags(file.as_fd(), found.metadata.flags);
                back.map_err(|errno| (Error::entry(path, "put back the flags of", errno), true))?;
            }
            return give_up(Err(unbegun(error)));
        }
    };
    let file = freed.as_ref().unwrap_or(&file);
    let begun = |error| (error, true);
    let before = found.fingerprint.size;
    let after = patch.write(root, path, file.as_fd(), before, lease).map_err(begun)?;
    record.remove(root).map_err(begun)?;
    Ok(Some(after))
}

/// The file open for writing, once nobody else has it open for that. What is
/// bound stays as it is: nobody can open it so before it is freed.
fn open_alone(
    root: &Root,
    path: &RelPath,
    file: OwnedFd,
    found: &Stat,
    patience: &mut Patience,
) -> Result<Option<OwnedFd>, Error> {
    if found.metadata.flags.is_binding() {
        return Ok(Some(file));
    }
    patience.wait_for_writers(file.as_fd(), found.fingerprint.inode);
    // A lease is given to the only one who has it open.
    drop(file);
    Ok(root.open_file(path, Access::ReadWrite)?)
}

/// What can fail before a byte is written, though it moves the ctime.
/// Gives another handle where the file could not be written to.
fn prepare(
    patch: &Patch,
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
    reserve(patch, freed.as_ref().unwrap_or(file).as_fd())
        .map_err(|errno| Error::entry(path, "reserve room in", errno))?;
    Ok(freed)
}

/// Running out of room half-way is the one failure that can be met
/// before it happens.
fn reserve(patch: &Patch, file: BorrowedFd<'_>) -> Result<(), Errno> {
    for (offset, bytes) in &patch.writes {
        match fs::fallocate(file, FallocateFlags::KEEP_SIZE, *offset, bytes.len() as u64) {
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}
