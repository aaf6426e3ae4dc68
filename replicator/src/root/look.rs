//! One look at an entry: `statx` and its extended attributes, or `statx` alone.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::resolve::mount_point;
use super::{Error, Root, flags};
use crate::entry::{Fingerprint, Flags, Glance, Kind, Metadata, Stat, Timestamp, Xattr};
use crate::limits::XATTR_BYTES_MAX;
use crate::path::RelPath;

/// Longest list of attribute names and longest value: `XATTR_LIST_MAX` and
/// `XATTR_SIZE_MAX` of Linux.
const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;

/// What the first try at a list or value takes from the stack; nearly all
/// fit, and an empty list costs one system call.
const XATTR_FIRST_TRY_BYTES: usize = 1024;

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// How a handle was opened, which decides how attributes are read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handle {
    /// `O_PATH`: attributes are reached through `/proc/self/fd`.
    Path,
    Open,
}

/// `None` where the entry vanished between its opening and this look.
pub(super) fn stat(
    root: &Root,
    fd: BorrowedFd<'_>,
    handle: Handle,
    path: &RelPath,
) -> Result<Option<Stat>, Error> {
    let raw = statx(fd).map_err(|errno| Error::entry(path, "look at", errno))?;
    if raw.stx_nlink == 0 {
        return Ok(None);
    }
    let unsupported = |what| Error::Unsupported { path: path.clone(), what };
    let kind = kind_of(root, &raw).map_err(unsupported)?;
    let xattrs =
        xattrs(fd, handle).map_err(|errno| Error::entry(path, "read the attributes of", errno))?;
    if xattrs.left_out > 0 {
        tracing::warn!(%path, left_out = xattrs.left_out, "extended attributes beyond the limit are not replicated");
    }
    Ok(Some(assemble(root, kind, &raw, xattrs.held)))
}

pub(super) fn stat_fd(root: &Root, fd: BorrowedFd<'_>) -> Result<Stat, Error> {
    let failed = |errno: Errno| Error::Handle { source: errno.into() };
    let raw = statx(fd).map_err(failed)?;
    let kind =
        kind_of(root, &raw).map_err(|what| Error::Unsupported { path: RelPath::root(), what })?;
    let xattrs = match xattrs(fd, Handle::Open) {
        Err(Errno::BADF) => xattrs(fd, Handle::Path),
        other => other,
    };
    Ok(assemble(root, kind, &raw, xattrs.map_err(failed)?.held))
}

pub(super) fn glance_fd(root: &Root, fd: BorrowedFd<'_>) -> Result<Glance, Error> {
    let raw = statx(fd).map_err(|errno| Error::Handle { source: errno.into() })?;
    glance(root, &raw, &RelPath::root())
}

/// `None`: nothing has this name.
pub(super) fn glance_at(
    root: &Root,
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &RelPath,
) -> Result<Option<Glance>, Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let raw = match fs::statx(directory, name, flags, WANTED) {
        Ok(raw) => raw,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(Error::entry(path, "look at", errno)),
    };
    if raw.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(mount_point(path));
    }
    glance(root, &raw, path).map(Some)
}

fn glance(root: &Root, raw: &Statx, path: &RelPath) -> Result<Glance, Error> {
    let unsupported = |what| Error::Unsupported { path: path.clone(), what };
    let kind = kind_of(root, raw).map_err(unsupported)?;
    Ok(Glance { kind, fingerprint: fingerprint(raw), links: raw.stx_nlink })
}

/// The name under which the kernel shows this process the entry behind a
/// handle. Following it ends at that very entry, wherever it is by now, and
/// works for handles (`O_PATH`) that the calls on descriptors refuse.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn statx(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)
}

fn kind_of(root: &Root, raw: &Statx) -> Result<Kind, &'static str> {
    match FileType::from_raw_mode(u32::from(raw.stx_mode)) {
        FileType::RegularFile => Ok(Kind::File),
        // A Btrfs subvolume is no mount point, and yet renames do not cross
        // its border. Overlay file systems give files, but not directories,
        // device numbers of the layers below, hence only directories count.
        FileType::Directory => {
            let device = fs::makedev(raw.stx_dev_major, raw.stx_dev_minor);
            if device == root.device() {
                Ok(Kind::Directory)
            } else {
                Err("another file system or subvolume")
            }
        }
        FileType::Symlink => Ok(Kind::Symlink),
        FileType::Fifo => Ok(Kind::Fifo),
        FileType::Socket => Err("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Err("a device"),
        _ => Err("of an unknown kind"),
    }
}

fn assemble(root: &Root, kind: Kind, raw: &Statx, xattrs: Vec<Xattr>) -> Stat {
    Stat {
        kind,
        fingerprint: fingerprint(raw),
        links: raw.stx_nlink,
        metadata: Metadata {
            mode: u32::from(raw.stx_mode) & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            mtime: timestamp(&raw.stx_mtime),
            flags: match kind {
                Kind::File | Kind::Directory => flags::told(raw).among(root.flags()),
                Kind::Symlink | Kind::Fifo => Flags::NONE,
            },
            xattrs,
        },
    }
}

fn fingerprint(raw: &Statx) -> Fingerprint {
    Fingerprint {
        inode: raw.stx_ino,
        size: raw.stx_size,
        mtime: timestamp(&raw.stx_mtime),
        ctime: timestamp(&raw.stx_ctime),
        birth: match StatxFlags::from_bits_retain(raw.stx_mask).contains(StatxFlags::BTIME) {
            true => timestamp(&raw.stx_btime),
            false => Timestamp::default(),
        },
    }
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanos: time.tv_nsec }
}

#[derive(Default)]
struct Xattrs {
    held: Vec<Xattr>,
    left_out: usize,
}

fn xattrs(fd: BorrowedFd<'_>, handle: Handle) -> Result<Xattrs, Errno> {
    let reader = Reader { fd, path: (handle == Handle::Path).then(|| proc_path(fd)) };
    let names = match reader.names() {
        Ok(names) if names.is_empty() => return Ok(Xattrs::default()),
        Ok(names) => names,
        // The file system has none, or the entry's kind cannot bear any.
        Err(Errno::NOTSUP | Errno::PERM) => return Ok(Xattrs::default()),
        Err(errno) => return Err(errno),
    };
    let mut names: Vec<&[u8]> =
        names.split(|&byte| byte == 0).filter(|name| is_replicated(name)).collect();
    names.sort_unstable();
    let mut found = Xattrs::default();
    let mut bytes = 0;
    for name in names {
        let value = match reader.value(name) {
            Ok(value) => value,
            // Removed since the listing, or not for this user's eyes.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => continue,
            Err(errno) => return Err(errno),
        };
        bytes += name.len() + value.len();
        if bytes > XATTR_BYTES_MAX {
            found.left_out += 1;
            continue;
        }
        found.held.push(Xattr { name: name.to_vec(), value });
    }
    Ok(found)
}

/// Does an extended attribute mean the same on every machine?
///
/// `security.evm` is signed with a key of this machine, labels of SELinux and
/// Smack follow its policy, and `trusted.overlay.` belongs to an overlay
/// mount's bookkeeping: copying these breaks the copy. `trusted.SGI_ACL_` is
/// how XFS shows an ACL a second time: elsewhere it would mean nothing, and
/// bring an ACL that was removed there back on XFS.
pub(crate) fn is_replicated(name: &[u8]) -> bool {
    let wanted = [&b"user."[..], b"security.", b"trusted.", b"system.posix_acl_"];
    let local = [
        &b"security.evm"[..],
        b"security.selinux",
        b"security.SMACK64",
        b"trusted.overlay.",
        b"trusted.SGI_ACL_",
    ];
    wanted.iter().any(|namespace| name.starts_with(namespace))
        && !local.iter().any(|namespace| name.starts_with(namespace))
}

struct Reader<'fd> {
    fd: BorrowedFd<'fd>,
    path: Option<String>,
}

impl Reader<'_> {
    fn names(&self) -> Result<Vec<u8>, Errno> {
        read_growing(|buffer| match &self.path {
            Some(path) => fs::listxattr(path.as_str(), buffer),
            None => fs::flistxattr(self.fd, buffer),
        })
    }

    fn value(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        read_growing(|buffer| match &self.path {
            Some(path) => fs::getxattr(path.as_str(), name, buffer),
            None => fs::fgetxattr(self.fd, name, buffer),
        })
    }
}

fn read_growing(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut first = [0; XATTR_FIRST_TRY_BYTES];
    match read(&mut first) {
        Ok(length) => Ok(first[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut buffer = vec![0; XATTR_VALUE_BYTES_MAX];
            let length = read(&mut buffer)?;
            buffer.truncate(length);
            Ok(buffer)
        }
        Err(errno) => Err(errno),
    }
}
