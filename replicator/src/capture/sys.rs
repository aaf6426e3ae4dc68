//! The system calls capture needs that no dependency wraps.
//!
//! All `unsafe` of this room that talks to the kernel through a system call
//! is here.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::EventfdFlags;

use super::limits::{CREATION_TRIES, CREATION_WAIT};

/// `MAX_HANDLE_SZ` of the kernel.
const HANDLE_BYTES_MAX: usize = 128;

/// A fanotify group that names directories, entries and objects, with a queue
/// as long as the system allows everybody at this moment.
pub fn fanotify_init() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_REPORT_DFID_NAME_TARGET;
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as u32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks the whole file system that `directory` lies on.
pub fn fanotify_mark_filesystem(
    group: BorrowedFd<'_>,
    mask: u64,
    directory: BorrowedFd<'_>,
) -> io::Result<()> {
    let path: &CStr = c".";
    // SAFETY: both descriptors are borrowed for the call and the path is a
    // string that ends with NUL.
    let result = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM,
            mask,
            directory.as_raw_fd(),
            path.as_ptr(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a directory as the events name them, by its handle.
pub fn open_again_by_handle(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C, align(8))]
    struct Room {
        handle_bytes: u32,
        handle_type: i32,
        handle: [u8; HANDLE_BYTES_MAX],
    }

    let mut room = Room { handle_bytes: HANDLE_BYTES_MAX as u32, handle_type: 0, handle: [0; _] };
    let mut mount = 0;
    let path: &CStr = c"";
    // SAFETY: the room is a `struct file_handle` with as many bytes behind its
    // head as it says; the rest are locals and a string that ends with NUL.
    let result = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            path.as_ptr(),
            (&raw mut room).cast(),
            &mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut handle = Vec::with_capacity(size_of::<Room>());
    handle.extend(room.handle_bytes.to_ne_bytes());
    handle.extend(room.handle_type.to_ne_bytes());
    handle.extend(&room.handle[..(room.handle_bytes as usize).min(HANDLE_BYTES_MAX)]);
    open_by_handle(directory, &handle)
}

/// The top of the Btrfs file system that a directory lies on, above all its
/// subvolumes, as a mere place (`O_PATH`): no path needs to lead there. It
/// stands for nothing but the file system.
pub fn btrfs_top(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `FILEID_BTRFS_WITHOUT_PARENT` of Linux.
    const KIND: i32 = 0x4d;
    let mut inode = Vec::new();
    inode.extend(btrfs::TOP_DIRECTORY.to_ne_bytes());
    inode.extend(btrfs::TOP_TREE.to_ne_bytes());
    // The kernel keeps the lower half as the inode's generation.
    inode.extend((btrfs::top_generation(directory)? as u32).to_ne_bytes());
    let mut handle = Vec::new();
    handle.extend((inode.len() as u32).to_ne_bytes());
    handle.extend(KIND.to_ne_bytes());
    handle.extend(inode);
    open_by_handle(directory, &handle)
}

mod btrfs {
    //! What the file system's own interface tells of its top (`linux/btrfs.h`
    //! and `linux/btrfs_tree.h`).

    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};

    /// `BTRFS_FS_TREE_OBJECTID`
    pub const TOP_TREE: u64 = 5;
    /// `BTRFS_FIRST_FREE_OBJECTID`
    pub const TOP_DIRECTORY: u64 = 256;
    const INODE_ITEM: u32 = 1;
    const TREE_SEARCH: libc::Ioctl = 0xd000_9411u32 as libc::Ioctl;
    /// `struct btrfs_ioctl_search_header` and what it heads.
    const HEADER_BYTES: usize = 32;

    /// `struct btrfs_ioctl_search_args`
    #[repr(C)]
    struct Search {
        tree: u64,
        objects: [u64; 2],
        offsets: [u64; 2],
        transactions: [u64; 2],
        kinds: [u32; 2],
        count: u32,
        unused: u32,
        reserved: [u64; 4],
        found: [u8; 3992],
    }

    /// The first member of `struct btrfs_inode_item`.
    pub fn top_generation(directory: BorrowedFd<'_>) -> io::Result<u64> {
        let mut search = Search {
            tree: TOP_TREE,
            objects: [TOP_DIRECTORY; 2],
            offsets: [0; 2],
            transactions: [0, u64::MAX],
            kinds: [INODE_ITEM; 2],
            count: 1,
            unused: 0,
            reserved: [0; 4],
            found: [0; _],
        };
        // SAFETY: the structure is what this request reads and writes.
        let result = unsafe { libc::ioctl(directory.as_raw_fd(), TREE_SEARCH, &raw mut search) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let generation = search.found[HEADER_BYTES..].first_chunk().filter(|_| search.count == 1);
        generation.map(|bytes| u64::from_le_bytes(*bytes)).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Opens what a `struct file_handle` (as the kernel wrote it, at most its
/// largest size) stands for, as a mere place (`O_PATH`).
///
/// While an inode is being made with the number of this handle, which most often
/// is that of a directory just removed, Linux says that it lacks memory (ext4 of
/// 6.18, `iget_locked`): asked again, it says what there is.
pub fn open_by_handle(mount: BorrowedFd<'_>, handle: &[u8]) -> io::Result<OwnedFd> {
    let mut opened = try_open_by_handle(mount, handle);
    for _ in 1..CREATION_TRIES {
        let is_being_made =
            opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOMEM));
        if !is_being_made {
            break;
        }
        std::thread::sleep(CREATION_WAIT);
        opened = try_open_by_handle(mount, handle);
    }
    opened
}

fn try_open_by_handle(mount: BorrowedFd<'_>, handle: &[u8]) -> io::Result<OwnedFd> {
    /// The header, and `MAX_HANDLE_SZ`, aligned as `struct file_handle` is.
    #[repr(C, align(8))]
    struct Room([u8; 8 + HANDLE_BYTES_MAX]);

    let mut room = Room([0; _]);
    let Some(target) = room.0.get_mut(..handle.len()).filter(|target| target.len() >= 8) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    target.copy_from_slice(handle);
    // SAFETY: the room is aligned for `struct file_handle` and outlives the
    // call. The kernel reads `handle_bytes` bytes behind the header and
    // refuses more than `MAX_HANDLE_SZ`, for which the room is large enough.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut room).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor another thread can wake this one with.
pub fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes the eventfd readable.
pub fn wake(eventfd: impl AsFd) {
    // A full counter is as readable as one more would make it.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// Makes the eventfd unreadable until the next [`wake`].
pub fn settle(eventfd: impl AsFd) {
    // Nothing to read means that it is unreadable already.
    let _ = rustix::io::read(eventfd, &mut [0; 8]);
}
