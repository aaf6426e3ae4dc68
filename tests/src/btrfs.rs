//! Subvolumes of Btrfs, made without a program of its own: not every machine
//! that can mount it has one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `BTRFS_IOC_SUBVOL_CREATE`
const SUBVOL_CREATE: libc::Ioctl = 0x5000_940e;

/// `struct btrfs_ioctl_vol_args`
#[repr(C)]
struct Request {
    unused: i64,
    name: [u8; 4088],
}

/// Makes a subvolume with this name in a directory.
pub fn make_subvolume(directory: &Path, name: &str) -> io::Result<()> {
    let directory = File::open(directory)?;
    let mut request = Request { unused: 0, name: [0; _] };
    // At least one zero must stay behind it.
    let Some(room) = request.name[..4087].get_mut(..name.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(name.as_bytes());
    // SAFETY: the structure is what this request reads.
    let made = unsafe { libc::ioctl(directory.as_raw_fd(), SUBVOL_CREATE, &raw const request) };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
