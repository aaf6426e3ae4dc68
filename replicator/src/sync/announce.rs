//! Telling peers what they lack, and hearing what they hold.
//!
//! Every change has a place in its actor's log. A peer says at the start how
//! far it holds each log; from then on it is sent what lies beyond, in any
//! order, and then told that it is complete so far. Nothing is ever sent
//! twice to a peer that said it has it, and no state but two vectors is kept
//! for it. A record that was replaced is not sent: what replaced it lies
//! further on in some log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::core::Core;
use super::effect::{Effect, Now};
use super::meeting::Meeting;
use super::message::{Message, Patch, Records};
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
    pub in_flight: usize,
    /// It has been told that it is complete so far.
    closed: bool,
    pub meeting: Meeting,
    /// Logs of which more is held here than it was told of. What a message
    /// costs follows from these, and not from how many nodes there are.
    news: BTreeSet<Actor>,
    /// Logs of which it does not know that more is held here by now.
    untold: BTreeSet<Actor>,
    /// Whom it was told that this node is connected to.
    links_told: Option<Vec<Actor>>,
    /// Bodies that it was asked for and has not answered yet, and those of which
    /// it knows nothing.
    pub asked_for: VecDeque<Vec<BodyId>>,
    pub unknown: BTreeSet<BodyId>,
    /// It asked for some of which nothing was known here.
    pub asks_in_vain: bool,
    /// It takes nothing from this node, which has not met it again yet.
    pub refuses: bool,
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
            meeting: Meeting::default(),
            news: BTreeSet::new(),
            untold: BTreeSet::new(),
            links_told: None,
            asked_for: VecDeque::new(),
            unknown: BTreeSet::new(),
            asks_in_vain: false,
            refuses: false,
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

    /// How far it holds each log by its own word.
    pub fn said(&self) -> &VersionVector {
        &self.said
    }

    /// How far it holds each log or was sent it; `None` until it has greeted.
    pub fn sent(&self) -> Option<&VersionVector> {
        self.sent.as_ref()
    }

    /// May it hold much of what it is told of?
    pub fn is_seeded(&self) -> bool {
        self.seeded
    }

    /// What it is told from now on has yet to be closed.
    pub fn opened(&mut self) {
        self.closed = false;
    }

    /// What it was told is lost on it, and no series that began before may be
    /// closed when it listens again: it says anew then what it holds.
    pub fn was_refused_by(&mut self) {
        self.refuses = true;
        self.tell_nothing();
    }

    /// Until it greets again.
    pub fn tell_nothing(&mut self) {
        self.sent = None;
    }

    pub fn next_forward(&self) -> Option<Duration> {
        self.forward.values().min().copied()
    }
}

impl<S: Store> Core<S> {
    pub(super) fn greeted(&mut self, from: NodeId, actor: Actor, have: VersionVector) {
        if self.membership.refuses(from) {
            return;
        }
        self.has_met();
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.actor = Some(actor);
        peer.seeded = have.get(actor) > 0;
        peer.said = have.clone();
        peer.sent = (!peer.refuses).then(|| have.clone());
        peer.closed = false;
        peer.news = self.store.have().iter().map(|dot| dot.actor).collect();
        self.was_greeted(from, actor, &have);
    }

    /// More of these logs is held here from now on.
    pub(super) fn advance_have(&mut self, dots: &[Dot], heard_from: Option<NodeId>) {
        let mut have = self.store.have();
        dots.iter().for_each(|dot| have.advance(*dot));
        self.store.put_have(have);
        for (id, peer) in &mut self.peers {
            // Of its own changes a peer hears at once.
            let others = dots.iter().filter(|dot| dot.actor != self.actor);
            peer.untold.extend(others.map(|dot| dot.actor));
            // Who told of them only wants to know that they have come.
            if Some(*id) != heard_from {
                peer.news.extend(dots.iter().map(|dot| dot.actor));
            }
        }
    }

    pub(super) fn heard_have(&mut self, from: NodeId, have: VersionVector, links: Vec<Actor>) {
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
            peer.meeting.heard_all();
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
        let has_news = |peer: &Peer| !peer.closed || !peer.news.is_empty();
        let peers = self.peers.iter().filter(|(_, peer)| peer.sent.is_some() && has_news(peer));
        let ids: Vec<NodeId> = peers.map(|(id, _)| *id).collect();
        for id in ids {
            let Some(mut peer) = self.peers.remove(&id) else {
                continue;
            };
            self.announce_to(now, id, &mut peer);
            self.peers.insert(id, peer);
        }
        if self.have_due().is_some_and(|due| due <= now.monotonic) {
            self.have_changed = None;
            self.tell_have();
        }
    }

    /// Tells every peer what it does not know yet of what is held here.
    fn tell_have(&mut self) {
        let have = self.store.have();
        let links: Vec<Actor> = self.peers.values().filter_map(|peer| peer.actor).collect();
        for (id, peer) in &mut self.peers {
            let same = peer.links_told.as_ref() == Some(&links);
            if same && peer.untold.is_empty() {
                continue;
            }
            peer.links_told = Some(links.clone());
            let have = only(&have, &std::mem::take(&mut peer.untold));
            let message = Message::Have { have, links: links.clone() };
            self.effects.push_back(Effect::Send { peer: *id, message });
        }
    }

    pub(super) fn have_due(&self) -> Option<Duration> {
        if self.peers.is_empty() {
            return None;
        }
        self.have_changed.map(|changed| changed + HAVE_AFTER)
    }

    fn announce_to(&mut self, now: Now, id: NodeId, peer: &mut Peer) {
        if self.holds_back(id, peer) || self.tell_in_outline(id, peer) {
            return;
        }
        let have = self.store.have();
        while peer.in_flight < SENDS_IN_FLIGHT_MAX {
            let Some(mut sent) = peer.sent.take() else {
                return;
            };
            let mut records = Records::default();
            let mut advanced = false;
            let complete = self.fill(now, peer, &mut sent, &have, (&mut records, &mut advanced));
            #[cfg(test)]
            let complete = complete || is_planted(Bug::CloseEarly);
            let empty = records.names.is_empty() && records.bodies.is_empty();
            // Also where every change of a stretch was replaced and there is
            // nothing to send of it: that is for the peer to know.
            if !empty || advanced {
                peer.closed = false;
            }
            if complete && !peer.closed {
                // Logs left to their authors are not claimed.
                let mut claimed = peer.news.clone();
                claimed.retain(|actor| !peer.forward.contains_key(actor));
                peer.untold.retain(|actor| !claimed.contains(actor));
                records.have = Some(only(&have, &claimed));
                peer.closed = true;
                peer.meeting.closed();
                peer.seeded &= !self.surveyed;
            }
            peer.sent = Some(sent);
            if complete {
                peer.news.retain(|actor| peer.forward.contains_key(actor));
            }
            if peer.news.is_empty() {
                peer.meeting.forget();
            }
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

    /// Fills one message with what lies beyond `sent`, and says whether that
    /// goes further now. True where nothing is left.
    fn fill(
        &mut self,
        now: Now,
        peer: &mut Peer,
        sent: &mut VersionVector,
        have: &VersionVector,
        (records, advanced): (&mut Records, &mut bool),
    ) -> bool {
        let mut included = BTreeSet::new();
        let mut bytes = 0;
        for actor in peer.news.clone() {
            let end = Dot { actor, counter: have.get(actor) };
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
            *advanced = true;
            loop {
                let after = sent.get(end.actor);
                if self.is_full(records, bytes) {
                    return false;
                }
                let entries = self.store.log(end.actor, after, end.counter, LOG_CHUNK);
                let last = entries.len() < LOG_CHUNK;
                for (counter, key) in entries {
                    let place = Dot { actor: end.actor, counter };
                    if !peer.meeting.has_told(place) {
                        bytes += self.add(peer, sent, &key, records, &mut included);
                    }
                    sent.advance(place);
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
                Some(row) => self.add_body(peer, *id, &row, records, included),
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
                    Some((id, body))
                        if !sent.contains(body.stamp) && !peer.meeting.has_told(body.stamp) =>
                    {
                        self.add_body(peer, id, &body, records, included)
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
        row: &BodyRow,
        records: &mut Records,
        included: &mut BTreeSet<BodyId>,
    ) -> usize {
        if !included.insert(id) {
            return 0;
        }
        let record = row.record(id);
        let weight = record.weight();
        records.bodies.push(record);
        let digest = row.content.winner().value.digest();
        let patch = digest.and_then(|digest| self.patches.get(id, digest));
        let is_worth_it = |patch: &&Patch| patch.rides() && (!peer.seeded || patch.from.is_some());
        let Some(patch) = patch.filter(is_worth_it) else {
            return weight;
        };
        records.patches.push(patch.clone());
        weight + patch.bytes()
    }
}

/// What a vector says of some actors.
fn only(have: &VersionVector, actors: &BTreeSet<Actor>) -> VersionVector {
    let mut some = VersionVector::new();
    let dots = actors.iter().map(|actor| Dot { actor: *actor, counter: have.get(*actor) });
    dots.filter(|dot| dot.counter > 0).for_each(|dot| some.advance(dot));
    some
}
