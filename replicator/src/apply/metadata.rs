//! Owner, mode, attributes, time and flags of an entry, in the order in which none
//! of them undoes another.

use std::os::fd::BorrowedFd;

use rustix::fs::{
    self, AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::entry::{Flags, Kind, Metadata, Stat, Timestamp, Xattr};
use crate::root::{Root, is_replicated, proc_path, set_flags};

/// Makes an entry's metadata what it should be; `now` is what it is.
///
/// A change of owner clears set-user-id bits and capabilities, a change of
/// mode rewrites the mask of an ACL, and most of them touch the times: hence
/// owner, mode, attributes, mtime. Flags can forbid all of it, so they come
/// last; those that bind are off by now.
pub(super) fn set(
    root: &Root,
    fd: BorrowedFd<'_>,
    now: &Stat,
    wanted: &Metadata,
) -> Result<(), Errno> {
    let entry = Entry { fd };
    let owned = entry.set_owner(&now.metadata, wanted)?;
    if now.kind != Kind::Symlink {
        // Set-user-id for an owner who could not be given would let this
        // user's rights be taken instead.
        let mode = if owned { wanted.mode } else { wanted.mode & !0o6000 };
        let chowned = (now.metadata.uid, now.metadata.gid) != (wanted.uid, wanted.gid);
        if chowned || now.metadata.mode != mode {
            entry.set_mode(Mode::from_raw_mode(mode))?;
        }
    }
    entry.set_xattrs(&now.metadata.xattrs, &wanted.xattrs)?;
    entry.set_mtime(wanted.mtime)?;
    match now.kind {
        Kind::File | Kind::Directory => {
            entry.set_flags(root.flags(), now.metadata.flags, wanted.flags)
        }
        Kind::Symlink | Kind::Fifo => Ok(()),
    }
}

/// An open or `O_PATH` handle. The calls on descriptors refuse the latter
/// (`EBADF`), and are spared a path where they do not.
struct Entry<'fd> {
    fd: BorrowedFd<'fd>,
}

impl Entry<'_> {
    fn set_mode(&self, mode: Mode) -> Result<(), Errno> {
        match fs::fchmod(self.fd, mode) {
            Err(Errno::BADF) => fs::chmodat(CWD, proc_path(self.fd), mode, AtFlags::empty()),
            done => done,
        }
    }

    /// `false` where this process may not give the entry that owner.
    fn set_owner(&self, now: &Metadata, wanted: &Metadata) -> Result<bool, Errno> {
        if (now.uid, now.gid) == (wanted.uid, wanted.gid) {
            return Ok(true);
        }
        // The largest number means "leave it" to the system call.
        if wanted.uid == u32::MAX || wanted.gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let chown = |uid: Option<Uid>| {
            let group = Some(Gid::from_raw(wanted.gid));
            fs::chownat(self.fd, c"", uid, group, AtFlags::EMPTY_PATH)
        };
        match chown(Some(Uid::from_raw(wanted.uid))) {
            Ok(()) => Ok(true),
            // EINVAL: the id has no place in this user namespace.
            Err(Errno::PERM | Errno::INVAL) => {
                // An owner may still give a file to a group of theirs.
                match chown(None) {
                    Ok(()) | Err(Errno::PERM | Errno::INVAL) => Ok(false),
                    Err(errno) => Err(errno),
                }
            }
            Err(errno) => Err(errno),
        }
    }

    fn set_xattrs(&self, now: &[Xattr], wanted: &[Xattr]) -> Result<(), Errno> {
        if now.is_empty() && wanted.is_empty() {
            return Ok(());
        }
        let path = proc_path(self.fd);
        for xattr in now {
            if wanted.iter().all(|other| other.name != xattr.name) {
                let removed = fs::removexattr(path.as_str(), xattr.name.as_slice());
                tolerate(removed)?;
            }
        }
        for xattr in wanted.iter().filter(|xattr| is_replicated(&xattr.name)) {
            // Giving the file an owner may have taken its capabilities, so
            // those are set again even where they were right before.
            if xattr.name != b"security.capability" && now.contains(xattr) {
                continue;
            }
            let (name, value) = (xattr.name.as_slice(), xattr.value.as_slice());
            let set = fs::setxattr(path.as_str(), name, value, XattrFlags::empty());
            tolerate(set)?;
        }
        Ok(())
    }

    fn set_mtime(&self, mtime: Timestamp) -> Result<(), Errno> {
        // Larger numbers mean "now" or "leave it" to the system call.
        if mtime.nanos >= 1_000_000_000 {
            return Err(Errno::INVAL);
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanos) },
        };
        match fs::futimens(self.fd, &times) {
            Err(Errno::BADF) => fs::utimensat(CWD, proc_path(self.fd), &times, AtFlags::empty()),
            done => done,
        }
    }

    fn set_flags(&self, settable: Flags, now: Flags, wanted: Flags) -> Result<(), Errno> {
        let flags = wanted.among(settable);
        let outcome = if flags == now { Ok(()) } else { set_flags(self.fd, flags) };
        match outcome {
            // Of a file that is not this user's own, not even the others.
            Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NOTTY) => Ok(()),
            other => other,
        }
    }
}

/// An attribute this user may not set or this file system cannot hold is left
/// out: the entry itself is worth more.
fn tolerate(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL) => Ok(()),
        other => other,
    }
}
