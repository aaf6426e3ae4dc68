//! What capture says about itself: to `status` for a folder that is watched,
//! to `doctor` for one that could be.

use serde::Serialize;

use super::level::Level;

/// How a folder is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Description {
    pub level: Level,
    /// Which kind of hooks shows written ranges; `none` without kernel
    /// programs.
    pub hook_set: &'static str,
    pub attached: Vec<String>,
    pub missing: Vec<MissingHook>,
    /// Why the hooks on functions, which show the most, are not the ones used.
    pub why_not_exits: Option<String>,
    /// What this level learns only after a while, or only from a look.
    pub seen_late: Vec<&'static str>,
    /// Why a higher level was not had, in one plain line.
    pub why_not_higher: Option<String>,
}

/// A hook this kernel does not offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MissingHook {
    pub name: String,
    /// What goes unseen without it.
    pub costs: String,
}

/// One thing `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    pub what: String,
    pub available: bool,
    pub detail: String,
    /// What its lack costs.
    pub advice: String,
}

pub(super) fn seen_late(level: Level) -> Vec<&'static str> {
    const MAPPED: &str = "stores through a memory mapping: when the mapping is closed";
    const AIO: &str = "asynchronous writes through libaio: when the file is closed";
    const FLAGS: &str = "file flags (chattr): when the folder is verified";
    match level {
        Level::Ebpf => Vec::new(),
        Level::Fanotify => vec![MAPPED, AIO, FLAGS],
        Level::Inotify => vec![
            MAPPED,
            AIO,
            FLAGS,
            "writes through a hard link outside of the folder: when the folder is verified",
            "writes to an open file whose name was removed, or had none: when the folder is verified",
            "changes made through an overlayfs whose upper directory lies in the folder: when the folder is verified",
            "changes in directories beyond the limit of watches: when they are looked at again, once a minute",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_says_what_it_sees_late_and_when_it_does() {
        let cases: [(Level, &[&str]); 3] = [
            (Level::Ebpf, &[]),
            (Level::Fanotify, &["memory mapping", "libaio", "chattr"]),
            (
                Level::Inotify,
                &[
                    "memory mapping",
                    "libaio",
                    "chattr",
                    "hard link",
                    "open file",
                    "overlayfs",
                    "watches",
                ],
            ),
        ];
        for (level, words) in cases {
            let late = seen_late(level);
            assert_eq!(late.len(), words.len(), "{level}: {late:?}");
            for (line, word) in late.iter().zip(words) {
                assert!(line.contains(word) && line.contains(": when "), "{level}: {line}");
            }
        }
    }
}
