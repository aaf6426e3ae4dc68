//! Connections: who is connected, and what is on its way.
//!
//! A connection keeps the order of its messages and no other order holds.

use std::time::Duration;

use super::{Event, World, node_id};
use crate::limits::SENDS_IN_FLIGHT_MAX;
use crate::sync::message::Message;

/// One way of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    connection: u32,
    /// When the last message on it arrives.
    arrives: Duration,
    /// Messages that count and have not been taken from the sender yet.
    pub in_flight: usize,
}

impl World {
    pub(super) fn connect_all(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                self.connect_soon(one, other);
            }
        }
    }

    pub(super) fn connect_soon(&mut self, one: usize, other: usize) {
        if self.plan.are_neighbours(one, other) {
            let wait = self.random.below(20);
            self.at_from_now(wait, Event::Connect(one, other));
        }
    }

    /// Connections there may be, each counted from both sides.
    pub(in crate::sync::sim) fn directed_links(&self) -> u64 {
        let count = self.nodes.len();
        let pairs = (0..count).flat_map(|one| (0..count).map(move |other| (one, other)));
        pairs.filter(|(one, other)| self.plan.are_neighbours(*one, *other)).count() as u64
    }

    pub(in crate::sync::sim) fn connect(&mut self, one: usize, other: usize) {
        let is_ready = self.nodes[one].running && self.nodes[other].running;
        if !is_ready
            || self.alone.is_some_and(|alone| alone == one || alone == other)
            || self.splits.parts(one, other)
            || !self.plan.are_neighbours(one, other)
            || self.links.contains_key(&(one, other))
        {
            return;
        }
        self.connections += 1;
        self.trace(|| format!("{one}-{other}: CONNECTED"));
        for (from, to) in [(one, other), (other, one)] {
            let link = Link { connection: self.connections, arrives: self.now, in_flight: 0 };
            self.links.insert((from, to), link);
        }
        for (from, to) in [(one, other), (other, one)] {
            let life = self.nodes[from].life;
            self.with(from, life, |core, now| core.handle_connected(now, node_id(to)));
        }
    }

    pub(super) fn isolate(&mut self, at: usize) {
        (0..self.nodes.len()).for_each(|peer| self.disconnect(at, peer));
    }

    pub(in crate::sync::sim) fn disconnect(&mut self, one: usize, other: usize) {
        if self.links.remove(&(one, other)).is_none() {
            return;
        }
        self.links.remove(&(other, one));
        self.trace(|| format!("{one}-{other}: CUT"));
        for (from, to) in [(one, other), (other, one)] {
            let life = self.nodes[from].life;
            self.with(from, life, |core, now| core.handle_disconnected(now, node_id(to)));
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: &Message) {
        let wait = Duration::from_micros(200 + self.random.below(8_000));
        let taken = Duration::from_micros(self.random.below(4_000));
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        // A stream keeps its order; streams of other peers have their own.
        link.arrives = link.arrives.max(self.now + wait);
        let is_counted = message.counts();
        link.in_flight += usize::from(is_counted);
        let Link { connection, arrives, in_flight } = *link;
        let frame = message.encode();
        self.ledger.note(message, frame.len(), self.plan.records_max);
        // A machine that is put back cannot know what it said and nobody heard.
        if self.plan.backup.is_none() {
            self.ledger.note_said(message);
        }
        if in_flight > SENDS_IN_FLIGHT_MAX {
            self.ledger.wrong.get_or_insert(format!("{in_flight} messages in flight"));
        }
        self.push(arrives, Event::Message { from, to, connection, frame });
        if is_counted {
            self.push(self.now + taken, Event::Sent { from, to, connection });
        }
    }

    pub(super) fn is_up(&self, from: usize, to: usize, connection: u32) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.connection == connection)
    }
}
