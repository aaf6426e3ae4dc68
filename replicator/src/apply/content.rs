//! The bytes of a file: written whole, made a hole of, copied.
//!
//! What a call leaves undone is done again here, and what a file system cannot
//! do is done in another way. No names, no metadata, nothing durable.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::range::Range;

/// Zeros written at once where a hole cannot be punched.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What one round of a copy without kernel help moves.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// Writes all the bytes at an offset.
pub(super) fn write_at(file: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        let at = offset + done as u64;
        done += match rustix::io::retry_on_intr(|| rustix::io::pwrite(file, rest, at))? {
            // A write of nothing without an error would repeat for ever.
            0 => return Err(Errno::IO),
            written => written,
        };
    }
    Ok(())
}

/// Makes a hole of these bytes of a file, or zeros where the file system has no
/// holes.
pub fn punch(file: BorrowedFd<'_>, hole: Range) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fs::fallocate(file, flags, hole.start, hole.len()) {
        Err(Errno::NOTSUP | Errno::NOSYS) => write_zeros(file, hole),
        punched => punched,
    }
}

fn write_zeros(file: BorrowedFd<'_>, range: Range) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(ZEROS.len() as u64);
        write_at(file, &ZEROS[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

/// Copies `size` bytes into an empty file, leaving holes holes.
pub(super) fn copy_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let data = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(errno) => return Err(errno),
        };
        let end = fs::seek(from, SeekFrom::Hole(data)).unwrap_or(size).min(size);
        copy_segment(from, to, data, end)?;
        at = end.max(data + 1);
    }
    Ok(())
}

fn copy_segment(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<(), Errno> {
    while at < end {
        let (mut read_at, mut write_at) = (at, at);
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        let copied = fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length);
        match copied {
            Ok(0) => return Ok(()),
            Ok(copied) => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::NOTSUP | Errno::INVAL | Errno::PERM) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
) -> Result<(), Errno> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    while at < end {
        let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let read =
            rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..wanted], at))?;
        if read == 0 {
            return Ok(());
        }
        write_at(to, &buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{Mode, OFlags};
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
    };

    use super::*;

    /// A file of a file system that has no holes to punch, mounted nowhere.
    /// `None` for an ordinary user, who may mount nothing.
    fn without_holes() -> Option<OwnedFd> {
        let made = fsopen("ramfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&made).expect("a file system in memory");
        let top = fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        let top = top.expect("its top directory");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        Some(fs::openat(&top, "file", flags, Mode::RUSR | Mode::WUSR).expect("a file"))
    }

    fn content(file: &OwnedFd) -> Vec<u8> {
        let mut bytes = vec![0; fs::fstat(file).expect("its size").st_size as usize + 1];
        let read = rustix::io::pread(file, &mut bytes, 0).expect("its bytes");
        bytes.truncate(read);
        bytes
    }

    #[test]
    fn where_no_hole_can_be_punched_zeros_are_written() {
        let Some(file) = without_holes() else { return };
        let (length, hole) = (200_000, Range { start: 10, end: 150_000 });
        write_at(file.as_fd(), &vec![7; length], 0).expect("written");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let refused = fs::fallocate(&file, flags, hole.start, hole.len());
        assert_eq!(refused, Err(Errno::NOTSUP), "this file system has holes");
        punch(file.as_fd(), hole).expect("zeros");
        let mut expected = vec![7; length];
        expected[hole.start as usize..hole.end as usize].fill(0);
        assert!(content(&file) == expected);
    }
}
