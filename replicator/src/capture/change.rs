//! What capture tells the rest of the program: hints, each one a reason to
//! look.
//!
//! A change never says what an entry is now. By the time it is read the entry
//! may be something else again, so whoever receives it looks at the file and
//! compares it with the index.

use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::range::RangeSet;

/// One reason to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry at this path appeared, vanished or changed its metadata. A
    /// directory that appears gives one for itself and none for what it holds.
    Name(RelPath),
    /// A directory is watched from now on, and holds entries of which nobody
    /// may have told.
    Unlisted(RelPath),
    /// The entry at the first path was renamed to the second. One that left
    /// the folder gives a `Name`.
    Moved(RelPath, RelPath),
    /// The entry at this path came from outside of the folder. A directory
    /// brings along entries of which nobody told.
    Came(RelPath),
    /// Bytes of this inode may have changed, or its size did. The inode is
    /// inside the folder or could not be shown to be outside of it.
    Data {
        inode: u64,
        /// May be empty: then only the size is in question.
        extent: Extent,
        /// A writable shared mapping exists or caused this: the ranges must
        /// go through `sync_file_range` before they are read, or a store that
        /// follows the read would stay unseen.
        mapped: bool,
    },
    /// Bytes of the file at this path may have changed, nobody knows which.
    DataAt(RelPath),
    /// Knowledge was dropped: whatever is at this path or beneath it must be
    /// looked at again.
    Lost {
        beneath: RelPath,
        cause: LossCause,
        /// Nothing went untold before: of a file whose change time is not
        /// older than this every byte may have changed, though it looks as
        /// known.
        since: Option<Timestamp>,
    },
}

/// Which bytes of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Grown outwards to whole blocks; they can reach behind the end of the
    /// file. After a truncation they go from the new end to [`u64::MAX`]:
    /// before anybody looks, the file may have grown over it again.
    Ranges(RangeSet),
    /// Nobody knows which, or all: a file was cut off to nothing, which most
    /// often is written anew, and then is better compared than sent.
    Whole,
}

/// Why knowledge was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossCause {
    /// The ring buffer had no room for a note that stands in no bitmap.
    RingFull,
    /// The kernel skipped a program because one of its kind was running.
    NestedPrograms,
    /// The kernel's tables had no room for operations under way.
    TableFull,
    /// The fanotify queue of the kernel overflowed.
    FanotifyOverflow,
    /// The inotify queue of the kernel overflowed.
    InotifyOverflow,
    /// The kernel allows no further inotify watch: changes in this directory
    /// go unseen until it is looked at again.
    WatchLimit,
    /// The kernel named a directory that could not be found again.
    Unresolved,
    /// The kernel sent something this program does not understand.
    Malformed,
}
