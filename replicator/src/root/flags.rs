//! File flags as the kernel tells and takes them.
//!
//! `statx` tells them with everything else it is asked for; to set them, a
//! descriptor that was opened is needed.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, IFlags, Mode, OFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::proc_path;
use crate::entry::Flags;

/// Each with its name in what is told, and in what is set.
const KNOWN: [(Flags, StatxAttributes, IFlags); 3] = [
    (Flags::IMMUTABLE, StatxAttributes::IMMUTABLE, IFlags::IMMUTABLE),
    (Flags::APPEND, StatxAttributes::APPEND, IFlags::APPEND),
    (Flags::NODUMP, StatxAttributes::NODUMP, IFlags::NODUMP),
];

pub(super) fn told(raw: &Statx) -> Flags {
    let set = KNOWN.iter().filter(|(_, told, _)| raw.stx_attributes.contains(*told));
    set.fold(Flags::NONE, |flags, (flag, ..)| flags.with(*flag))
}

/// Those that keep anybody from changing the entry behind a handle.
pub(super) fn binding(fd: BorrowedFd<'_>) -> Result<Flags, Errno> {
    let raw = fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
    Ok(told(&raw).among(Flags::BINDING))
}

/// Gives the file or directory behind a handle these flags. Those that are
/// not replicated stay as they are.
pub(crate) fn set_flags(fd: BorrowedFd<'_>, flags: Flags) -> Result<(), Errno> {
    match set_open(fd, flags) {
        // The handle is `O_PATH`.
        Err(Errno::BADF) => {
            let access = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let open = fs::open(proc_path(fd), access, Mode::empty())?;
            set_open(open.as_fd(), flags)
        }
        done => done,
    }
}

fn set_open(fd: BorrowedFd<'_>, flags: Flags) -> Result<(), Errno> {
    let before = fs::ioctl_getflags(fd)?;
    let mut after = before;
    for (flag, _, bit) in KNOWN {
        after.set(bit, !flags.among(flag).is_empty());
    }
    if before == after { Ok(()) } else { fs::ioctl_setflags(fd, after) }
}

/// Which flags this process can set, and take off again, on the file system
/// of this file.
pub(super) fn settable(fd: BorrowedFd<'_>) -> Flags {
    let each = KNOWN.iter().map(|(flag, ..)| *flag);
    let set =
        each.filter(|flag| set_flags(fd, *flag).is_ok() && set_flags(fd, Flags::NONE).is_ok());
    set.fold(Flags::NONE, Flags::with)
}
