//! What membership costs as the cluster grows: an idle minute, a node that
//! joins, one that dies, a cut, and the cut that heals.
//!
//! `cargo test -p replicator --lib scale -- --nocapture` prints this table
//! beside the one of the sync core (`sync/sim/scale.rs`), and
//! `REPLICATOR_SIM_NODES=1000` makes both longer. What may grow, by a step for
//! each doubling of the nodes: connections, the hops of a datagram, and the
//! rounds until news are everywhere (SWIM, Das et al., 2002: each tells a few
//! at random, so those who know multiply). So costs are held against
//! connections.

use super::*;

/// Clusters to measure, and the largest where nothing else is asked for.
const SIZES: [u16; 3] = [10, 100, 1000];
const NODES_MAX: u16 = 100;

/// Until nothing but the ordinary is said.
const CALM: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What each connection carries in a second of rest, at the most: twice what
/// was seen, as with all that follow.
const IDLE_DATAGRAMS_MAX: f64 = 0.9;
const IDLE_BYTES_MAX: f64 = 75.0;

/// What one member that comes or goes costs a connection, until all know.
const JOIN_BYTES_MAX: f64 = 700.0;
const DEATH_BYTES_MAX: f64 = 1200.0;

/// When a cluster is cut, and when the cut heals, each node hears of each on
/// the other side.
const CUT_BYTES_MAX: f64 = 4500.0;
const HEAL_BYTES_MAX: f64 = 2000.0;

/// How long a join may take for one doubling of the nodes.
const DOUBLING_TIME_MAX: Duration = Duration::from_millis(300);

/// A dead node is soon probed by somebody, however many there are, and then
/// suspected for three seconds.
const DEATH_TIME_MAX: Duration = Duration::from_secs(12);

/// When the one that joined knows all others: two moments after it heard of
/// most, it has read a list.
const MEET_TIME_MAX: Duration = Duration::from_secs(10);

/// When halves that reach each other again are one, to the last member.
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

/// When the halves of a cluster that was cut know so of the last member. With
/// half of all gone most of what is sent at first goes to the dead.
const CUT_TIME_MAX: Duration = Duration::from_secs(30);

/// How many connections a node may make in the first second after a cut, for
/// each that it keeps: its neighbours among all, and those of others that had
/// not heard of all yet.
const OPENED_MAX: f64 = 3.0;

/// After which nothing is waited for.
const LIMIT: Duration = Duration::from_secs(600);

/// What a node sent.
#[derive(Clone, Copy)]
struct Cost {
    took: Duration,
    datagrams: f64,
    bytes: f64,
}

struct Row {
    nodes: u16,
    links: f64,
    /// A second of it.
    idle: Cost,
    /// Until all know the one that joined, and it knows all of them.
    join: Cost,
    /// Until all know the one that joined.
    known: Duration,
    death: Cost,
    /// Until each half knows that the other is gone.
    cut: Cost,
    heal: Cost,
    /// Connections that a node made in the first second of it, at the most.
    opened: usize,
    /// The same rest after all that.
    after: Cost,
}

#[test]
fn membership_costs_a_node_in_step_with_its_connections() {
    let most = std::env::var("REPLICATOR_SIM_NODES").ok().and_then(|most| most.parse().ok());
    let sizes = SIZES.into_iter().filter(|nodes| *nodes <= most.unwrap_or(NODES_MAX));
    let rows: Vec<Row> = sizes.map(measure).collect();
    println!(
        "members:     idle, a second      a join, per node           a death, per node          \
         a cut, per node            a healed cut, per node             idle, after"
    );
    println!(
        "nodes links  datagrams  bytes    datagrams  bytes     ms    datagrams  bytes     ms    \
         datagrams  bytes     ms    datagrams  bytes     ms opened    datagrams  bytes"
    );
    rows.iter().for_each(Row::print);
    rows.iter().for_each(Row::is_in_step);
}

fn measure(nodes: u16) -> Row {
    let mut world = World::long_met(nodes - 1);
    world.run(CALM);
    let connections: usize = (1..nodes).map(|n| world.degree(n)).sum();
    let links = connections as f64 / f64::from(nodes - 1);
    let idle = rest(&mut world);

    let new = id(nodes);
    let mut known = Duration::ZERO;
    let join = cost(&mut world, |world| {
        world.start_node(nodes, &[1]);
        let knows =
            |(node, seen): (&NodeId, &BTreeSet<NodeId>)| *node == new || seen.contains(&new);
        known = world.until(LIMIT, |world| world.members.iter().all(knows));
        world.until(LIMIT, |world| world.members[&new].len() == usize::from(nodes - 1));
    });
    world.run(CALM);

    let dead = id(1);
    let death = cost(&mut world, |world| {
        world.kill(1);
        let knows = |node: &NodeId, seen: &BTreeSet<NodeId>| *node == dead || !seen.contains(&dead);
        world.until(LIMIT, |world| world.members.iter().all(|(node, seen)| knows(node, seen)));
    });
    world.run(CALM);
    let cut = cost(&mut world, |world| part(world, nodes));
    world.run(CALM);
    let mut opened = 0;
    let heal = cost(&mut world, |world| opened = heal(world, nodes));
    world.run(CALM);
    let after = rest(&mut world);
    Row { nodes, links, idle, join, known, death, cut, heal, opened, after }
}

/// A second of a minute in which nothing happens.
fn rest(world: &mut World) -> Cost {
    let minute = cost(world, |world| world.run(MINUTE));
    let share = 1.0 / MINUTE.as_secs_f64();
    let (datagrams, bytes) = (minute.datagrams * share, minute.bytes * share);
    Cost { took: Duration::from_secs(1), datagrams, bytes }
}

/// The living, in halves.
fn halves(nodes: u16) -> [BTreeSet<NodeId>; 2] {
    [(2..=nodes / 2).map(id).collect(), (nodes / 2 + 1..=nodes).map(id).collect()]
}

/// Splits the living in halves until each knows who is left.
fn part(world: &mut World, nodes: u16) {
    let halves = halves(nodes);
    world.split_off(2..=nodes / 2);
    world.until(LIMIT, |world| halves.iter().all(|half| world.all_see(half)));
}

/// Lets them reach each other until they are one again; how many connections a
/// node made in the first second of it, at the most.
fn heal(world: &mut World, nodes: u16) -> usize {
    let all: BTreeSet<_> = halves(nodes).into_iter().flatten().collect();
    world.made.clear();
    world.cut = None;
    world.run(SECOND);
    let opened = world.made.values().max().copied();
    world.until(LIMIT, |world| world.all_see(&all));
    opened.unwrap_or_default()
}

/// What each node sent meanwhile.
fn cost(world: &mut World, what: impl FnOnce(&mut World)) -> Cost {
    let (began, datagrams, bytes) = (world.now, world.datagrams, world.bytes);
    what(world);
    let each = |sent: u64| sent as f64 / world.nodes.len() as f64;
    let (datagrams, bytes) = (each(world.datagrams - datagrams), each(world.bytes - bytes));
    Cost { took: world.now - began, datagrams, bytes }
}

impl Row {
    fn print(&self) {
        let Self { nodes, links, .. } = self;
        let once = [self.join, self.death, self.cut, self.heal].map(|cost| {
            let ms = cost.took.as_millis();
            format!("{:>9.0} {:>6.0} {ms:>6}", cost.datagrams, cost.bytes)
        });
        let rest = [self.idle, self.after];
        let [idle, after] = rest.map(|rest| format!("{:>9.1} {:>6.0}", rest.datagrams, rest.bytes));
        let (once, opened) = (once.join("    "), self.opened);
        println!("{nodes:>5} {links:>5.1}  {idle}    {once} {opened:>6}    {after}");
    }

    fn is_in_step(&self) {
        let Self { nodes, links, idle, join, known, death, cut, heal, opened, after } = self;
        let doublings = nodes.ilog2();
        let is_mesh = usize::from(*nodes) <= topology::MESH_NODES_MAX;
        let links_max = if is_mesh { nodes - 1 } else { 2 * (doublings as u16 + 1) };
        assert!(*links <= f64::from(links_max), "{links:.1} connections among {nodes}");
        let other_side = f64::from(nodes / 2);
        let costs = [
            ("a second of rest: datagrams", idle.datagrams / links, IDLE_DATAGRAMS_MAX),
            ("a second of rest: bytes a connection", idle.bytes / links, IDLE_BYTES_MAX),
            ("rest after it all: datagrams", after.datagrams / links, IDLE_DATAGRAMS_MAX),
            ("rest after it all: bytes a connection", after.bytes / links, IDLE_BYTES_MAX),
            ("a join: bytes a connection", join.bytes / links, JOIN_BYTES_MAX),
            ("a death: bytes a connection", death.bytes / links, DEATH_BYTES_MAX),
            ("a cut: bytes a member", cut.bytes / other_side, CUT_BYTES_MAX),
            ("a healed cut: bytes a member", heal.bytes / other_side, HEAL_BYTES_MAX),
            ("a healed cut: new connections a link", *opened as f64 / links, OPENED_MAX),
        ];
        for (what, cost, most) in costs {
            assert!(cost < most, "among {nodes}, {what}: {cost:.2}");
        }
        let times = [
            ("to know who joined", *known, DOUBLING_TIME_MAX * doublings),
            ("to know all, once joined,", join.took, MEET_TIME_MAX),
            ("a death", death.took, DEATH_TIME_MAX),
            ("a cut", cut.took, CUT_TIME_MAX),
            ("a healed cut", heal.took, HEAL_TIME_MAX),
        ];
        for (what, took, most) in times {
            assert!(took <= most, "among {nodes}, {what} takes {took:?}");
        }
    }
}
