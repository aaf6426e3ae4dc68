//! What a change and a join cost as the cluster grows: messages, bytes and
//! time, in clusters whose nodes keep a bounded number of connections, and know
//! each other as members.
//!
//! `cargo test -p replicator --lib sync::sim::scale -- --nocapture` prints the
//! table; `REPLICATOR_SIM_NODES=1000` makes it longer, and with `--release` takes
//! a quarter of an hour. Looks bring the bytes along here, as they do of small
//! files, so that they ride with the record. Were it left to the lot, one size
//! would tell of an edit in 93 bytes and another in 172.
//!
//! What a change costs a connection: everybody passes it on at once, so it
//! crosses one at most once each way. It does not go back to where it came
//! from, one of a node's `d` connections, nor to those that hear its author,
//! `d` of all `n`. So `1 - 1/d - d/n` copies cross it each way: 0.61 among 30,
//! 0.80 among 100, 0.89 among 300, 0.93 among 1,000. However many nodes there
//! are, it is not more than one, and a copy is as long.

use std::collections::BTreeSet;
use std::time::Duration;

use super::disk::Disk;
use super::ledger::Ledger;
use super::path;
use super::plan::{Plan, Shape};
use super::world::World;
use crate::sync::store::{MemoryStore, Store};
use crate::sync::version::Dot;

/// Files in the folder.
const FILES: usize = 20;

/// What one thing cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    messages: u64,
    bytes: u64,
    /// Records told, each as often as it was.
    records: u64,
    took: Duration,
    /// What was said of members until all had said that they hold it: apart,
    /// since it comes once a round, however much happens in it.
    member_messages: u64,
    member_bytes: u64,
}

impl Cost {
    fn each(&self, nodes: usize) -> String {
        let share = |total: u64| total as f64 / nodes as f64;
        let ms = self.took.as_secs_f64() * 1000.0;
        format!("{:>9.1} {:>6.0} {ms:>6.0}", share(self.messages), share(self.bytes))
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    nodes: usize,
    links: f64,
    edit: Cost,
    create: Cost,
    join: Cost,
}

impl Row {
    fn shape(&self) -> Shape {
        shape(self.nodes)
    }

    fn per_link(&self, total: u64) -> f64 {
        total as f64 / self.nodes as f64 / self.links
    }

    fn print(&self) {
        let Self { nodes, links, edit, create, join } = self;
        let members = [edit, join].map(|cost| {
            let (messages, bytes) = (cost.member_messages, cost.member_bytes);
            format!("{:>9.1} {:>6.0}", self.per_link(messages), self.per_link(bytes))
        });
        let (edit, create, join) = (edit.each(*nodes), create.each(*nodes), join.each(1));
        println!("{nodes:>5} {links:>5.1} {edit}   {create}   {join}   {}", members.join("   "));
    }
}

/// What a change may cost a connection each way, however many nodes there
/// are: its records and what is held of them, once.
const LINK_BYTES_MAX: f64 = 250.0;
const LINK_MESSAGES_MAX: f64 = 1.2;

/// A join has greetings in it. And each neighbour of the new one may merge its
/// directory with that of all others under a stamp of its own, before it hears
/// that another has; all hear of each of these. So this is for a node of so
/// many connections, and one of more may cost more in step with them.
const JOIN_MESSAGES_MAX: f64 = 8.0;
const JOIN_BYTES_MAX: f64 = 500.0;
const JOIN_LINKS: f64 = 12.0;

/// By what a record with all that is said because of it may be longer in one
/// cluster than in a smaller one.
const RECORD_GROWTH_MAX: f64 = 1.1;

/// How long each may take for one doubling of the nodes: a ring gets a step
/// longer with it.
const DOUBLING_TIME_MAX: Duration = Duration::from_millis(60);

/// What is said of one member over a connection in the rounds after a change:
/// who it is, and nothing of the logs that it holds as all do.
const MEMBER_BYTES_MAX: f64 = 150.0;

/// Up to so many each is connected to each, as in `cluster/topology.rs`.
const MESH_NODES_MAX: usize = 16;

/// Clusters to measure.
const SIZES: [usize; 4] = [10, 30, 100, 1000];

/// The largest of them where nothing else is asked for.
const NODES_MAX: usize = 100;

#[test]
fn cost_a_node_does_not_grow_with_the_cluster() {
    let most = super::number("REPLICATOR_SIM_NODES").map_or(NODES_MAX, |most| most as usize);
    let sizes = SIZES.into_iter().filter(|nodes| *nodes <= most);
    let rows: Vec<Row> = sizes.map(measure).collect();
    println!(
        "             an edit, per node         a new file, per node      a join, in all            \
         members, per link: edit, join"
    );
    println!(
        "nodes links  messages  bytes     ms    messages  bytes     ms    messages  bytes     ms    \
         messages  bytes    messages  bytes"
    );
    rows.iter().for_each(Row::print);
    rows.iter().for_each(is_in_step_with_connections);
    is_as_long_in_any_ring(&rows);
}

fn is_as_long_in_any_ring(rows: &[Row]) {
    let rings: Vec<&Row> = rows.iter().filter(|row| row.shape() == Shape::Ring).collect();
    let length = |cost: Cost| cost.bytes as f64 / cost.records as f64;
    for pair in rings.windows(2) {
        let (small, large) = (pair[0], pair[1]);
        let costs =
            [("an edit", small.edit, large.edit), ("a new file", small.create, large.create)];
        for (what, small, large) in costs {
            let (small, large) = (length(small), length(large));
            let is_in_bounds = large < RECORD_GROWTH_MAX * small;
            assert!(is_in_bounds, "{what}: from {small:.0} bytes a record to {large:.0}");
        }
    }
}

fn is_in_step_with_connections(row: &Row) {
    let nodes = row.nodes;
    let time_max = DOUBLING_TIME_MAX * nodes.ilog2();
    let join_messages_max = JOIN_MESSAGES_MAX * (row.links / JOIN_LINKS).max(1.0);
    let costs = [
        ("an edit", row.edit, LINK_MESSAGES_MAX, LINK_BYTES_MAX),
        ("a new file", row.create, LINK_MESSAGES_MAX, LINK_BYTES_MAX),
        ("a join", row.join, join_messages_max, JOIN_BYTES_MAX),
    ];
    for (what, cost, messages_max, bytes_max) in costs {
        let bytes = row.per_link(cost.bytes);
        assert!(bytes < bytes_max, "among {nodes}, {what} costs a link {bytes:.0} bytes");
        let messages = row.per_link(cost.messages);
        assert!(messages < messages_max, "among {nodes}, {what}: {messages:.1} messages");
        assert!(cost.took < time_max, "among {nodes}, {what} takes {:?}", cost.took);
        let members = row.per_link(cost.member_bytes) / nodes as f64;
        assert!(members < MEMBER_BYTES_MAX, "among {nodes}, {what}: {members:.0} bytes a member");
    }
    let copies = row.per_link(row.edit.records);
    assert!(copies <= 1.0, "among {nodes}, an edit crosses a link {copies:.2} times each way");
}

fn measure(nodes: usize) -> Row {
    let (store, disk) = folder();
    let (shape, peaceful) = (shape(nodes), Plan::peaceful(nodes as u64 * 2));
    let plan = Plan { nodes, shape, members: true, steady: true, brings_bytes: true, ..peaceful };
    let mut world = World::new(plan);
    // Each of them has made one change that is everywhere.
    let mut have = store.have();
    (1..nodes - 1).for_each(|at| have.advance(Dot { actor: world.actor(at), counter: 1 }));
    for at in 0..nodes - 1 {
        let mut store = store.clone();
        store.put_have(have.clone());
        world.seed(at, store, disk.clone());
    }
    for at in 0..nodes - 1 {
        world.start(at);
    }
    world.settle().expect("a cluster that knows all comes to rest");
    let edit = cost(&mut world, |world| {
        world.act(0, |disk, dead| disk.write(&path("f0"), b"an edit", dead));
    });
    let create = cost(&mut world, |world| {
        world.act(1, |disk, dead| disk.write(&path("fresh"), b"a new file", dead));
    });
    let join = cost(&mut world, |world| world.start(nodes - 1));
    let shown = world.nodes[nodes - 1].disk.shown();
    assert_eq!(shown.len(), FILES + 2, "the one that joined has all");
    for node in &world.nodes {
        assert_eq!(node.disk.shown(), shown, "all trees are equal");
    }
    Row { nodes, links: world.directed_links() as f64 / nodes as f64, edit, create, join }
}

fn shape(nodes: usize) -> Shape {
    if nodes > MESH_NODES_MAX { Shape::Ring } else { Shape::Mesh }
}

/// A folder that one node has met.
fn folder() -> (MemoryStore, Disk) {
    let mut world = World::new(Plan { nodes: 1, ..Plan::peaceful(0) });
    for at in 0..FILES {
        let path = path(&format!("f{at}"));
        let content = format!("content {at}");
        world.nodes[0].disk.write(&path, content.as_bytes(), &mut BTreeSet::new());
    }
    world.start(0);
    world.settle().expect("one node comes to rest");
    (world.nodes[0].core.store().clone(), world.nodes[0].disk.clone())
}

fn cost(world: &mut World, what: impl FnOnce(&mut World)) -> Cost {
    world.ledger = Ledger::default();
    let began = world.now;
    what(world);
    world.settle().expect("it comes to rest");
    let Ledger { messages, bytes, member_messages, member_bytes, records, .. } = world.ledger;
    let took = world.applied_at.saturating_sub(began);
    let (messages, bytes) = (messages - member_messages, bytes - member_bytes);
    Cost { messages, bytes, records, took, member_messages, member_bytes }
}
