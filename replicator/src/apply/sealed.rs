//! Files that say of themselves whether they are whole: some parts,
//! then the BLAKE3 hash of all of them. Redo records and notes of flags are
//! such files. What a crash cut short is nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::content::write_at;

const HASH_BYTES: usize = 32;

/// Makes a file of these parts in a private directory. It is the caller's to
/// make it durable with its name (`durable.rs`).
pub(super) fn write<'part>(
    dir: BorrowedFd<'_>,
    name: &str,
    parts: impl Iterator<Item = &'part [u8]>,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    for part in parts {
        hasher.update(part);
        write_at(file.as_fd(), part, at)?;
        at += part.len() as u64;
    }
    write_at(file.as_fd(), hasher.finalize().as_bytes(), at)?;
    Ok(file)
}

/// What was written, behind the `magic` that it begins with; `None` where it
/// is not whole, or another kind of file.
pub(super) fn read(
    dir: BorrowedFd<'_>,
    name: &[u8],
    magic: &[u8],
    limit: u64,
) -> io::Result<Option<Bytes>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(dir, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).take(limit).read_to_end(&mut bytes)?;
    let bytes = Bytes::from(bytes);
    let Some(hashed) = bytes.len().checked_sub(HASH_BYTES) else { return Ok(None) };
    let is_whole = blake3::hash(&bytes[..hashed]).as_bytes()[..] == bytes[hashed..];
    let is_it = is_whole && bytes[..hashed].starts_with(magic);
    Ok(is_it.then(|| bytes.slice(magic.len()..hashed)))
}
