//! Which leaves of a large file have arrived, and which to ask whom for.
//!
//! Several nodes that want the same file each begin somewhere else and serve
//! each other what they have, so that it leaves its origin about once however
//! many want it. The origin is therefore asked last for what others hold. No
//! I/O here.

use std::collections::BTreeMap;

use crate::id::NodeId;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Pieces {
    states: Vec<State>,
    /// What nodes that do not hold all said they hold: no need to ask the
    /// origin for it.
    elsewhere: BTreeMap<NodeId, Vec<bool>>,
    /// How many are asked.
    sources: usize,
    /// The leaves in the order in which this node asks for them.
    order: Vec<u32>,
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Asked,
    Arrived,
    /// Here, but of no version: it was written while its origin read it.
    Mixed,
}

/// What a peer can give.
#[derive(Clone, Copy, Debug)]
pub(super) enum Offer<'a> {
    /// All of it. What others hold is taken from it only when nothing has
    /// come for a while.
    All {
        urgent: bool,
    },
    Some(&'a [bool]),
}

impl Pieces {
    /// `arrived` says which leaves are here. Nodes with different seeds ask
    /// for them in different orders, a few neighbours at a time.
    pub fn new(arrived: Vec<bool>, seed: u64) -> Self {
        let mut order: Vec<u32> = (0..arrived.len() as u32).collect();
        order.sort_by_key(|leaf| (scattered(seed, leaf / NEIGHBOURS), *leaf));
        let state = |arrived| if arrived { State::Arrived } else { State::Missing };
        let states: Vec<State> = arrived.into_iter().map(state).collect();
        Self {
            missing: states.iter().filter(|state| **state == State::Missing).count(),
            elsewhere: BTreeMap::new(),
            sources: 0,
            order,
            states,
        }
    }

    /// How many leaves have arrived, and how many there are.
    pub fn count(&self) -> (u64, u64) {
        let arrived = self.states.iter().filter(|state| **state == State::Arrived).count();
        (arrived as u64, self.states.len() as u64)
    }

    /// So many peers are asked, and what was said before is of no interest.
    pub fn begin(&mut self, sources: usize) {
        self.sources = sources;
        self.elsewhere.clear();
    }

    /// A peer that does not hold all said what it holds; nothing, if it is
    /// gone or has let go of it. Says whether others have to think again.
    pub fn told(&mut self, peer: NodeId, held: Vec<bool>) -> bool {
        let has_some = held.contains(&true);
        let before = self.elsewhere.insert(peer, held);
        !has_some && (self.is_nowhere() || before.is_some_and(|before| before.contains(&true)))
    }

    /// This peer holds all, and is one more origin.
    pub fn told_all(&mut self, peer: NodeId) {
        self.elsewhere.remove(&peer);
    }

    /// All who are asked said that they hold nothing.
    pub fn is_nowhere(&self) -> bool {
        let mut all = self.elsewhere.values();
        self.elsewhere.len() == self.sources && all.all(|held| !held.contains(&true))
    }

    /// Up to `most` leaves to ask this peer for, in ascending order. They
    /// count as asked for until they arrive or are given back.
    pub fn take(&mut self, offer: Offer<'_>, most: usize) -> Vec<u64> {
        let wanted = |at: &usize| {
            let offered = match offer {
                Offer::All { urgent } => {
                    urgent || !self.elsewhere.values().any(|held| is_among(held, *at))
                }
                Offer::Some(held) => is_among(held, *at),
            };
            offered && self.states[*at] == State::Missing
        };
        let mut taken: Vec<usize> =
            self.order.iter().map(|at| *at as usize).filter(wanted).take(most).collect();
        taken.sort_unstable();
        taken.iter().for_each(|at| self.states[*at] = State::Asked);
        taken.into_iter().map(|at| at as u64).collect()
    }

    pub fn arrived(&mut self, leaf: u64) {
        let state = &mut self.states[leaf as usize];
        if *state != State::Arrived {
            *state = State::Arrived;
            self.missing -= 1;
        }
    }

    /// What came of it is written, and is of no version.
    pub fn mixed(&mut self, leaf: u64) {
        let state = &mut self.states[leaf as usize];
        if *state == State::Arrived {
            self.missing += 1;
        }
        *state = State::Mixed;
    }

    /// The leaves that are of no version.
    pub fn all_mixed(&self) -> impl Iterator<Item = u64> + '_ {
        (0..).zip(&self.states).filter(|(_, state)| **state == State::Mixed).map(|(leaf, _)| leaf)
    }

    /// It was asked for and will not come.
    pub fn give_back(&mut self, leaf: u64) {
        let state = &mut self.states[leaf as usize];
        if *state == State::Asked {
            *state = State::Missing;
        }
    }

    /// All are here, of the wanted version.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Nothing is left to ask for.
    pub fn is_over(&self) -> bool {
        self.missing == self.all_mixed().count()
    }

    pub fn has(&self, leaf: u64) -> bool {
        self.states.get(leaf as usize) == Some(&State::Arrived)
    }

    pub fn held(&self) -> Vec<bool> {
        self.states.iter().map(|state| *state == State::Arrived).collect()
    }
}

/// Leaves that are asked for together, so that reads and answers are long.
const NEIGHBOURS: u32 = 4;

fn is_among(held: &[bool], at: usize) -> bool {
    held.get(at).copied().unwrap_or(false)
}

/// The mixing of SplitMix64 (Steele, Lea, Flood 2014).
fn scattered(seed: u64, number: u32) -> u64 {
    let mut mixed = seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A bit a leaf, the lowest of a byte first.
pub(super) fn to_bitmap(held: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        bits.iter().enumerate().fold(0, |byte, (bit, held)| byte | (u8::from(*held) << bit))
    };
    held.chunks(8).map(byte).collect()
}

/// The first `count` bits.
pub(super) fn from_bitmap(bytes: &[u8], count: usize) -> Vec<bool> {
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    bits.take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offer<'static> = Offer::All { urgent: false };

    #[test]
    fn each_asks_in_an_order_of_its_own_and_for_all() {
        let (mut one, mut other) =
            (Pieces::new(vec![false; 99], 1), Pieces::new(vec![false; 99], 2));
        assert_ne!(one.take(ALL, 8), other.take(ALL, 8));
        let first: Vec<u64> = one.held().iter().map(|held| u64::from(*held)).collect();
        assert_eq!(first, [0; 99], "asked for is not arrived");
        assert_eq!(one.take(ALL, 100).len(), 91);
        assert_eq!(one.take(ALL, 100), [0; 0]);
        (0..99).for_each(|leaf| one.arrived(leaf));
        assert!(one.is_complete());
    }

    #[test]
    fn the_origin_is_spared_what_others_hold() {
        let mut pieces = Pieces::new(vec![false, false, true, false], 0);
        let held = [true, false, true, false];
        pieces.told(NodeId::from_bytes([1; 16]), held.to_vec());
        assert_eq!(pieces.take(ALL, 9), [1, 3]);
        assert_eq!(pieces.take(Offer::Some(&held), 9), [0]);
        pieces.give_back(0);
        assert_eq!(pieces.take(ALL, 9), [0; 0]);
        assert_eq!(pieces.take(Offer::All { urgent: true }, 9), [0]);
    }

    #[test]
    fn the_origin_is_asked_for_what_nobody_holds_any_longer() {
        let [one, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 16]));
        let mut pieces = Pieces::new(vec![false; 5], 0);
        pieces.begin(3);
        assert!(!pieces.told(one, vec![true, true, true, false, false]));
        assert!(!pieces.told(other, vec![false, true, false, false, true]));
        assert_eq!(pieces.take(ALL, 9), [3]);
        assert!(pieces.told(one, Vec::new()));
        assert!(!pieces.told(one, Vec::new()), "nothing new");
        assert_eq!(pieces.take(ALL, 9), [0, 2]);
        assert!(pieces.told(other, vec![false; 5]));
        assert_eq!(pieces.take(ALL, 1), [1]);
        assert!(!pieces.is_nowhere(), "the origin said nothing");
        pieces.told(other, vec![true; 5]);
        pieces.told_all(other);
        assert_eq!(pieces.take(ALL, 9), [4]);
    }

    #[test]
    fn what_all_who_are_asked_do_not_hold_is_nowhere() {
        let [one, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 16]));
        let mut pieces = Pieces::new(vec![false; 2], 0);
        pieces.begin(2);
        assert!(!pieces.told(one, Vec::new()));
        assert!(!pieces.told(other, vec![true, false]));
        assert!(!pieces.is_nowhere());
        assert!(pieces.told(other, Vec::new()) && pieces.is_nowhere());
        pieces.begin(2);
        assert!(!pieces.is_nowhere());
    }

    #[test]
    fn what_does_not_come_is_asked_for_again() {
        let mut pieces = Pieces::new(vec![false; 2], 0);
        assert_eq!(pieces.take(ALL, 2), [0, 1]);
        pieces.arrived(0);
        pieces.give_back(0);
        pieces.give_back(1);
        assert_eq!(pieces.take(ALL, 2), [1]);
        assert_eq!(pieces.held(), [true, false]);
    }

    #[test]
    fn what_is_mixed_is_here_but_held_by_nobody() {
        let mut pieces = Pieces::new(vec![false; 3], 0);
        assert_eq!(pieces.take(ALL, 3), [0, 1, 2]);
        pieces.arrived(0);
        pieces.mixed(1);
        assert!(!pieces.is_over(), "one is on its way");
        pieces.mixed(2);
        pieces.give_back(2);
        assert_eq!(pieces.take(ALL, 3), [0; 0]);
        assert!(pieces.is_over() && !pieces.is_complete());
        assert_eq!(pieces.held(), [true, false, false]);
        pieces.mixed(0);
        assert_eq!(pieces.all_mixed().collect::<Vec<_>>(), [0, 1, 2]);
        (0..3).for_each(|leaf| pieces.arrived(leaf));
        assert!(pieces.is_complete());
    }

    #[test]
    fn a_bitmap_says_the_same_again() {
        let held = [true, false, false, true, true, false, true, false, true, true];
        assert_eq!(to_bitmap(&held), [0b0101_1001, 0b11]);
        assert_eq!(from_bitmap(&to_bitmap(&held), held.len()), held);
    }

    #[test]
    fn an_empty_file_has_nothing_to_ask_for() {
        let mut pieces = Pieces::new(Vec::new(), 7);
        assert!(pieces.is_complete());
        assert!(pieces.take(ALL, 1).is_empty());
    }
}
