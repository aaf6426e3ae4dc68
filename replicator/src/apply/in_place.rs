//! Patches are carried out, all that are given together.
//!
//! The order is the promise. The records of all are made durable. Then, file
//! after file: nobody else has it open, room is reserved, the bytes are
//! written. The bytes of all are made durable, each file is given its time,
//! and its record goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::durable::flush_files;
use super::lease::{Lease, Patience};
use super::patch::Patch;
use super::redo::{self, Record};
use super::{Error, bound};
use crate::entry::{Stat, Timestamp};
use crate::path::RelPath;
use crate::root::{Access, Root, proc_path, set_flags};

/// A patch of a file that is what was expected.
pub(super) struct Plan {
    pub path: RelPath,
    pub found: Stat,
    pub patch: Patch,
}

/// Why a patch was not carried out.
pub(super) enum Halt {
    /// The file is no longer the one that was found; nothing was changed.
    Raced,
    /// `begun`: bytes of the file may have been written before.
    Failed { error: Error, begun: bool },
}

impl Halt {
    fn begun(error: Error) -> Self {
        Self::Failed { error, begun: true }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed { error, begun: false }
    }
}

/// The file before and after each, in their order. What was halted before
/// stays so, and what is on the way does not stop the others.
pub(super) fn carry_out(
    planned: Vec<Result<Plan, Halt>>,
    root: &Root,
    patience: &mut Patience,
) -> Vec<Result<(Stat, Stat), Halt>> {
    let recorded = record_all(planned, root).into_iter();
    let begun = recorded.map(|recorded| recorded?.begin(root, patience));
    let begun: Vec<Result<Begun, Halt>> = begun.collect();
    let files: Vec<_> = begun.iter().flatten().map(|begun| begun.file.as_fd()).collect();
    let flushed = flush_files(root, &files);
    let finish = |begun: Begun| {
        let failed = |errno| Error::entry(&begun.recorded.plan.path, "write to", errno);
        let durable = flushed.map_err(failed);
        durable.and_then(|()| begun.finish(root)).map_err(Halt::begun)
    };
    begun.into_iter().map(|begun| begun.and_then(finish)).collect()
}

/// A plan of which a record tells.
struct Recorded {
    plan: Plan,
    record: Record,
}

/// What each is going to do, made durable at once.
fn record_all(planned: Vec<Result<Plan, Halt>>, root: &Root) -> Vec<Result<Recorded, Halt>> {
    let record = |plan: Result<Plan, Halt>| {
        let plan = plan?;
        let record = Record::write(root, &plan.path, &plan.found, &plan.patch)?;
        Ok(Recorded { plan, record })
    };
    let written: Vec<_> = planned.into_iter().map(record).collect();
    let records = written.iter().flatten().map(|recorded| &recorded.record);
    let Err(errno) = redo::flush(root, records) else {
        return written;
    };
    let give_up = |recorded: Recorded| {
        // No patch has begun; what stays is dropped at the start.
        let _ = recorded.record.remove(root);
        Err(Error::private("write a redo record", errno).into())
    };
    written.into_iter().map(|written| written.and_then(give_up)).collect()
}

/// A file that shows all bytes of its patch, which may not be durable yet.
struct Begun {
    recorded: Recorded,
    /// Open for reading: who wants to execute the file does not wait for the
    /// disk.
    file: OwnedFd,
    /// The time it had then.
    written: Timestamp,
}

impl Recorded {
    fn begin(self, root: &Root, patience: &mut Patience) -> Result<Begun, Halt> {
        match self.plan.write(&self.record, root, patience) {
            Ok((file, written)) => Ok(Begun { recorded: self, file, written }),
            Err(halt @ Halt::Failed { begun: true, .. }) => Err(halt),
            Err(halt) => {
                self.record.remove(root)?;
                Err(halt)
            }
        }
    }
}

impl Plan {
    fn write(
        &self,
        record: &Record,
        root: &Root,
        patience: &mut Patience,
    ) -> Result<(OwnedFd, Timestamp), Halt> {
        let Self { path, found, patch } = self;
        let unchanged = |file: &OwnedFd| root.stat_fd(file.as_fd()).is_ok_and(|now| now == *found);
        let file = open_alone(root, path, found, patience)?.ok_or(Halt::Raced)?;
        let is_bound = found.metadata.flags.is_binding();
        let lease = match is_bound {
            true => None,
            false => Lease::take(file.as_fd(), found.fingerprint.inode, patience),
        };
        // It took long enough for a local writer.
        if !unchanged(&file) {
            return Err(Halt::Raced);
        }
        record.begin();
        let freed = match prepare(patch, root, path, &file, is_bound) {
            Ok(freed) => freed,
            Err(error) => {
                if is_bound {
                    let back = set_flags(file.as_fd(), found.metadata.flags);
                    back.map_err(|errno| Error::entry(path, "put back the flags of", errno))
                        .map_err(Halt::begun)?;
                }
                return Err(error.into());
            }
        };
        let writable = freed.as_ref().unwrap_or(&file);
        let size = found.fingerprint.size;
        let written = patch.write(root, path, writable.as_fd(), size).map_err(Halt::begun)?;
        // Who waits to open the file does not wait for the disk.
        drop(lease);
        let readable = reopen(writable.as_fd()).ok().or(freed).unwrap_or(file);
        Ok((readable, written))
    }
}

impl Begun {
    /// The bytes are durable.
    fn finish(&self, root: &Root) -> Result<(Stat, Stat), Error> {
        let Recorded { plan, record } = &self.recorded;
        let after = plan.patch.dress(root, &plan.path, self.file.as_fd(), self.written)?;
        record.remove(root)?;
        Ok((plan.found.clone(), after))
    }
}

/// The file open for writing, once nobody else has it open for that. What is
/// bound stays as it is, open for reading: nobody can open it so before it is
/// freed.
fn open_alone(
    root: &Root,
    path: &RelPath,
    found: &Stat,
    patience: &mut Patience,
) -> Result<Option<OwnedFd>, Error> {
    let Some(file) = root.open_file(path, Access::Read)? else { return Ok(None) };
    if found.metadata.flags.is_binding() {
        return Ok(Some(file));
    }
    patience.wait_for_writers(file.as_fd(), found.fingerprint.inode);
    // A lease is given to the only one who has it open.
    drop(file);
    Ok(root.open_file(path, Access::ReadWrite)?)
}

fn reopen(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fs::open(proc_path(file), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
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
