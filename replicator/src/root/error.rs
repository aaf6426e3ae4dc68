//! What can be wrong with a folder or an entry of it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::path::RelPath;

/// Why a folder cannot be served or an entry cannot be looked at. The first
/// group is about the folder and for its administrator; the last variants are
/// about one entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the folder {} does not exist; create it, or mount it, first", .path.display())]
    Missing { path: PathBuf },

    #[error("{} is not a directory", .path.display())]
    NotDirectory { path: PathBuf },

    #[error("the folder {} may not be read and written by this user; \
             run as its owner or as root", .path.display())]
    Denied { path: PathBuf },

    #[error("the folder {} lies on a file system mounted read-only; remount it read-write", .path.display())]
    ReadOnly { path: PathBuf },

    #[error("the folder {} lies on {name}, which lacks {lacks}; \
             use ext4, XFS, Btrfs, tmpfs or ZFS 2.2 and later", .path.display())]
    FileSystem { path: PathBuf, name: String, lacks: &'static str },

    #[error(
        "this kernel or its sandbox forbids openat2, without which no path is safe; \
             Linux 5.6 or later is needed, and a container runtime that allows it"
    )]
    Kernel,

    #[error("the folder {} is already served by another daemon on this machine", .path.display())]
    AlreadyServed { path: PathBuf },

    #[error("{} is in the way: {reason}; move it elsewhere", .path.display())]
    PrivateDirectory { path: PathBuf, reason: &'static str },

    #[error("{} belongs to another user, or something in it: after a `chown -R` of the folder run \
             `chown -R {user} {0}`; if a stranger made it, move it elsewhere", .path.display())]
    PrivateOwner { path: PathBuf, user: u32 },

    #[error("{} is private to user {user}, as whom the node of this folder runs; \
             run this as that user or as root", .path.display())]
    Stranger { path: PathBuf, user: u32 },

    #[error("nothing can be tried in the folder {} without a trace: it is another user's, \
             and its time could not be given back; run this as its owner or as root", .path.display())]
    Untried { path: PathBuf },

    #[error("the folder {} was never served here: it has no {} with a marker", .path.display(),
            crate::path::PRIVATE_DIR)]
    NeverServed { path: PathBuf },

    #[error("{} is no longer the directory that was opened: \
             it was replaced, unmounted or mounted over; restart once it is back", .path.display())]
    Replaced { path: PathBuf },

    #[error("the folder {} has lost its marker file: it was emptied or replaced; \
             put it back, or remove the state directory to begin anew", .path.display())]
    MarkerGone { path: PathBuf },

    #[error("cannot use the folder {}: {source}", .path.display())]
    Folder { path: PathBuf, source: io::Error },

    /// An entry that means something only on this machine.
    #[error("{path} is {what} and is not replicated")]
    Unsupported { path: RelPath, what: &'static str },

    #[error("cannot {doing} {path}: {source}")]
    Entry { path: RelPath, doing: &'static str, source: io::Error },

    #[error("cannot look at an open file: {source}")]
    Handle { source: io::Error },
}

impl Error {
    /// The folder itself could not be opened or looked at.
    pub(crate) fn opening(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            io::ErrorKind::NotADirectory => Self::NotDirectory { path },
            io::ErrorKind::PermissionDenied => Self::Denied { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            _ => Self::Folder { path, source },
        }
    }

    pub(crate) fn entry(path: &RelPath, doing: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::NOSYS => Self::Kernel,
            errno => Self::Entry { path: path.clone(), doing, source: errno.into() },
        }
    }
}
