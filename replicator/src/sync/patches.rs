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

/// Patches put together for who is behind.
const STEPS_MAX: usize = 256;

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

    /// What leads from one version to another, `None` from nothing: one patch,
    /// or several that follow each other.
    pub fn between(&self, body: BodyId, from: Option<Digest>, to: Digest) -> Option<Patch> {
        let mut steps = vec![self.get(body, to)?];
        while let Some(first) = steps.last().filter(|first| first.from.is_some()) {
            if first.from == from || steps.len() == STEPS_MAX {
                break;
            }
            steps.push(self.get(body, first.from?)?);
        }
        let first = steps.pop().filter(|first| first.from.is_none() || first.from == from)?;
        let later = steps.into_iter().rev();
        Some(later.fold(first.clone(), |whole, step| whole.then(step)))
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

    fn step(from: Option<u8>, to: u8, at: u64) -> Patch {
        Patch { from: from.map(digest), writes: vec![(at, vec![to; 4].into())], ..patch(to, 0) }
    }

    #[test]
    fn who_is_behind_gets_all_steps_at_once() {
        let mut patches = Patches::default();
        patches.insert(step(None, 1, 0));
        patches.insert(step(Some(1), 2, 2));
        patches.insert(step(Some(2), 3, 100));
        patches.insert(step(Some(7), 8, 0));
        let whole = patches.between(BODY, Some(digest(1)), digest(3)).unwrap();
        assert_eq!((whole.from, whole.to), (Some(digest(1)), digest(3)));
        assert_eq!(whole.writes, [step(None, 2, 2), step(None, 3, 100)].map(|s| s.writes).concat());
        let anew = patches.between(BODY, None, digest(3)).unwrap();
        assert_eq!(anew.from, None);
        let starts: Vec<(u64, usize)> =
            anew.writes.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
        assert_eq!(starts, [(0, 2), (2, 4), (100, 4)]);
        // From nothing is from anywhere.
        let other = Some(digest(9));
        assert_eq!(patches.between(BODY, other, digest(2)).unwrap().from, None);
        assert_eq!(patches.between(BODY, other, digest(8)), None);
        assert_eq!(patches.between(BODY, Some(digest(7)), digest(3)).unwrap().from, None);
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
