//! The connections of this node: which there should be, and what to do about
//! those there are.
//!
//! It wants the neighbours among the living (`topology`), those it would have
//! if all that are away came back, and a few addresses where somebody lost may
//! be (`search`). It says whom to dial; it opens nothing.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use foca::State;

use super::topology::Ring;
use super::{Cluster, Member, Output};
use crate::address::Address;
use crate::id::NodeId;

/// With this many wanted connections the others are surplus.
const CONNECTIONS_MIN: usize = 4;

/// What many datagrams tell of members, as when a large cluster is cut in two,
/// is acted on once in this time: it takes a walk over all of them.
const REWIRE_PAUSE: Duration = Duration::from_millis(50);

/// In a large cluster neighbours are chosen anew once in this time, unless few
/// connections stand. While many members come back, each of them moves the
/// others to other places, and whoever went after all of that would make some
/// seven connections for each that it keeps.
const CHOICE_PAUSE: Duration = Duration::from_secs(1);

/// Whom this node wants to be connected with.
#[derive(Debug, Default)]
pub(super) struct Choice {
    neighbours: BTreeSet<NodeId>,
    made_at: Option<Instant>,
    /// When to choose again; others would be chosen by now.
    pub next_turn: Option<Instant>,
}

impl Choice {
    /// Takes these, or stays for now with those chosen before, of whom so many
    /// are connected.
    fn make(&mut self, now: Instant, neighbours: BTreeSet<NodeId>, connected: &BTreeSet<NodeId>) {
        let stand = connected.intersection(&self.neighbours).count();
        let next = self.made_at.map(|at| at + CHOICE_PAUSE).filter(|next| *next > now);
        self.next_turn = next.filter(|_| stand >= CONNECTIONS_MIN && neighbours != self.neighbours);
        if self.next_turn.is_none() && neighbours != self.neighbours {
            (self.neighbours, self.made_at) = (neighbours, Some(now));
        }
    }
}

impl Cluster {
    /// At once, unless it is worth waiting for what else comes.
    pub(super) fn rewire_soon(&mut self, now: Instant) {
        if self.ring.is_mesh() {
            self.rewire(now);
        } else {
            self.rewire_at.get_or_insert(now + REWIRE_PAUSE);
        }
    }

    /// Compares the connections there should be with those there are.
    pub(super) fn rewire(&mut self, now: Instant) {
        self.rewire_at = None;
        let known = self.foca.iter_membership_state();
        let mut known: Vec<_> =
            known.filter(|member| !self.retired.contains(&member.id().id)).collect();
        known.sort_unstable_by_key(|member| member.id().id);
        let id = |member: &&foca::Member<Member>| member.id().id;
        let alive = known.iter().filter(|member| member.state() != State::Down);
        self.ring = Ring::new(self.id(), alive.map(id));
        // Members that are away are dialed as well, or a cluster that was cut
        // in two would never know that the cut has healed.
        let mut wanted = self.ring.neighbours();
        wanted.extend(Ring::new(self.id(), known.iter().map(id)).neighbours());
        wanted.remove(&self.id());
        if self.ring.is_mesh() {
            self.choice = Choice { neighbours: wanted, ..Choice::default() };
        } else {
            self.choice.make(now, wanted, &self.connected);
        }
        let wanted = self.choice.neighbours.clone();

        let place = |id: &NodeId| known.binary_search_by_key(id, |member| member.id().id).ok();
        let mut addresses: BTreeSet<Address> = wanted
            .iter()
            .filter_map(|id| Some(known[place(id)?].id().address))
            .filter(|address| self.can_dial(address.ip()))
            .map(Address::from)
            .collect();
        if self.ring.is_mesh() || self.connected.is_empty() {
            addresses.extend(self.seeds.iter().cloned());
        }
        addresses.extend(self.lost_to_dial(now, &addresses));
        let gone: Vec<_> = self.dialing.difference(&addresses).cloned().collect();
        let new: Vec<_> = addresses.difference(&self.dialing).cloned().collect();
        self.outputs.extend(gone.into_iter().map(Output::Forget));
        self.outputs.extend(new.into_iter().map(Output::Dial));
        self.dialing = addresses;
        self.thin_out(&wanted);
    }

    /// Whom to look for now, beside those that are dialed anyway.
    fn lost_to_dial(&mut self, now: Instant, dialed: &BTreeSet<Address>) -> Vec<Address> {
        let alone = self.connected.is_empty();
        if self.search.waits(now, alone) {
            return Vec::new();
        }
        let lost = self.search.lost().filter(|member| self.can_dial(member.address.ip()));
        let lost = lost.map(|member| Address::from(member.address));
        let mut candidates: BTreeSet<_> = lost.chain(self.seeds.iter().cloned()).collect();
        candidates.retain(|address| !dialed.contains(address));
        // Who is met is told by numbers: to write down a thousand addresses
        // takes long.
        let places: HashSet<_> = candidates.iter().filter_map(Address::literal).collect();
        let alive = self.foca.iter_members().map(foca::Member::id);
        let alive = alive.filter(|member| !self.retired.contains(&member.id));
        let alive = alive.map(|member| canonical(member.address));
        let met: HashSet<_> = alive.filter(|at| places.contains(at)).collect();
        candidates.retain(|address| address.literal().is_none_or(|at| !met.contains(&at)));
        self.search.turn(now, &candidates, self.ring.others(), alone).iter().cloned().collect()
    }

    /// In a large cluster a node that many joined through would keep them all.
    /// The lower id of a pair lets go, once it is well connected without.
    fn thin_out(&mut self, wanted: &BTreeSet<NodeId>) {
        if self.ring.is_mesh() || self.connected.intersection(wanted).count() < CONNECTIONS_MIN {
            return;
        }
        let me = self.id();
        let surplus: Vec<_> = self
            .connected
            .extract_if(.., |peer| {
                *peer > me && !wanted.contains(peer) && self.ring.contains(*peer)
            })
            .collect();
        self.outputs.extend(surplus.into_iter().map(Output::Disconnect));
    }

    /// Another machine's loopback is not where that machine is.
    pub(super) fn can_dial(&self, address: IpAddr) -> bool {
        let ours = self.foca.identity().address.ip();
        !address.is_unspecified() && (!address.is_loopback() || ours.is_loopback())
    }
}

/// The same place, however its IP is written.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
