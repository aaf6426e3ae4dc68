//! Bugs planted to see whether the simulator finds them.
//!
//! Only test builds know of them: the core asks for one at the places that
//! the variants name.

use std::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sync) enum Bug {
    /// A merge forgets one actor of what the other side has seen.
    DropVectorEntry,
    /// Some deletions are not told.
    SkipTombstone,
    /// A node that crashed goes on as the same actor, at a counter it may
    /// have used.
    ReuseCounter,
    /// A merge drops the losers of a conflict.
    DropLosers,
    /// A series is closed before all of it was sent.
    CloseEarly,
    /// What lies in the way is removed without being kept.
    KeepNothing,
    /// A node goes on though its peers know more of its log than it does.
    IgnoreRollback,
    /// What is removed for another node comes back, as if a user had made it.
    BringBack,
    /// A known number is taken to be that of the file that had it.
    TrustNumber,
}

/// Those that any crowd finds; `numbers.rs` tells of the last one.
pub(super) const ALL: [Bug; 8] = [
    Bug::DropVectorEntry,
    Bug::SkipTombstone,
    Bug::ReuseCounter,
    Bug::DropLosers,
    Bug::CloseEarly,
    Bug::KeepNothing,
    Bug::IgnoreRollback,
    Bug::BringBack,
];

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Each run has a thread of its own for as long as it lasts.
pub(super) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub(in crate::sync) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
