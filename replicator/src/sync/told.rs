//! Writes that were told of while entries were being looked at or changed.
//!
//! Capture names an inode by its number, and a number is given to another
//! file as soon as it is free. So the body that the index has for it may be
//! its former owner, whom a look at the wrong place then finds unchanged,
//! while a look under way has read the right file a moment too early. Each
//! report is remembered with the body it was booked to for as long as
//! anything is under way that began before it: who meets the inode as that of
//! another body reads it once more.

use std::collections::HashMap;
use std::time::Duration;

#[cfg(test)]
use super::sim::planted::{Bug, is_planted};
use crate::id::BodyId;

/// Reports beyond which those are looked for that nobody needs any more.
const REPORTS_MIN: usize = 1024;

#[derive(Debug)]
pub(super) struct Told {
    /// The last report of each inode.
    reports: HashMap<u64, Report>,
    /// Beyond so many it is time to forget.
    most: usize,
}

#[derive(Debug)]
struct Report {
    at: Duration,
    of: Option<BodyId>,
}

impl Default for Told {
    fn default() -> Self {
        Self { reports: HashMap::new(), most: REPORTS_MIN }
    }
}

impl Told {
    /// Bytes of an inode changed, and they were taken to be of this body.
    pub fn note(&mut self, inode: u64, at: Duration, of: Option<BodyId>) {
        self.reports.insert(inode, Report { at, of });
    }

    /// Was a change of this inode told since then, and taken to be one of
    /// another body than this, or of none? What is booked to nobody waits
    /// nowhere, also where nobody owns the inode yet.
    pub fn is_astray(&self, inode: u64, since: Duration, body: Option<BodyId>) -> bool {
        let report = self.reports.get(&inode).filter(|report| report.at >= since);
        #[cfg(test)]
        if is_planted(Bug::TrustNumber) {
            return report.is_some_and(|report| report.of.is_none());
        }
        report.is_some_and(|report| report.of.is_none() || report.of != body)
    }

    pub fn is_full(&self) -> bool {
        self.reports.len() > self.most
    }

    /// Nothing is under way that began before this.
    pub fn forget_before(&mut self, first: Duration) {
        self.reports.retain(|_, report| report.at >= first);
        // Twice as many, so that not every report is a reason to go through
        // all of them.
        self.most = (2 * self.reports.len()).max(REPORTS_MIN);
    }

    /// Nothing is under way.
    pub fn forget(&mut self) {
        self.reports.clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.reports.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_no_longer_needed_is_forgotten_before_much_gathers() {
        let body = |counter| Some(BodyId { origin: Actor(1), counter });
        let mut told = Told::default();
        for inode in 0..10 * REPORTS_MIN as u64 {
            told.note(inode, ms(inode), body(1));
            if told.is_full() {
                told.forget_before(ms(inode - 10));
            }
            assert!(told.len() <= REPORTS_MIN + 1);
            assert!(told.is_astray(inode, ms(inode), body(2)));
            assert!(told.is_astray(inode, ms(inode), None));
            assert!(!told.is_astray(inode, ms(inode), body(1)), "it waits there");
            assert!(!told.is_astray(inode, ms(inode + 1), body(2)), "it was read afterwards");
        }
    }

    #[test]
    fn what_is_booked_to_nobody_waits_nowhere() {
        let mut told = Told::default();
        told.note(7, ms(5), None);
        let new = Some(BodyId { origin: Actor(1), counter: 1 });
        assert!(told.is_astray(7, ms(4), None) && told.is_astray(7, ms(4), new));
        assert!(!told.is_astray(7, ms(6), None), "it was read afterwards");
    }
}
