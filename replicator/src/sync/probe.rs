//! Questions to all peers, whether they are done: what a `wait` waits for.
//!
//! A round ends when every peer that was connected at its beginning has
//! answered or gone. Who stops waiting sooner is told who has not answered.

use std::collections::{BTreeMap, BTreeSet};

use super::core::Core;
use super::message::Message;
use super::store::Store;
use super::version::VersionVector;
use crate::id::NodeId;

/// What each peer answered: that it holds the same as this node, or what is
/// not in step, in words.
pub type Answers = BTreeMap<NodeId, Result<(), String>>;

/// The rounds under way. Each belongs to somebody who waits, who ends it.
#[derive(Debug, Default)]
pub(super) struct Probes {
    open: BTreeMap<u64, Probing>,
    last: u64,
}

/// One round.
#[derive(Debug)]
struct Probing {
    answers: Answers,
    asked: BTreeSet<NodeId>,
}

impl Probes {
    /// A peer is gone and answers no more.
    pub fn forget(&mut self, peer: NodeId) {
        for probe in self.open.values_mut() {
            probe.asked.remove(&peer);
            probe.answers.remove(&peer);
        }
    }
}

impl<S: Store> Core<S> {
    /// Starts a round of asking every peer whether it is done; the token
    /// fetches the answer from [`Core::probe_result`].
    pub fn probe(&mut self) -> u64 {
        self.probes.last += 1;
        let token = self.probes.last;
        let asked: BTreeSet<NodeId> = self.peers.keys().copied().collect();
        asked.iter().for_each(|peer| self.send(*peer, Message::Probe { token }));
        self.probes.open.insert(token, Probing { answers: Answers::new(), asked });
        token
    }

    /// `None` while answers are missing.
    pub fn probe_result(&mut self, token: u64) -> Option<Answers> {
        let probe = self.probes.open.get(&token)?;
        if !probe.asked.iter().all(|peer| probe.answers.contains_key(peer)) {
            return None;
        }
        Some(self.probes.open.remove(&token)?.answers)
    }

    /// Nobody waits for this answer any more. Gives who has not answered.
    pub fn forget_probe(&mut self, token: u64) -> Vec<NodeId> {
        let Some(probe) = self.probes.open.remove(&token) else { return Vec::new() };
        probe.asked.into_iter().filter(|peer| !probe.answers.contains_key(peer)).collect()
    }

    pub(super) fn probe_answered(
        &mut self,
        from: NodeId,
        token: u64,
        have: &VersionVector,
        unfinished: u64,
    ) {
        let answer = if unfinished > 0 {
            Err(format!("it has {unfinished} entries to look at or apply"))
        } else if *have != self.store.have() {
            Err("it has not heard of the same changes yet".to_owned())
        } else {
            Ok(())
        };
        if let Some(probe) = self.probes.open.get_mut(&token) {
            probe.answers.insert(from, answer);
        }
    }
}
