//! Files of which more was seen than told.
//!
//! Where capture tells which bytes change, another mtime alone is somebody
//! who set it, as `touch` does: a file of a terabyte is not read for that. But
//! a write moves the time before its bytes are told of, and who looks in
//! between sees the one without the other. Nor does a new link tell where it
//! is. So for a while such a file is neither written over nor removed.

use std::collections::HashMap;
use std::time::Duration;

use crate::id::BodyId;

/// By then capture has told of it: mostly it takes a millisecond or two,
/// on a machine with too much to do a hundred.
const TOLD_WITHIN: Duration = Duration::from_millis(250);

/// How many files are remembered; where more are touched at once the others
/// are read.
const TOUCHED_MAX: usize = 16 << 10;

/// Each with when it is believed.
#[derive(Debug, Default)]
pub(super) struct Touched(HashMap<BodyId, Duration>);

impl Touched {
    /// `false` where there is no room.
    pub fn insert(&mut self, now: Duration, body: BodyId) -> bool {
        if self.0.len() >= TOUCHED_MAX {
            self.0.retain(|_, believed| *believed > now);
        }
        let has_room = self.0.len() < TOUCHED_MAX;
        if has_room {
            self.0.insert(body, now + TOLD_WITHIN);
        }
        has_room
    }

    /// It was read.
    pub fn remove(&mut self, body: BodyId) {
        self.0.remove(&body);
    }

    /// Until when to leave it alone.
    pub fn until(&self, now: Duration, body: BodyId) -> Option<Duration> {
        self.0.get(&body).copied().filter(|believed| *believed > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;

    #[test]
    fn a_file_is_believed_after_a_while_and_so_many_are_remembered() {
        let body = |counter| BodyId { origin: Actor(1), counter };
        let (mut touched, start) = (Touched::default(), Duration::from_secs(1));
        assert!(touched.insert(start, body(0)));
        assert!(touched.until(start, body(0)).is_some() && touched.until(start, body(1)).is_none());
        assert!(touched.until(start + TOLD_WITHIN, body(0)).is_none());
        (1..TOUCHED_MAX as u64).for_each(|at| assert!(touched.insert(start, body(at))));
        assert!(!touched.insert(start, body(u64::MAX)));
        assert!(touched.insert(start + TOLD_WITHIN, body(u64::MAX)));
        touched.remove(body(u64::MAX));
        assert!(touched.until(start + TOLD_WITHIN, body(u64::MAX)).is_none());
    }
}
