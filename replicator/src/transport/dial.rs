//! Keeps a connection to whoever answers at one address.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Shared;
use super::auth::Role;
use super::handshake::{self, Failure};
use super::settings::{
    ANSWER_TIME_FIRST, DIAL_STAGGER, HANDSHAKE_TIME_MAX, RESOLVED_MAX, RETRY_FIRST, RETRY_LAST,
    RETRY_OURSELVES, RETRY_REFUSED, SERVER_NAME,
};
use crate::address::Address;
use crate::id::NodeId;

/// Why nobody at an address is a peer now.
#[derive(Clone, Debug)]
pub struct Unreached {
    /// The first of the tries that failed since anybody was.
    pub since: Instant,
    /// What the name stands for, where it can be resolved.
    pub tried: Vec<SocketAddr>,
    /// Of the last try, in words.
    pub reason: String,
    /// Somebody answered, and the reason is theirs or ours.
    pub is_refused: bool,
}

/// What a dialer says of its address to whoever asks.
#[derive(Debug, Default)]
pub(super) struct Outcome(Mutex<Option<Unreached>>);

impl Outcome {
    pub(super) fn unreached(&self) -> Option<Unreached> {
        self.last().clone()
    }

    fn note(&self, result: &Result<NodeId, Failure>, tried: &[SocketAddr]) {
        let (reason, is_refused) = match result {
            Ok(_) | Err(Failure::Duplicate(_) | Failure::Ourselves) => return self.clear(),
            Err(Failure::Refused(refusal)) => (refusal.to_string(), true),
            Err(Failure::Lost(reason)) => (reason.clone(), false),
        };
        let mut last = self.last();
        let since = last.as_ref().map_or_else(Instant::now, |last| last.since);
        *last = Some(Unreached { since, tried: tried.to_vec(), reason, is_refused });
    }

    fn clear(&self) {
        *self.last() = None;
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Unreached>> {
        // It is whole at every point where a holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials, waits until that peer is gone, and dials again; ends only when the
/// address can never be anybody but us.
pub(super) async fn run(shared: Arc<Shared>, address: Address, outcome: Arc<Outcome>) {
    let mut pace = Pace::new();
    loop {
        let candidates = resolve(&address).await;
        let tried = candidates.as_ref().map_or_else(|_| Vec::new(), Vec::clone);
        let result = match candidates {
            Ok(candidates) => attempt(&shared, candidates, pace.answer_time()).await,
            Err(error) => Err(Failure::Lost(format!("the name cannot be resolved: {error}"))),
        };
        outcome.note(&result, &tried);
        let pause = match result {
            Ok(peer) | Err(Failure::Duplicate(peer)) if shared.registry.is_connected(peer) => {
                shared.registry.departed(peer).await;
                pace = Pace::new();
                pace.next()
            }
            // Connected with us in its view, not in ours: one of the two views
            // is about to change.
            Ok(_) | Err(Failure::Duplicate(_)) => pace.next(),
            Err(Failure::Ourselves) if address.is_literal() => {
                tracing::info!(%address, "this address is our own, it is not dialed any more");
                return;
            }
            Err(Failure::Ourselves) => RETRY_OURSELVES,
            // Only a person can mend these.
            Err(Failure::Refused(_)) => RETRY_REFUSED,
            Err(Failure::Lost(reason)) => {
                pace.tell(&address, &reason);
                pace.next()
            }
        };
        tokio::time::sleep(jittered(pause)).await;
    }
}

/// All addresses the host has now.
async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((address.host(), address.port())).await?;
    let mut addresses: Vec<_> = found.take(RESOLVED_MAX).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

/// One try at every address of the name, each with a head start over the
/// next. The first that becomes (or is) a peer ends it.
async fn attempt(
    shared: &Arc<Shared>,
    mut candidates: Vec<SocketAddr>,
    answer_time: Duration,
) -> Result<NodeId, Failure> {
    rotate(&mut candidates);
    let mut tries = JoinSet::new();
    let mut worst = None;
    let mut candidates = candidates.into_iter();
    loop {
        let next = candidates.next();
        if next.is_none() && tries.is_empty() {
            return Err(worst.unwrap_or_else(|| Failure::Lost("the name has no address".into())));
        }
        let more = next.is_some();
        if let Some(candidate) = next {
            tries.spawn(dial(Arc::clone(shared), candidate, answer_time));
        }
        let outcome = if more {
            tokio::time::timeout(DIAL_STAGGER, tries.join_next()).await.unwrap_or(None)
        } else {
            tries.join_next().await
        };
        match outcome {
            Some(Ok(Ok(peer))) => return Ok(peer),
            Some(Ok(Err(Failure::Duplicate(peer)))) => return Err(Failure::Duplicate(peer)),
            Some(Ok(Err(failure))) => worst = Some(graver(worst, failure)),
            // A try that panicked counts as none; a pause that ran out, too.
            Some(Err(_)) | None => {}
        }
    }
}

async fn dial(
    shared: Arc<Shared>,
    address: SocketAddr,
    answer_time: Duration,
) -> Result<NodeId, Failure> {
    let connecting = shared
        .endpoint
        .connect_with(shared.client.clone(), address, SERVER_NAME)
        .map_err(|error| Failure::Lost(error.to_string()))?;
    let connection = match tokio::time::timeout(answer_time, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let failure = handshake::failure_of(error, None);
            if let Failure::Refused(reason) = &failure {
                handshake::report(&shared, address, *reason);
            }
            return Err(failure);
        }
        Err(_) => return Err(Failure::Lost("no answer".into())),
    };
    // A task of its own: when another address wins, a handshake that the peer
    // may already count as done is not torn down half way.
    let handshake =
        tokio::spawn(async move { handshake::run(&shared, &connection, Role::Dialer).await });
    handshake.await.unwrap_or_else(|error| Err(Failure::Lost(error.to_string())))
}

/// Of several addresses' failures, the one that says most.
fn graver(before: Option<Failure>, new: Failure) -> Failure {
    let weight = |failure: &Failure| match failure {
        Failure::Ourselves => 0,
        Failure::Lost(_) => 1,
        Failure::Refused(_) | Failure::Duplicate(_) => 2,
    };
    match before {
        Some(before) if weight(&before) >= weight(&new) => before,
        _ => new,
    }
}

/// Starts at a random place, so that many nodes spread over one name.
fn rotate(candidates: &mut [SocketAddr]) {
    if !candidates.is_empty() {
        candidates.rotate_left(random() as usize % candidates.len());
    }
}

/// The pauses between tries and the patience of each: both double.
struct Pace {
    pause: Duration,
    answer_time: Duration,
    told: bool,
}

impl Pace {
    fn new() -> Self {
        Self { pause: RETRY_FIRST, answer_time: ANSWER_TIME_FIRST, told: false }
    }

    fn answer_time(&self) -> Duration {
        self.answer_time
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_LAST);
        self.answer_time = (self.answer_time * 2).min(HANDSHAKE_TIME_MAX);
        pause
    }

    /// Says once per silence that nobody answers, when it is no passing thing.
    fn tell(&mut self, address: &Address, reason: &str) {
        if !self.told && self.pause >= RETRY_LAST / 2 {
            self.told = true;
            tracing::warn!(%address, %reason, "no connection yet, still trying");
        }
    }
}

/// Up to a quarter more: nodes that fell together do not return in step.
fn jittered(pause: Duration) -> Duration {
    pause + pause * (random() % 256) / 1024
}

/// Spreads load, nothing more: a system without random numbers still dials.
fn random() -> u32 {
    getrandom::u32().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::error::Refusal;

    #[test]
    fn pauses_double_to_the_last() {
        let mut pace = Pace::new();
        let pauses: Vec<_> = (0..8).map(|_| pace.next().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.answer_time(), HANDSHAKE_TIME_MAX);
    }

    #[test]
    fn an_address_is_unreached_since_the_first_failure_until_somebody_answers() {
        let outcome = Outcome::default();
        assert!(outcome.unreached().is_none());
        outcome.note(&Err(Failure::Lost("no answer".into())), &[]);
        let first = outcome.unreached().unwrap();
        let tried = ["192.0.2.1:7400".parse().unwrap()];
        outcome.note(&Err(Failure::Refused(Refusal::WrongPassword)), &tried);
        let second = outcome.unreached().unwrap();
        assert_eq!((second.since, second.tried), (first.since, tried.to_vec()));
        assert!(second.is_refused && !first.is_refused);
        assert!(second.reason.starts_with("the password"), "{}", second.reason);
        outcome.note(&Err(Failure::Duplicate(NodeId::of_public_key(b"key"))), &tried);
        assert!(outcome.unreached().is_none());
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for _ in 0..1000 {
            let pause = jittered(RETRY_REFUSED);
            assert!(pause >= RETRY_REFUSED && pause < RETRY_REFUSED * 5 / 4);
        }
    }
}
