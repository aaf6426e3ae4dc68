//! The facts themselves, as `replicator status --json` prints them.
//!
//! Fields are only ever added: scripts read this. Numbers carry their unit in
//! their name; instants are milliseconds since 1970. Every list is bounded
//! here, so that a bad day cannot make the status itself a burden.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most lines of recent activity kept: what a terminal shows at once.
const RECENT_MAX: usize = 50;

/// Most entries with a problem named; their number is in `errors_total`.
const ERRORS_MAX: usize = 100;

/// Everything the outside may know of a node, filled by the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// When these facts were true, in milliseconds since 1970.
    pub taken_ms: u64,
    pub node: NodeFacts,
    pub folder: FolderFacts,
    pub capture: CaptureFacts,
    pub engine: EngineFacts,
    pub index: IndexFacts,
    pub peers: Vec<PeerFacts>,
    /// The latest changes, newest last. Add through [`Snapshot::note`].
    pub recent: Vec<ActivityLine>,
    pub rates: Rates,
    /// Entries that are not replicated now, and why. Add through
    /// [`Snapshot::note_error`].
    pub errors: Vec<PathError>,
    pub errors_total: u64,
    /// Knowledge lost and repaired since the start: cause to count.
    pub losses: BTreeMap<String, u64>,
    pub process: ProcessFacts,
}

impl Snapshot {
    /// Adds a line of activity; the oldest makes room.
    pub fn note(&mut self, line: ActivityLine) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.drain(..=self.recent.len() - RECENT_MAX);
        }
        self.recent.push(line);
    }

    /// Adds an entry with a problem; beyond the bound it is only counted.
    pub fn note_error(&mut self, error: PathError) {
        self.errors_total += 1;
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// All 32 digits of the node id.
    pub id: String,
    pub name: String,
    pub version: String,
    pub started_ms: u64,
    pub listen: String,
    pub pid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FolderFacts {
    pub name: String,
    pub root: String,
    /// One of the words in [`state`], or `paused: ` and the reason.
    pub state: String,
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Entries other nodes changed that are not applied here yet.
    pub pending_in: u64,
    /// What is left to fetch of them, in bytes; of the first thousand.
    pub pending_in_bytes: u64,
    /// The first of them, a few.
    pub pending_paths: Vec<String>,
    /// Entries changed here that some connected node has not applied yet.
    pub pending_out: u64,
    /// What this node keeps that lost a race.
    pub conflicts: u64,
    /// Files that were replaced here by older ones since the start.
    pub older_files: u64,
    /// Entries that the disk had lost when this node started, with the power
    /// of the machine, and that came back from the peers.
    pub brought_back: u64,
    /// Deletions the brake holds back.
    pub deletions_held: u64,
    /// `both`, `receive-only` or `send-only`.
    pub mode: String,
    /// What changed here, on a node that only receives.
    pub own_changes: u64,
}

/// The states a folder can be in.
pub mod state {
    pub const SCANNING: &str = "scanning";
    pub const MERGING: &str = "merging";
    pub const SYNCING: &str = "syncing";
    pub const IN_SYNC: &str = "in sync";
    /// Deletions wait for `replicator confirm`.
    pub const HELD: &str = "held: deletions wait for `replicator confirm`";
    /// What the last report of a node that runs no more is given.
    pub const NOT_RUNNING: &str = "not running";
    /// Nothing can be applied.
    pub const READ_ONLY: &str =
        "paused: the folder's file system is mounted read-only; remount it read-write";
    /// Nobody to compare with.
    pub const ALONE: &str = "alone";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureFacts {
    /// `ebpf`, `fanotify` or `inotify`.
    pub level: String,
    /// The set of kernel hooks in use, where the level has several.
    pub hooks: String,
    /// Why it is no higher one; empty for the highest, or the one asked for.
    pub why: String,
    /// Why the hooks are not the set that shows the most; empty for that set.
    pub why_hooks: String,
    /// Kinds of change that are seen late at this level and with these hooks,
    /// and when.
    pub late: Vec<String>,
    /// Hooks that the kernel does not offer, and what each costs.
    pub missing: Vec<String>,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineFacts {
    /// `uring` or `threads`.
    pub kind: String,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexFacts {
    pub names: u64,
    pub bodies: u64,
    pub tombstones: u64,
    /// Told and seen, but not yet in the index's file: a crash now would lose
    /// it there, and it would come back from the peers as news.
    pub uncommitted_rows: u64,
    pub disk_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerFacts {
    pub id: String,
    pub name: String,
    pub address: String,
    pub connected: bool,
    /// In its state since, in milliseconds since 1970.
    pub since_ms: u64,
    pub rtt_ms: f64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Our entries it has not confirmed.
    pub behind_entries: u64,
    /// In words: `connected`; `up, reached by others` or `down`, of members
    /// without a connection to here; `gone` or `not connected` where nobody
    /// has told of them; `not reached`, `refused: why`, ...
    pub state: String,
    /// What the members find out together: `up`, `down`, or empty of whom
    /// they have not told since the start.
    pub membership: String,
    pub last_error: Option<String>,
}

/// One change that was captured or applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityLine {
    pub when_ms: u64,
    /// A few words: `sent 4 KiB`, `applied`, `deleted`, `conflict kept`.
    pub what: String,
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathError {
    pub path: String,
    pub reason: String,
}

/// Applied and sent, over the last few seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    pub files_per_s: f64,
    pub bytes_per_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFacts {
    pub cpu_ms: u64,
    pub rss_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_bounded() {
        let mut snapshot = Snapshot::default();
        for number in 0..200 {
            snapshot.note(ActivityLine { when_ms: number, ..Default::default() });
            snapshot.note_error(PathError::default());
        }
        assert_eq!(snapshot.recent.len(), RECENT_MAX);
        assert_eq!(snapshot.recent.last().unwrap().when_ms, 199);
        assert_eq!((snapshot.errors.len(), snapshot.errors_total), (ERRORS_MAX, 200));
    }

    #[test]
    fn json_of_another_version_is_still_read() {
        let text = r#"{"node":{"id":"ab","colour":"red"},"future":1}"#;
        let snapshot: Snapshot = serde_json::from_str(text).unwrap();
        assert_eq!(snapshot.node.id, "ab");
    }
}
