//! A multi-value register: the versioned cell of which names and bodies are
//! made.
//!
//! It holds every value that no later write knowingly replaced. One of them,
//! the winner, is what the tree shows; the others are the losers of a
//! conflict. Who writes over the winner has never shown the losers: it passes
//! them over, and whoever still shows one keeps it as one. Merging is
//! associative, commutative and idempotent, so any order of messages ends in
//! the same register (Shapiro et al., "Conflict-free replicated data types",
//! 2011). It never reads a clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use super::version::{Dot, VersionVector};
use crate::id::Actor;

/// How values of a type fare against each other when written concurrently.
pub trait Rank {
    /// The higher rank wins, before the time of the change is looked at.
    fn rank(&self) -> u8 {
        0
    }

    /// Is there something to be kept where it loses?
    fn is_to_be_kept(&self) -> bool {
        false
    }
}

/// Passed-over losers that a register remembers: of each two actors the last
/// one that the one wrote over the other's. Who showed an earlier one has
/// replaced it since, or kept it. What stays follows from the dots alone, so
/// that any order of merges ends the same: were it the last ones of all, those
/// of an actor with a low number would give way as soon as they are made.
const PASSED_OVER_MAX: usize = 64;

/// One written value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sibling<V> {
    pub dot: Dot,
    /// When it was written, in nanoseconds since 1970 by the writer's clock
    /// or the file's: only breaks ties between concurrent values.
    pub when: i64,
    pub value: V,
}

impl<V: Rank> Sibling<V> {
    /// How it fares against others: by rank, then the later one, then the highest
    /// dot.
    fn standing(&self) -> (u8, i64, Dot) {
        (self.value.rank(), self.when, self.dot)
    }
}

/// A loser that was written over where it was not shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PassedOver<V> {
    /// The write that did so.
    pub by: Dot,
    pub loser: Sibling<V>,
}

impl<V> PassedOver<V> {
    /// Who did it, and whose it was.
    fn actors(&self) -> (Actor, Actor) {
        (self.by.actor, self.loser.dot.actor)
    }
}

/// See the module's page. Never without a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Register<V> {
    /// Every write this register has ever seen, of the values it holds and of
    /// those they replaced.
    context: VersionVector,
    /// Sorted by dot.
    siblings: Siblings<V>,
    /// Sorted by the actors who did it and whose it was, each two once.
    passed_over: Vec<PassedOver<V>>,
}

/// Mostly one, which lies in the register itself.
type Siblings<V> = SmallVec<[Sibling<V>; 1]>;

/// What a merge brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Nothing new: the register held it all.
    Mine,
    /// The register is now exactly the other one.
    Theirs,
    /// Each had something the other lacked.
    Both,
}

impl<V: Rank + Clone + Eq> Register<V> {
    /// A register that holds its first write.
    pub fn new(dot: Dot, when: i64, value: V) -> Self {
        let mut context = VersionVector::new();
        context.advance(dot);
        Self { context, siblings: smallvec![Sibling { dot, when, value }], passed_over: Vec::new() }
    }

    /// A register of its parts, as [`Register::context`] and
    /// [`Register::siblings`] gave them, that passed nothing over.
    pub fn of(context: VersionVector, siblings: Vec<Sibling<V>>) -> Self {
        Self { context, siblings: siblings.into_iter().collect(), passed_over: Vec::new() }
    }

    /// Writes a value in knowledge of the writes in `seen`: those are
    /// replaced, any other stays beside it. Those of which `is_shown` does not
    /// hold are passed over.
    pub fn write(
        &mut self,
        seen: &VersionVector,
        is_shown: impl Fn(&V) -> bool,
        dot: Dot,
        when: i64,
        value: V,
    ) {
        self.replace(|sibling| seen.contains(sibling.dot), is_shown, dot, when, value);
        self.context.join(seen);
    }

    /// Writes a value in the place of some and leaves the others beside it.
    pub fn replace(
        &mut self,
        is_replaced: impl Fn(&Sibling<V>) -> bool,
        is_shown: impl Fn(&V) -> bool,
        dot: Dot,
        when: i64,
        value: V,
    ) {
        let (replaced, beside): (Siblings<V>, Siblings<V>) =
            std::mem::take(&mut self.siblings).into_iter().partition(is_replaced);
        self.siblings = beside;
        let is_lost = |one: &Sibling<V>| one.value.is_to_be_kept() && !is_shown(&one.value);
        let lost = replaced.into_iter().filter(is_lost);
        self.pass_over(lost.map(|loser| PassedOver { by: dot, loser }).collect());
        self.context.advance(dot);
        self.siblings.push(Sibling { dot, when, value });
        self.siblings.sort_by_key(|sibling| sibling.dot);
    }

    /// Takes out values that count for nothing beside the others, of which there
    /// must be some: whoever merges this loses them, too. Where two took out all
    /// that the other holds, the one that fares best stays.
    pub fn discard(&mut self, counts_for_nothing: impl Fn(&Sibling<V>) -> bool) {
        debug_assert!(!self.siblings.iter().all(&counts_for_nothing));
        self.siblings.retain(|sibling| !counts_for_nothing(sibling));
    }

    fn pass_over(&mut self, more: Vec<PassedOver<V>>) {
        if more.is_empty() {
            return;
        }
        self.passed_over.extend(more);
        self.passed_over.sort_by_key(|one| (one.by, one.loser.dot));
        // Of one key the later entry stays.
        let last: BTreeMap<(Actor, Actor), PassedOver<V>> =
            self.passed_over.drain(..).map(|one| (one.actors(), one)).collect();
        let beyond = last.len().saturating_sub(PASSED_OVER_MAX);
        self.passed_over = last.into_values().skip(beyond).collect();
    }

    pub fn merge(&mut self, other: &Register<V>) -> Merged {
        if *self == *other {
            return Merged::Mine;
        }
        let survives = |sibling: &Sibling<V>, there: &Register<V>| {
            !there.context.contains(sibling.dot) || there.holds(sibling.dot)
        };
        let mut siblings: Siblings<V> =
            self.siblings.iter().filter(|mine| survives(mine, other)).cloned().collect();
        let fresh = other.siblings.iter().filter(|theirs| !self.context.contains(theirs.dot));
        siblings.extend(fresh.cloned());
        if siblings.is_empty() {
            // Each discarded what the other holds.
            let all = self.siblings.iter().chain(&other.siblings);
            siblings.extend(all.max_by_key(|one| one.standing()).cloned());
        }
        siblings.sort_by_key(|sibling| sibling.dot);
        let mut context = self.context.clone();
        context.join(&other.context);
        let passed_over = self.passed_over.clone();
        let mut merged = Register { context, siblings, passed_over };
        merged.pass_over(other.passed_over.clone());
        #[cfg(test)]
        let merged = merged.spoiled(self, other);
        if merged == *self {
            return Merged::Mine;
        }
        let theirs = merged == *other;
        *self = merged;
        if theirs { Merged::Theirs } else { Merged::Both }
    }

    /// The value the tree shows: the highest rank, then the latest, then the
    /// highest dot. Any two nodes that hold the same values agree.
    pub fn winner(&self) -> &Sibling<V> {
        let winner = self.siblings.iter().max_by_key(|one| one.standing());
        winner.expect("a register is never without a value")
    }

    /// The winner and the losers.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.siblings.iter().map(|sibling| &sibling.value)
    }

    /// Values that lost against a concurrent one.
    pub fn losers(&self) -> impl Iterator<Item = &Sibling<V>> {
        let winner = self.winner().dot;
        self.siblings.iter().filter(move |sibling| sibling.dot != winner)
    }

    pub fn context(&self) -> &VersionVector {
        &self.context
    }

    /// All values, in the order of their dots.
    pub fn siblings(&self) -> &[Sibling<V>] {
        &self.siblings
    }

    /// Losers that were written over where they were not shown.
    pub fn passed_over(&self) -> &[PassedOver<V>] {
        &self.passed_over
    }

    /// A loser of which a disk that reflects these writes shows the value, and
    /// that was passed over by another.
    pub fn passed_over_at(
        &self,
        seen: &VersionVector,
        is_shown: impl Fn(&V) -> bool,
    ) -> Option<&Sibling<V>> {
        let is_it = |one: &&PassedOver<V>| !seen.contains(one.by) && is_shown(&one.loser.value);
        self.passed_over.iter().find(is_it).map(|one| &one.loser)
    }

    pub fn holds(&self, dot: Dot) -> bool {
        self.siblings.binary_search_by_key(&dot, |sibling| sibling.dot).is_ok()
    }

    /// Could the writes of honest nodes have made it? To be asked of one that
    /// came from a peer.
    pub fn is_well_formed(&self) -> bool {
        self.context.is_well_formed()
            && !self.siblings.is_empty()
            && self.siblings.windows(2).all(|pair| pair[0].dot < pair[1].dot)
            && self.siblings.iter().all(|sibling| self.context.contains(sibling.dot))
            && self.has_sane_losers()
    }

    fn has_sane_losers(&self) -> bool {
        let is_known = |dot| self.context.contains(dot);
        self.passed_over.len() <= PASSED_OVER_MAX
            && self.passed_over.windows(2).all(|pair| pair[0].actors() < pair[1].actors())
            && self.passed_over.iter().all(|one| is_known(one.by) && is_known(one.loser.dot))
    }
}

#[cfg(test)]
impl<V: Rank + Clone + Eq> Register<V> {
    /// The result of a merge, with the bug that is planted.
    fn spoiled(mut self, mine: &Self, other: &Self) -> Self {
        use super::sim::planted::{Bug, is_planted};
        if is_planted(Bug::DropVectorEntry) {
            self.context = mine.context.clone();
            other.context.iter().skip(1).for_each(|dot| self.context.advance(dot));
            self.siblings.iter().for_each(|sibling| self.context.advance(sibling.dot));
        }
        if is_planted(Bug::DropLosers) {
            let winner = self.winner().dot;
            self.siblings.retain(|sibling| sibling.dot == winner);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use proptest::prelude::*;

    impl Rank for u32 {
        fn is_to_be_kept(&self) -> bool {
            true
        }
    }

    fn dot(actor: u64, counter: u64) -> Dot {
        Dot { actor: Actor(actor), counter }
    }

    #[test]
    fn a_write_that_saw_all_leaves_one_value() {
        let mut register = Register::new(dot(1, 1), 5, 1u32);
        let seen = register.context().clone();
        register.write(&seen, |_| true, dot(2, 1), 3, 2);
        assert_eq!(register.winner().value, 2);
        assert_eq!(register.losers().count(), 0);
    }

    #[test]
    fn a_loser_that_was_written_over_unseen_is_one_for_who_shows_it() {
        let mut register = Register::new(dot(1, 1), 2, 1u32);
        let loser = Register::new(dot(2, 1), 1, 2u32);
        register.merge(&loser);
        let seen = register.context().clone();
        register.write(&seen, |value| *value == 1, dot(1, 2), 3, 3);
        let mut there = loser.clone();
        assert_eq!(there.merge(&register), Merged::Theirs);
        let lost = |at: &VersionVector, shown| there.passed_over_at(at, |value| *value == shown);
        assert_eq!(lost(loser.context(), 2).map(|lost| lost.dot), Some(dot(2, 1)));
        assert_eq!(lost(loser.context(), 1), None, "it was replaced knowingly");
        assert_eq!(lost(&seen, 2).map(|lost| lost.dot), Some(dot(2, 1)));
        assert_eq!(lost(there.context(), 2), None, "the same value was put there later");
    }

    #[test]
    fn values_that_deny_each_other_leave_one() {
        let both = Register::new(dot(1, 2), 0, 0u32).context().clone();
        let of = |dot, value| Sibling { dot, when: 0, value };
        let mut one = Register::of(both.clone(), vec![of(dot(1, 1), 1u32)]);
        let other = Register::of(both, vec![of(dot(1, 2), 2)]);
        assert!(one.is_well_formed() && other.is_well_formed());
        let mut there = other.clone();
        assert_eq!(there.merge(&one), Merged::Mine);
        assert_eq!(one.merge(&other), Merged::Theirs);
        assert_eq!((one.winner().value, there.winner().value), (2, 2));
    }

    #[test]
    fn what_nobody_was_thought_to_hold_is_a_loser_for_who_holds_it() {
        let held = Register::new(dot(1, 1), 2, 1u32);
        let mut given_up = held.clone();
        given_up.replace(|one| one.dot == dot(1, 1), |_| false, dot(2, 1), 2, 0);
        let seen = given_up.context().clone();
        given_up.write(&seen, |value| *value == 0, dot(3, 1), 1, 7);
        let lost = given_up.passed_over_at(held.context(), |value| *value == 1);
        assert_eq!(lost.map(|lost| lost.dot), Some(dot(1, 1)));
    }

    /// Two actors each write once more where the other has written, without
    /// having shown it, and hear of each other after that.
    fn passed_over_by_both(rounds: u64) -> Register<u32> {
        let mut both = Register::new(dot(1, 1), 0, 0u32);
        for round in 2..2 + rounds {
            let mut there = both.clone();
            let write = |register: &mut Register<u32>, by: Dot, value| {
                let seen = register.context().clone();
                register.write(&seen, |_| false, by, 0, value);
            };
            write(&mut both, dot(1, 2 * round), 1000 + round as u32);
            write(&mut there, dot(2, 2 * round), 2000 + round as u32);
            both.merge(&there);
            let mut there = both.clone();
            write(&mut both, dot(1, 2 * round + 1), 3000 + round as u32);
            write(&mut there, dot(2, 2 * round + 1), 4000 + round as u32);
            both.merge(&there);
        }
        both
    }

    #[test]
    fn losers_passed_over_do_not_gather() {
        let count = passed_over_by_both(100).passed_over().len();
        assert_eq!(count, passed_over_by_both(3).passed_over().len());
        let mut register = Register::new(dot(1, 1), 1, 0u32);
        for round in 1..200 {
            register.merge(&Register::new(dot(2 + round, 1), 0, 1000 + round as u32));
            let seen = register.context().clone();
            let shown = register.winner().value;
            let when = 1 + round as i64;
            register.write(&seen, |value| *value == shown, dot(1, 1 + round), when, round as u32);
            assert!(register.passed_over().len() <= PASSED_OVER_MAX && register.is_well_formed());
        }
        let last = register.passed_over().last().map(|one| one.loser.value);
        assert_eq!(last, Some(1199));
    }

    #[test]
    fn the_last_losers_passed_over_by_each_are_remembered() {
        let register = passed_over_by_both(20);
        let mut remembered: Vec<u32> =
            register.passed_over().iter().map(|one| one.loser.value).collect();
        remembered.sort_unstable();
        // Of the last round each passed over the other's, and its own.
        assert_eq!(remembered, [1021, 1021, 2021, 2021]);
    }

    #[test]
    fn concurrent_writes_stay_side_by_side_and_the_later_wins() {
        let base = Register::new(dot(1, 1), 0, 0u32);
        let (mut left, mut right) = (base.clone(), base.clone());
        left.write(base.context(), |_| true, dot(1, 2), 10, 1);
        right.write(base.context(), |_| true, dot(2, 1), 20, 2);
        assert_eq!(left.merge(&right), Merged::Both);
        assert_eq!(left.winner().value, 2);
        assert_eq!(left.losers().map(|loser| loser.value).collect::<Vec<_>>(), [1]);
        assert_eq!(right.merge(&left), Merged::Theirs);
        assert_eq!(left.merge(&right), Merged::Mine);
    }

    proptest! {
        /// Three replicas write and merge at random; merging in any order and
        /// any grouping gives one result, and no unseen write is dropped.
        #[test]
        fn any_order_of_merges_ends_the_same(
            script in prop::collection::vec((0usize..3, 0usize..4, -5i64..5), 1..30),
        ) {
            let start = Register::new(dot(9, 1), 0, 0u32);
            let mut replicas = [start.clone(), start.clone(), start];
            let mut counters = [0u64; 3];
            for (who, what, when) in script {
                if what == 3 || what == who {
                    counters[who] += 1;
                    let seen = replicas[who].context().clone();
                    let value = (who as u32) * 1000 + counters[who] as u32;
                    let shown = replicas[who].winner().value;
                    let is_shown = |value: &u32| *value == shown;
                    let dot = dot(who as u64, counters[who]);
                    replicas[who].write(&seen, is_shown, dot, when, value);
                } else {
                    let other = replicas[what].clone();
                    replicas[who].merge(&other);
                }
            }
            let [a, b, c] = replicas;
            let fold = |order: [&Register<u32>; 3]| {
                let mut all = order[0].clone();
                all.merge(order[1]);
                all.merge(order[2]);
                all
            };
            let one = fold([&a, &b, &c]);
            prop_assert_eq!(&one, &fold([&c, &a, &b]));
            let mut grouped = b.clone();
            grouped.merge(&c);
            let mut other = a.clone();
            other.merge(&grouped);
            prop_assert_eq!(&one, &other);
            prop_assert!(one.is_well_formed());
        }
    }
}
