//! How closely the kernel lets this node watch a folder.
//!
//! Owns the words of status. Choosing and probing
//! happen elsewhere, because they touch the kernel.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The level that was had; [`crate::choice::CaptureChoice`] is what was asked
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Written ranges by inode, names through fanotify.
    Ebpf,
    /// Names, and which file was written; ranges are found by comparing.
    Fanotify,
    /// The same without privileges, one watch a directory.
    Inotify,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ebpf => "ebpf",
            Level::Fanotify => "fanotify",
            Level::Inotify => "inotify",
        })
    }
}
