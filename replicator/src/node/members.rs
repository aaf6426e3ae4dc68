//! Who else serves this folder: the cluster room's wishes, carried out.
//!
//! Members met once are remembered in the index, so that a node finds its
//! cluster again though the one address it was given is gone.

use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::address::Address;
use crate::cluster::{Cluster, Member, Output};
use crate::id::NodeId;
use crate::index::Index;
use crate::transport::Transport;

/// Where the index remembers members.
const MEMBERS_NOTE: &str = "members";

pub(super) struct Members {
    cluster: Cluster,
    transport: Transport,
    /// The members changed since they were remembered.
    changed: bool,
}

impl Members {
    /// `advertise` is the address others are to use; without it the address
    /// listened on, or where that is a wildcard the one peers see.
    pub fn new(
        transport: Transport,
        advertise: Option<SocketAddr>,
        configured: Vec<Address>,
        index: &Index,
        seed: u64,
    ) -> Self {
        let life = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let me = Member {
            id: transport.id(),
            address: advertise.unwrap_or_else(|| transport.local_addr()),
            life: life.as_millis() as u64,
        };
        let cluster = Cluster::new(me, configured, remembered(index), Instant::now(), seed);
        let mut members = Self { cluster, transport, changed: false };
        members.carry_out();
        members
    }

    pub fn up(&mut self, peer: NodeId, address: SocketAddr, seen_from: IpAddr) {
        self.cluster.handle_up(Instant::now(), peer, address, seen_from);
        self.carry_out();
    }

    pub fn down(&mut self, peer: NodeId) {
        self.cluster.handle_down(Instant::now(), peer);
        self.carry_out();
    }

    pub fn datagram(&mut self, from: NodeId, bytes: &[u8]) {
        self.cluster.handle_datagram(Instant::now(), from, bytes);
        self.carry_out();
    }

    /// When [`Members::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.cluster.poll_timeout()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.cluster.poll_timeout().is_some_and(|due| due <= now) {
            self.cluster.handle_timeout(now);
            self.carry_out();
        }
    }

    /// This member has left for good: nobody dials it any more.
    pub fn retire(&mut self, member: NodeId) {
        self.cluster.retire(Instant::now(), member);
        self.changed = true;
        self.carry_out();
    }

    /// Tells the others that this node ends, for good or for a while.
    pub fn leave(&mut self) {
        self.cluster.leave(Instant::now());
        self.carry_out();
    }

    /// The members to be found again after a restart, if they changed.
    pub fn remember(&mut self, index: &mut Index) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        match postcard::to_stdvec(&self.cluster.remembered()) {
            Ok(bytes) => index.put_note(MEMBERS_NOTE, bytes),
            Err(error) => tracing::warn!("the members cannot be remembered: {error}"),
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.cluster.poll() {
            match output {
                // A datagram may be lost, here as well.
                Output::SendDatagram { to, bytes } => drop(self.transport.datagram(to, bytes)),
                Output::Dial(address) => self.transport.dial(address),
                Output::Forget(address) => self.transport.forget(&address),
                Output::Disconnect(peer) => self.transport.disconnect(peer),
                Output::MemberUp(member) => {
                    tracing::info!(member = %member.id, address = %member.address, "a member is up");
                    self.changed = true;
                }
                Output::MemberDown(member) => {
                    tracing::warn!(%member, "a member is down");
                    self.changed = true;
                }
            }
        }
    }
}

fn remembered(index: &Index) -> Vec<Member> {
    let Some(note) = index.note(MEMBERS_NOTE) else { return Vec::new() };
    match postcard::from_bytes(&note) {
        Ok(members) => members,
        Err(error) => {
            tracing::warn!("the members remembered cannot be read: {error}");
            Vec::new()
        }
    }
}
