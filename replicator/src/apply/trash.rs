//! The trash: what was knowingly replaced or removed, for a while.
//!
//! One flat directory. A name begins with the moment of the removal, so that
//! sweeping is a comparison of text, and goes on with the original path, so
//! that a person finds a file with `ls`. It holds no state beside the names.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::content::write_at;
use super::staged::copy_into;
use super::{Error, beside, moment};
use crate::entry::Stat;
use crate::limits::NAME_BYTES_MAX;
use crate::path::RelPath;
use crate::root::Root;

/// Entries one sweep removes at most, so that it never holds up the caller
/// for longer than some hundred milliseconds; the rest is for the next one.
const SWEEP_ENTRIES_MAX: usize = 10_000;

/// Follows the name of an entry whose path was too long for it, on the file
/// that holds the whole path.
const PATH_SUFFIX: &str = ".path";

/// What a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    pub removed: usize,
    /// Is there more to sweep at once?
    pub more: bool,
}

/// Removes what has rested longer than `age`; a zero age empties the trash.
/// What cannot be removed, as what another user's command moved here, holds up
/// nothing else.
pub fn sweep(root: &Root, age: Duration) -> Result<Swept, Error> {
    let cutoff = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let cutoff = moment::name(cutoff).into_bytes();
    let mut old: Vec<_> = beside::names(root.trash())?;
    old.retain(|name| name.get(..moment::NAME_BYTES).is_none_or(|time| time < &cutoff[..]));
    old.sort_unstable();
    let more = old.len() > SWEEP_ENTRIES_MAX;
    old.truncate(SWEEP_ENTRIES_MAX);
    let mut removed = 0;
    let mut failed = None;
    for name in &old {
        match beside::remove_tree(root.trash(), name) {
            Ok(()) => removed += 1,
            Err(errno) => failed = Some((name, errno)),
        }
    }
    if let Some((name, errno)) = failed {
        let left = old.len() - removed;
        tracing::warn!(left, name = %name.escape_ascii(), "the trash keeps what cannot be removed: {errno}");
    }
    Ok(Swept { removed, more })
}

/// A name in the trash that says when and from where.
#[derive(Debug)]
pub(super) struct Resting {
    pub(super) name: Vec<u8>,
    has_path_file: bool,
}

impl Resting {
    pub(super) fn reserve(root: &Root, path: &RelPath) -> Result<Self, Error> {
        let mut name = moment::name(SystemTime::now()).into_bytes();
        let escaped = escape(path.as_bytes());
        let has_path_file = name.len() + 1 + escaped.len() > NAME_BYTES_MAX;
        if has_path_file {
            let room = NAME_BYTES_MAX - name.len() - 1 - PATH_SUFFIX.len();
            name.push(b'~');
            name.extend_from_slice(&escaped[escaped.len() - room..]);
            write_path_file(root, &name, path)?;
        } else {
            name.push(b'-');
            name.extend_from_slice(&escaped);
        }
        Ok(Self { name, has_path_file })
    }

    /// The entry has left the trash again, or never came.
    pub(super) fn forget(&self, root: &Root) {
        if self.has_path_file {
            let name = [&self.name, PATH_SUFFIX.as_bytes()].concat();
            // What stays is swept with its time.
            let _ = fs::unlinkat(root.trash(), name.as_slice(), AtFlags::empty());
        }
    }

    /// Removes the entry itself.
    pub(super) fn discard(&self, root: &Root) {
        // What stays is swept with its time.
        let _ = beside::remove_tree(root.trash(), &self.name);
        self.forget(root);
    }
}

/// Copies a file of the tree into the trash: it is about to be written over
/// where it lies.
pub(super) fn keep_copy(
    root: &Root,
    file: BorrowedFd<'_>,
    path: &RelPath,
    stat: &Stat,
) -> Result<(), Error> {
    let resting = Resting::reserve(root, path)?;
    copy_into(root, (root.trash(), &resting.name), file, stat)
}

fn write_path_file(root: &Root, name: &[u8], path: &RelPath) -> Result<(), Error> {
    let failed = |errno| Error::private("write to the trash", errno);
    let name = [name, PATH_SUFFIX.as_bytes()].concat();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(root.trash(), name.as_slice(), flags, Mode::RUSR | Mode::WUSR)
        .map_err(failed)?;
    root.hand_over(file.as_fd()).map_err(failed)?;
    write_at(file.as_fd(), path.as_bytes(), 0).map_err(failed)
}

/// A path as one name: slashes and what would confuse a terminal as in URLs.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(path.len() + 16);
    for &byte in path {
        if matches!(byte, b'/' | b'%') || byte.is_ascii_control() {
            name.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            name.push(byte);
        }
    }
    name
}
