//! Nodes in virtual time: links that take a while to come up, datagrams that
//! travel, nodes that die and return. Every run follows its seed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A datagram's way, and a handshake's.
const DATAGRAM_TIME: Duration = Duration::from_millis(2);
const HANDSHAKE_TIME: Duration = Duration::from_millis(20);
/// When a peer that died without a word is given up.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(6);
const REDIAL_TIME: Duration = Duration::from_secs(1);

pub(super) struct World {
    start: Instant,
    pub now: Instant,
    pub nodes: BTreeMap<NodeId, Cluster>,
    pub members: BTreeMap<NodeId, BTreeSet<NodeId>>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    places: BTreeMap<Address, NodeId>,
    links: BTreeSet<(NodeId, NodeId)>,
    /// What each dials, since which happening.
    dials: BTreeMap<(NodeId, Address), u64>,
    queue: BTreeMap<(Instant, u64), Happening>,
    happenings: u64,
    /// When nodes want to be woken.
    timers: BTreeSet<(Instant, NodeId)>,
    wakes: BTreeMap<NodeId, Instant>,
    /// Groups between which nothing passes.
    pub cut: Option<BTreeSet<NodeId>>,
    pub datagrams: u64,
    pub bytes: u64,
    /// Connections that each made or took, counted by whoever measures.
    pub made: BTreeMap<NodeId, usize>,
    /// Of 100 datagrams so many are lost.
    pub loss_percent: u64,
    random: u64,
}

enum Happening {
    Dialed { by: NodeId, address: Address, dial: u64 },
    Arrived { from: NodeId, to: NodeId, bytes: Bytes },
    LinkLost { a: NodeId, b: NodeId },
}

pub(super) fn id(n: u16) -> NodeId {
    // Spread over the ring, as hashes are.
    NodeId::of_public_key(&n.to_be_bytes())
}

pub(super) fn address(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7400))
}

impl World {
    pub(super) fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            nodes: BTreeMap::new(),
            members: BTreeMap::new(),
            addresses: BTreeMap::new(),
            places: BTreeMap::new(),
            links: BTreeSet::new(),
            dials: BTreeMap::new(),
            queue: BTreeMap::new(),
            happenings: 0,
            timers: BTreeSet::new(),
            wakes: BTreeMap::new(),
            cut: None,
            datagrams: 0,
            bytes: 0,
            made: BTreeMap::new(),
            loss_percent: 0,
            random: 1,
        }
    }

    /// `count` nodes that know nobody but the first.
    pub(super) fn with_seed_node(count: u16) -> Self {
        let mut world = Self::new();
        (1..=count).for_each(|n| world.start_node(n, if n == 1 { &[] } else { &[1] }));
        world
    }

    pub(super) fn start_node(&mut self, n: u16, seeds: &[u16]) {
        self.start_node_that_knew(n, seeds, Vec::new());
    }

    pub(super) fn start_node_that_knew(&mut self, n: u16, seeds: &[u16], former: Vec<Member>) {
        let life = self.now.duration_since(self.start).as_secs();
        self.start_node_in_life(n, seeds, former, life);
    }

    pub(super) fn start_node_in_life(
        &mut self,
        n: u16,
        seeds: &[u16],
        former: Vec<Member>,
        life: u64,
    ) {
        // A wildcard listener: the IP is to be learned.
        let listen = SocketAddr::from(([0, 0, 0, 0], address(n).port()));
        let me = Member { id: id(n), address: listen, life };
        let seeds = seeds.iter().map(|seed| address(*seed).into()).collect();
        let cluster = Cluster::new(me, seeds, former, self.now, u64::from(n));
        self.insert(n, cluster);
    }

    /// `count` nodes that have long known each other.
    pub(super) fn long_met(count: u16) -> Self {
        let mut world = Self::new();
        let members = (1..=count).map(|n| Member { id: id(n), address: address(n), life: 1 });
        let members: Vec<Member> = members.collect();
        for n in 1..=count {
            let me = members[usize::from(n) - 1].clone();
            let mut cluster = Cluster::new(me, vec![], vec![], world.now, u64::from(n));
            let others = members.iter().filter(|member| member.id != id(n)).cloned();
            let others = others.map(foca::Member::alive);
            cluster.foca.apply_many(others, false, &mut cluster.runtime).unwrap();
            cluster.settle(world.now);
            // What they know they have long compared.
            cluster.roll = Roll::default();
            world.insert(n, cluster);
        }
        world
    }

    fn insert(&mut self, n: u16, cluster: Cluster) {
        self.nodes.insert(id(n), cluster);
        self.members.insert(id(n), BTreeSet::new());
        self.addresses.insert(id(n), address(n));
        self.places.insert(address(n).into(), id(n));
        self.drain(id(n));
    }

    /// Without a word: peers find out by silence.
    pub(super) fn kill(&mut self, n: u16) {
        self.nodes.remove(&id(n));
        self.dials.retain(|(by, _), _| *by != id(n));
        self.set_timer(id(n));
        for (a, b) in self.links_of(id(n)) {
            self.links.remove(&(a, b));
            self.later(IDLE_TIME, Happening::LinkLost { a, b });
        }
    }

    fn links_of(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        self.links.iter().copied().filter(|(a, b)| *a == node || *b == node).collect()
    }

    /// Splits off a group: its links to the others fall.
    pub(super) fn split_off(&mut self, group: impl Iterator<Item = u16>) {
        let group: BTreeSet<_> = group.map(id).collect();
        let torn = self.links.iter().filter(|(a, b)| group.contains(a) != group.contains(b));
        for (a, b) in torn.copied().collect::<Vec<_>>() {
            self.links.remove(&(a, b));
            self.later(IDLE_TIME, Happening::LinkLost { a, b });
        }
        self.cut = Some(group);
    }

    fn apart(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.as_ref().is_some_and(|group| group.contains(&a) != group.contains(&b))
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((self.now + delay, self.happenings), happening);
    }

    pub(super) fn drain(&mut self, node: NodeId) {
        while let Some(output) = self.nodes.get_mut(&node).and_then(Cluster::poll) {
            match output {
                Output::SendDatagram { to, bytes } => {
                    assert!(bytes.len() <= crate::limits::DATAGRAM_BYTES_MAX);
                    // A connection to the dead stands until the silence is noticed.
                    let stands = self.links.contains(&pair(node, to))
                        || self.nodes[&node].connected.contains(&to);
                    assert!(stands, "sent without a connection");
                    self.datagrams += 1;
                    self.bytes += bytes.len() as u64;
                    if self.is_lost() {
                        continue;
                    }
                    let arrived = Happening::Arrived { from: node, to, bytes };
                    self.later(DATAGRAM_TIME, arrived);
                }
                Output::Dial(address) => {
                    let dial = self.happenings;
                    self.dials.insert((node, address.clone()), dial);
                    self.later(HANDSHAKE_TIME, Happening::Dialed { by: node, address, dial });
                }
                Output::Forget(address) => {
                    self.dials.remove(&(node, address));
                }
                Output::Disconnect(peer) => {
                    self.links.remove(&pair(node, peer));
                    self.lose(node, peer);
                }
                Output::MemberUp(member) => {
                    assert_ne!(member.id, node, "a node is no member beside itself");
                    self.members.get_mut(&node).unwrap().insert(member.id);
                }
                Output::MemberDown(member) => {
                    self.members.get_mut(&node).unwrap().remove(&member);
                }
            }
        }
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: NodeId) {
        if let Some(former) = self.wakes.remove(&node) {
            self.timers.remove(&(former, node));
        }
        if let Some(wakes) = self.nodes.get(&node).and_then(Cluster::poll_timeout) {
            self.wakes.insert(node, wakes);
            self.timers.insert((wakes, node));
        }
    }

    fn is_lost(&mut self) -> bool {
        let random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = random.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 100 < self.loss_percent
    }

    fn lose(&mut self, a: NodeId, b: NodeId) {
        for (node, peer) in [(a, b), (b, a)] {
            if let Some(cluster) = self.nodes.get_mut(&node) {
                cluster.handle_down(self.now, peer);
                self.drain(node);
            }
        }
    }

    fn connect(&mut self, by: NodeId, wanted: Address, dial: u64) {
        let is_wanted = self.dials.get(&(by, wanted.clone())) == Some(&dial);
        if !is_wanted {
            return;
        }
        // Dials go on for as long as they are wanted, as the transport's do.
        self.later(REDIAL_TIME, Happening::Dialed { by, address: wanted.clone(), dial });
        let Some(&peer) = self.places.get(&wanted) else { return };
        let new = peer != by && self.nodes.contains_key(&peer) && !self.apart(by, peer);
        if new && self.links.insert(pair(by, peer)) {
            for (node, peer) in [(by, peer), (peer, by)] {
                // It was one too many, and ended before this side heard of it.
                if !self.links.contains(&pair(node, peer)) {
                    break;
                }
                let cluster = self.nodes.get_mut(&node).unwrap();
                // The transport reports the end of a former connection first.
                if cluster.connected.contains(&peer) {
                    cluster.handle_down(self.now, peer);
                }
                *self.made.entry(node).or_default() += 1;
                let seen_from = self.addresses[&node].ip();
                cluster.handle_up(self.now, peer, self.addresses[&peer], seen_from);
                self.drain(node);
            }
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeout = self.timers.first().copied();
            let happening = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = [timeout.map(|(at, _)| at), happening].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if happening == Some(next) {
                let (_, happening) = self.queue.pop_first().unwrap();
                self.happen(happening);
            } else if let Some((_, node)) = timeout {
                self.nodes.get_mut(&node).unwrap().handle_timeout(self.now);
                self.drain(node);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Dialed { by, address, dial } => self.connect(by, address, dial),
            Happening::Arrived { from, to, bytes } => {
                if self.links.contains(&pair(from, to))
                    && let Some(cluster) = self.nodes.get_mut(&to)
                {
                    cluster.handle_datagram(self.now, from, &bytes);
                    self.drain(to);
                }
            }
            Happening::LinkLost { a, b } => {
                if !self.links.contains(&(a, b)) {
                    self.lose(a, b);
                }
            }
        }
    }

    /// Runs until everybody sees exactly these others; returns how long it took.
    pub(super) fn until_all_see(&mut self, alive: impl Iterator<Item = u16>) -> Duration {
        let all: BTreeSet<_> = alive.map(id).collect();
        self.until(Duration::from_secs(120), |world| world.all_see(&all))
    }

    /// Runs until this is so; returns how long it took.
    pub(super) fn until(&mut self, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        while !is_so(self) {
            assert!(self.now - begin < limit, "{:?}", self.views());
            self.run(Duration::from_millis(100));
        }
        self.now - begin
    }

    /// Does each of them see the others, and nobody else?
    pub(super) fn all_see(&self, all: &BTreeSet<NodeId>) -> bool {
        all.iter().all(|node| {
            let seen = &self.members[node];
            seen.len() + 1 == all.len() && seen.is_subset(all) && !seen.contains(node)
        })
    }

    /// How many others each node sees.
    pub(super) fn views(&self) -> Vec<usize> {
        self.nodes.keys().map(|node| self.members[node].len()).collect()
    }

    pub(super) fn degree(&self, n: u16) -> usize {
        self.links_of(id(n)).len()
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}
