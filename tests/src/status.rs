//! What a node says of itself: `replicator status --json`, read loosely.
//!
//! Only the fields a story or a display needs have a name here; a missing one
//! reads as nothing. The rest is for the reader of a failure, through
//! `Display`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// One answer of `replicator status --json`.
#[derive(Clone, Debug)]
pub struct Status(Value);

/// Bytes exchanged with all peers together, as datagrams count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTraffic {
    pub sent: u64,
    pub received: u64,
}

impl PeerTraffic {
    /// What went over the wire since `earlier`, both ways.
    pub fn since(self, earlier: PeerTraffic) -> u64 {
        self.sent.saturating_sub(earlier.sent) + self.received.saturating_sub(earlier.received)
    }
}

impl Status {
    pub fn parse(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json).map(Self)
    }

    pub fn json(&self) -> &Value {
        &self.0
    }

    /// `scanning`, `merging`, `syncing`, `in sync`, `alone` or `paused: why`.
    pub fn state(&self) -> &str {
        self.text("/folder/state")
    }

    /// `ebpf`, `fanotify` or `inotify`.
    pub fn capture(&self) -> &str {
        self.text("/capture/level")
    }

    /// Which kind of hooks shows written ranges.
    pub fn hooks(&self) -> &str {
        self.text("/capture/hooks")
    }

    /// Kinds of change that are seen late, and when.
    pub fn seen_late(&self) -> Vec<&str> {
        let lines = self.0.pointer("/capture/late").and_then(Value::as_array);
        lines.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Knowledge lost and repaired since the start: causes and counts.
    pub fn losses(&self) -> BTreeMap<String, u64> {
        let counts = self.0["losses"].as_object();
        let count = |(cause, count): (&String, &Value)| Some((cause.clone(), count.as_u64()?));
        counts.into_iter().flatten().filter_map(count).collect()
    }

    pub fn files(&self) -> u64 {
        self.number("/folder/files")
    }

    /// Entries on their way to here.
    pub fn pending_in(&self) -> u64 {
        self.number("/folder/pending_in")
    }

    /// Bytes that are still to come.
    pub fn pending_in_bytes(&self) -> u64 {
        self.number("/folder/pending_in_bytes")
    }

    /// Entries on their way from here.
    pub fn pending_out(&self) -> u64 {
        self.number("/folder/pending_out")
    }

    pub fn conflicts(&self) -> u64 {
        self.number("/folder/conflicts")
    }

    pub fn peers(&self) -> &[Value] {
        self.0["peers"].as_array().map_or(&[], Vec::as_slice)
    }

    pub fn peers_connected(&self) -> usize {
        self.peers().iter().filter(|peer| peer["connected"] == true).count()
    }

    pub fn traffic(&self) -> PeerTraffic {
        let sum = |key: &str| self.peers().iter().filter_map(|peer| peer[key].as_u64()).sum();
        PeerTraffic { sent: sum("sent_bytes"), received: sum("received_bytes") }
    }

    /// The latest changes, newest last: when, what and which entry.
    pub fn recent(&self) -> Vec<(u64, String)> {
        let line = |line: &Value| {
            let (what, path) = (line["what"].as_str()?, line["path"].as_str()?);
            Some((line["when_ms"].as_u64()?, format!("{what} {path}")))
        };
        self.0["recent"].as_array().into_iter().flatten().filter_map(line).collect()
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_summed_over_peers() {
        let status = Status::parse(
            r#"{"folder": {"state": "in sync", "files": 3},
                "recent": [{"when_ms": 7, "what": "deleted", "path": "a"}],
                "peers": [{"sent_bytes": 10, "received_bytes": 1, "connected": true},
                          {"sent_bytes": 5, "received_bytes": 2, "connected": false}]}"#,
        )
        .unwrap();
        assert_eq!(status.traffic(), PeerTraffic { sent: 15, received: 3 });
        assert_eq!((status.state(), status.files(), status.peers_connected()), ("in sync", 3, 1));
        assert_eq!(status.recent(), [(7, "deleted a".to_string())]);
        assert_eq!((status.capture(), status.pending_in()), ("", 0));
    }
}
