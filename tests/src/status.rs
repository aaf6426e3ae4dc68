//! What a node says of itself: `replicator status --json`, read loosely.
//!
//! Only the fields a story needs have a name here; the rest is for the reader
//! of a failure, through `Display`.

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

    /// The first field of this name, wherever it stands.
    pub fn find(&self, key: &str) -> Option<&Value> {
        find(&self.0, key)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.find(key)?.as_str()
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        self.find(key)?.as_f64()
    }

    pub fn peers(&self) -> &[Value] {
        self.find("peers").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub fn traffic(&self) -> PeerTraffic {
        let sum = |key: &str| {
            self.peers().iter().filter_map(|peer| find(peer, key)?.as_u64()).sum::<u64>()
        };
        PeerTraffic { sent: sum("sent_bytes"), received: sum("received_bytes") }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            fields.get(key).or_else(|| fields.values().find_map(|field| find(field, key)))
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_summed_over_peers() {
        let status = Status::parse(
            r#"{"node": {"name": "a"}, "folders": [{"state": "synced", "files": 3}],
                "peers": [{"sent_bytes": 10, "received_bytes": 1},
                          {"sent_bytes": 5, "received_bytes": 2}]}"#,
        )
        .unwrap();
        assert_eq!(status.traffic(), PeerTraffic { sent: 15, received: 3 });
        assert_eq!(status.text("state"), Some("synced"));
        assert_eq!(status.number("files"), Some(3.0));
    }
}
