//! What looks found and is not believed yet.
//!
//! Where another entry is seen, or none, than the one that lay there, that one
//! may have been moved: were it taken for a deleted one before it is met at its
//! new place, its bytes would go again, and an edit made elsewhere would bring
//! the deleted one back. So the sight waits until capture has told of
//! everything that had happened when the look was over, and then until what
//! it told to have gone from there is met. Looks, reports and what an
//! application does may come in any order, and reading a file takes its time.

use std::time::Duration;

use super::core::Core;
use super::effect::{Effect, Found, Now, Sight};
use super::moved::LOOKS_FOR_MOVE_MAX;
use super::settle::Spot;
use super::store::Store;
use crate::choice::Mode;

/// How long to wait for an entry that was told to have been moved. What is
/// told are hints: it may never come.
const MET_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Doubt {
    pub sight: Sight,
    heard: Heard,
    /// Since capture was asked, what lay there was on its way to a place that
    /// was not looked at yet.
    is_followed: bool,
    /// Until then what lay there may be met.
    until: Option<Duration>,
    /// That time is over, and what lay there may be the file that is read
    /// elsewhere: what that shows ends the wait.
    is_late: bool,
}

/// Has capture told of everything that had happened by then?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Unasked,
    Asked,
    Told,
}

impl Doubt {
    /// When it ends by itself.
    pub fn until(&self) -> Option<Duration> {
        self.until.filter(|_| self.is_heard() && !self.is_late)
    }

    /// May what lay there have been moved, for all that is known?
    pub fn is_open(&self) -> bool {
        !self.is_heard() || self.is_followed
    }

    fn is_heard(&self) -> bool {
        self.heard == Heard::Told
    }

    /// What is there comes before what is gone, so that a renamed body has its
    /// new name before it loses the old one; what is gone goes deepest first.
    fn order(one: &Self, other: &Self) -> std::cmp::Ordering {
        let gone = |doubt: &Self| matches!(doubt.sight.found, Found::Nothing);
        let (a, b) = (&one.sight.path, &other.sight.path);
        match (gone(one), gone(other)) {
            (false, false) => a.cmp(b),
            (true, true) => b.cmp(a),
            (one, other) => one.cmp(&other),
        }
    }
}

impl<S: Store> Core<S> {
    /// What looks found.
    pub fn handle_sights(&mut self, now: Now, sights: Vec<Sight>) {
        for sight in &sights {
            if let Some(look) = self.looks.get_mut(&sight.path) {
                look.is_over = true;
            }
        }
        let (heard, is_followed, until, is_late) = (Heard::Unasked, false, None, false);
        let doubt = |sight| Doubt { sight, heard, is_followed, until, is_late };
        self.doubts.extend(sights.into_iter().map(doubt));
        self.believe(now);
        self.turn(now);
    }

    /// Everything that happened before [`Effect::Listen`] has been told.
    pub fn handle_heard(&mut self, now: Now) {
        self.listening = false;
        for doubt in self.doubts.iter_mut().filter(|doubt| doubt.heard == Heard::Asked) {
            doubt.heard = Heard::Told;
            doubt.until.get_or_insert(now.monotonic + MET_WITHIN);
        }
        self.believe(now);
        self.turn(now);
    }

    /// Believes what can be believed. One may be what others wait for.
    pub(super) fn believe(&mut self, now: Now) {
        loop {
            let mut doubts = std::mem::take(&mut self.doubts);
            let before = doubts.len();
            doubts.sort_by(Doubt::order);
            self.follow(&mut doubts);
            if self.options.mode != Mode::ReceiveOnly {
                self.saw_places_taken(now, &doubts);
            }
            for mut doubt in doubts {
                let is_to_wait = self.is_to_wait(now, &mut doubt);
                if is_to_wait && !self.is_outdated(&doubt) {
                    self.doubts.push(doubt);
                } else if let Some(look) = self.looks.remove(&doubt.sight.path) {
                    self.locks.unlock(&doubt.sight.path, &look.bodies);
                    match is_to_wait {
                        true => self.look_anew(now, &doubt.sight.path, look),
                        false => self.saw(now, doubt.sight, look),
                    }
                }
            }
            if self.doubts.is_empty() || self.doubts.len() == before {
                break;
            }
        }
        self.listen();
    }

    /// Notes what is on its way elsewhere at this moment.
    fn follow(&self, doubts: &mut [Doubt]) {
        if self.moves.is_empty() {
            return;
        }
        for doubt in doubts.iter_mut().filter(|doubt| !doubt.is_followed) {
            let is_asked = doubt.heard == Heard::Asked;
            doubt.is_followed =
                (is_asked || self.takes_all(&doubt.sight)) && self.is_to_be_met(&doubt.sight.path);
        }
    }

    /// Must it wait on? What was looked for in vain may have gone on from there
    /// meanwhile: capture is asked once more.
    fn is_to_wait(&self, now: Now, doubt: &mut Doubt) -> bool {
        // Nothing ends this wait but the answer: thousands may wait for it.
        if doubt.heard == Heard::Asked {
            return true;
        }
        if !self.takes_all(&doubt.sight) {
            return false;
        }
        if !doubt.is_heard() {
            return true;
        }
        if let Some(until) = doubt.until.filter(|until| *until <= now.monotonic) {
            doubt.is_late = self.is_being_met(&doubt.sight.path, until);
            return doubt.is_late;
        }
        if doubt.is_followed && !self.is_to_be_met(&doubt.sight.path) {
            doubt.heard = Heard::Unasked;
        }
        doubt.is_followed
    }

    /// Is the place to be looked at once more? What is met there then may be
    /// what others wait for. Not over and over: it may never be quiet.
    fn is_outdated(&self, doubt: &Doubt) -> bool {
        let path = &doubt.sight.path;
        let tries = self.looks.get(path).map_or(0, |look| look.dirt.gone);
        let is_told = self.settle.holds(&Spot::Path(path.clone()));
        doubt.is_heard() && doubt.is_followed && is_told && tries < LOOKS_FOR_MOVE_MAX
    }

    /// Would what lay there lie nowhere any more?
    fn takes_all(&self, sight: &Sight) -> bool {
        let there = match &sight.found {
            // What only receives tells nobody of it.
            _ if self.options.mode == Mode::ReceiveOnly => return false,
            Found::Nothing => None,
            Found::Entry(stat, _) => self.store.body_of_inode(stat.fingerprint.inode),
            Found::Unsettled | Found::Unreadable(_) | Found::Excluded(_) => return false,
        };
        let lay = self.store.name(&sight.path).and_then(|row| row.on_disk());
        // The body is read last: it may have thousands of names.
        lay.is_some_and(|(id, _)| there != Some(id) && self.has_one_name(id))
    }

    fn listen(&mut self) {
        if self.listening {
            return;
        }
        for doubt in self.doubts.iter_mut().filter(|doubt| doubt.heard == Heard::Unasked) {
            (doubt.heard, doubt.is_followed) = (Heard::Asked, false);
            self.listening = true;
        }
        if self.listening {
            self.effects.push_back(Effect::Listen);
        }
    }
}
