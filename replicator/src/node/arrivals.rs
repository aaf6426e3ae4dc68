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
use crate::id::BodyId;
use crate::range::RangeSet;

/// Files cut off that are kept for a while.
const PARKED_MAX: usize = 16;

/// How long one is kept.
const PARKED_TIME_MAX: Duration = Duration::from_secs(600);

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

    pub fn give_back(&self, leaves: &[u64]) {
        self.with(|pieces| leaves.iter().for_each(|leaf| pieces.give_back(*leaf)));
        self.changed.notify_waiters();
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
    running: Mutex<Vec<Arc<Arriving>>>,
    parked: Mutex<VecDeque<(Instant, Arc<Arriving>, Staged)>>,
}

impl Arrivals {
    pub fn begin(&self, arriving: &Arc<Arriving>) {
        lock(&self.running).push(Arc::clone(arriving));
    }

    pub fn end(&self, arriving: &Arc<Arriving>) {
        lock(&self.running).retain(|running| !Arc::ptr_eq(running, arriving));
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

/// Nothing is left half done while a lock is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
