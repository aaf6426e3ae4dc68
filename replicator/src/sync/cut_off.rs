//! What came in a series that was cut off.
//!
//! Who tells of its log does so in a series of messages, and what it has told
//! is passed on when the series is whole: its place in the log says so. A node
//! that dies in the middle of one has told each of the others another part of
//! it. If it does not come back, each of them tells that part on as a change of
//! its own, or their trees would differ for ever.

use std::time::Duration;

use super::core::Core;
use super::effect::Now;
use super::record::{BodyRow, Key, NameRow};
use super::store::Store;
use super::version::{Dot, VersionVector};
use crate::limits::SWEEP_PLACES_MAX;

/// A node that is started again, or a line that is mended, is back by then,
/// and tells the rest itself.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct CutOff {
    /// How far logs were told of, where that is beyond what is held of them.
    told: VersionVector,
    /// When to tell on what came of them.
    pub due: Option<Duration>,
}

impl<S: Store> Core<S> {
    /// A row with this stamp is about to be merged, as a record or in outline, or
    /// was in the last life: a node that died in the middle of a series does not
    /// remember that one.
    pub(super) fn note_half_told(&mut self, have: &VersionVector, stamp: Dot) {
        if stamp.actor != self.actor && !have.contains(stamp) {
            self.cut_off.told.advance(stamp);
        }
    }

    /// A series was whole, or ended before it was.
    pub(super) fn series_ended(&mut self, now: Now, is_whole: bool) {
        if !is_whole {
            self.cut_off.due = Some(now.monotonic + BACK_WITHIN);
        }
        // Those that are under way may tell the rest.
        if !self.mid_series.is_empty() {
            return;
        }
        let have = self.store.have();
        let mut left = VersionVector::new();
        let beyond = self.cut_off.told.iter().filter(|dot| !have.contains(*dot));
        beyond.for_each(|dot| left.advance(dot));
        let due = self.cut_off.due.unwrap_or(now.monotonic + BACK_WITHIN);
        self.cut_off = CutOff { due: (!left.is_empty()).then_some(due), told: left };
    }

    /// Tells on what nobody is about to tell any more.
    pub(super) fn tell_on(&mut self, now: Now) {
        let is_due = self.cut_off.due.is_some_and(|due| due <= now.monotonic);
        if !is_due || !self.mid_series.is_empty() {
            return;
        }
        let (have, mut room) = (self.store.have(), SWEEP_PLACES_MAX);
        let mut left = VersionVector::new();
        for end in std::mem::take(&mut self.cut_off.told).iter() {
            let places = self.store.log(end.actor, have.get(end.actor), end.counter, room);
            if places.len() == room {
                left.advance(end);
            }
            room -= places.len();
            places.into_iter().for_each(|(_, key)| self.stamp_anew(&key));
        }
        self.cut_off = CutOff { due: (!left.is_empty()).then_some(now.monotonic), told: left };
    }

    /// Gives a row a place in this node's own log.
    fn stamp_anew(&mut self, key: &Key) {
        let stamp = self.next_dot();
        match key {
            Key::Name(path) => {
                if let Some(former) = self.store.name(path) {
                    let row = NameRow { stamp, ..NameRow::clone(&former) };
                    self.put_name(path, Some(&former), row);
                }
            }
            Key::Body(id) => {
                if let Some(former) = self.store.body(*id) {
                    self.put_body(*id, BodyRow { stamp, ..BodyRow::clone(&former) });
                }
            }
        }
    }
}
