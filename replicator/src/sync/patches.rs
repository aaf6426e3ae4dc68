//! Bytes that travel with their announcement, kept for a while.
//!
//! A bounded cache: what was pushed out is fetched by those who need it.

use std::collections::{BTreeMap, HashMap};

use super::message::Patch;
use crate::hash::Digest;
use crate::id::BodyId;
use crate::limits::PATCH_CACHE_BYTES_MAX;

/// What a patch takes beside its bytes: a thousand empty ones are not free.
const PATCH_BYTES: usize = 256;

/// A version of a body.
type Target = (BodyId, Digest);

#[derive(Debug, Default)]
pub(super) struct Patches {
    by_target: HashMap<Target, (u64, Patch)>,
    /// The same by when they came.
    by_age: BTreeMap<u64, Target>,
    ticket: u64,
    bytes: usize,
}

impl Patches {
    pub fn insert(&mut self, patch: Patch) {
        let target = (patch.body, patch.to);
        self.remove(patch.body, patch.to);
        self.ticket += 1;
        self.bytes += PATCH_BYTES + patch.bytes();
        self.by_target.insert(target, (self.ticket, patch));
        self.by_age.insert(self.ticket, target);
        while self.bytes > PATCH_CACHE_BYTES_MAX {
            let Some((_, (body, to))) = self.by_age.pop_first() else { break };
            self.remove(body, to);
        }
    }

    /// The patch that leads to this version.
    pub fn get(&self, body: BodyId, to: Digest) -> Option<&Patch> {
        self.by_target.get(&(body, to)).map(|(_, patch)| patch)
    }

    pub fn remove(&mut self, body: BodyId, to: Digest) {
        if let Some((ticket, patch)) = self.by_target.remove(&(body, to)) {
            self.by_age.remove(&ticket);
            self.bytes -= PATCH_BYTES + patch.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use bytes::Bytes;

    const BODY: BodyId = BodyId { origin: Actor(1), counter: 1 };

    fn digest(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    fn patch(byte: u8, length: usize) -> Patch {
        let writes = vec![(0, Bytes::from(vec![byte; length]))];
        Patch { body: BODY, from: None, to: digest(byte), writes, holes: Default::default() }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut patches = Patches::default();
        for byte in 0..100 {
            patches.insert(patch(byte, 1 << 20));
        }
        assert!(patches.get(BODY, digest(0)).is_none());
        assert!(patches.get(BODY, digest(99)).is_some());
        assert!(patches.bytes <= PATCH_CACHE_BYTES_MAX);
    }

    /// As of a file that is written with the same two contents in turn.
    #[test]
    fn versions_that_come_back_are_held_once() {
        let mut patches = Patches::default();
        for round in 0..1000 {
            patches.insert(patch(round as u8 % 2, 10));
        }
        assert_eq!(patches.by_age.len(), 2);
        assert_eq!(patches.bytes, 2 * (PATCH_BYTES + 10));
        patches.remove(BODY, digest(0));
        patches.remove(BODY, digest(1));
        assert_eq!((patches.by_age.len(), patches.bytes), (0, 0));
    }
}
