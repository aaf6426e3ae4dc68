//! Five nodes, writers on all of them, cuts, kills and restarts at random, for
//! minutes: in the end one tree, and every value accounted for. What is then
//! deleted stays away, whoever starts again.
//!
//! `REPLICATOR_CHAOS_SECONDS` widens it, `REPLICATOR_CHAOS_SEED` repeats the
//! choices of a run (not the kernel's timing).

use std::ffi::OsString;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::ledger::{Ledger, Writer};
use replicator_tests::network::{self, Network};
use replicator_tests::random::Random;
use replicator_tests::{Cluster, machine, tree};

const NODES: usize = 5;

/// Without the variable.
const SECONDS_DEFAULT: u64 = 90;

/// Between two things a writer does.
const WRITER_PAUSE_MS_MAX: u64 = 60;

/// Between two blows.
const BLOW_PAUSE_MS_MAX: u64 = 2500;

/// Until all nodes have met again and have the same tree.
const HEAL_LIMIT: Duration = Duration::from_secs(60);

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

    // Before the cluster: daemons end before their machines go.
    let network = Network::of_equals(NODES).unwrap();
    let mut cluster = Cluster::on_hosts(&network, NODES);
    for number in 1..NODES {
        cluster.introduce(number, "10.77.0.1");
    }
    // A node that comes back while the first is away needs another to ask.
    cluster.introduce(0, "10.77.0.2");
    cluster.start();

    let ledger = Ledger::default();
    let mut arena = Arena::new(&network, cluster, seed);
    let over = AtomicBool::new(false);
    let writers: Vec<Writer> = (0..NODES)
        .map(|number| {
            let node = &arena.cluster[number];
            let aside = arena.cluster.dir().join(format!("{}.aside", node.name()));
            Writer::new(&ledger, number as u64 + 1, node.root(), &aside, seed).unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for (number, mut writer) in writers.into_iter().enumerate() {
            let (over, mut pace) = (&over, Random::new(seed + number as u64));
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    writer.act().unwrap_or_else(|error| panic!("writer {number}: {error}"));
                    thread::sleep(Duration::from_millis(pace.below(WRITER_PAUSE_MS_MAX)));
                }
            });
        }
        // A guard: a blow that fails must not leave the writers at work.
        let _stop = Stop(&over);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            arena.blow();
        }
    });
    arena.heal();

    let Arena { mut cluster, .. } = arena;
    cluster.assert_same_within(HEAL_LIMIT);
    ledger.assert_kept(cluster.nodes());
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
        let path = cluster[number % NODES].path(name);
        let is_gone = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        is_gone.unwrap();
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
}

impl<'a> Arena<'a> {
    fn new(network: &'a Network, cluster: Cluster, seed: u64) -> Self {
        Self { network, cluster, random: Random::new(seed), begun: Instant::now() }
    }

    /// One random blow, and a random while to live with it.
    fn blow(&mut self) {
        let node = self.random.below(NODES as u64) as usize;
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
        let parts: Vec<u64> = (0..NODES).map(|_| self.random.below(3)).collect();
        self.tell(format!("parted: {parts:?}"), |arena| {
            for (node, part) in parts.iter().enumerate() {
                let switch = ["lan", "island", "islet"][*part as usize];
                arena.network.replug(node, "lan", switch).unwrap();
            }
        });
    }

    fn mend(&mut self) {
        self.tell("mended".into(), |arena| {
            for node in 0..NODES {
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
