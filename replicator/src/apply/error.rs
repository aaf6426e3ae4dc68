//! Why a step could not be carried out.

use std::io;

use rustix::io::Errno;

use crate::path::RelPath;
use crate::root;

/// Nothing of the tree was changed by a step that failed, save where a
/// variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's order: the directory comes first.
    #[error("the directory that should hold {path} does not exist")]
    NoParent { path: RelPath },

    /// A peer's fault: these names are no part of the tree.
    #[error("{path} belongs to the daemon and is never written for a peer")]
    Private { path: RelPath },

    #[error("the root of the folder can be given metadata, but not be replaced or removed")]
    RootEntry,

    #[error("no such entry: {path}")]
    Gone { path: RelPath },

    #[error("{path} changed while it was copied")]
    Changed { path: RelPath },

    #[error("a patch of {path} is wrong: {reason}")]
    BadPatch { path: RelPath, reason: &'static str },

    /// The folder waits until there is room.
    #[error(
        "no room left to {doing}: the file system is full or the quota is used up; free some space"
    )]
    Full { doing: &'static str },

    #[error(
        "only {free} bytes are free, which is less than min_free ({min_free}) would leave; free some space"
    )]
    BelowMinFree { free: u64, min_free: u64 },

    #[error("cannot {doing} {path}: {source}")]
    Entry { path: RelPath, doing: &'static str, source: io::Error },

    #[error("cannot {doing}: {source}")]
    PrivateDirectory { doing: &'static str, source: io::Error },

    #[error("there is no conflict {id}; `replicator conflicts list` names them")]
    NoConflict { id: String },

    #[error("cannot restore to {}: {source}", .path.display())]
    Restore { path: std::path::PathBuf, source: io::Error },

    #[error(transparent)]
    Root(#[from] root::Error),

    #[error("the apply thread has ended")]
    Stopped,
}

impl Error {
    pub(super) fn entry(path: &RelPath, doing: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::Full { doing },
            errno => Self::Entry { path: path.clone(), doing, source: errno.into() },
        }
    }

    pub(super) fn private(doing: &'static str, errno: Errno) -> Self {
        Self::private_io(doing, errno.into())
    }

    pub(super) fn private_io(doing: &'static str, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full { doing },
            _ => Self::PrivateDirectory { doing, source },
        }
    }
}
