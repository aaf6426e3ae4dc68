//! Stores through mappings of files that nobody knows yet.
//!
//! A page that was stored to stays writable until it is written back, and until
//! then no further store is told. So who reads a file that is mapped writes
//! its pages back before. Of a file without a row nobody knows at its first look
//! that it is mapped; what was told of it is kept here for a second one.
//!
//! Each is met within milliseconds, or has no name in the folder. Where more
//! wait than there is room for, all are let go: the caller writes back what is
//! mapped and reads what changed since the first of them was told of.

use std::collections::HashMap;
use std::time::Duration;

use super::effect::Now;
use super::settle::Dirt;
use crate::entry::Timestamp;

/// Inodes that are remembered.
const INODES_MAX: usize = 4096;

/// How much later than it happened a store may be told of here, and how much
/// later than the store the name: many times what a busy machine takes.
const TELLING_MAX: Duration = Duration::from_secs(10);

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    inodes: HashMap<u64, Stored>,
    /// When all that was told of had been looked at last.
    rested: Duration,
    /// How often there was no room.
    overflows: u64,
}

/// What is known of an inode.
#[derive(Debug)]
struct Stored {
    dirt: Dirt,
    /// When it was told of first.
    first: Now,
}

impl Mapped {
    /// All that was told of has been looked at: who has not been met is not in
    /// the folder.
    pub fn has_rested(&mut self, now: Duration) {
        self.rested = now;
    }

    /// Gives the time since which everything is to be read again, where others
    /// had to be let go for this.
    #[must_use]
    pub fn note(&mut self, now: Now, inode: u64, dirt: Dirt) -> Option<Timestamp> {
        if let Some(known) = self.inodes.get_mut(&inode) {
            known.dirt.merge(&dirt);
            return None;
        }
        let lost_since = if self.inodes.len() >= INODES_MAX { self.make_room() } else { None };
        self.inodes.insert(inode, Stored { dirt, first: now });
        lost_since
    }

    pub fn take(&mut self, inode: u64) -> Option<Dirt> {
        self.inodes.remove(&inode).map(|stored| stored.dirt)
    }

    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Strangers go first, and nothing is lost with them. Where these are few
    /// it would soon be done again, for each of the next to come.
    fn make_room(&mut self) -> Option<Timestamp> {
        let met_by_now = self.rested.saturating_sub(TELLING_MAX);
        self.inodes.retain(|_, stored| stored.first.monotonic >= met_by_now);
        if self.inodes.len() <= INODES_MAX / 2 {
            return None;
        }
        self.overflows += 1;
        let first = self.inodes.drain().map(|(_, stored)| stored.first.wall).min()?;
        Some(Timestamp::from_nanos(first).before(TELLING_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        let monotonic = Duration::from_secs(seconds);
        Now { monotonic, wall: monotonic.as_nanos() as i64 }
    }

    fn stored() -> Dirt {
        Dirt { mapped: true, bytes: true, ..Dirt::default() }
    }

    #[test]
    fn all_of_too_many_go_and_the_time_of_the_first_is_told() {
        let mut mapped = Mapped::default();
        for inode in 0..INODES_MAX as u64 {
            assert_eq!(mapped.note(at(100 + inode), inode, stored()), None);
        }
        assert_eq!(mapped.note(at(9000), 1, Dirt { whole: true, ..stored() }), None);
        let since = Timestamp { seconds: 90, nanos: 0 };
        assert_eq!(mapped.note(at(9001), u64::MAX, stored()), Some(since));
        assert_eq!((mapped.take(1), mapped.take(u64::MAX)), (None, Some(stored())));
        assert_eq!((mapped.take(u64::MAX), mapped.overflows()), (None, 1));
        assert_eq!(mapped.note(at(9002), 1, stored()), None);
        assert_eq!(mapped.note(at(9003), 1, Dirt { whole: true, ..stored() }), None);
        assert_eq!(mapped.take(1), Some(Dirt { whole: true, ..stored() }));
    }

    #[test]
    fn those_that_are_not_in_the_folder_make_room_without_a_loss() {
        let mut mapped = Mapped::default();
        for inode in 0..3 * INODES_MAX as u64 {
            mapped.has_rested(at(inode).monotonic);
            assert_eq!(mapped.note(at(inode), inode, stored()), None);
        }
        assert_eq!(mapped.overflows(), 0);
        assert_eq!(mapped.take(3 * INODES_MAX as u64 - 1), Some(stored()));
    }
}
