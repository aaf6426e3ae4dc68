//! What a change and a join cost as the cluster grows: messages, bytes and
//! time, in clusters whose nodes keep a bounded number of connections, and know
//! each other as members.
//!
//! `cargo test -p replicator --lib sync::sim::scale -- --nocapture` prints the
//! table; `REPLICATOR_SIM_NODES=1000` makes it longer, and with `--release` takes
//! a quarter of an hour. Contents that do not ride along are not counted: each
//! node fetches them once.

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

/// What each of them may cost a connection, however many nodes there are:
/// twice what was seen. The vector of a hundred logs alone is longer.
const LINK_BYTES_MAX: f64 = 500.0;
const LINK_MESSAGES_MAX: f64 = 8.0;

/// How long each may take for one doubling of the nodes: a ring gets a step
/// longer with it.
const DOUBLING_TIME_MAX: Duration = Duration::from_millis(60);

/// What is said of one member over a connection in the rounds after a change:
/// who it is, and nothing of the logs that it holds as all do.
const MEMBER_BYTES_MAX: f64 = 150.0;

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
}

fn is_in_step_with_connections(row: &Row) {
    let nodes = row.nodes;
    let time_max = DOUBLING_TIME_MAX * nodes.ilog2();
    for (what, cost) in [("an edit", row.edit), ("a new file", row.create), ("a join", row.join)] {
        let bytes = row.per_link(cost.bytes);
        assert!(bytes < LINK_BYTES_MAX, "among {nodes}, {what} costs a link {bytes:.0} bytes");
        let messages = row.per_link(cost.messages);
        assert!(messages < LINK_MESSAGES_MAX, "among {nodes}, {what}: {messages:.1} messages");
        assert!(cost.took < time_max, "among {nodes}, {what} takes {:?}", cost.took);
        let members = row.per_link(cost.member_bytes) / nodes as f64;
        assert!(members < MEMBER_BYTES_MAX, "among {nodes}, {what}: {members:.0} bytes a member");
    }
}

fn measure(nodes: usize) -> Row {
    let (store, disk) = folder();
    let shape = if nodes > 16 { Shape::Ring } else { Shape::Mesh };
    let plan = Plan { nodes, shape, members: true, ..Plan::peaceful(nodes as u64 * 2) };
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
    let Ledger { messages, bytes, member_messages, member_bytes, .. } = world.ledger;
    let took = world.applied_at.saturating_sub(began);
    let (messages, bytes) = (messages - member_messages, bytes - member_bytes);
    Cost { messages, bytes, took, member_messages, member_bytes }
}
