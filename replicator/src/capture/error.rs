//! Why capture could not start, and what the user can do about it.

use std::io;
use std::path::PathBuf;

/// Capture could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The user's folder cannot be opened.
    #[error("cannot open the folder {}: {source}", root.display())]
    Root { root: PathBuf, source: io::Error },
    /// The user asked for a level that this kernel, these privileges or the
    /// folder's file system do not give.
    #[error("--capture ebpf is not to be had: {reason}; use --capture auto")]
    Ebpf { reason: String },
    /// As above.
    #[error("--capture fanotify is not to be had: {reason}; use --capture inotify or auto")]
    Fanotify { reason: String },
    /// Not even the level that needs no privilege works.
    #[error("inotify cannot watch the folder: {0}; is fs.inotify.max_user_instances used up?")]
    Inotify(io::Error),
    /// This machine has no thread or descriptor left.
    #[error("cannot start the capture thread: {0}")]
    Thread(io::Error),
}
