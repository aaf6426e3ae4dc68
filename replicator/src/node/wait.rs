//! Commands that wait for the cluster: `wait` and `verify`.
//!
//! A question is answered for everything that happened before it: capture is
//! flushed here and at every peer, and only when nobody has anything left to
//! look at or to apply, and all hold the same logs, is the answer yes.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::facts::Facts;
use crate::index::Index;
use crate::status::control::{Differing, PeerAgreement, Response, Verified, Waited};
use crate::sync::Core;

/// How long to leave the peers alone before asking again.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A verification reads everything: no limit fits all folders, but a command
/// that went away ends it.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub(super) struct Waiters {
    /// Peers are configured, so being alone is not being in sync.
    expects_peers: bool,
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
    reasons: Vec<String>,
    verify: Option<Verifying>,
    /// The node is to leave when all hold the same.
    leave: bool,
}

struct Verifying {
    files: u64,
    changes_before: u64,
}

impl Waiters {
    pub fn new(expects_peers: bool) -> Self {
        Self { expects_peers, ..Self::default() }
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

    pub fn verify(
        &mut self,
        files: u64,
        changes_before: u64,
        answer: oneshot::Sender<Response>,
    ) -> u64 {
        self.add(VERIFY_TIMEOUT, answer, Some(Verifying { files, changes_before }))
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
            reasons: Vec::new(),
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
                core.forget_probe(token);
            }
            if done && !over {
                let answer = std::mem::replace(&mut waiter.answer, oneshot::channel().0);
                if waiter.leave && waiter.flushed && waiter.reasons.is_empty() {
                    self.granted = Some(answer);
                    return false;
                }
                let response = waiter.response(now, core);
                // A command that went away in this moment needs no answer.
                let _ = answer.send(response);
            }
            !done
        });
        waiting.append(&mut self.waiting);
        self.waiting = waiting;
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
        match waiter.token {
            None if core.unfinished() > 0 => {
                waiter.reasons = vec![format!(
                    "this node has {} entries to look at or apply",
                    core.unfinished()
                )];
            }
            None if self.expects_peers && facts.connected() == 0 => {
                waiter.reasons = vec!["no peer is connected".to_owned()];
                waiter.ask_at = now + ASK_AGAIN;
                if waiter.verify.is_some() {
                    return true;
                }
            }
            None if now >= waiter.ask_at => waiter.token = Some(core.probe()),
            None => {}
            Some(token) => {
                if let Some(reasons) = core.probe_result(token) {
                    waiter.token = None;
                    waiter.ask_at = now + ASK_AGAIN;
                    let in_words = |(peer, reason)| facts.about_peer(peer, reason);
                    waiter.reasons = reasons.into_iter().map(in_words).collect();
                    if waiter.reasons.is_empty() {
                        return true;
                    }
                }
            }
        }
        now >= waiter.started + waiter.timeout
    }
}

impl Waiter {
    fn response(&self, now: Instant, core: &Core<Index>) -> Response {
        let took_ms = now.duration_since(self.started).as_millis() as u64;
        let reasons = self.reasons.clone();
        let Some(verify) = &self.verify else {
            let in_sync = self.flushed && reasons.is_empty();
            return Response::Waited(Waited { in_sync, waited_ms: took_ms, reasons });
        };
        let progress = core.progress();
        let found = progress.changes_made.saturating_sub(verify.changes_before);
        let differing = progress.recent.iter().rev().take(found.min(64) as usize);
        let differing = differing.map(|(_, what, path)| Differing {
            path: path.to_string(),
            reason: format!("{what}, and no event told of it"),
        });
        let unlike = |detail: &String| PeerAgreement {
            peer: String::new(),
            agrees: false,
            detail: detail.clone(),
        };
        Response::Verified(Verified {
            files: verify.files,
            bytes: 0,
            took_ms,
            differing: differing.collect(),
            differing_total: found,
            peers: reasons.iter().map(unlike).collect(),
        })
    }
}
