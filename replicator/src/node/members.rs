//! Who else serves this folder: the cluster room's wishes, carried out.
//!
//! Members met once are remembered in the index, so that a node finds its
//! cluster again though the one address it was given is gone.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::standing::{Standing, Standings};
use crate::address::Address;
use crate::cluster::{Cluster, Member, Output};
use crate::id::NodeId;
use crate::index::Index;
use crate::status::clock;
use crate::transport::Transport;

/// Where the index remembers members.
const MEMBERS_NOTE: &str = "members";

/// Where it remembers the latest life of this node, which others may know of:
/// a clock that was set back must not make the next one an earlier one.
const OWN_LIFE_NOTE: &str = "member life";

pub(super) struct Members {
    cluster: Cluster,
    transport: Transport,
    /// The members changed since they were remembered.
    changed: bool,
    standings: Standings,
    /// The life that the index remembers.
    life_kept: Option<u64>,
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
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let life_kept = note(index, OWN_LIFE_NOTE);
        let me = Member {
            id: transport.id(),
            address: advertise.unwrap_or_else(|| transport.local_addr()),
            life: life_after(life_kept, wall),
        };
        let former = note(index, MEMBERS_NOTE).unwrap_or_default();
        let cluster = Cluster::new(me, configured, former, Instant::now(), seed);
        let standings = Standings::default();
        let mut members = Self { cluster, transport, changed: false, standings, life_kept };
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
        self.standings.forget(member);
    }

    /// What the failure detector says of a member.
    pub fn standing(&self, member: NodeId) -> Option<Standing> {
        self.standings.get(member)
    }

    /// Tells the others that this node ends, for good or for a while.
    pub fn leave(&mut self) {
        self.cluster.leave(Instant::now());
        self.carry_out();
    }

    /// The members to be found again after a restart, and the life lived now,
    /// if they changed.
    pub fn remember(&mut self, index: &mut Index) {
        let life = Some(self.cluster.me().life);
        if std::mem::replace(&mut self.life_kept, life) != life {
            put_note(index, OWN_LIFE_NOTE, &self.cluster.me().life);
        }
        if std::mem::take(&mut self.changed) {
            put_note(index, MEMBERS_NOTE, &self.cluster.remembered());
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
                    self.standings.up(clock::now_ms(), &member);
                    self.changed = true;
                }
                Output::MemberDown(member) => {
                    tracing::warn!(%member, "a member is down");
                    self.standings.down(clock::now_ms(), member);
                    self.changed = true;
                }
            }
        }
    }
}

/// The time of the start, unless an earlier life was later still.
fn life_after(kept: Option<u64>, wall: Duration) -> u64 {
    let now_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    kept.map_or(now_ms, |kept| now_ms.max(kept.saturating_add(1)))
}

fn note<T: DeserializeOwned>(index: &Index, name: &str) -> Option<T> {
    let note = index.note(name)?;
    let read = postcard::from_bytes(&note);
    read.inspect_err(|error| tracing::warn!("the note `{name}` cannot be read: {error}")).ok()
}

fn put_note(index: &mut Index, name: &str, value: &impl Serialize) {
    match postcard::to_stdvec(value) {
        Ok(bytes) => index.put_note(name, bytes),
        Err(error) => tracing::warn!("the note `{name}` cannot be kept: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use crate::index::Options;
    use crate::transport::{self, Identity, Secret};

    #[test]
    fn a_life_is_later_than_the_one_before_whatever_the_clock_says() {
        let at = Duration::from_millis;
        assert_eq!(life_after(None, at(5)), 5);
        assert_eq!(life_after(Some(4), at(9)), 9);
        assert_eq!(life_after(Some(9), at(9)), 10);
        assert_eq!(life_after(Some(u64::MAX), at(9)), u64::MAX);
    }

    #[tokio::test]
    async fn the_life_lived_is_kept_and_a_note_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            fresh_actor: Actor(1),
            cache_bytes: 1 << 20,
            before_commit: Box::new(|| Ok(())),
        };
        let mut index = Index::open(&dir.path().join("index"), options).unwrap().index;
        let transport = transport::Options {
            identity: Identity::load_or_create(dir.path()).unwrap(),
            secret: Secret::derive(b"password", "test").unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            name: "kept".into(),
        };
        let (transport, _events) = Transport::start(transport).unwrap();
        // In the year 2260 or so.
        let ahead = 1u64 << 43;
        put_note(&mut index, OWN_LIFE_NOTE, &ahead);
        for life in [ahead + 1, ahead + 2] {
            let mut members = Members::new(transport.clone(), None, vec![], &index, 1);
            assert_eq!(members.cluster.me().life, life);
            members.remember(&mut index);
            assert_eq!(note(&index, OWN_LIFE_NOTE), Some(life));
        }
        index.put_note(OWN_LIFE_NOTE, vec![0xff; 3]);
        assert_eq!(note::<u64>(&index, OWN_LIFE_NOTE), None);
        transport.close().await;
    }
}
