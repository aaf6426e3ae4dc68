//! What can be asked of the apply room, and what it answers.

use bytes::Bytes;

use super::Error;
use super::staged::Staged;
use crate::entry::{Fingerprint, Kind, Metadata, Stat, Timestamp};
use crate::path::RelPath;
use crate::range::Range;

/// What the index says is there. Checked before anything is replaced or
/// removed: files, links and fifos strictly, directories by inode alone,
/// because their times move with every entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    pub kind: Kind,
    pub fingerprint: Fingerprint,
}

impl Expect {
    pub(super) fn is(&self, found: &Stat) -> bool {
        self.kind == found.kind
            && match self.kind {
                Kind::Directory => self.fingerprint.is_inode(&found.fingerprint),
                _ => self.fingerprint == found.fingerprint,
            }
    }
}

impl From<&Stat> for Expect {
    fn from(stat: &Stat) -> Self {
        Self { kind: stat.kind, fingerprint: stat.fingerprint }
    }
}

/// Where displaced bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They were knowingly replaced: the trash, for a while.
    Trash,
    /// They lost: the conflict store, until somebody drops them. The label
    /// says whose they were.
    Conflict { label: String },
    /// They go on under another name; the same where none is left.
    Linked { label: String },
    /// They are still elsewhere, under another name for example.
    Discard,
}

/// What an entry may take the place of.
#[derive(Clone, Debug)]
pub struct Over {
    pub expect: Expect,
    pub keep: Keep,
}

/// One change of the tree. Where `over` is `None` the name must be free.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    MakeDirectory {
        path: RelPath,
        metadata: Metadata,
        over: Option<Over>,
    },
    MakeSymlink {
        path: RelPath,
        target: Vec<u8>,
        metadata: Metadata,
        over: Option<Over>,
    },
    MakeFifo {
        path: RelPath,
        metadata: Metadata,
        over: Option<Over>,
    },
    /// A whole file, written before. Its bytes are the caller's to flush.
    Place {
        path: RelPath,
        staged: Staged,
        metadata: Metadata,
        over: Option<Over>,
    },
    /// Files and directories; never onto an existing entry.
    Rename {
        from: RelPath,
        to: RelPath,
        expect: Expect,
    },
    /// Two entries change places. The outcome tells of `a`.
    Exchange {
        a: RelPath,
        b: RelPath,
        expect_a: Expect,
        expect_b: Expect,
    },
    /// One more name, `to`, for the file at `from`.
    Link {
        from: RelPath,
        to: RelPath,
        expect: Expect,
        over: Option<Over>,
    },
    /// A directory must be empty. Where other names of the file remain, the
    /// outcome tells of the inode that they share, and nothing is kept.
    Remove {
        path: RelPath,
        expect: Expect,
        keep: Keep,
    },
    /// Writes in place. The writes and holes do not overlap and lie below
    /// `size`, which the file has afterwards.
    Patch {
        path: RelPath,
        expect: Expect,
        writes: Vec<(u64, Bytes)>,
        holes: Vec<Range>,
        size: u64,
        metadata: Metadata,
        /// A version that lost, or that nobody else has, is copied to where it
        /// is kept first.
        keep: Keep,
    },
    /// Sets the mtime and nothing else.
    Touch {
        path: RelPath,
        expect: Expect,
        mtime: Timestamp,
    },
    SetMetadata {
        path: RelPath,
        expect: Expect,
        metadata: Metadata,
    },
}

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// Done, and the entry as this room left it: a local change made since
    /// differs from it. `None` after a removal.
    Done(Option<Stat>),
    /// Not what was expected is there, or at the name to be taken. Nothing
    /// changed.
    Raced,
    /// Nothing changed, save where the error says otherwise.
    Failed(Error),
}
