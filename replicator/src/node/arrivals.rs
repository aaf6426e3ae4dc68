//! Large files on their way in: what others may have of them already, and
//! what is left of one that was cut off.
//!
//! A file is written beside its place leaf by leaf, each verified before it
//! is written. So the part that is here can be served to others before the
//! rest is, and a transfer that broke off goes on where it was, also towards
//! a later version. This lives in memory: a restart begins anew.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::pieces::Pieces;
use crate::apply::Staged;
use crate::hash::{Digest, Leaves};
use crate::id::{BodyId, NodeId};
use crate::range::RangeSet;

/// Files cut off that are kept for a while.
const PARKED_MAX: usize = 16;

/// How long one is kept.
const PARKED_TIME_MAX: Duration = Duration::from_secs(600);

/// What a mixture was, that was to become a version and did not.
#[derive(Debug)]
struct Missed {
    wanted: Digest,
    is: Leaves,
}

/// A large file, part of which is here.
#[derive(Debug)]
pub(super) struct Arriving {
    pub body: BodyId,
    /// Of the whole file, verified.
    pub leaves: Leaves,
    /// What they add up to: asked for at every request.
    pub digest: Digest,
    pub file: Arc<OwnedFd>,
    /// Nothing but arrived leaves was ever written, so zeros need not be.
    pub is_blank: bool,
    pieces: Mutex<(Pieces, Instant)>,
    missed: Mutex<Option<Missed>>,
    /// Somebody has something to do or all is done.
    pub changed: Notify,
}

impl Arriving {
    pub fn new(
        body: BodyId,
        leaves: Leaves,
        staged: &Staged,
        is_blank: bool,
        pieces: Pieces,
    ) -> Self {
        Self {
            body,
            digest: leaves.digest(),
            leaves,
            file: Arc::clone(staged.file()),
            is_blank,
            pieces: Mutex::new((pieces, Instant::now())),
            missed: Mutex::new(None),
            changed: Notify::new(),
        }
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut Pieces) -> T) -> T {
        act(&mut lock(&self.pieces).0)
    }

    /// A leaf has been verified and written.
    pub fn arrived(&self, leaf: u64) {
        let mut pieces = lock(&self.pieces);
        pieces.0.arrived(leaf);
        pieces.1 = Instant::now();
        if pieces.0.is_complete() {
            self.changed.notify_waiters();
        }
    }

    /// What came of a leaf has been written, and was of no version.
    pub fn mixed(&self, leaf: u64) {
        let mut pieces = lock(&self.pieces);
        pieces.0.mixed(leaf);
        pieces.1 = Instant::now();
    }

    /// Is it waiting for what its origin wrote while it was read?
    pub fn is_mixed(&self) -> bool {
        self.with(|pieces| pieces.all_mixed().next().is_some())
    }

    /// Can what was written since make this version of it? All of it must be
    /// here: of a leaf that never came nothing is known. And what did not lead
    /// there does not at another attempt.
    pub fn is_mixture_for(&self, body: BodyId, wanted: Digest) -> bool {
        let all_came = self.with(|pieces| pieces.is_over());
        let has_missed = lock(&self.missed).as_ref().is_some_and(|missed| missed.wanted == wanted);
        self.body == body && self.digest != wanted && self.is_mixed() && all_came && !has_missed
    }

    /// It is about to be written to.
    pub fn is_changing(&self) {
        *lock(&self.missed) = None;
    }

    /// What was written since made this of it, and not what was wanted.
    pub fn missed(&self, wanted: Digest, is: Leaves) {
        *lock(&self.missed) = Some(Missed { wanted, is });
    }

    /// Which of its leaves are also in another version.
    pub fn held_of(&self, wanted: &Leaves) -> Vec<bool> {
        if let Some(missed) = &*lock(&self.missed) {
            return same_leaves(&missed.is, wanted);
        }
        if self.leaves.leaf_bytes() != wanted.leaf_bytes() {
            return vec![false; wanted.count() as usize];
        }
        let mut held = same_leaves(&self.leaves, wanted);
        self.with(|pieces| {
            for (leaf, held) in (0..).zip(held.iter_mut()) {
                *held &= pieces.has(leaf);
            }
        });
        held
    }

    pub fn give_back(&self, leaves: &[u64]) {
        self.with(|pieces| leaves.iter().for_each(|leaf| pieces.give_back(*leaf)));
        self.changed.notify_waiters();
    }

    /// What a peer that does not hold all said it holds.
    pub fn told(&self, peer: NodeId, held: Vec<bool>) {
        if self.with(|pieces| pieces.told(peer, held)) {
            self.changed.notify_waiters();
        }
    }

    /// How long nothing has come.
    pub fn waiting(&self) -> Duration {
        lock(&self.pieces).1.elapsed()
    }

    /// How much of it is here, in bytes.
    pub fn bytes_here(&self) -> u64 {
        let (arrived, all) = self.with(|pieces| pieces.count());
        // Far below 2^64: a file has about a thousand leaves.
        self.leaves.size() / all.max(1) * arrived
    }

    /// Have all these bytes arrived?
    pub fn has(&self, ranges: &RangeSet) -> bool {
        self.with(|pieces| self.leaves.touched(ranges).all(|leaf| pieces.has(leaf)))
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Until they are in their places: a job waits for all of its files, and
    /// other nodes' jobs for those of them that are whole here.
    running: Mutex<Vec<Arc<Arriving>>>,
    parked: Mutex<VecDeque<(Instant, Arc<Arriving>, Staged)>>,
}

impl Arrivals {
    pub fn begin(&self, arriving: &Arc<Arriving>) {
        lock(&self.running).push(Arc::clone(arriving));
    }

    /// These are in their places, or will not be.
    pub fn end(&self, bodies: &[BodyId]) {
        lock(&self.running).retain(|running| !bodies.contains(&running.body));
    }

    /// Part of this version, to serve from.
    pub fn find(&self, body: BodyId, digest: Digest) -> Option<Arc<Arriving>> {
        let running = lock(&self.running);
        running.iter().find(|one| one.body == body && one.digest == digest).cloned()
    }

    /// Bytes of large files that are here before the file is.
    pub fn bytes_here(&self) -> u64 {
        lock(&self.running).iter().map(|arriving| arriving.bytes_here()).sum()
    }

    /// Keeps what was cut off.
    pub fn park(&self, arriving: Arc<Arriving>, staged: Staged) {
        let mut parked = lock(&self.parked);
        parked.push_back((Instant::now(), arriving, staged));
        if parked.len() > PARKED_MAX {
            parked.pop_front();
        }
    }

    /// Takes what was cut off of this content, else of any version of this
    /// body. An origin that starts anew may tell of its files under new ids.
    pub fn claim(&self, body: BodyId, digest: Digest) -> Option<(Arc<Arriving>, Staged)> {
        let mut parked = lock(&self.parked);
        let same = parked.iter().position(|(_, arriving, _)| arriving.digest == digest);
        let at = same.or_else(|| parked.iter().position(|(_, there, _)| there.body == body))?;
        parked.remove(at).map(|(_, arriving, staged)| (arriving, staged))
    }

    /// Was some of this body read while it was written?
    pub fn is_mixed(&self, body: BodyId) -> bool {
        let parked = lock(&self.parked);
        parked.iter().any(|(_, there, _)| there.body == body && there.is_mixed())
    }

    /// Lets go of what nobody came back for; of all where nothing is wanted
    /// any more.
    pub fn sweep(&self, is_done: bool) {
        lock(&self.parked).retain(|(since, _, _)| !is_done && since.elapsed() < PARKED_TIME_MAX);
    }
}

/// Which leaves of the wanted version are those that were there before.
pub(super) fn same_leaves(before: &Leaves, wanted: &Leaves) -> Vec<bool> {
    let resized = before.resized(wanted.size());
    let is_same = |leaf: u64| {
        let hash = resized.as_ref().and_then(|before| before.get(leaf));
        hash.is_some() && hash == wanted.get(leaf)
    };
    (0..wanted.count()).map(is_same).collect()
}

/// Nothing is left half done while a lock is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use crate::root::Root;

    const LEAF: usize = 64 << 10;
    const BODY: BodyId = BodyId { origin: Actor(1), counter: 1 };

    fn leaves(of: [u8; 4]) -> Leaves {
        Leaves::of(&of.map(|byte| vec![byte; LEAF]).concat())
    }

    /// A file of which nothing is here yet.
    fn arriving(leaves: &Leaves) -> Arriving {
        let dir = tempfile::tempdir().unwrap();
        let staged = Staged::create(&Root::open(dir.path()).unwrap(), leaves.size()).unwrap();
        let pieces = Pieces::new(vec![false; leaves.count() as usize], 0);
        Arriving::new(BODY, leaves.clone(), &staged, true, pieces)
    }

    #[test]
    fn what_has_not_come_as_a_whole_is_no_mixture() {
        let (first, later) = (leaves([1; 4]), leaves([1, 2, 1, 1]).digest());
        let there = arriving(&first);
        (0..2).for_each(|leaf| there.arrived(leaf));
        assert!(!there.is_mixture_for(BODY, later));
        there.mixed(2);
        // What was written since says nothing of the leaf that is missing.
        assert!(!there.is_mixture_for(BODY, later));
        assert_eq!(there.held_of(&leaves([1, 2, 1, 1])), [true, false, false, false]);
        there.arrived(3);
        assert!(there.is_mixture_for(BODY, later));
        assert!(!there.is_mixture_for(BODY, first.digest()));
    }

    #[test]
    fn what_did_not_lead_to_a_version_is_compared_with_it() {
        let [first, later, last] = [[1; 4], [1, 2, 2, 1], [1, 2, 3, 1]].map(leaves);
        let there = arriving(&first);
        (0..4).for_each(|leaf| there.mixed(leaf));
        assert!(there.is_mixture_for(BODY, later.digest()));
        there.missed(later.digest(), leaves([1, 2, 1, 1]));
        assert!(!there.is_mixture_for(BODY, later.digest()));
        assert_eq!(there.held_of(&later), [true, true, false, true]);
        assert!(there.is_mixture_for(BODY, last.digest()), "another may be led to");
        there.is_changing();
        assert_eq!(there.held_of(&later), [false; 4]);
    }
}
