//! Conflicts that are none any more: the folder shows what was kept, where it
//! was.
//!
//! Who puts one release on two nodes at once has it met half written on both:
//! the half that loses is kept, and its writer goes on until it is what the
//! other has become. Nobody needs to be asked about that, nor about what a user
//! has put back by hand. Only content counts; that differs in mode, owner or
//! time alone is no conflict either.

use std::collections::HashMap;
use std::fs::File;
use std::iter;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

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
    buffers: [Vec<u8>; 2],
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
            match self.remove_if_shown(root, &conflict, &mut at) {
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

    /// Of two files of one size `differs_at` is compared first, and is set where
    /// they differ.
    fn remove_if_shown(
        &mut self,
        root: &Root,
        conflict: &Conflict,
        differs_at: &mut u64,
    ) -> Result<bool, Error> {
        let Ok(path) = RelPath::parse(&conflict.path_bytes) else { return Ok(false) };
        let (store, id) = (root.conflicts(), conflict.id.as_bytes());
        let kept = root.stat_fd(open_private(store, id).map_err(failed)?.as_fd())?;
        let Some(shown) = root.stat(&path)? else { return Ok(false) };
        let is_shown = match (kept.kind, shown.kind) {
            (Kind::File, Kind::File) if kept.fingerprint.size == shown.fingerprint.size => {
                self.is_file_shown(root, id, &path, differs_at)?
            }
            (Kind::Symlink, Kind::Symlink) => {
                let target = fs::readlinkat(store, id, Vec::new()).map_err(failed)?;
                root.read_link(&path)?.is_some_and(|shown| shown == target.as_bytes())
            }
            (kept, shown) => kept == Kind::Fifo && shown == Kind::Fifo,
        };
        if is_shown {
            conflicts::remove(root, conflict)?;
        }
        Ok(is_shown)
    }

    /// Does the folder show this file, and has its disk got it?
    fn is_file_shown(
        &mut self,
        root: &Root,
        id: &[u8],
        path: &RelPath,
        differs_at: &mut u64,
    ) -> Result<bool, Error> {
        let kept = fs::openat(root.conflicts(), id, KEPT, Mode::empty()).map_err(failed)?;
        let kept = File::from(kept);
        // Who had it open as it lost its place may write on, and that belongs to it.
        let Some(_lease) = Lease::without_writers(kept.as_fd()) else { return Ok(false) };
        let Some(shown) = root.open_file(path, Access::Read)? else { return Ok(false) };
        let shown = File::from(shown);
        let stat = || Ok::<_, Error>((root.stat_fd(kept.as_fd())?.fingerprint, root.stat(path)?));
        let before = stat()?;
        let difference = self.first_difference([&kept, &shown], before.0.size, *differs_at);
        if let Some(at) = difference? {
            *differs_at = at;
            return Ok(false);
        }
        // Else a power loss could leave neither.
        shown.sync_all().map_err(|error| Error::private_io(COMPARE, error))?;
        // Each part was the same, but perhaps never all of them at once; or another
        // file has the name by now.
        let (opened, after) = (root.stat_fd(shown.as_fd())?, stat()?);
        Ok(before == after && after.1.is_some_and(|shown| shown.fingerprint == opened.fingerprint))
    }

    /// The first part in which two files of this size differ, `first_at` looked at
    /// before all others.
    fn first_difference(
        &mut self,
        files: [&File; 2],
        size: u64,
        first_at: u64,
    ) -> Result<Option<u64>, Error> {
        let others = (0..size).step_by(PART_BYTES).filter(|at| *at != first_at);
        for at in iter::once(first_at).chain(others) {
            let part = PART_BYTES.min(size.saturating_sub(at) as usize);
            for (file, buffer) in files.iter().zip(&mut self.buffers) {
                buffer.resize(part, 0);
                // One that became shorter meanwhile is compared again.
                file.read_exact_at(buffer, at)
                    .map_err(|error| Error::private_io(COMPARE, error))?;
            }
            if self.buffers[0] != self.buffers[1] {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

const COMPARE: &str = "compare a conflict";

fn failed(errno: Errno) -> Error {
    Error::private(COMPARE, errno)
}
