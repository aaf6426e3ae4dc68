//! Who belongs to the cluster, who is alive, and with whom to be connected.
//!
//! A node that reached one member learns the addresses of all others here,
//! notices a dead one within seconds, and keeps trying those that are away.
//! The protocol is SWIM, by `foca`; its datagrams ride inside the
//! authenticated connections, so this room needs no key of its own. It is
//! pure: no socket, clock, task or random source. The node calls a `handle_*`
//! with the time, then drains [`Cluster::poll`], then sleeps until
//! [`Cluster::poll_timeout`].
//!
//! Up to [`MESH_NODES_MAX`] members everybody connects to everybody. In larger
//! clusters each node keeps about two times log2(n) connections (`topology`),
//! and a datagram for a member without a direct connection is handed on.
//! It is not dropped and left to SWIM's indirect probes: these ask three
//! random members, which mostly have no direct connection either, and the
//! living would be suspected all the time.
//!
//! The loss of a connection is no proof of death: a member is down when
//! nobody reaches it.

mod alarm;
mod life;
mod member;
mod relay;
mod roll;
mod search;
#[cfg(test)]
mod tests;
mod topology;
mod wiring;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Config, Foca, OwnedNotification, PeriodicParams, PostcardCodec, Timer,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use member::Member;

use crate::address::Address;
use crate::id::NodeId;
use alarm::Alarms;
use relay::Relayed;
use roll::{Call, Roll};
use search::{REMEMBERED_MAX, Search};
use topology::Ring;
use wiring::Choice;

/// What the node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To a connected peer; may be lost.
    SendDatagram { to: NodeId, bytes: Bytes },
    /// Keep a connection to this address until told to forget it.
    Dial(Address),
    /// Stop dialing this address; a connection that stands stays.
    Forget(Address),
    /// This connection is one too many.
    Disconnect(NodeId),
    /// A member joined, came back or changed its address.
    MemberUp(Member),
    /// A member left or died.
    MemberDown(NodeId),
}

/// The membership of one cluster, as this node sees it.
pub struct Cluster {
    foca: Foca<Member, PostcardCodec, SmallRng, foca::NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Member>,
    alarms: Alarms,
    /// When this node last began a later life because the others took it for
    /// dead, and how much later that was.
    renewed: Option<(Instant, u64)>,
    /// This node has said goodbye.
    has_left: bool,
    /// When waiting news is passed on; none waits without an instant here.
    gossip_at: Option<Instant>,
    /// When connected peers that are no members yet are greeted again: a
    /// greeting may have been lost.
    greet_at: Option<Instant>,
    /// When the connections of a large cluster are compared with its members:
    /// once for what comes in a moment.
    rewire_at: Option<Instant>,
    /// The address was given, and is not to be guessed from what peers see.
    address_is_given: bool,
    seeds: Vec<Address>,
    connected: BTreeSet<NodeId>,
    retired: BTreeSet<NodeId>,
    search: Search,
    roll: Roll,
    dialing: BTreeSet<Address>,
    ring: Ring,
    choice: Choice,
    outputs: VecDeque<Output>,
}

impl Cluster {
    /// Starts alone. The address of `me` may have the unspecified IP of a
    /// wildcard listener; then it is learned from the first peers. `seeds` are
    /// dialed as long as the cluster is small or we are alone, and else at
    /// times; so are the members of a `former` life until they are met.
    pub fn new(
        me: Member,
        seeds: Vec<Address>,
        former: Vec<Member>,
        now: Instant,
        rng_seed: u64,
    ) -> Self {
        let address_is_given = !me.address.ip().is_unspecified();
        let mut cluster = Self {
            ring: Ring::new(me.id, []),
            search: Search::new(me.address, former),
            foca: Foca::new(me, config(), SmallRng::seed_from_u64(rng_seed), PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            alarms: Alarms::default(),
            renewed: None,
            has_left: false,
            gossip_at: None,
            greet_at: None,
            rewire_at: None,
            address_is_given,
            seeds,
            roll: Roll::default(),
            connected: BTreeSet::new(),
            retired: BTreeSet::new(),
            dialing: BTreeSet::new(),
            choice: Choice::default(),
            outputs: VecDeque::new(),
        };
        cluster.search.find(cluster.id());
        cluster.settle(now);
        cluster.rewire(now);
        cluster
    }

    /// A peer is connected, at `address`; it sees us as `seen_from`.
    pub fn handle_up(
        &mut self,
        now: Instant,
        peer: NodeId,
        address: SocketAddr,
        seen_from: IpAddr,
    ) {
        self.connected.insert(peer);
        self.roll.meet(now);
        if self.ring.contains(peer) && !self.ring.neighbours().contains(&peer) {
            self.search.found_nobody(&address.into());
        }
        self.learn_address(seen_from);
        self.greet(Member { id: peer, address, life: 0 });
        self.settle(now);
        self.rewire_soon(now);
        self.greet_at.get_or_insert(now + GREET_INTERVAL);
    }

    /// The connection with a peer ended.
    pub fn handle_down(&mut self, now: Instant, peer: NodeId) {
        self.connected.remove(&peer);
        self.settle(now);
        self.rewire_soon(now);
    }

    /// A datagram came in on the connection with `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: NodeId, bytes: &[u8]) {
        if let Some(call) = Call::decode(bytes) {
            self.handle_call(now, from, call);
            return;
        }
        let Some(mut relayed) = Relayed::decode(bytes) else {
            tracing::debug!(%from, "a datagram of the cluster is not readable");
            return;
        };
        if relayed.to == self.id() {
            let result = self.foca.handle_data(relayed.payload, &mut self.runtime);
            log(result);
            self.settle(now);
        } else if relayed.pass_on() {
            self.forward(relayed, Some(from));
        }
    }

    /// The time of [`Cluster::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.alarms.pop(now) {
            let forgets = matches!(timer, Timer::RemoveDown(_));
            let result = self.foca.handle_timer(timer, &mut self.runtime);
            log(result);
            self.settle(now);
            if forgets {
                self.rewire(now);
            }
        }
        if self.gossip_at.is_some_and(|at| at <= now) {
            self.gossip_at = None;
            let result = self.foca.gossip(&mut self.runtime);
            log(result);
            self.settle(now);
        }
        if self.greet_at.is_some_and(|at| at <= now) {
            self.greet_at = None;
            self.greet_strangers(now);
            self.settle(now);
        }
        if self.roll.next_turn().is_some_and(|at| at <= now) {
            self.read_roll(now);
        }
        let turns = [self.search.next_turn(), self.rewire_at, self.choice.next_turn];
        if turns.into_iter().flatten().any(|at| at <= now) {
            self.rewire(now);
        }
    }

    /// Tells the others that this node leaves for good or for a while. The
    /// datagrams are the last outputs worth sending.
    pub fn leave(&mut self, now: Instant) {
        self.has_left = true;
        let result = self.foca.leave_cluster(&mut self.runtime);
        log(result);
        self.settle(now);
    }

    /// This member has left for good: it is no member any more, whatever is
    /// gossiped of it, and nobody dials it, not even as a seed.
    pub fn retire(&mut self, now: Instant, member: NodeId) {
        self.retired.insert(member);
        let lost = self.search.find(member);
        let known = self.foca.iter_membership_state().find(|known| known.id().id == member);
        let known = known.map(|known| known.id().address);
        for address in known.into_iter().chain(lost).map(Address::from) {
            self.seeds.retain(|seed| *seed != address);
        }
        self.settle(now);
        self.rewire(now);
    }

    /// The next thing to do; to be drained after every call.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Cluster::handle_timeout`], if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let turns = [self.search.next_turn(), self.roll.next_turn(), self.choice.next_turn];
        let wakes = [self.alarms.next(), self.gossip_at, self.greet_at, self.rewire_at];
        wakes.into_iter().chain(turns).flatten().min()
    }

    /// This node as the others see it.
    pub fn me(&self) -> &Member {
        self.foca.identity()
    }

    /// The other members that are alive, by id.
    pub fn members(&self) -> Vec<Member> {
        let members = self.foca.iter_members().map(|member| member.id().clone());
        let mut members: Vec<_> =
            members.filter(|member| !self.retired.contains(&member.id)).collect();
        members.sort_by_key(|member| member.id);
        members
    }

    /// The members to be told of in the next life, those that are lost first.
    pub fn remembered(&self) -> Vec<Member> {
        let mut alive = self.members();
        alive.truncate(REMEMBERED_MAX / 2);
        let lost: Vec<Member> = self.search.lost().cloned().collect();
        let room = REMEMBERED_MAX - alive.len();
        [&lost[lost.len().saturating_sub(room)..], &alive].concat()
    }

    fn id(&self) -> NodeId {
        self.foca.identity().id
    }

    /// Introduces us to a peer. Its identity need not be known: SWIM answers
    /// an introduction to any life of the node.
    fn greet(&mut self, peer: Member) {
        let result = self.foca.announce(peer, &mut self.runtime);
        log(result);
    }

    /// Greets the connected peers that are no members yet.
    fn greet_strangers(&mut self, now: Instant) {
        let members = &self.ring;
        let strangers = self.connected.iter().copied();
        let strangers: Vec<_> = strangers.filter(|peer| !members.contains(*peer)).collect();
        // Only the id counts in an introduction.
        let address = self.me().address;
        for id in strangers {
            self.greet_at = Some(now + GREET_INTERVAL);
            self.greet(Member { id, address, life: 0 });
        }
    }

    /// Turns what foca asked for into outputs and alarms.
    fn settle(&mut self, now: Instant) {
        while let Some((delay, timer)) = self.runtime.to_schedule() {
            self.alarms.set(now + delay, timer);
        }
        let (mut changed, mut is_dead) = (false, false);
        while let Some(notification) = self.runtime.to_notify() {
            changed = true;
            match notification {
                OwnedNotification::MemberUp(member) => {
                    self.search.find(member.id);
                    self.roll.hear(now);
                    self.outputs.push_back(Output::MemberUp(member));
                }
                OwnedNotification::MemberDown(member) => {
                    self.roll.hear(now);
                    self.outputs.push_back(Output::MemberDown(member.id));
                    if !self.retired.contains(&member.id) {
                        self.search.lose(member);
                    }
                }
                // A living member that is renamed has a new address; one that
                // was down is reported by the MemberUp that follows.
                OwnedNotification::Rename(_, member) if self.is_alive(&member) => {
                    self.roll.hear(now);
                    self.outputs.push_back(Output::MemberUp(member));
                }
                OwnedNotification::Idle => self.alarms.drop_stale(),
                OwnedNotification::Defunct => is_dead = true,
                _ => {}
            }
        }
        if is_dead {
            self.alarms.drop_stale();
            if !self.has_left {
                self.renew(now);
            }
        }
        if changed {
            self.rewire_soon(now);
        }
        while let Some((to, payload)) = self.runtime.to_send() {
            self.forward(Relayed::new(to.id, &payload), None);
        }
        if self.foca.updates_backlog() > 0 && self.foca.num_members() > 0 {
            self.gossip_at.get_or_insert(now + GOSSIP_INTERVAL);
        }
    }

    fn is_alive(&self, member: &Member) -> bool {
        self.foca.iter_members().any(|known| known.id() == member)
    }

    /// Sends a datagram towards its member, if there is a way.
    fn forward(&mut self, relayed: Relayed<'_>, came_from: Option<NodeId>) {
        if let Some(next) = self.ring.next_hop(relayed.to, &self.connected, came_from) {
            self.outputs.push_back(Output::SendDatagram { to: next, bytes: relayed.encode() });
        }
    }
}

/// News goes out in steps of this, and not at all without news.
const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);

/// Pause between greetings: a lost one delays a join by no more.
const GREET_INTERVAL: Duration = Duration::from_secs(1);

/// How long a member that is down is dialed at every moment. After it, it is
/// looked for at times ([`search`]).
const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);

/// How often each member tells news, to members at random. One of a thousand
/// misses a death then once in some 160 times, and finds out by a probe of its
/// own; after 10 tellings it is once in 22 times, and what is told of a cut costs
/// a tenth less.
const TRANSMISSIONS: NonZeroU8 = NonZeroU8::new(12).unwrap();

/// A dead member of a small cluster is down within some five seconds: one
/// probe a second, and three seconds to refute a suspicion.
fn config() -> Config {
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(400),
        num_indirect_probes: const { NonZeroUsize::new(3).unwrap() },
        max_transmissions: TRANSMISSIONS,
        suspect_to_down_after: Duration::from_secs(3),
        remove_down_after: Some(FORGET_AFTER),
        max_packet_size: const { NonZeroUsize::new(relay::PAYLOAD_BYTES_MAX).unwrap() },
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams {
            frequency: Duration::from_secs(30),
            num_members: const { NonZeroUsize::new(1).unwrap() },
        }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: Duration::from_secs(10),
            num_members: const { NonZeroUsize::new(2).unwrap() },
        }),
        // Replaced by `gossip_at`, which is silent without news.
        periodic_gossip: None,
    }
}

/// A member that sends nonsense is a fault of that member; the protocol goes
/// on without the datagram.
fn log(result: Result<(), foca::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a step of the membership protocol failed");
    }
}
