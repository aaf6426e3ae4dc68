//! How many strangers may be at the door, and how often one may guess.
//!
//! It counts and decides; it never closes a connection. A node that has once
//! proved that it knows the password is no stranger any more.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::error::Refusal;
use super::settings::{
    GUESSES_IN_ALL, GUESSES_PER_SOURCE, GUESSES_PERIOD, KNOWN_NODES_MAX, SOURCES_MAX,
    STRANGERS_MAX, STRANGERS_PER_SOURCE_MAX, STRANGERS_UNPROVEN_MAX,
};
use crate::id::NodeId;

pub(super) struct Gate {
    state: Arc<Mutex<State>>,
}

/// A stranger's place at the door; free again when dropped.
pub(super) struct Place {
    state: Arc<Mutex<State>>,
    source: IpAddr,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::new(Instant::now()))) }
    }

    /// Whether a stranger must show that it really has its address before we
    /// spend anything on it.
    pub(super) fn wants_proof_of_address(&self) -> bool {
        lock(&self.state).strangers >= STRANGERS_UNPROVEN_MAX
    }

    /// A place for a stranger, if there is one.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let source = source_of(address);
        let mut state = lock(&self.state);
        let from_here = state.strangers_by_source.get(&source).copied().unwrap_or(0);
        if state.strangers >= STRANGERS_MAX || from_here >= STRANGERS_PER_SOURCE_MAX {
            return None;
        }
        state.strangers += 1;
        state.strangers_by_source.insert(source, from_here + 1);
        Some(Place { state: Arc::clone(&self.state), source })
    }

    /// Whether this node, at this address, may try a password now.
    pub(super) fn may_guess(&self, now: Instant, address: IpAddr, node: NodeId) -> bool {
        let mut state = lock(&self.state);
        state.known.contains(&node)
            || (state.in_all.has_token(now)
                && state
                    .by_source
                    .get_mut(&source_of(address))
                    .is_none_or(|bucket| bucket.has_token(now)))
    }

    /// A wrong guess came from this address.
    pub(super) fn guessed_wrong(&self, now: Instant, address: IpAddr) {
        let mut state = lock(&self.state);
        state.in_all.take(now);
        let source = source_of(address);
        if state.by_source.len() >= SOURCES_MAX && !state.by_source.contains_key(&source) {
            state.by_source.retain(|_, bucket| !bucket.is_full(now));
            if state.by_source.len() >= SOURCES_MAX {
                return;
            }
        }
        state
            .by_source
            .entry(source)
            .or_insert_with(|| Bucket::new(now, GUESSES_PER_SOURCE))
            .take(now);
    }

    /// This node knows the password.
    pub(super) fn proved(&self, node: NodeId) {
        let mut state = lock(&self.state);
        if state.known.len() < KNOWN_NODES_MAX {
            state.known.insert(node);
        }
    }

    /// Whether this refusal is worth a line in the log: each kind is told once
    /// a minute per source.
    pub(super) fn worth_telling(&self, now: Instant, address: IpAddr, reason: Refusal) -> bool {
        let told = &mut lock(&self.state).told;
        told.retain(|_, at| now.saturating_duration_since(*at) < GUESSES_PERIOD);
        let key = (source_of(address), reason);
        if told.contains_key(&key) || told.len() >= SOURCES_MAX {
            return false;
        }
        told.insert(key, now);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.strangers -= 1;
        if let Some(count) = state.strangers_by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                state.strangers_by_source.remove(&self.source);
            }
        }
    }
}

struct State {
    strangers: usize,
    strangers_by_source: HashMap<IpAddr, usize>,
    by_source: HashMap<IpAddr, Bucket>,
    in_all: Bucket,
    known: HashSet<NodeId>,
    told: HashMap<(IpAddr, Refusal), Instant>,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            strangers: 0,
            strangers_by_source: HashMap::new(),
            by_source: HashMap::new(),
            in_all: Bucket::new(now, GUESSES_IN_ALL),
            known: HashSet::new(),
            told: HashMap::new(),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Counters are changed in single steps, so a panic elsewhere leaves them
    // usable.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tokens that come back evenly. Guesses that were under way together may take
/// it below zero; the debt is waited for, so the rate holds.
struct Bucket {
    capacity: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn new(now: Instant, capacity: u32) -> Self {
        Self { capacity: capacity.into(), tokens: capacity.into(), at: now }
    }

    fn has_token(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= 1.0
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.capacity
    }

    fn take(&mut self, now: Instant) {
        self.refill(now);
        self.tokens -= 1.0;
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let gained = passed * self.capacity / GUESSES_PERIOD.as_secs_f64();
        self.tokens = (self.tokens + gained).min(self.capacity);
        self.at = now;
    }
}

/// Whoever has one IPv6 address mostly has the 2^64 beside it.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    #[test]
    fn guesses_run_out_and_come_back() {
        let gate = Gate::new();
        let now = Instant::now();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..GUESSES_PER_SOURCE {
            assert!(gate.may_guess(now, here, node(1)));
            gate.guessed_wrong(now, here);
        }
        assert!(!gate.may_guess(now, here, node(1)));
        assert!(gate.may_guess(now, "192.0.2.2".parse().unwrap(), node(2)), "others may");
        let later = now + GUESSES_PERIOD / GUESSES_PER_SOURCE + Duration::from_millis(1);
        assert!(gate.may_guess(later, here, node(1)));
    }

    #[test]
    fn a_known_node_is_not_kept_out_by_its_neighbour() {
        let gate = Gate::new();
        let now = Instant::now();
        let shared: IpAddr = "127.0.0.1".parse().unwrap();
        gate.proved(node(7));
        for _ in 0..GUESSES_IN_ALL {
            gate.guessed_wrong(now, shared);
        }
        assert!(!gate.may_guess(now, shared, node(1)));
        assert!(!gate.may_guess(now, "192.0.2.9".parse().unwrap(), node(1)), "none left in all");
        assert!(gate.may_guess(now, shared, node(7)));
    }

    #[test]
    fn one_source_cannot_take_all_places() {
        let gate = Gate::new();
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        let beside: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "192.0.2.1".parse().unwrap();
        let places: Vec<_> =
            (0..STRANGERS_PER_SOURCE_MAX).map(|_| gate.enter(a).unwrap()).collect();
        assert!(gate.enter(beside).is_none());
        assert!(gate.wants_proof_of_address());
        assert!(gate.enter(other).is_some());
        drop(places);
        assert!(gate.enter(beside).is_some());
        assert!(!gate.wants_proof_of_address());
    }

    #[test]
    fn a_refusal_is_told_once_a_minute() {
        let gate = Gate::new();
        let now = Instant::now();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(gate.worth_telling(now, here, Refusal::WrongPassword));
        assert!(!gate.worth_telling(now, here, Refusal::WrongPassword));
        assert!(gate.worth_telling(now, here, Refusal::OtherVersion));
        assert!(gate.worth_telling(now + GUESSES_PERIOD, here, Refusal::WrongPassword));
    }
}
