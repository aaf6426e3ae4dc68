//! Commands that wait for the cluster: `wait` and `verify`.
//!
//! A question is answered for everything that happened before it: capture is
//! flushed here and at every peer, and only when nobody has anything left to
//! look at or to apply, and all hold the same logs, is the answer yes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::facts::Facts;
use crate::id::NodeId;
use crate::index::Index;
use crate::limits::VERIFY_TIME_MAX;
use crate::status::control::{self, Differing, PeerAgreement, Response, Waited};
use crate::status::human_duration;
use crate::sync::{Core, Verified};

/// How long to leave the peers alone before asking again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// After a verification has read everything: how long the peers may take to
/// hold the same. Somebody who writes all the time must not hold up the
/// answer.
const PEERS_TIMEOUT: Duration = Duration::from_secs(30);

/// What is said of a peer that has not answered.
const SILENT: &str = "it gave no answer in time";

#[derive(Default)]
pub(super) struct Waiters {
    has_configured_peers: bool,
    next: u64,
    waiting: Vec<Waiter>,
    /// Whom to answer once this node has left.
    granted: Option<oneshot::Sender<Response>>,
}

struct Waiter {
    id: u64,
    answer: oneshot::Sender<Response>,
    started: Instant,
    timeout: Duration,
    flushed: bool,
    /// The round of questions under way.
    token: Option<u64>,
    ask_at: Instant,
    /// What the peers said last.
    answers: BTreeMap<NodeId, Result<(), String>>,
    reasons: Vec<String>,
    /// All hold the same: the peers have said so in the last round.
    agreed: bool,
    verify: Option<Verifying>,
    /// The node is to leave when all hold the same.
    leave: bool,
}

/// First everything is read, then everything that happened is told, then the
/// peers are asked.
#[derive(Default)]
struct Verifying {
    read: bool,
    found: Option<Verified>,
}

impl Waiters {
    pub fn new(has_configured_peers: bool) -> Self {
        Self { has_configured_peers, ..Self::default() }
    }

    pub fn wait(&mut self, timeout: Duration, answer: oneshot::Sender<Response>) -> u64 {
        self.add(timeout, answer, None)
    }

    /// Waits, and leaves the cluster when what is here is everywhere.
    pub fn leave(&mut self, timeout: Duration, answer: oneshot::Sender<Response>) -> u64 {
        let id = self.add(timeout, answer, None);
        if let Some(waiter) = self.waiting.last_mut() {
            waiter.leave = true;
        }
        id
    }

    pub fn granted(&mut self) -> Option<oneshot::Sender<Response>> {
        self.granted.take()
    }

    /// Waits until everything has been read again and compared.
    pub fn verify(&mut self, answer: oneshot::Sender<Response>) {
        self.add(VERIFY_TIME_MAX, answer, Some(Verifying::default()));
    }

    /// Verifications that have just read everything: what happened meanwhile
    /// is to be told to them.
    pub fn read_all(&mut self, core: &Core<Index>) -> Vec<u64> {
        let verifying = |waiter: &'_ &mut Waiter| {
            waiter.verify.as_ref().is_some_and(|verify| !verify.read) && core.is_verified()
        };
        let done = self.waiting.iter_mut().filter(verifying);
        done.map(|waiter| {
            waiter.verify = Some(Verifying { read: true, found: None });
            waiter.id
        })
        .collect()
    }

    fn add(
        &mut self,
        timeout: Duration,
        answer: oneshot::Sender<Response>,
        verify: Option<Verifying>,
    ) -> u64 {
        let now = Instant::now();
        self.next += 1;
        self.waiting.push(Waiter {
            id: self.next,
            answer,
            started: now,
            timeout,
            flushed: false,
            token: None,
            ask_at: now,
            answers: BTreeMap::new(),
            reasons: Vec::new(),
            agreed: false,
            verify,
            leave: false,
        });
        self.next
    }

    /// What happened before this question has been told to the core.
    pub fn flushed(&mut self, id: u64) {
        if let Some(waiter) = self.waiting.iter_mut().find(|waiter| waiter.id == id) {
            waiter.flushed = true;
        }
    }

    /// When to be polled again.
    pub fn next_poll(&self) -> Option<Instant> {
        let next = |waiter: &Waiter| {
            let deadline = waiter.started + waiter.timeout;
            let again = waiter.ask_at.max(Instant::now() + Duration::from_millis(1));
            if waiter.flushed && waiter.token.is_none() { deadline.min(again) } else { deadline }
        };
        self.waiting.iter().map(next).min()
    }

    pub fn poll(&mut self, now: Instant, core: &mut Core<Index>, facts: &Facts) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|waiter| {
            let over = waiter.answer.is_closed();
            let done = over || self.advance(waiter, now, core, facts);
            if done && let Some(token) = waiter.token.take() {
                let silent = core.forget_probe(token).into_iter();
                let silent = silent.map(|peer| format!("node {}: {SILENT}", facts.call(peer)));
                waiter.reasons.extend(silent);
            }
            if done && !over {
                let answer = std::mem::replace(&mut waiter.answer, oneshot::channel().0);
                if waiter.leave && waiter.agreed {
                    self.granted = Some(answer);
                    return false;
                }
                let response = waiter.response(now, self.expects_peers(core), facts);
                // A command that went away in this moment needs no answer.
                let _ = answer.send(response);
            }
            !done
        });
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
    }

    /// Are there others, so that being alone is not being in sync?
    fn expects_peers(&self, core: &Core<Index>) -> bool {
        self.has_configured_peers || core.has_other_members()
    }

    /// True when the answer is known, or time is up.
    fn advance(
        &self,
        waiter: &mut Waiter,
        now: Instant,
        core: &mut Core<Index>,
        facts: &Facts,
    ) -> bool {
        if !waiter.flushed {
            return now >= waiter.started + waiter.timeout;
        }
        waiter.note_what_was_found(now, core);
        let unfinished = waiter.unfinished(core);
        match waiter.token {
            None if unfinished > 0 => {
                waiter.reasons = vec![match core.unreadable() {
                    0 => format!("this node has {unfinished} entries to look at or apply"),
                    some => format!(
                        "this node has {unfinished} entries to look at or apply; {some} could not be read, `replicator status` says why"
                    ),
                }];
            }
            None if self.expects_peers(core) && facts.connected() == 0 => {
                waiter.reasons = vec!["no peer is connected".to_owned()];
                waiter.ask_at = now + ASK_AGAIN;
                if waiter.verify.is_some() {
                    return true;
                }
            }
            None if now >= waiter.ask_at => waiter.token = Some(core.probe()),
            None => {}
            Some(token) => {
                if let Some(answers) = core.probe_result(token) {
                    waiter.token = None;
                    waiter.ask_at = now + ASK_AGAIN;
                    let lacks = answers.iter().filter_map(|(peer, answer)| {
                        let reason = answer.as_ref().err()?;
                        Some(format!("node {}: {reason}", facts.call(*peer)))
                    });
                    waiter.reasons = lacks.collect();
                    if unfinished > 0 {
                        let reason = format!("this node: {unfinished} entries are not applied yet");
                        waiter.reasons.push(reason);
                    }
                    // The last one may have gone instead of answering.
                    let nobody = self.expects_peers(core) && answers.is_empty();
                    waiter.answers = answers;
                    waiter.agreed = waiter.reasons.is_empty() && !nobody;
                    if waiter.agreed {
                        return true;
                    }
                }
            }
        }
        now >= waiter.started + waiter.timeout
    }
}

impl Waiter {
    /// Everything that happened while all was read has been told: what still
    /// differs, differs unseen.
    fn note_what_was_found(&mut self, now: Instant, core: &Core<Index>) {
        let Some(verify) = &mut self.verify else { return };
        if verify.found.is_none() {
            verify.found = Some(core.verified());
            self.timeout = now.duration_since(self.started) + PEERS_TIMEOUT;
        }
    }

    /// What this node has to do before it may ask the others. What a user
    /// writes during a verification is no part of it.
    fn unfinished(&self, core: &Core<Index>) -> u64 {
        match self.verify {
            Some(_) => core.pending(),
            None => core.unfinished(),
        }
    }

    fn response(&mut self, now: Instant, expects_peers: bool, facts: &Facts) -> Response {
        let took_ms = now.duration_since(self.started).as_millis() as u64;
        let Some(verify) = self.verify.take() else {
            let mut reasons = std::mem::take(&mut self.reasons);
            if !self.agreed && reasons.is_empty() {
                reasons.push("there was no time to look at what happened before".to_owned());
            }
            return Response::Waited(Waited { in_sync: self.agreed, waited_ms: took_ms, reasons });
        };
        let Some(found) = verify.found else {
            let limit = human_duration(VERIFY_TIME_MAX);
            let reason = format!("not everything was read within {limit}");
            return Response::Refused { reason };
        };
        let differing = found
            .differing
            .iter()
            .map(|(path, reason)| Differing { path: path.to_string(), reason: reason.clone() });
        let peers: Vec<_> = facts.present().map(|peer| self.agreement(peer, facts)).collect();
        Response::Verified(control::Verified {
            files: found.files,
            bytes: found.bytes,
            took_ms,
            differing: differing.collect(),
            differing_total: found.differing_total,
            alone: expects_peers && peers.is_empty(),
            peers,
        })
    }

    fn agreement(&self, peer: NodeId, facts: &Facts) -> PeerAgreement {
        let detail = match (self.answers.get(&peer), self.reasons.first()) {
            (Some(Ok(())), _) => String::new(),
            (Some(Err(reason)), _) => reason.clone(),
            (None, Some(reason)) => reason.clone(),
            (None, None) => SILENT.to_owned(),
        };
        PeerAgreement { peer: facts.call(peer), agrees: detail.is_empty(), detail }
    }
}
