//! Walking a tree: every entry beneath a directory, with its fingerprint.
//!
//! Reads no content and follows no link. What changes while the walk is
//! under way may be missed or seen; capture, started before, tells of it.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{OFlags, RawDir};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::Error;
use super::observe::unless_cancelled;
use crate::entry::{Glance, Kind};
use crate::path::RelPath;
use crate::root::Root;

/// Most entries handed over at once.
pub const BATCH_ENTRIES_MAX: usize = 512;

/// One entry of the tree.
#[derive(Debug)]
pub struct Found {
    pub path: RelPath,
    /// An error says that the entry is not replicated or could not be looked
    /// at, and that nothing is known about what lies beneath it: not that
    /// nothing is there.
    pub result: Result<Glance, Error>,
}

/// Hands over everything beneath a directory, which is itself not among it,
/// directories before what they hold. The channel is closed only once all of
/// it was handed over, or where the receiver is gone. Memory grows only with
/// the directories still to be walked.
pub async fn scan(root: Arc<Root>, beneath: RelPath, sink: mpsc::Sender<Vec<Found>>) {
    let hand_over = sink.clone();
    let walk = move || {
        let batch = Vec::new();
        let mut walk = Walk { root: &root, pending: vec![beneath], batch, sink: hand_over };
        while let Some(directory) = walk.pending.pop() {
            if walk.directory(&directory).is_err() {
                return;
            }
        }
        // Nobody to hand them to is no fault of the walk.
        let _ = walk.flush();
    };
    unless_cancelled(tokio::task::spawn_blocking(walk).await).await;
    drop(sink);
}

/// What one `getdents64` may return: some 1,000 names of usual length.
const LIST_BUFFER_BYTES: usize = 32 << 10;

struct Walk<'root> {
    root: &'root Root,
    pending: Vec<RelPath>,
    batch: Vec<Found>,
    sink: mpsc::Sender<Vec<Found>>,
}

/// The receiver went away.
struct Abandoned;

impl Walk<'_> {
    fn directory(&mut self, path: &RelPath) -> Result<(), Abandoned> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = match self.root.resolve(path, flags) {
            Ok(Some(directory)) => directory,
            // It vanished, or something else took its place.
            Ok(None) => return Ok(()),
            Err(error) => return self.found(path.clone(), Err(error.into())),
        };
        let mut buffer = [MaybeUninit::uninit(); LIST_BUFFER_BYTES];
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let name = match &entry {
                Ok(entry) => entry.file_name().to_bytes(),
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return self.found(path.clone(), Err(unreadable(path, *errno))),
            };
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = match path.join(name) {
                Ok(path) if path.is_private() => continue,
                Ok(path) => path,
                Err(_) => {
                    tracing::warn!(directory = %path, "a name in it makes too long a path");
                    continue;
                }
            };
            match self.root.glance_at(directory.as_fd(), name, &path).transpose() {
                Some(result) => self.found(path, result.map_err(Error::from))?,
                // It vanished.
                None => continue,
            }
        }
        Ok(())
    }

    fn found(&mut self, path: RelPath, result: Result<Glance, Error>) -> Result<(), Abandoned> {
        if result.as_ref().is_ok_and(|stat| stat.kind == Kind::Directory) {
            self.pending.push(path.clone());
        }
        self.batch.push(Found { path, result });
        if self.batch.len() < BATCH_ENTRIES_MAX {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Abandoned> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.sink.blocking_send(batch).map_err(|_| Abandoned)
    }
}

fn unreadable(path: &RelPath, errno: Errno) -> Error {
    Error::Read { path: path.clone(), source: errno.into() }
}

#[cfg(test)]
mod tests;
