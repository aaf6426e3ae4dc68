//! What capture tells of a change: by the directory it was made in, wherever that
//! lies when it is told.

use super::Disk;
use crate::path::RelPath;

/// What capture would report of a user's change.
#[derive(Clone, Debug)]
pub(in crate::sync::sim) enum Change {
    Name(RelPath),
    Moved(RelPath, RelPath),
    Came(RelPath),
    Data(u64),
}

/// A change as the kernel queues it: an entry by the directory that it is in
/// and its name there. Which path that is, is asked for when it is told of; by
/// then the directory may lie elsewhere, or be gone.
#[derive(Clone, Debug)]
pub(in crate::sync::sim) enum Queued {
    Name(Entry),
    Moved(Entry, Entry),
    Came(Entry),
    Data(u64),
}

/// `None` is in a directory that went together with it.
#[derive(Clone, Debug)]
pub(in crate::sync::sim) struct Entry {
    directory: Option<u64>,
    path: RelPath,
}

impl Disk {
    /// To be asked right after the change.
    pub(in crate::sync::sim) fn queue(&self, change: Change) -> Queued {
        let entry = |path: RelPath| {
            let directory = path.parent().and_then(|parent| self.names.get(&parent).copied());
            Entry { directory, path }
        };
        match change {
            Change::Name(path) => Queued::Name(entry(path)),
            Change::Moved(from, to) => Queued::Moved(entry(from), entry(to)),
            Change::Came(path) => Queued::Came(entry(path)),
            Change::Data(inode) => Queued::Data(inode),
        }
    }

    /// As of a directory that is gone nothing is told but that it is.
    pub(in crate::sync::sim) fn told(&self, queued: Queued) -> Option<Change> {
        let place = |entry: Entry| match entry.path.name() {
            Some(name) => self.place_of(entry.directory?)?.join(name).ok(),
            None => Some(entry.path),
        };
        match queued {
            Queued::Name(entry) => place(entry).map(Change::Name),
            Queued::Moved(from, to) => match (place(from), place(to)) {
                (Some(from), Some(to)) => Some(Change::Moved(from, to)),
                (None, Some(to)) => Some(Change::Came(to)),
                (from, None) => from.map(Change::Name),
            },
            Queued::Came(entry) => place(entry).map(Change::Came),
            Queued::Data(inode) => Some(Change::Data(inode)),
        }
    }
}
