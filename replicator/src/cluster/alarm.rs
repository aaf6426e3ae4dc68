//! When the membership protocol wants to be woken, and for what: in the order
//! of time, which says nothing of what they are for.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use foca::Timer;

use super::member::Member;
use crate::id::NodeId;

/// One for each member that is down, and a handful for the life that is lived
/// now.
#[derive(Default)]
pub(super) struct Alarms {
    waiting: BinaryHeap<Reverse<Alarm>>,
    set: u64,
}

struct Alarm {
    at: Instant,
    /// Alarms of one instant ring in the order they were set.
    number: u64,
    timer: Timer<Member>,
}

impl Alarms {
    pub fn set(&mut self, at: Instant, timer: Timer<Member>) {
        // Only the latest life of a member is known, and can be forgotten.
        if let Timer::RemoveDown(down) = &timer {
            self.waiting.retain(|Reverse(alarm)| !alarm.forgets(down.id));
        }
        self.set += 1;
        self.waiting.push(Reverse(Alarm { at, number: self.set, timer }));
    }

    /// The next one that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer<Member>> {
        self.next().filter(|at| *at <= now)?;
        self.waiting.pop().map(|Reverse(alarm)| alarm.timer)
    }

    pub fn next(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(alarm)| alarm.at)
    }

    /// Drops what was to be done in a life that is over: the protocol would
    /// ignore it. Who is down stays down.
    pub fn drop_stale(&mut self) {
        self.waiting.retain(|Reverse(alarm)| matches!(alarm.timer, Timer::RemoveDown(_)));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Alarm {
    /// Whether it is for forgetting this member.
    fn forgets(&self, member: NodeId) -> bool {
        matches!(&self.timer, Timer::RemoveDown(down) if down.id == member)
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
