//! The entries of one directory.

use std::mem::MaybeUninit;

use rustix::fs::{FileType, OFlags, RawDir};
use rustix::io::Errno;

use super::{Error, Listed, Root};
use crate::entry::Kind;
use crate::path::{PRIVATE_DIR, RelPath};

/// What one `getdents64` may return: some 1,000 names of usual length.
const LIST_BUFFER_BYTES: usize = 32 << 10;

pub(super) fn read_dir(root: &Root, path: &RelPath) -> Result<Option<Vec<Listed>>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Some(dir) = root.resolve(path, flags)? else {
        return Ok(None);
    };
    let mut buffer = [MaybeUninit::uninit(); LIST_BUFFER_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut listed = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // The directory was removed while it was read.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::entry(path, "list", errno)),
        };
        let name = entry.file_name().to_bytes();
        let private = path.is_root() && name == PRIVATE_DIR.as_bytes();
        if private || matches!(name, b"." | b"..") {
            continue;
        }
        let kind = kind_of(entry.file_type());
        listed.push(Listed { name: name.to_vec(), kind, inode: entry.ino() });
    }
    listed.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(Some(listed))
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        _ => None,
    }
}
