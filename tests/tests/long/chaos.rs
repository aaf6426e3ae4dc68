//! Five nodes, writers on all of them, large files among what they write, cuts,
//! kills and restarts at random, one node that joins late and one that leaves,
//! for minutes: in the end one tree, and every value accounted for. What is
//! then deleted stays away, whoever starts again.
//!
//! `REPLICATOR_CHAOS_SECONDS` widens it, `REPLICATOR_CHAOS_SEED` repeats the
//! choices of a run (not the kernel's timing), and with
//! `REPLICATOR_CHAOS_XFS=1` all folders lie on XFS.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use replicator_tests::ledger::{Ledger, Writer};
use replicator_tests::network::{self, Network};
use replicator_tests::random::Random;
use replicator_tests::{Cluster, FileSystem, Form, Node, Volume, machine, tree};

/// Those of the end.
const NODES: usize = 5;

/// Of these, who joins when a third of the time is over, and one more, who
/// leaves after two thirds.
const LATE: usize = NODES - 1;
const LEAVING: usize = NODES;

/// Without the variable.
const SECONDS_DEFAULT: u64 = 120;

/// Between two things a writer does.
const WRITER_PAUSE_MS_MAX: u64 = 60;

/// Who also writes large files, and how often: a machine has to carry all of
/// them to all nodes.
const LARGE_BY: [usize; 2] = [0, LATE];
const LARGE_ONE_IN: u64 = 60;

/// Between two blows.
const BLOW_PAUSE_MS_MAX: u64 = 2500;

/// Until all nodes have met again and have the same tree.
const HEAL_LIMIT: Duration = Duration::from_secs(60);

/// What a leave may wait for the others, and how often it is tried.
const LEAVE_TIMEOUT: &str = "5s";
const LEAVES_MAX: usize = 20;

/// Of the file system that holds all folders, with their trash.
const VOLUME_BYTES: u64 = 16 << 30;

#[test]
fn five_nodes_survive_partitions_and_kills_and_lose_nothing() {
    if let Some(reason) = network::missing() {
        return machine::skip(reason);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
    let seed = number("REPLICATOR_CHAOS_SEED").unwrap_or(clock % 1_000_000);
    let seconds = number("REPLICATOR_CHAOS_SECONDS").unwrap_or(SECONDS_DEFAULT);
    println!("REPLICATOR_CHAOS_SEED={seed} REPLICATOR_CHAOS_SECONDS={seconds}");

    let form = Form { size: VOLUME_BYTES, ..Form::of(FileSystem::Xfs) };
    let on_xfs = number("REPLICATOR_CHAOS_XFS").is_some();
    let volume = on_xfs.then(|| Volume::of(form).unwrap());
    // Before the cluster: daemons end before their machines go.
    let network = Network::of_equals(NODES + 1).unwrap();
    let mut cluster = Cluster::on_hosts(&network, NODES + 1);
    if let Some(volume) = &volume {
        cluster = cluster.with_roots_in(volume.path());
    }
    for number in 1..=NODES {
        cluster.introduce(number, "10.77.0.1");
    }
    // A node that comes back while the first is away needs another to ask.
    cluster.introduce(0, "10.77.0.2");
    for number in (0..=NODES).filter(|number| *number != LATE) {
        cluster[number].start().unwrap_or_else(|error| panic!("{error:#}"));
    }

    let ledger = Ledger::default();
    let mut arena = Arena::new(&network, cluster, seed);
    let over = AtomicBool::new(false);
    let retired = AtomicBool::new(false);
    let third = Duration::from_secs(seconds) / 3;
    thread::scope(|scope| {
        // A guard: a blow that fails must not leave the writers at work.
        let (_stop, _retire) = (Stop(&over), Stop(&retired));
        let write = |arena: &Arena, number: usize| {
            let over = if number == LEAVING { &retired } else { &over };
            let writer = writer(&ledger, &arena.cluster[number], number, seed);
            work(scope, writer, over, seed + number as u64);
        };
        (0..=NODES).filter(|number| *number != LATE).for_each(|number| write(&arena, number));
        arena.rage(third);
        arena.let_one_join();
        write(&arena, LATE);
        arena.rage(2 * third);
        retired.store(true, Ordering::Relaxed);
        arena.let_one_leave();
        arena.rage(3 * third);
    });
    arena.heal();

    let Arena { mut cluster, left, .. } = arena;
    cluster.assert_same_within(HEAL_LIMIT);
    // Of who left, all that its folder showed lies on the others.
    let left = left.unwrap();
    forget_tree(&left);
    ledger.assert_kept(cluster.nodes().iter().chain([&left]));
    for node in cluster.nodes() {
        for left in ["tmp", "redo"] {
            let count = fs::read_dir(node.private(left)).map_or(0, Iterator::count);
            assert_eq!(count, 0, "{} left something in {left}", node.name());
        }
    }
    stays_deleted(&mut cluster);
    for node in cluster.nodes() {
        assert!(!node.log().contains("panicked"), "{} panicked", node.name());
    }
    println!("{} values accounted for", ledger.len());
}

/// Each node deletes part of the tree that all have, and then some begin once
/// more.
fn stays_deleted(cluster: &mut Cluster) {
    // Of one list for all: what one node deletes is soon gone on the others.
    let entries = fs::read_dir(cluster[0].root()).unwrap().map(|entry| entry.unwrap().file_name());
    let entries: Vec<OsString> = entries.filter(|name| name != tree::PRIVATE_DIR).collect();
    for (number, name) in entries.iter().enumerate() {
        remove(&cluster[number % NODES].path(name));
    }
    cluster.assert_same_within(HEAL_LIMIT);
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, 0, "files were not deleted");
    cluster[1].kill9().unwrap();
    assert!(cluster[2].stop().unwrap().success());
    for number in [2, 1] {
        cluster[number].start().unwrap_or_else(|error| panic!("{error:#}"));
    }
    cluster.assert_same_within(HEAL_LIMIT);
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, 0, "deleted files came back");
}

fn writer<'a>(ledger: &'a Ledger, node: &Node, number: usize, seed: u64) -> Writer<'a> {
    // Beside the root: on the same file system.
    let aside = node.root().with_extension("aside");
    let writer = Writer::new(ledger, number as u64 + 1, node.root(), &aside, seed).unwrap();
    if LARGE_BY.contains(&number) { writer.with_large_files(LARGE_ONE_IN) } else { writer }
}

fn work<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut writer: Writer<'scope>,
    over: &'scope AtomicBool,
    seed: u64,
) {
    let mut pace = Random::new(seed);
    scope.spawn(move || {
        while !over.load(Ordering::Relaxed) {
            writer.act().unwrap_or_else(|error| panic!("a writer cannot go on: {error}"));
            thread::sleep(Duration::from_millis(pace.below(WRITER_PAUSE_MS_MAX)));
        }
    });
}

/// All that a folder shows is gone, and what lost against something stays.
fn forget_tree(node: &Node) {
    for entry in fs::read_dir(node.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == tree::PRIVATE_DIR) {
            continue;
        }
        remove(&path);
    }
}

fn remove(path: &Path) {
    let is_gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    is_gone.unwrap();
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The nodes and what is done to them.
struct Arena<'a> {
    network: &'a Network,
    cluster: Cluster,
    random: Random,
    begun: Instant,
    joined: bool,
    /// Who left.
    left: Option<Node>,
}

impl<'a> Arena<'a> {
    fn new(network: &'a Network, cluster: Cluster, seed: u64) -> Self {
        let (random, begun) = (Random::new(seed), Instant::now());
        Self { network, cluster, random, begun, joined: false, left: None }
    }

    /// Blow upon blow, until so much time has passed since the beginning.
    fn rage(&mut self, until: Duration) {
        while self.begun.elapsed() < until {
            self.blow();
        }
    }

    /// One random blow, and a random while to live with it.
    fn blow(&mut self) {
        let nodes = self.cluster.nodes().len();
        let node = match self.random.below(nodes as u64) as usize {
            LATE if !self.joined => 0,
            node => node,
        };
        match self.random.below(10) {
            0..3 => self.part(),
            3 => self.mend(),
            4 => self.tell(format!("the port of {node} is cut"), |arena| {
                arena.network.set_port(node, "lan", false).unwrap();
            }),
            5 => self.tell(format!("the interface of {node} goes down and up"), |arena| {
                arena.network.set_interface(node, "lan", false).unwrap();
                thread::sleep(Duration::from_millis(arena.random.below(500)));
                arena.network.set_interface(node, "lan", true).unwrap();
            }),
            6..9 => self.fell(node, |node| node.kill9().unwrap(), "killed"),
            _ => self.fell(node, |node| assert!(node.stop().unwrap().success()), "stopped"),
        }
        let pause = self.random.below(BLOW_PAUSE_MS_MAX);
        thread::sleep(Duration::from_millis(pause));
        for (number, node) in self.cluster.nodes_mut().iter_mut().enumerate() {
            if node.pid().is_some() {
                assert!(node.is_running(), "node {number} ended by itself");
            }
        }
    }

    /// Every node lands in one of up to three parts.
    fn part(&mut self) {
        let parts: Vec<u64> = (0..=NODES).map(|_| self.random.below(3)).collect();
        self.tell(format!("parted: {parts:?}"), |arena| {
            for (node, part) in parts.iter().enumerate() {
                let switch = ["lan", "island", "islet"][*part as usize];
                arena.network.replug(node, "lan", switch).unwrap();
            }
        });
    }

    fn mend(&mut self) {
        self.tell("mended".into(), |arena| {
            for node in 0..=NODES {
                arena.network.set_port(node, "lan", true).unwrap();
                arena.network.replug(node, "lan", "lan").unwrap();
            }
        });
    }

    /// Ends a node, or starts it when it has ended.
    fn fell(&mut self, number: usize, end: impl FnOnce(&mut replicator_tests::Node), how: &str) {
        if self.cluster[number].pid().is_some() {
            self.tell(format!("{number} is {how}"), |arena| end(&mut arena.cluster[number]));
        } else {
            self.tell(format!("{number} starts"), |arena| {
                arena.cluster[number].start().unwrap_or_else(|error| panic!("{error:#}"));
            });
        }
    }

    /// The one with one address: it may find that node away for a while.
    fn let_one_join(&mut self) {
        self.joined = true;
        self.fell(LATE, |_| {}, "joined");
    }

    /// All of the others write, and some are away, or it is itself: it tries
    /// until those that are there have all that it has.
    fn let_one_leave(&mut self) {
        for _ in 0..LEAVES_MAX {
            self.blow();
            if self.cluster[LEAVING].pid().is_none() {
                self.fell(LEAVING, |_| {}, "back");
            }
            let answer = self.cluster[LEAVING].leave(&["--timeout", LEAVE_TIMEOUT]).unwrap();
            self.tell(format!("a leave says {answer:?}"), |_| ());
            match answer.code {
                0 => {
                    let mut node = self.cluster.take_last().unwrap();
                    assert!(node.ended_within(HEAL_LIMIT).unwrap().success(), "{}", node.log());
                    self.left = Some(node);
                    return;
                }
                1 => self.mend(),
                _ => panic!("{answer:?}"),
            }
        }
        panic!("it cannot leave");
    }

    fn heal(&mut self) {
        self.mend();
        for number in 0..NODES {
            if self.cluster[number].pid().is_none() {
                self.fell(number, |_| {}, "started");
            }
        }
    }

    fn tell(&mut self, what: String, act: impl FnOnce(&mut Self)) {
        let epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        println!(
            "{:6.2?} ({}.{:03}) {what}",
            self.begun.elapsed(),
            epoch.as_secs(),
            epoch.subsec_millis()
        );
        act(self);
    }
}
