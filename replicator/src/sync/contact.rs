//! Peers come and go, and what they say goes where it belongs.
//!
//! What a message means is for the modules it is handed to.

use super::announce::Peer;
use super::core::Core;
use super::effect::Now;
use super::message::{Message, Records};
use super::store::Store;
use crate::id::NodeId;

impl<S: Store> Core<S> {
    /// An authenticated peer is connected.
    pub fn handle_connected(&mut self, now: Now, peer: NodeId) {
        self.peers.insert(peer, Peer::new());
        // It may hold now what it did not hold before.
        for retry in self.retries.values_mut() {
            retry.refused.remove(&peer);
        }
        self.have_changed.get_or_insert(now.monotonic);
        self.meet(peer);
        self.turn(now);
    }

    /// Greets those who wait for it, once what lies here is known: from then
    /// on they can tell what this node lacks.
    pub(super) fn greet(&mut self, now: Now) {
        if !self.surveyed && self.is_surveyed(now) {
            self.surveyed = true;
            self.outage_is_over();
        }
        if !self.surveyed {
            return;
        }
        self.restored.folder_is_met();
        let ungreeted = self.peers.iter_mut().filter(|(_, peer)| !peer.greeted);
        let ungreeted: Vec<NodeId> = ungreeted
            .map(|(id, peer)| {
                peer.greeted = true;
                *id
            })
            .collect();
        for id in ungreeted {
            let have = self.store.have();
            self.send(id, Message::Greeting { actor: self.actor, have: have.clone() });
            self.has_greeted(id, &have);
        }
    }

    fn is_surveyed(&mut self, now: Now) -> bool {
        let since = *self.surveying_since.get_or_insert(now.monotonic);
        // A folder that is written to all the time is never quiet.
        let long = now.monotonic.saturating_sub(since) >= self.options.max_delay;
        self.scans.is_empty() && (long || self.is_quiet_but_for_restless())
    }

    pub fn handle_disconnected(&mut self, now: Now, peer: NodeId) {
        self.peers.remove(&peer);
        self.membership.news.parted(peer);
        if self.mid_series.remove(&peer) {
            self.series_ended(now, false);
        }
        self.probes.forget(peer);
        self.turn(now);
    }

    /// A peer said something. The message has been checked by
    /// [`Message::decode`].
    pub fn handle_message(&mut self, now: Now, from: NodeId, message: Message) {
        match message {
            Message::Greeting { actor, have } => self.greeted(from, actor, have),
            Message::Records(records) => self.handle_records(now, from, records),
            Message::Have { have, links } => self.heard_have(from, have, links),
            Message::Probe { token } => {
                let (have, unfinished) = (self.store.have(), self.unfinished());
                self.send(from, Message::ProbeReply { token, have, unfinished });
            }
            Message::ProbeReply { token, have, unfinished } => {
                self.probe_answered(from, token, &have, unfinished);
            }
            Message::Meet { floor, have, mine } => self.handle_meet(from, floor, (have, mine)),
            Message::Members(news) => self.handle_members(from, news),
            Message::Refused { floor } => self.handle_refused(now, from, floor),
            Message::WantBodies(wanted) => self.handle_want_bodies(from, &wanted),
            Message::Bodies(bodies) => self.handle_bodies(from, bodies),
            Message::Offer(offer) => self.handle_offer(from, &offer),
            Message::Answer { id, answers } => self.handle_answer(from, id, &answers),
        }
        self.turn(now);
    }

    fn handle_records(&mut self, now: Now, from: NodeId, records: Records) {
        if self.membership.refuses(from) {
            return;
        }
        let have = records.have.clone();
        let (names, held) = (records.names.iter().map(|record| record.stamp), self.store.have());
        let stamps = names.chain(records.bodies.iter().map(|record| record.stamp));
        stamps.for_each(|stamp| self.note_half_told(&held, stamp));
        self.merge(records);
        match have {
            Some(have) => {
                self.mid_series.remove(&from);
                self.logs_complete(now, from, have);
                self.series_ended(now, true);
                self.ask_for_bodies(from);
            }
            None => {
                self.mid_series.insert(from);
            }
        }
    }
}
