//! Which bytes of a file changed from one version to the next, remembered for
//! a while.
//!
//! A peer that holds an earlier version asks what differs since; the steps
//! from there to here, put together, are the answer, to the byte. Where the
//! steps are no longer known, hash lists are compared, leaf by leaf. Nothing
//! here need be right: who uses the answer checks the digest it leads to.

use std::collections::{HashMap, VecDeque};

use super::message::Delta;
use crate::hash::Digest;
use crate::id::BodyId;
use crate::limits::{ANSWER_RANGES_MAX, DELTA_RANGES_MAX};

/// Files whose steps are remembered.
const BODIES_MAX: usize = 256;

/// Steps of one file: what a peer may be behind a file that changes all the
/// time.
const STEPS_MAX: usize = 256;

#[derive(Debug)]
struct Step {
    from: Digest,
    to: Digest,
    delta: Delta,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct History {
    by_body: HashMap<BodyId, VecDeque<Step>>,
    /// The bodies, the one remembered first at the front.
    order: VecDeque<BodyId>,
}

impl History {
    /// The bytes of `delta` are all that this change touched.
    pub fn insert(&mut self, body: BodyId, from: Digest, to: Digest, delta: Delta) {
        if delta.ranges.count() + delta.holes.count() > DELTA_RANGES_MAX {
            self.by_body.remove(&body);
            return;
        }
        if !self.by_body.contains_key(&body) {
            self.order.push_back(body);
            while self.order.len() > BODIES_MAX {
                let oldest = self.order.pop_front();
                oldest.and_then(|oldest| self.by_body.remove(&oldest));
            }
        }
        let steps = self.by_body.entry(body).or_default();
        // A gap makes all before it useless.
        if steps.back().is_some_and(|last| last.to != from) {
            steps.clear();
        }
        steps.push_back(Step { from, to, delta });
        if steps.len() > STEPS_MAX {
            steps.pop_front();
        }
    }

    /// Is it remembered how one became the other?
    pub fn knows(&self, body: BodyId, from: Digest, to: Digest) -> bool {
        let Some(steps) = self.by_body.get(&body) else { return false };
        let end = steps.iter().rposition(|step| step.to == to);
        end.is_some_and(|end| steps.range(..=end).any(|step| step.from == from))
    }

    /// What differs between two versions; `None` where that is not known.
    pub fn between(&self, body: BodyId, from: Digest, to: Digest) -> Option<Delta> {
        let steps = self.by_body.get(&body)?;
        let end = steps.iter().rposition(|step| step.to == to)?;
        let start = steps.range(..=end).rposition(|step| step.from == from)?;
        let mut whole = Delta::default();
        for step in steps.range(start..=end) {
            whole.holes.subtract(&step.delta.ranges);
            whole.ranges.subtract(&step.delta.holes);
            whole.ranges.extend(&step.delta.ranges);
            whole.holes.extend(&step.delta.holes);
        }
        (whole.ranges.count() + whole.holes.count() <= ANSWER_RANGES_MAX).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use crate::range::{Range, RangeSet};

    const BODY: BodyId = BodyId { origin: Actor(1), counter: 1 };

    fn digest(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    fn ranges(list: &[(u64, u64)]) -> RangeSet {
        list.iter().map(|&(start, end)| Range { start, end }).collect()
    }

    fn write(list: &[(u64, u64)]) -> Delta {
        Delta { ranges: ranges(list), holes: RangeSet::new() }
    }

    #[test]
    fn steps_add_up() {
        let mut history = History::default();
        history.insert(BODY, digest(0), digest(1), write(&[(0, 10)]));
        history.insert(BODY, digest(1), digest(2), write(&[(50, 60)]));
        let hole = Delta { ranges: RangeSet::new(), holes: ranges(&[(5, 55)]) };
        history.insert(BODY, digest(2), digest(3), hole);
        assert!(history.knows(BODY, digest(0), digest(3)));
        assert!(!history.knows(BODY, digest(3), digest(0)));
        let all = history.between(BODY, digest(0), digest(3)).unwrap();
        assert_eq!(all.ranges, ranges(&[(0, 5), (55, 60)]));
        assert_eq!(all.holes, ranges(&[(5, 55)]));
        let some = history.between(BODY, digest(1), digest(2)).unwrap();
        assert_eq!(some, write(&[(50, 60)]));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let mut history = History::default();
        history.insert(BODY, digest(0), digest(1), write(&[(0, 10)]));
        // A change nobody wrote down lies between.
        history.insert(BODY, digest(7), digest(8), write(&[(0, 1)]));
        assert!(history.between(BODY, digest(0), digest(8)).is_none());
        assert!(history.between(BODY, digest(9), digest(8)).is_none());
        assert!(history.between(BODY, digest(7), digest(8)).is_some());
    }

    #[test]
    fn it_stays_small() {
        let mut history = History::default();
        for counter in 0..2 * BODIES_MAX as u64 {
            let body = BodyId { origin: Actor(1), counter };
            history.insert(body, digest(0), digest(1), write(&[(0, 10)]));
        }
        assert_eq!(history.by_body.len(), BODIES_MAX);
        for byte in 0..=255 {
            history.insert(BODY, digest(byte), digest(byte.wrapping_add(1)), write(&[(0, 1)]));
        }
        assert!(history.by_body[&BODY].len() <= STEPS_MAX);
    }
}
