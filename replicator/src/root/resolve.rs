//! From a path to a handle, never leaving the folder.
//!
//! `openat2` resolves beneath the root's handle and stops at symbolic links,
//! magic links and mount points, so a link planted in the middle of a path
//! leads nowhere instead of to `/etc`.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::{Access, Error, Root};
use crate::path::RelPath;

/// How often one resolution is tried again when a rename or mount elsewhere
/// on the machine disturbs it (`EAGAIN`); openat2(2) says to try again, and a
/// storm that outlasts this many is reported.
const RESOLVE_TRIES_MAX: u32 = 128;

/// So many of them at once. The others take their time: whoever has a lease
/// on the file (fcntl(2)), a Samba server or the thread that applies, is told
/// to give it up.
const TRIES_AT_ONCE_MAX: u32 = 28;
const PAUSE: Duration = Duration::from_millis(1);

pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(super) fn resolve(
    root: &Root,
    path: &RelPath,
    flags: OFlags,
) -> Result<Option<OwnedFd>, Error> {
    match openat2(root, path, flags) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(Errno::XDEV) => Err(mount_point(path)),
        Err(errno) => Err(Error::entry(path, "open", errno)),
    }
}

pub(super) fn open_file(
    root: &Root,
    path: &RelPath,
    access: Access,
) -> Result<Option<OwnedFd>, Error> {
    let access = match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    // Without NONBLOCK a fifo in the file's place would stop this thread
    // until somebody writes to it.
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = match openat2(root, path, flags | OFlags::NOATIME) {
        // Only its owner may read a file without a trace in its atime.
        Err(Errno::PERM) => openat2(root, path, flags),
        other => other,
    };
    let file = match opened {
        Ok(file) => file,
        // A directory opened for writing, a socket, a fifo nobody reads.
        Err(Errno::ISDIR | Errno::NXIO) => return Ok(None),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(Errno::XDEV) => return Err(mount_point(path)),
        Err(errno) => return Err(Error::entry(path, "open", errno)),
    };
    let stat = fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)
        .map_err(|errno| Error::entry(path, "look at", errno))?;
    let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
    Ok((kind == FileType::RegularFile).then_some(file))
}

/// Resolves again, within bounds, when something else on the machine got in
/// between.
pub(super) fn retrying(
    mut resolve: impl FnMut() -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match resolve() {
            Err(Errno::AGAIN | Errno::INTR) if tries < RESOLVE_TRIES_MAX => {
                tries += 1;
                if tries > TRIES_AT_ONCE_MAX {
                    thread::sleep(PAUSE);
                }
            }
            other => return other,
        }
    }
}

fn openat2(root: &Root, path: &RelPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    retrying(|| fs::openat2(root.dir(), path.as_path(), flags, Mode::empty(), BENEATH))
}

pub(super) fn mount_point(path: &RelPath) -> Error {
    Error::Unsupported {
        path: path.clone(),
        what: "on another file system mounted below the folder",
    }
}
