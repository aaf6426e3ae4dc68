//! Bytes that travel with their announcement, kept for a while.
//!
//! A bounded cache: what was pushed out is fetched by those who need it.

use std::collections::{HashMap, VecDeque};

use super::message::Patch;
use crate::hash::Digest;
use crate::id::BodyId;
use crate::limits::PATCH_CACHE_BYTES_MAX;

#[derive(Debug, Default)]
pub(super) struct Patches {
    by_target: HashMap<(BodyId, Digest), Patch>,
    order: VecDeque<(BodyId, Digest)>,
    bytes: usize,
}

impl Patches {
    pub fn insert(&mut self, patch: Patch) {
        let key = (patch.body, patch.to);
        self.remove(key.0, key.1);
        self.bytes += patch.bytes();
        self.by_target.insert(key, patch);
        self.order.push_back(key);
        while self.bytes > PATCH_CACHE_BYTES_MAX || self.order.len() > 4 * self.by_target.len() + 64
        {
            let Some((body, to)) = self.order.pop_front() else {
                break;
            };
            if self.bytes > PATCH_CACHE_BYTES_MAX {
                self.remove(body, to);
            } else if self.by_target.contains_key(&(body, to)) {
                self.order.push_back((body, to));
            }
        }
    }

    /// The patch that leads to this version.
    pub fn get(&self, body: BodyId, to: Digest) -> Option<&Patch> {
        self.by_target.get(&(body, to))
    }

    pub fn remove(&mut self, body: BodyId, to: Digest) {
        if let Some(patch) = self.by_target.remove(&(body, to)) {
            self.bytes -= patch.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use bytes::Bytes;

    #[test]
    fn the_oldest_go_first() {
        let mut patches = Patches::default();
        let body = BodyId { origin: Actor(1), counter: 1 };
        let digest = |byte: u8| Digest::from_bytes([byte; 32]);
        for byte in 0..100u8 {
            let writes = vec![(0, Bytes::from(vec![byte; 1 << 20]))];
            patches.insert(Patch {
                body,
                from: None,
                to: digest(byte),
                writes,
                holes: Default::default(),
            });
        }
        assert!(patches.get(body, digest(0)).is_none());
        assert!(patches.get(body, digest(99)).is_some());
        assert!(patches.bytes <= PATCH_CACHE_BYTES_MAX);
    }
}
