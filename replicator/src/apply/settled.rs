//! An entry as a step left it, told from what others did to it meanwhile.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, AtFlags, StatxFlags};

use crate::entry::{Flags, Kind, Stat, Timestamp};

/// The entry as this room left it: what a rename changes is read anew, the
/// rest is what was set or seen before, so that a local change made in the
/// meantime stays a difference that the next look finds.
pub(super) fn settled(mut stat: Stat, fd: BorrowedFd<'_>) -> Stat {
    let fields = StatxFlags::CTIME | StatxFlags::NLINK;
    if let Ok(now) = fs::statx(fd, c"", AtFlags::EMPTY_PATH, fields) {
        stat.fingerprint.ctime =
            Timestamp { seconds: now.stx_ctime.tv_sec, nanos: now.stx_ctime.tv_nsec };
        stat.links = now.stx_nlink;
    }
    stat
}

/// The same for steps that set the time after everything else.
pub(super) fn own_bytes(stat: &mut Stat, size: u64, mtime: Timestamp) {
    if stat.kind == Kind::File {
        stat.fingerprint.size = size;
        stat.fingerprint.mtime = mtime;
        stat.metadata.mtime = mtime;
    }
}

/// Is what came out what was seen before? Its ctime has moved with it, and what
/// would have kept it there was taken off.
pub(super) fn is_same(found: &Stat, out: &Stat) -> bool {
    let metadata = |stat: &Stat| unbound(stat.clone()).metadata;
    found.kind == out.kind
        && match found.kind {
            Kind::Directory => found.fingerprint.is_inode(&out.fingerprint),
            _ => found.fingerprint.same_bytes(&out.fingerprint) && metadata(found) == metadata(out),
        }
}

/// The entry as it is while its flags are off.
pub(super) fn unbound(mut stat: Stat) -> Stat {
    stat.metadata.flags = stat.metadata.flags.without(Flags::BINDING);
    stat
}

pub(super) fn names_inode(dir: BorrowedFd<'_>, name: &[u8], inode: u64) -> bool {
    fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO)
        .is_ok_and(|now| now.stx_ino == inode)
}
