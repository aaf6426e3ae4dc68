//! Looking for members that are lost: where they were last, a few addresses
//! at a time, for ever.
//!
//! The membership protocol forgets who has been down for long, and what was
//! cut in two would then stay so: each part is whole to itself, and nobody
//! dials the other. So addresses of members that went down are kept here, and
//! dialed in turn, with the seeds, at a pace that costs nothing. It is enough
//! that one node of one part finds one of the other.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::member::Member;
use super::topology::MESH_NODES_MAX;
use crate::address::Address;
use crate::id::NodeId;

/// Lost members remembered. Of more those lost for longest are forgotten.
pub(super) const REMEMBERED_MAX: usize = 256;

/// Addresses dialed at once in search of the lost: no more connections than
/// a mesh has.
pub(super) const LOST_DIALED_MAX: usize = MESH_NODES_MAX;

/// How long an address is dialed when its turn has come: a few tries.
const TURN_TIME: Duration = Duration::from_secs(10);

/// Pause between two turns of a node that is connected with somebody.
const PAUSE: Duration = Duration::from_secs(20);

/// The same in the largest clusters. There many look, and what a name leads
/// to is mostly a member that is no neighbour, so that the connection is made
/// for nothing.
const PAUSE_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Search {
    /// The one lost for longest first.
    lost: VecDeque<Member>,
    trying: BTreeSet<Address>,
    /// Behind this one, in the order of addresses, the next turn begins.
    last: Option<Address>,
    next_turn: Option<Instant>,
}

impl Search {
    /// Looks for `former`, the members of a life before. Each node begins
    /// elsewhere, behind its own address.
    pub fn new(me: SocketAddr, former: Vec<Member>) -> Self {
        let mut search = Self { last: Some(me.into()), ..Self::default() };
        former.into_iter().for_each(|member| search.lose(member));
        search
    }

    pub fn lost(&self) -> impl Iterator<Item = &Member> {
        self.lost.iter()
    }

    pub fn lose(&mut self, member: Member) {
        self.find(member.id);
        self.lost.push_back(member);
        if self.lost.len() > REMEMBERED_MAX {
            self.lost.pop_front();
        }
    }

    /// It is back, or is to be looked for no more. Where it was, if it was
    /// lost.
    pub fn find(&mut self, member: NodeId) -> Option<SocketAddr> {
        let at = self.lost.iter().position(|lost| lost.id == member)?;
        self.lost.remove(at).map(|lost| lost.address)
    }

    /// A connection with a living member that is no neighbour: this address
    /// leads to nobody who is lost, and a name probably neither.
    pub fn found_nobody(&mut self, at: &Address) {
        self.trying.retain(|trying| trying.is_literal() && trying != at);
    }

    /// Nobody is dialed now, and it is not the time yet.
    pub fn waits(&self, now: Instant, alone: bool) -> bool {
        !alone && self.trying.is_empty() && self.next_turn.is_some_and(|next| next > now)
    }

    /// Which of `candidates` are to be dialed now, in a cluster of so many
    /// `members`; a node that is `alone` makes no pauses.
    pub fn turn(
        &mut self,
        now: Instant,
        candidates: &BTreeSet<Address>,
        members: usize,
        alone: bool,
    ) -> &BTreeSet<Address> {
        self.trying.retain(|address| candidates.contains(address));
        if candidates.is_empty() {
            self.next_turn = None;
            return &self.trying;
        }
        let pause = match alone {
            true => Duration::ZERO,
            false => pause(members),
        };
        let next = *self.next_turn.get_or_insert(now + pause);
        let is_due = next <= now || (alone && self.trying.is_empty());
        if is_due && (alone || self.trying.is_empty()) {
            self.try_others(candidates);
            self.next_turn = Some(now + TURN_TIME);
        } else if is_due {
            self.trying.clear();
            self.next_turn = Some(now + pause);
        }
        &self.trying
    }

    pub fn next_turn(&self) -> Option<Instant> {
        self.next_turn
    }

    fn try_others(&mut self, candidates: &BTreeSet<Address>) {
        let is_behind = |address: &&Address| Some(*address) > self.last.as_ref();
        let behind = candidates.iter().filter(is_behind);
        let before = candidates.iter().filter(|address| !is_behind(address));
        let turn: Vec<Address> = behind.chain(before).take(LOST_DIALED_MAX).cloned().collect();
        self.last = turn.last().cloned();
        self.trying = turn.into_iter().collect();
    }
}

/// Longer where more nodes look.
fn pause(members: usize) -> Duration {
    let nodes = u32::try_from(members / MESH_NODES_MAX).unwrap_or(u32::MAX);
    PAUSE.saturating_mul(nodes.max(1)).min(PAUSE_MAX)
}
