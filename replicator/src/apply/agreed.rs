//! Conflicts that are none any more: the folder shows what was kept, where it
//! was.
//!
//! Who puts one release on two nodes at once has it met half written on both:
//! the half that loses is kept, and its writer goes on until it is what the
//! other has become. Nobody needs to be asked about that, nor about what a user
//! has put back by hand. Only content counts; that differs in mode, owner or
//! time alone is no conflict either.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::Error;
use super::conflicts::{self, Conflict, KEPT};
use super::lease::Lease;
use super::worker::open_private;
use crate::entry::Kind;
use crate::path::RelPath;
use crate::root::{Access, Root};

/// Conflicts looked at in one pass, the latest first: it is those that may
/// still become what the folder shows.
const LOOKED_AT_MAX: usize = 10_000;

/// Compared at once.
const PART_BYTES: usize = 256 << 10;

/// Removes such conflicts, pass by pass.
#[derive(Debug, Default)]
pub struct Agreed {
    /// Where a kept file was seen to differ from the one in its place: it is
    /// compared there first, so that two large ones are not read in every pass.
    differs_at: HashMap<String, u64>,
}

impl Agreed {
    /// Removes those of the store that are none by now, and gives them.
    pub fn remove(&mut self, root: &Root) -> Result<Vec<Conflict>, Error> {
        let names = conflicts::names(root)?;
        let latest = conflicts::described(&names).rev().take(LOOKED_AT_MAX);
        let mut differs_at = HashMap::new();
        let mut removed = Vec::new();
        for name in latest {
            // What cannot be read is told of where it is listed.
            let Ok(conflict) = conflicts::read(root, name) else { continue };
            let mut at = self.differs_at.get(&conflict.id).copied().unwrap_or(0);
            match remove_if_shown(root, &conflict, &mut at) {
                Ok(true) => removed.push(conflict),
                Ok(false) => {
                    differs_at.insert(conflict.id, at);
                }
                // It holds up none of the others.
                Err(error) => tracing::debug!(id = conflict.id, "it stays a conflict: {error}"),
            }
        }
        self.differs_at = differs_at;
        Ok(removed)
    }
}

fn remove_if_shown(root: &Root, conflict: &Conflict, differs_at: &mut u64) -> Result<bool, Error> {
    let is_shown = is_shown(root, conflict, differs_at)?;
    if is_shown {
        conflicts::remove(root, conflict)?;
    }
    Ok(is_shown)
}

/// Does the folder show the same at its place? Of two files of one size
/// `differs_at` is compared first, and is set where they differ.
fn is_shown(root: &Root, conflict: &Conflict, differs_at: &mut u64) -> Result<bool, Error> {
    let Ok(path) = RelPath::parse(&conflict.path_bytes) else { return Ok(false) };
    let failed = |errno| Error::private("compare a conflict", errno);
    let (store, id) = (root.conflicts(), conflict.id.as_bytes());
    let kept = root.stat_fd(open_private(store, id).map_err(failed)?.as_fd())?;
    let Some(shown) = root.stat(&path)? else { return Ok(false) };
    match (kept.kind, shown.kind) {
        (Kind::File, Kind::File) if kept.fingerprint.size == shown.fingerprint.size => {
            is_file_shown(root, id, &path, differs_at)
        }
        (Kind::Symlink, Kind::Symlink) => {
            let target = fs::readlinkat(store, id, Vec::new()).map_err(failed)?;
            Ok(root.read_link(&path)?.is_some_and(|shown| shown == target.as_bytes()))
        }
        (kept, shown) => Ok(kept == Kind::Fifo && shown == Kind::Fifo),
    }
}

fn is_file_shown(
    root: &Root,
    id: &[u8],
    path: &RelPath,
    differs_at: &mut u64,
) -> Result<bool, Error> {
    let failed = |errno| Error::private("compare a conflict", errno);
    let kept = fs::openat(root.conflicts(), id, KEPT, Mode::empty()).map_err(failed)?;
    // Who had it open as it lost its place may write on, and that belongs to it.
    let Some(_lease) = Lease::without_writers(kept.as_fd()) else { return Ok(false) };
    let Some(shown) = root.open_file(path, Access::Read)? else { return Ok(false) };
    let stat = || Ok::<_, Error>((root.stat_fd(kept.as_fd())?.fingerprint, root.stat(path)?));
    let before = stat()?;
    let difference = first_difference(kept.as_fd(), shown.as_fd(), *differs_at);
    if let Some(at) = difference.map_err(failed)? {
        *differs_at = at;
        return Ok(false);
    }
    // Each part was the same, but perhaps never all of them at once; or another
    // file has the name by now.
    let (opened, after) = (root.stat_fd(shown.as_fd())?, stat()?);
    Ok(before == after && after.1.is_some_and(|shown| shown.fingerprint == opened.fingerprint))
}

/// The first part in which two files differ, `first_at` looked at before all
/// others.
fn first_difference(
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
    first_at: u64,
) -> Result<Option<u64>, Errno> {
    let mut parts = (vec![0; PART_BYTES], vec![0; PART_BYTES]);
    let mut part_at = |at: u64| {
        let lengths = (read_at(one, &mut parts.0, at)?, read_at(other, &mut parts.1, at)?);
        let is_same = parts.0[..lengths.0] == parts.1[..lengths.1];
        Ok::<_, Errno>((is_same, lengths.0))
    };
    if !part_at(first_at)?.0 {
        return Ok(Some(first_at));
    }
    let mut at = 0;
    loop {
        match part_at(at)? {
            (false, _) => return Ok(Some(at)),
            (true, length) if length < PART_BYTES => return Ok(None),
            (true, length) => at += length as u64,
        }
    }
}

/// As many bytes as there are and have room.
fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *rest, at + done as u64))? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}
