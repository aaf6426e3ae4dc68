//! Dots and version vectors: who wrote what, and what a writer had seen.
//!
//! Pure values (Preguiça et al., "Dotted Version Vectors", 2012). A dot names
//! one change; a vector names, per actor, all changes up to a counter.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

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
pub struct VersionVector(Entries);

/// Most values were written by one or two: these lie in the row itself.
type Entries = SmallVec<[(Actor, u64); 2]>;

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

    /// What is known by who does not know this dot, nor what its actor did
    /// after it; never nothing.
    pub fn before(&self, dot: Dot) -> VersionVector {
        let former = |&(actor, counter): &(Actor, u64)| match actor == dot.actor {
            true => (actor, counter.min(dot.counter.saturating_sub(1)).max(1)),
            false => (actor, counter),
        };
        Self(self.0.iter().map(former).collect())
    }

    /// Does it hold all that `other` holds?
    pub fn covers(&self, other: &VersionVector) -> bool {
        other.iter().all(|dot| self.contains(dot))
    }

    /// What a node that knows `base` must be told to know this one.
    pub fn difference_from(&self, base: &VersionVector) -> Difference {
        let changed = self.0.iter().filter(|entry| base.get(entry.0) != entry.1).copied();
        let missing = base.0.iter().filter(|entry| self.get(entry.0) == 0);
        let missing = missing.map(|entry| (entry.0, 0));
        let mut entries: Vec<_> = changed.chain(missing).collect();
        entries.sort_unstable();
        Difference(entries)
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
        is_sorted(&self.0) && self.0.iter().all(|entry| entry.1 > 0)
    }
}

/// In what a vector differs from another one: the counters of some actors,
/// zero for one that it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference(Vec<(Actor, u64)>);

impl Difference {
    /// The vector that differs so from `base`.
    pub fn applied_to(&self, base: &VersionVector) -> VersionVector {
        let entries = base.0.iter().chain(&self.0).copied();
        let entries: BTreeMap<Actor, u64> = entries.collect();
        VersionVector(entries.into_iter().filter(|entry| entry.1 > 0).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its entries are sorted by actor: true of every difference made here.
    pub fn is_well_formed(&self) -> bool {
        is_sorted(&self.0)
    }
}

/// By actor, each of which stands there once.
fn is_sorted(entries: &[(Actor, u64)]) -> bool {
    entries.windows(2).all(|pair| pair[0].0 < pair[1].0)
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

    fn vector(dots: &[(u64, u64)]) -> VersionVector {
        let mut vector = VersionVector::new();
        dots.iter().for_each(|(actor, counter)| vector.advance(dot(*actor, *counter)));
        vector
    }

    #[test]
    fn what_was_known_before_a_dot_is_never_nothing() {
        let all = vector(&[(1, 5), (2, 9)]);
        assert_eq!(all.before(dot(2, 4)), vector(&[(1, 5), (2, 3)]));
        assert_eq!(all.before(dot(3, 1)), all);
        assert_eq!(vector(&[(1, 1)]).before(dot(1, 1)), vector(&[(1, 1)]));
    }

    #[test]
    fn a_difference_leads_from_one_to_the_other() {
        let (base, other) = (vector(&[(1, 5), (2, 9), (4, 4)]), vector(&[(2, 9), (3, 1), (4, 2)]));
        let difference = other.difference_from(&base);
        assert!(difference.is_well_formed());
        assert_eq!(difference.len(), 3, "{difference:?}");
        assert_eq!(difference.applied_to(&base), other);
        assert!(base.difference_from(&base).is_empty());
        let from_nothing = base.difference_from(&VersionVector::new());
        assert_eq!(from_nothing.applied_to(&VersionVector::new()), base);
    }
}
