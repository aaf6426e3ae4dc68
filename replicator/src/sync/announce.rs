//! Telling peers what they lack, and hearing what they hold.
//!
//! Every change has a place in its actor's log. A peer says at the start how
//! far it holds each log; from then on it is sent what lies beyond, in any
//! order, and then told that it is complete so far. Nothing is ever sent
//! twice to a peer that said it has it, and no state but two vectors is kept
//! for it. A record that was replaced is not sent: what replaced it lies
//! further on in some log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::Core;
use super::effect::Now;
use super::message::{Message, Records};
use super::record::{BodyRow, Key};
#[cfg(test)]
use super::sim::planted::{Bug, is_planted};
use super::store::Store;
use super::version::{Dot, VersionVector};
use crate::id::{Actor, BodyId, NodeId};
use crate::limits::{RECORD_BYTES_MAX, SENDS_IN_FLIGHT_MAX};

/// How long to leave it to others to pass on a change that the peer can hear
/// from its author.
const FORWARD_AFTER: Duration = Duration::from_secs(1);

/// How long to gather changes of what this node holds before saying so.
const HAVE_AFTER: Duration = Duration::from_millis(50);

/// Places of a log read at once.
const LOG_CHUNK: usize = 64;

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// It has been greeted.
    pub greeted: bool,
    pub actor: Option<Actor>,
    /// How far it holds each log, by its own word or because it was sent.
    /// `None` until it has greeted.
    sent: Option<VersionVector>,
    /// How far it holds each log by its own word.
    said: VersionVector,
    /// Whom it is connected to.
    links: BTreeSet<Actor>,
    /// Logs of others that are left to their authors until then.
    forward: BTreeMap<Actor, Duration>,
    /// Messages the transport has not taken yet.
    in_flight: usize,
    /// It has been told that it is complete so far.
    closed: bool,
    /// It came with a log of its own, so it may hold much of what it is told
    /// of; bytes are not pressed on it until it is complete.
    seeded: bool,
}

impl Peer {
    pub fn new() -> Self {
        Self {
            greeted: false,
            actor: None,
            sent: None,
            said: VersionVector::new(),
            links: BTreeSet::new(),
            forward: BTreeMap::new(),
            in_flight: 0,
            closed: false,
            seeded: true,
        }
    }

    /// How far it is known to hold this log.
    pub fn told(&self, actor: Actor) -> u64 {
        self.said.get(actor)
    }

    /// Does it hold this change by its own word?
    pub fn holds(&self, dot: Dot) -> bool {
        self.said.contains(dot)
    }

    pub fn next_forward(&self) -> Option<Duration> {
        self.forward.values().min().copied()
    }
}

impl<S: Store> Core<S> {
    pub(super) fn greeted(&mut self, _now: Now, from: NodeId, actor: Actor, have: VersionVector) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.actor = Some(actor);
        peer.seeded = have.get(actor) > 0;
        peer.said = have.clone();
        peer.sent = Some(have);
        peer.closed = false;
    }

    pub(super) fn heard_have(
        &mut self,
        _now: Now,
        from: NodeId,
        have: VersionVector,
        links: Vec<Actor>,
    ) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.said.join(&have);
        if let Some(sent) = &mut peer.sent {
            sent.join(&have);
        }
        peer.links = links.into_iter().collect();
    }

    /// A peer closed a series: it holds what it claims.
    pub(super) fn heard_claim(&mut self, from: NodeId, claim: &VersionVector) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.said.join(claim);
            if let Some(sent) = &mut peer.sent {
                sent.join(claim);
            }
        }
    }

    /// The transport has taken a message for this peer.
    pub fn handle_sent(&mut self, now: Now, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
        self.turn(now);
    }

    /// Sends every peer what it lacks, as far as its transport has room.
    pub(super) fn announce(&mut self, now: Now) {
        let have = self.store.have();
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(mut peer) = self.peers.remove(&id) else {
                continue;
            };
            self.announce_to(now, id, &mut peer, &have);
            self.peers.insert(id, peer);
        }
        if self.have_due().is_some_and(|due| due <= now.monotonic) {
            self.have_changed = None;
            let links: Vec<Actor> = self.peers.values().filter_map(|peer| peer.actor).collect();
            let ids: Vec<NodeId> = self.peers.keys().copied().collect();
            for id in ids {
                let (have, links) = (have.clone(), links.clone());
                self.send(id, Message::Have { have, links });
            }
        }
    }

    pub(super) fn have_due(&self) -> Option<Duration> {
        if self.peers.is_empty() {
            return None;
        }
        self.have_changed.map(|changed| changed + HAVE_AFTER)
    }

    fn announce_to(&mut self, now: Now, id: NodeId, peer: &mut Peer, have: &VersionVector) {
        while peer.in_flight < SENDS_IN_FLIGHT_MAX {
            let Some(mut sent) = peer.sent.take() else {
                return;
            };
            let mut records = Records::default();
            let before = sent.clone();
            let complete = self.fill(now, peer, &mut sent, have, &mut records);
            #[cfg(test)]
            let complete = complete || is_planted(Bug::CloseEarly);
            let empty = records.names.is_empty() && records.bodies.is_empty();
            // Also where every change of a stretch was replaced and there is
            // nothing to send of it: that is for the peer to know.
            if !empty || sent != before {
                peer.closed = false;
            }
            if complete && !peer.closed {
                // Logs left to their authors are not claimed.
                let mut claim = have.clone();
                if !peer.forward.is_empty() {
                    claim = VersionVector::new();
                    let known = have.iter().filter(|dot| !peer.forward.contains_key(&dot.actor));
                    known.for_each(|dot| claim.advance(dot));
                }
                records.have = Some(claim);
                peer.closed = true;
                peer.seeded &= !self.surveyed;
            }
            peer.sent = Some(sent);
            if empty && records.have.is_none() {
                return;
            }
            peer.in_flight += 1;
            self.send(id, Message::Records(records));
            if complete {
                return;
            }
        }
    }

    /// Fills one message with what lies beyond `sent`. True where nothing is
    /// left.
    fn fill(
        &mut self,
        now: Now,
        peer: &mut Peer,
        sent: &mut VersionVector,
        have: &VersionVector,
        records: &mut Records,
    ) -> bool {
        let mut included = BTreeSet::new();
        let mut bytes = 0;
        for end in have.iter() {
            if sent.contains(end) {
                peer.forward.remove(&end.actor);
                continue;
            }
            if end.actor != self.actor && peer.links.contains(&end.actor) {
                let until = peer.forward.entry(end.actor);
                if *until.or_insert(now.monotonic + FORWARD_AFTER) > now.monotonic {
                    continue;
                }
            }
            peer.forward.remove(&end.actor);
            loop {
                let after = sent.get(end.actor);
                if self.is_full(records, bytes) {
                    return false;
                }
                let entries = self.store.log(end.actor, after, end.counter, LOG_CHUNK);
                let last = entries.len() < LOG_CHUNK;
                for (counter, key) in entries {
                    bytes += self.add(peer, sent, &key, records, &mut included);
                    sent.advance(Dot { actor: end.actor, counter });
                    if self.is_full(records, bytes) {
                        return false;
                    }
                }
                if last {
                    sent.advance(end);
                    break;
                }
            }
        }
        true
    }

    fn is_full(&self, records: &Records, bytes: usize) -> bool {
        let count = records.names.len() + records.bodies.len();
        count >= self.options.records_max || bytes >= RECORD_BYTES_MAX
    }

    /// Adds one record and what it needs; says about how many bytes that is.
    fn add(
        &self,
        peer: &Peer,
        sent: &VersionVector,
        key: &Key,
        records: &mut Records,
        included: &mut BTreeSet<BodyId>,
    ) -> usize {
        match key {
            Key::Body(id) => match self.store.body(*id) {
                Some(row) => self.add_body(peer, *id, row, records, included),
                None => 0,
            },
            Key::Name(path) => {
                let Some(row) = self.store.name(path) else {
                    return 0;
                };
                #[cfg(test)]
                if row.wanted().is_none() && is_planted(Bug::SkipTombstone) {
                    return 0;
                }
                let bytes = match row.wanted().and_then(|(id, _)| Some((id, self.store.body(id)?)))
                {
                    Some((id, body)) if !sent.contains(body.stamp) => {
                        self.add_body(peer, id, body, records, included)
                    }
                    _ => 0,
                };
                let record = row.record(path);
                let bytes = bytes + record.weight();
                records.names.push(record);
                bytes
            }
        }
    }

    fn add_body(
        &self,
        peer: &Peer,
        id: BodyId,
        row: BodyRow,
        records: &mut Records,
        included: &mut BTreeSet<BodyId>,
    ) -> usize {
        if !included.insert(id) {
            return 0;
        }
        let record = row.record(id);
        let weight = record.weight();
        records.bodies.push(record);
        let digest = super::local::digest_of(Some(&row.content.winner().value));
        let patch = digest.and_then(|digest| self.patches.get(id, digest));
        let Some(patch) = patch.filter(|patch| !peer.seeded || patch.from.is_some()) else {
            return weight;
        };
        records.patches.push(patch.clone());
        weight + patch.bytes()
    }
}
