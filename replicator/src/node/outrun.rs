//! Files that were written on at their origin while what differs was fetched.
//!
//! The bytes that came then make neither the version that was wanted nor a
//! later one. Most often that is told a moment later, and fits: a file that
//! is patched in place stays the same for those who have it open. One that is
//! never quiet may be outrun again and again, and comes as a whole instead.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::id::BodyId;

/// How long it counts: several attempts are made within it.
const COUNTS: Duration = Duration::from_secs(10);

/// Files that are remembered; of others none is tried twice.
const FILES_MAX: usize = 1024;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Outrun(Mutex<HashMap<BodyId, Instant>>);

impl Outrun {
    /// It happened to this file. Had it happened just before, too?
    pub fn again(&self, body: BodyId) -> bool {
        self.again_at(body, Instant::now())
    }

    /// The file was patched.
    pub fn is_over(&self, body: BodyId) {
        self.lock().remove(&body);
    }

    fn again_at(&self, body: BodyId, now: Instant) -> bool {
        let mut files = self.lock();
        files.retain(|_, at| now.saturating_duration_since(*at) < COUNTS);
        if files.contains_key(&body) || files.len() >= FILES_MAX {
            return true;
        }
        files.insert(body, now);
        false
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<BodyId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;

    fn body(counter: u64) -> BodyId {
        BodyId { origin: Actor(1), counter }
    }

    #[test]
    fn a_file_is_tried_once_more_and_again_once_it_was_patched_or_later() {
        let (outrun, start) = (Outrun::default(), Instant::now());
        assert!(!outrun.again_at(body(1), start));
        assert!(!outrun.again_at(body(2), start), "another file");
        assert!(outrun.again_at(body(1), start + COUNTS / 2));
        outrun.is_over(body(1));
        assert!(!outrun.again_at(body(1), start + COUNTS / 2));
        assert!(!outrun.again_at(body(2), start + COUNTS), "that was long ago");
    }

    #[test]
    fn no_more_files_are_remembered_than_may_be() {
        let (outrun, now) = (Outrun::default(), Instant::now());
        (0..FILES_MAX as u64).for_each(|file| assert!(!outrun.again_at(body(file), now)));
        assert!(outrun.again_at(body(FILES_MAX as u64), now));
        assert_eq!(outrun.lock().len(), FILES_MAX);
    }
}
