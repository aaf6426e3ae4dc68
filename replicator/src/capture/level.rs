//! How closely the kernel lets this node watch a folder.
//!
//! Owns the words of the `--capture` flag and of status. Choosing and probing
//! happen elsewhere, because they touch the kernel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The highest level this kernel, these privileges and the folder's file
    /// system allow.
    Auto,
    Ebpf,
    Fanotify,
    Inotify,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Auto => "auto",
            Choice::Ebpf => "ebpf",
            Choice::Fanotify => "fanotify",
            Choice::Inotify => "inotify",
        })
    }
}

impl FromStr for Choice {
    type Err = NotAChoice;

    fn from_str(text: &str) -> Result<Self, NotAChoice> {
        match text {
            "auto" => Ok(Choice::Auto),
            "ebpf" => Ok(Choice::Ebpf),
            "fanotify" => Ok(Choice::Fanotify),
            "inotify" => Ok(Choice::Inotify),
            _ => Err(NotAChoice),
        }
    }
}

/// The text names no way to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("capture is one of auto, ebpf, fanotify and inotify")]
pub struct NotAChoice;

/// What was had.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_reads_what_it_prints() {
        for choice in [Choice::Auto, Choice::Ebpf, Choice::Fanotify, Choice::Inotify] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("kprobes".parse::<Choice>(), Err(NotAChoice));
    }
}
