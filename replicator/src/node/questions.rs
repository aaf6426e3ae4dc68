//! What commands ask a running node, answered through the control socket.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Node;
use super::report::Report;
use super::wait::Waiters;
use crate::choice::Mode;
use crate::id::NodeId;
use crate::status::control;
use crate::sync::roster::MemberRecord;

/// Digits that tell the id of a node from others.
const ID_DIGITS_MIN: usize = 8;

/// How long a node that leaves waits for the others to have heard it.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// A node that is leaving for good.
pub(super) struct Leaving {
    /// Who is to be told.
    answer: oneshot::Sender<control::Response>,
    /// When at the latest.
    pub until: Instant,
    /// Who was away when it began.
    away: Vec<String>,
}

impl Node {
    pub(super) fn handle_question(&mut self, (request, answer): control::Asked) {
        let now = self.now();
        match request {
            control::Request::Ping => {
                let _ = answer.send(control::Response::Pong { pid: std::process::id() });
            }
            control::Request::Status => {
                let snapshot =
                    self.facts.snapshot(&self.core, &self.carrier, &self.capture, &self.members);
                let _ = answer.send(control::Response::Status(Box::new(snapshot)));
            }
            control::Request::Wait { timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                self.flush_for(|waiters| waiters.wait(timeout, answer));
            }
            control::Request::Confirm { restore } => {
                let entries = match restore {
                    true => self.core.undo_deletions(now),
                    false => self.core.confirm_deletions(now),
                };
                tracing::info!(entries, restore, "held deletions were judged");
                let _ = answer.send(control::Response::Confirmed { entries });
            }
            control::Request::Revert => {
                let response = match self.facts.mode() {
                    Mode::ReceiveOnly => {
                        control::Response::Reverted { entries: self.core.revert(now) }
                    }
                    _ => control::Response::Refused {
                        reason: "this node sends what changes here: only a node with mode receive-only has something to revert".to_owned(),
                    },
                };
                let _ = answer.send(response);
            }
            control::Request::Leave { node: None, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                self.flush_for(|waiters| waiters.leave(timeout, answer));
            }
            control::Request::Leave { node: Some(name), .. } => {
                let _ = answer.send(self.retire_other(&name));
            }
            control::Request::Verify => {
                self.core.verify();
                self.waiters.verify(answer);
            }
        }
    }

    /// A question that is about everything that happened before it.
    fn flush_for(&mut self, add: impl FnOnce(&mut Waiters) -> u64) {
        let waiter = add(&mut self.waiters);
        self.report_when_told(Report::Flushed(waiter));
    }

    pub(super) fn begin_to_leave(
        &mut self,
        now: Instant,
        answer: oneshot::Sender<control::Response>,
    ) {
        let away = self.away();
        self.core.retire(self.carrier.transport.id());
        self.leaving = Some(Leaving { answer, until: now + LEAVE_WAIT, away });
    }

    /// Every peer that was told lets go of a node that leaves.
    pub(super) fn has_left(&mut self) -> bool {
        let over = |leaving: &Leaving| Instant::now() >= leaving.until;
        if self.facts.connected() > 0 && !self.leaving.as_ref().is_some_and(over) {
            return false;
        }
        let Some(Leaving { answer, away, .. }) = self.leaving.take() else { return false };
        let untold = self.facts.connected() as u64;
        let _ = answer.send(control::Response::Left { untold, away });
        true
    }

    /// Members that are waited for, and that nobody reaches.
    fn away(&self) -> Vec<String> {
        let me = self.carrier.transport.id();
        let waited_for = self.core.roster().waited_for().filter(|record| record.node != me);
        let away = waited_for.filter(|record| !self.is_reached(record.node));
        away.map(|record| format!("node {} ({})", record.name, record.node)).collect()
    }

    fn is_reached(&self, node: NodeId) -> bool {
        let standing = self.facts.standing(node, &self.members);
        self.outboxes.is_open(node) || standing.is_some_and(|standing| standing.is_up)
    }

    /// Another member is gone for good, says somebody.
    fn retire_other(&mut self, name: &str) -> control::Response {
        let refused = |reason: String| control::Response::Refused { reason };
        let me = self.carrier.transport.id();
        let others = self.core.roster().members().map(|member| &member.record);
        let others = others.filter(|record| record.node != me && !record.retired);
        let is_meant = |record: &&MemberRecord| {
            let id = format!("{:#}", record.node);
            record.name == name || (name.len() >= ID_DIGITS_MIN && id.starts_with(name))
        };
        let meant: Vec<NodeId> = others.filter(is_meant).map(|record| record.node).collect();
        match meant.as_slice() {
            [] => refused(format!("no member is called '{name}': `replicator status` lists them")),
            [node] if self.outboxes.is_open(*node) => refused(format!(
                "node '{name}' is running and connected: run `replicator leave` there"
            )),
            [node] if self.is_reached(*node) => refused(format!(
                "node '{name}' is running, other nodes reach it: run `replicator leave` there"
            )),
            [node] => {
                self.core.retire(*node);
                control::Response::Left { untold: 0, away: Vec::new() }
            }
            _ => refused(format!("several members are called '{name}': give the id of one")),
        }
    }
}
