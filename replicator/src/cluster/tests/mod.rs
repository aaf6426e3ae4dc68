//! Clusters in virtual time: links that take a while to come up, datagrams
//! that travel, nodes that die and return. Every run follows its seed.

mod lives;
mod outage;
mod wired;

use std::collections::{BTreeMap, BTreeSet};

use super::search::{LOST_DIALED_MAX, REMEMBERED_MAX};
use super::*;

/// A datagram's way, and a handshake's.
const DATAGRAM_TIME: Duration = Duration::from_millis(2);
const HANDSHAKE_TIME: Duration = Duration::from_millis(20);
/// When a peer that died without a word is given up.
const IDLE_TIME: Duration = Duration::from_secs(6);
const REDIAL_TIME: Duration = Duration::from_secs(1);

struct World {
    start: Instant,
    now: Instant,
    nodes: BTreeMap<NodeId, Cluster>,
    members: BTreeMap<NodeId, BTreeSet<NodeId>>,
    links: BTreeSet<(NodeId, NodeId)>,
    queue: BTreeMap<(Instant, u64), Happening>,
    happenings: u64,
    /// Groups between which nothing passes.
    cut: Option<BTreeSet<NodeId>>,
    datagrams: u64,
    /// Of 100 datagrams so many are lost.
    loss_percent: u64,
    random: u64,
}

enum Happening {
    Dialed { by: NodeId, address: Address },
    Arrived { from: NodeId, to: NodeId, bytes: Bytes },
    LinkLost { a: NodeId, b: NodeId },
}

fn id(n: u8) -> NodeId {
    // Spread over the ring, as hashes are.
    NodeId::of_public_key(&[n])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7400))
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            nodes: BTreeMap::new(),
            members: BTreeMap::new(),
            links: BTreeSet::new(),
            queue: BTreeMap::new(),
            happenings: 0,
            cut: None,
            datagrams: 0,
            loss_percent: 0,
            random: 1,
        }
    }

    /// `count` nodes that know nobody but the first.
    fn with_seed_node(count: u8) -> Self {
        let mut world = Self::new();
        (1..=count).for_each(|n| world.start_node(n, if n == 1 { &[] } else { &[1] }));
        world
    }

    fn start_node(&mut self, n: u8, seeds: &[u8]) {
        self.start_node_that_knew(n, seeds, Vec::new());
    }

    fn start_node_that_knew(&mut self, n: u8, seeds: &[u8], former: Vec<Member>) {
        let life = self.now.duration_since(self.start).as_secs();
        self.start_node_in_life(n, seeds, former, life);
    }

    fn start_node_in_life(&mut self, n: u8, seeds: &[u8], former: Vec<Member>, life: u64) {
        // A wildcard listener: the IP is to be learned.
        let listen = SocketAddr::from(([0, 0, 0, 0], address(n).port()));
        let me = Member { id: id(n), address: listen, life };
        let seeds = seeds.iter().map(|seed| address(*seed).into()).collect();
        self.nodes.insert(id(n), Cluster::new(me, seeds, former, self.now, u64::from(n)));
        self.members.insert(id(n), BTreeSet::new());
        self.drain(id(n));
    }

    /// Without a word: peers find out by silence.
    fn kill(&mut self, n: u8) {
        self.nodes.remove(&id(n));
        for (a, b) in self.links_of(id(n)) {
            self.links.remove(&(a, b));
            self.later(IDLE_TIME, Happening::LinkLost { a, b });
        }
    }

    fn links_of(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        self.links.iter().copied().filter(|(a, b)| *a == node || *b == node).collect()
    }

    /// Splits off a group: its links to the others fall.
    fn split_off(&mut self, group: impl Iterator<Item = u8>) {
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

    fn drain(&mut self, node: NodeId) {
        while let Some(output) = self.nodes.get_mut(&node).and_then(Cluster::poll) {
            match output {
                Output::SendDatagram { to, bytes } => {
                    assert!(bytes.len() <= crate::limits::DATAGRAM_BYTES_MAX);
                    // A connection to the dead stands until the silence is noticed.
                    let stands = self.links.contains(&pair(node, to))
                        || self.nodes[&node].connected.contains(&to);
                    assert!(stands, "sent without a connection");
                    self.datagrams += 1;
                    if self.is_lost() {
                        continue;
                    }
                    let arrived = Happening::Arrived { from: node, to, bytes };
                    self.later(DATAGRAM_TIME, arrived);
                }
                Output::Dial(address) => {
                    self.later(HANDSHAKE_TIME, Happening::Dialed { by: node, address });
                }
                Output::Forget(_) => {}
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

    fn connect(&mut self, by: NodeId, wanted: Address) {
        let still_wanted =
            self.nodes.get(&by).is_some_and(|cluster| cluster.dialing.contains(&wanted));
        if !still_wanted {
            return;
        }
        // Dials go on for as long as they are wanted, as the transport's do.
        self.later(REDIAL_TIME, Happening::Dialed { by, address: wanted.clone() });
        let Some(n) = (1..=100).find(|n| Address::from(address(*n)) == wanted) else {
            return;
        };
        let new = id(n) != by && self.nodes.contains_key(&id(n)) && !self.apart(by, id(n));
        if new && self.links.insert(pair(by, id(n))) {
            let our_n = (1..=100).find(|n| id(*n) == by).unwrap();
            let ends = [(by, id(n), n, our_n), (id(n), by, our_n, n)];
            for (node, peer, peer_n, node_n) in ends {
                let cluster = self.nodes.get_mut(&node).unwrap();
                // The transport reports the end of a former connection first.
                if cluster.connected.contains(&peer) {
                    cluster.handle_down(self.now, peer);
                }
                cluster.handle_up(self.now, peer, address(peer_n), address(node_n).ip());
                self.drain(node);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeouts =
                self.nodes.iter().filter_map(|(id, node)| Some((node.poll_timeout()?, *id)));
            let timeout = timeouts.min();
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
            Happening::Dialed { by, address } => self.connect(by, address),
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
    fn until_all_see(&mut self, alive: impl Iterator<Item = u8> + Clone) -> Duration {
        let begin = self.now;
        let all: BTreeSet<_> = alive.map(id).collect();
        while !all.iter().all(|node| {
            let others = all.iter().filter(|other| *other != node).copied().collect();
            self.members[node] == others
        }) {
            assert!(self.now - begin < Duration::from_secs(120), "{:?}", self.views(&all));
            self.run(Duration::from_millis(100));
        }
        self.now - begin
    }

    fn views(&self, all: &BTreeSet<NodeId>) -> Vec<usize> {
        all.iter().map(|node| self.members[node].len()).collect()
    }

    fn degree(&self, n: u8) -> usize {
        self.links_of(id(n)).len()
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

#[test]
fn one_seed_is_enough_for_everybody_to_meet() {
    for count in [2, 3, 5, 16] {
        let mut world = World::with_seed_node(count);
        let took = world.until_all_see(1..=count);
        assert!(took < Duration::from_secs(5), "{count} nodes took {took:?}");
        world.run(Duration::from_secs(5));
        for n in 1..=count {
            assert_eq!(world.degree(n), usize::from(count) - 1, "a full mesh");
            assert_eq!(world.nodes[&id(n)].me().address, address(n), "learned from peers");
        }
    }
}

#[test]
fn a_large_cluster_meets_and_keeps_few_connections() {
    let mut world = World::with_seed_node(50);
    let took = world.until_all_see(1..=50);
    assert!(took < Duration::from_secs(60), "{took:?}");
    world.run(Duration::from_secs(60));
    for n in 1..=50 {
        let degree = world.degree(n);
        assert!((4..=24).contains(&degree), "node {n} has {degree} connections");
    }
    // Nobody is taken for dead for want of a direct connection.
    let all: BTreeSet<_> = (1..=50).map(id).collect();
    assert_eq!(world.views(&all), vec![49; 50]);
    let before = world.datagrams;
    world.run(Duration::from_secs(10));
    let rate = (world.datagrams - before) / (10 * 50);
    assert!(rate < 30, "{rate} datagrams a second and node");
}

#[test]
fn death_is_noticed_within_seconds_and_a_return_at_once() {
    for count in [3, 5, 16, 30] {
        let mut world = World::with_seed_node(count);
        world.until_all_see(1..=count);
        world.run(Duration::from_secs(20));
        world.kill(count);
        let took = world.until_all_see(1..count);
        assert!(took < Duration::from_secs(15), "{count} nodes took {took:?}");
        // It knows nobody: the others still dial it.
        world.start_node(count, &[]);
        let took = world.until_all_see(1..=count);
        assert!(took < Duration::from_secs(15), "{count} nodes took {took:?} to see it back");
    }
}

#[test]
fn the_seed_may_die_and_the_cluster_stays_whole() {
    let mut world = World::with_seed_node(5);
    world.until_all_see(1..=5);
    world.kill(1);
    world.until_all_see(2..=5);
    world.start_node(6, &[3]);
    world.until_all_see(2..=6);
}

#[test]
fn a_cut_heals_by_itself() {
    for count in [4, 24] {
        let mut world = World::with_seed_node(count);
        world.until_all_see(1..=count);
        world.run(Duration::from_secs(20));
        world.split_off(1..=count / 2);
        world.until_all_see(1..=count / 2);
        world.until_all_see(count / 2 + 1..=count);
        world.cut = None;
        let took = world.until_all_see(1..=count);
        assert!(took < Duration::from_secs(60), "{count} nodes took {took:?}");
    }
}

#[test]
fn who_leaves_says_so() {
    let mut world = World::with_seed_node(4);
    world.until_all_see(1..=4);
    world.nodes.get_mut(&id(4)).unwrap().leave(world.now);
    world.drain(id(4));
    world.run(Duration::from_millis(10));
    world.kill(4);
    let took = world.until_all_see(1..=3);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn nonsense_changes_nothing() {
    let mut world = World::with_seed_node(3);
    world.until_all_see(1..=3);
    let mut seed = 1u64;
    for length in 0..1200 {
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        // Half of it reaches foca.
        if length % 2 == 0 && length >= 18 {
            bytes[..2].copy_from_slice(&[1, 3]);
            bytes[2..18].copy_from_slice(id(1).as_bytes());
        }
        world.nodes.get_mut(&id(1)).unwrap().handle_datagram(world.now, id(2), &bytes);
        world.drain(id(1));
    }
    world.run(Duration::from_secs(30));
    world.until_all_see(1..=3);
}

#[test]
fn an_idle_cluster_is_nearly_silent() {
    let mut world = World::with_seed_node(3);
    world.until_all_see(1..=3);
    world.run(Duration::from_secs(60));
    let before = world.datagrams;
    world.run(Duration::from_secs(10));
    // One probe and its answer a second and node, and an announcement at times.
    let sent = world.datagrams - before;
    assert!(sent <= 80, "{sent} datagrams in 10 s");
}

#[test]
fn a_given_address_is_kept_and_foreign_loopbacks_are_not_dialed() {
    let now = Instant::now();
    let me = Member { id: id(1), address: address(1), life: 1 };
    let mut cluster = Cluster::new(me.clone(), vec![], vec![], now, 1);
    cluster.handle_up(now, id(2), address(2), "198.51.100.7".parse().unwrap());
    assert_eq!(cluster.me(), &me);
    assert!(!cluster.can_dial("127.0.0.1".parse().unwrap()));
    assert!(cluster.can_dial("10.0.0.9".parse().unwrap()));
}

#[test]
fn a_bad_network_delays_and_kills_nobody() {
    let mut world = World::new();
    world.loss_percent = 20;
    (1..=8).for_each(|n| world.start_node(n, if n == 1 { &[] } else { &[1] }));
    world.until_all_see(1..=8);
    world.kill(8);
    let took = world.until_all_see(1..=7);
    assert!(took < Duration::from_secs(20), "{took:?}");
}
