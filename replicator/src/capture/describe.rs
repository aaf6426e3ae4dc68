//! What capture says about itself: to `status` for a folder that is watched,
//! to `doctor` for one that could be.

use std::fmt;

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
    /// Some of them tell of a write before it is done.
    pub tells_early: bool,
    pub attached: Vec<String>,
    pub missing: Vec<MissingHook>,
    /// Why the hooks on functions, which show the most, are not the ones used.
    pub why_not_exits: Option<String>,
    /// Why a higher level was not had, in one plain line.
    pub why_not_higher: Option<String>,
}

impl Description {
    /// What is learnt only after a while, or only from a look, and when: for
    /// want of a higher level, or of a hook.
    pub fn seen_late(&self) -> Vec<String> {
        let of_level = seen_late(self.level).into_iter().map(str::to_owned);
        of_level.chain(self.missing.iter().filter_map(MissingHook::seen_late)).collect()
    }
}

/// A hook this kernel does not offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MissingHook {
    pub name: String,
    /// What it would show.
    shows: String,
    /// Without it that is learnt when the folder is verified.
    is_late: bool,
    /// What its lack costs, and why it is missing.
    pub costs: String,
}

impl MissingHook {
    /// One without which what it shows goes unseen.
    pub(super) fn unseen(name: &str, shows: &str, why: impl fmt::Display) -> Self {
        let costs = format!("{shows} arrive when the folder is verified: {why}");
        Self { name: name.to_owned(), shows: shows.to_owned(), is_late: true, costs }
    }

    /// One that others stand in for, at a cost.
    pub(super) fn stood_in_for(name: &str, shows: &str, costs: String) -> Self {
        Self { name: name.to_owned(), shows: shows.to_owned(), is_late: false, costs }
    }

    /// Its name and what its lack costs.
    pub fn line(&self) -> String {
        format!("{}: {}", self.name, self.costs)
    }

    pub(super) fn seen_late(&self) -> Option<String> {
        let Self { name, shows, .. } = self;
        self.is_late.then(|| format!("{shows}: when the folder is verified (no hook {name})"))
    }
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
    const DEVICE: &str = "writes and discards through a loop device: when the folder is verified";
    match level {
        Level::Ebpf => Vec::new(),
        Level::Fanotify => vec![MAPPED, AIO, FLAGS, DEVICE],
        Level::Inotify => vec![
            MAPPED,
            AIO,
            FLAGS,
            DEVICE,
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
            (Level::Fanotify, &["memory mapping", "libaio", "chattr", "loop device"]),
            (
                Level::Inotify,
                &[
                    "memory mapping",
                    "libaio",
                    "chattr",
                    "loop device",
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
    #[test]
    fn a_hook_that_is_missing_is_a_kind_of_change_that_is_seen_late() {
        let description = Description {
            level: Level::Ebpf,
            hook_set: "raw tracepoints",
            tells_early: false,
            attached: Vec::new(),
            missing: vec![
                MissingHook::unseen("one", "allocation", "this kernel has no such tracepoint"),
                MissingHook::stood_in_for("other", "stores", "stores are told by folio".into()),
            ],
            why_not_exits: None,
            why_not_higher: None,
        };
        let late = ["allocation: when the folder is verified (no hook one)"];
        assert_eq!(description.seen_late(), late);
        let whole = Description { level: Level::Fanotify, ..description };
        assert_eq!(whole.seen_late().len(), seen_late(Level::Fanotify).len() + late.len());
    }
}
