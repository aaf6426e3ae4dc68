//! Choices that are one word of a few, and their words: pure values, made by the
//! configuration and followed by the rooms.

use std::fmt;
use std::str::FromStr;

/// Which capture level is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureChoice {
    /// The best the kernel and the user's privileges allow.
    #[default]
    Auto,
    Ebpf,
    Fanotify,
    Inotify,
}

/// Which read and write engine is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where it is allowed, threads elsewhere.
    #[default]
    Auto,
    Uring,
    Threads,
}

/// Whether a small change of a large file may be written into the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InPlace {
    /// Where it costs much less than a new file.
    #[default]
    Auto,
    /// Files are only ever replaced as a whole.
    Never,
}

/// In which direction changes travel between this node and the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Both,
    /// What changes here is reported and goes nowhere.
    ReceiveOnly,
    /// What changes elsewhere is known and not applied here.
    SendOnly,
}

/// Parses one word of a fixed set; the message lists the set.
macro_rules! words {
    ($type:ty: $($word:literal => $value:expr),+) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(concat!("is none of", $(" ", $word),+).into()),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let words = [$(($word, $value)),+];
                let word = words.iter().find(|(_, value)| value == self);
                f.write_str(word.map_or("", |(word, _)| word))
            }
        }
    };
}

words!(CaptureChoice: "auto" => Self::Auto, "ebpf" => Self::Ebpf, "fanotify" => Self::Fanotify, "inotify" => Self::Inotify);
words!(EngineChoice: "auto" => Self::Auto, "uring" => Self::Uring, "threads" => Self::Threads);
words!(Mode: "both" => Self::Both, "receive-only" => Self::ReceiveOnly, "send-only" => Self::SendOnly);
words!(InPlace: "auto" => Self::Auto, "never" => Self::Never);
