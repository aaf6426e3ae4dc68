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
    #[error("--capture ebpf is not to be had: {}; use --capture auto", .0.reason)]
    Ebpf(Lack),
    /// As above.
    #[error("--capture fanotify is not to be had: {}; use --capture inotify or auto", .0.reason)]
    Fanotify(Lack),
    /// Not even the level that needs no privilege works.
    #[error("inotify cannot watch the folder: {0}; may this user read it?")]
    Inotify(io::Error),
    /// This machine has no thread or descriptor left.
    #[error("cannot start the capture thread: {0}")]
    Thread(io::Error),
}

impl Error {
    /// What a process exits with that cannot start for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Root { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Ebpf(lack) | Self::Fanotify(lack) if lack.is_denied => 77,
            // The setting asks for what is not there.
            Self::Ebpf(_) | Self::Fanotify(_) => 78,
            Self::Root { .. } | Self::Inotify(_) | Self::Thread(_) => 2,
        }
    }
}

/// Why a level is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// One plain line for the user.
    pub reason: String,
    /// The kernel has it, and this process may not use it.
    pub is_denied: bool,
}

impl Lack {
    pub(super) fn denied(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_denied: true }
    }
}

impl From<String> for Lack {
    fn from(reason: String) -> Self {
        Self { reason, is_denied: false }
    }
}

impl From<&str> for Lack {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}
