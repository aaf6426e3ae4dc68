//! Dots and version vectors: who wrote what, and what a writer had seen.
//!
//! Pure values (Preguiça et al., "Dotted Version Vectors", 2012). A dot names
//! one change; a vector names, per actor, all changes up to a counter.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Actor;

/// One change: the `counter`-th of its actor, from 1. The same number is the
/// change's place in its actor's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    pub actor: Actor,
    pub counter: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.actor, self.counter)
    }
}

/// For each actor, every change up to and including a counter.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionVector(Vec<(Actor, u64)>);

impl VersionVector {
    pub fn new() -> Self {
        Self::default()
    }

    /// The highest counter of this actor, 0 where it has none.
    pub fn get(&self, actor: Actor) -> u64 {
        match self.0.binary_search_by_key(&actor, |entry| entry.0) {
            Ok(at) => self.0[at].1,
            Err(_) => 0,
        }
    }

    pub fn contains(&self, dot: Dot) -> bool {
        dot.counter <= self.get(dot.actor)
    }

    /// Adds everything up to the dot.
    pub fn advance(&mut self, dot: Dot) {
        match self.0.binary_search_by_key(&dot.actor, |entry| entry.0) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(dot.counter),
            Err(at) => self.0.insert(at, (dot.actor, dot.counter)),
        }
    }

    pub fn join(&mut self, other: &VersionVector) {
        other.iter().for_each(|dot| self.advance(dot));
    }

    /// What both hold.
    pub fn meet(&self, other: &VersionVector) -> VersionVector {
        let least = |&(actor, counter): &(Actor, u64)| (actor, counter.min(other.get(actor)));
        Self(self.0.iter().map(least).filter(|entry| entry.1 > 0).collect())
    }

    /// Does it hold all that `other` holds?
    pub fn covers(&self, other: &VersionVector) -> bool {
        other.iter().all(|dot| self.contains(dot))
    }

    /// The highest dot of each actor, in the actors' order.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|&(actor, counter)| Dot { actor, counter })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its entries are sorted by actor and none is zero: true of every vector
    /// made here, to be asked of one that came from a peer.
    pub fn is_well_formed(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && self.0.iter().all(|entry| entry.1 > 0)
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(actor: u64, counter: u64) -> Dot {
        Dot { actor: Actor(actor), counter }
    }

    #[test]
    fn a_joined_vector_covers_both() {
        let mut left = VersionVector::new();
        left.advance(dot(1, 5));
        left.advance(dot(3, 1));
        let mut right = VersionVector::new();
        right.advance(dot(1, 2));
        right.advance(dot(2, 9));
        assert!(!left.covers(&right) && !right.covers(&left));
        let mut both = left.clone();
        both.join(&right);
        assert!(both.covers(&left) && both.covers(&right));
        assert!(both.contains(dot(2, 9)) && !both.contains(dot(2, 10)));
        assert!(both.is_well_formed());
    }
}
