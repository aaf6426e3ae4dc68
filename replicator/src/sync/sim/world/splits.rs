//! Splits: groups of nodes that hear nothing of each other for a while.
//!
//! One cut leaves ways round in a mesh and in a ring, and each group goes on
//! only where none is left. Who starts meanwhile meets its own group alone.

use std::collections::BTreeSet;

use super::{Event, World};

/// How long a split lasts, in milliseconds.
const SPLIT_MS_MIN: u64 = 100;
const SPLIT_MS_MAX: u64 = 2000;

/// Of so many troubles one is a split, where there are any.
const SPLIT_ONE_IN: u64 = 3;

#[derive(Debug, Default)]
pub(in crate::sync::sim) struct Splits {
    /// The group of each node; none while all may meet.
    groups: Vec<u64>,
    /// The groups in which users changed something since they were parted.
    changed: BTreeSet<u64>,
    /// How many there were, and how many in which several groups changed
    /// something.
    pub begun: u64,
    pub diverged: u64,
}

impl Splits {
    pub(super) fn parts(&self, one: usize, other: usize) -> bool {
        self.groups.get(one) != self.groups.get(other)
    }

    /// A user of this node changed something.
    pub(in crate::sync::sim) fn note_change(&mut self, at: usize) {
        let Some(group) = self.groups.get(at) else { return };
        if self.changed.insert(*group) && self.changed.len() == 2 {
            self.diverged += 1;
        }
    }
}

impl World {
    pub(super) fn is_split_next(&mut self) -> bool {
        self.plan.splits && self.random.below(SPLIT_ONE_IN) == 0
    }

    /// Parts the nodes into two groups or three.
    pub(super) fn split(&mut self) {
        let (nodes, count) = (self.nodes.len(), 2 + self.random.below(2));
        let mut groups: Vec<u64> = (0..nodes).map(|_| self.random.below(count)).collect();
        // Two at least are apart.
        let one = self.random.below(nodes as u64) as usize;
        groups[one] = (groups[(one + 1) % nodes] + 1) % count;
        self.trace(|| format!("SPLIT into {groups:?}"));
        self.splits.groups = groups;
        self.splits.changed.clear();
        self.splits.begun += 1;
        for (one, other) in self.parted() {
            self.disconnect(one, other);
        }
        let lasts = SPLIT_MS_MIN + self.random.below(SPLIT_MS_MAX - SPLIT_MS_MIN);
        self.at_from_now(lasts, Event::Heal(self.splits.begun));
    }

    /// Ends the split of this number, unless it is over or another took its
    /// place.
    pub(super) fn heal(&mut self, split: u64) {
        if split != self.splits.begun {
            return;
        }
        let parted = self.parted();
        self.splits.groups.clear();
        for (one, other) in parted {
            self.connect_soon(one, other);
        }
    }

    fn parted(&self) -> Vec<(usize, usize)> {
        let count = self.nodes.len();
        let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
        pairs.filter(|(one, other)| self.splits.parts(*one, *other)).collect()
    }
}
