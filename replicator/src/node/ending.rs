//! The end of a run, and what the next start must read for it.
//!
//! What was told before the end is looked at first, within reason: what was
//! told and not read would be read as a whole at the next start, and a file
//! that came seconds ago may be large. What is being applied comes to its end,
//! so that the index knows of it. A note in the index says up to when
//! everything was read.

use std::time::{Duration, Instant};

use crate::entry::Timestamp;
use crate::index::{self, Index};
use crate::limits::{LAST_MOMENTS, UNREAD_MARGIN};

/// Where a life ended with everything read: when it was asked for the last
/// time, in seconds since 1970.
const NOTE: &str = "read";

/// How long capture may take to tell its last, and that may take to be read.
const LAST_LOOKS_LIMIT: Duration = Duration::from_secs(1);

/// A run that is ending.
pub(super) struct Ending {
    /// When it was asked to, in seconds since 1970.
    begun: i64,
    until: Instant,
    /// All that happened before has been told.
    told: bool,
}

impl Ending {
    pub fn new(begun: i64) -> Self {
        Self { begun, until: Instant::now() + LAST_LOOKS_LIMIT, told: false }
    }

    pub fn was_told(&mut self) {
        self.told = true;
    }

    /// When to end at the latest.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Notes how far everything was read and says that it is over, where there
    /// is no more to read, or no more time.
    pub fn is_over(&self, is_read: bool, index: &mut Index) -> bool {
        let is_done = self.told && is_read;
        if !is_done && Instant::now() < self.until {
            return false;
        }
        let note = if is_done { self.begun.to_le_bytes().to_vec() } else { Vec::new() };
        index.put_note(NOTE, note);
        true
    }
}

/// Since when files may have been written without being read, though they look
/// as the index knows them.
pub(super) fn unread_since(opened: &index::Opened, max_delay: Duration) -> Option<Timestamp> {
    let noted = opened.index.note(NOTE).filter(|_| !opened.unclean);
    let read = noted.and_then(|note| Some(i64::from_le_bytes(note.try_into().ok()?)));
    match read {
        Some(seconds) => Some(Timestamp { seconds, nanos: 0 }.before(LAST_MOMENTS)),
        None => Some(opened.last_written?.before(max_delay + UNREAD_MARGIN)),
    }
}
