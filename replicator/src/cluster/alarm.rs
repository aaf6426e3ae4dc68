//! When the membership protocol wants to be woken, and for what: in the order
//! of time, which says nothing of what they are for.

use std::cmp::Ordering;
use std::time::Instant;

use foca::Timer;

use super::member::Member;

pub(super) struct Alarm {
    pub at: Instant,
    /// Alarms of one instant ring in the order they were set.
    pub number: u64,
    pub timer: Timer<Member>,
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
