//! Programs of several nodes write into the same files at the same time.

use std::thread;
use std::time::Duration;

use replicator_tests::ledger::{Ledger, Writer};
use replicator_tests::random::Random;
use replicator_tests::{Cluster, Node};

const NODES: usize = 2;

/// Each node's, over six files: their programs meet all the time.
const EDITS: u64 = 1500;

const PAUSE_MS_MAX: u64 = 5;

/// Who opens a file, reads it and writes it has not seen what arrives
/// meanwhile: that must wait, or be kept.
#[test]
fn what_several_nodes_write_into_the_same_files_is_not_lost() {
    let cluster = Cluster::running(NODES);
    let ledger = Ledger::default();
    let seed = std::process::id().into();
    let writer = |number: u64, node: &Node| {
        let aside = cluster.dir().join(format!("{number}.aside"));
        Writer::new(&ledger, number, node.root(), &aside, seed).unwrap()
    };
    let mut first = writer(1, &cluster[0]);
    (0..100).for_each(|_| first.put().unwrap());
    cluster.assert_same();

    thread::scope(|scope| {
        for (number, node) in cluster.nodes().iter().enumerate() {
            let mut writer = writer(2 + number as u64, node);
            let mut pace = Random::new(seed + number as u64);
            scope.spawn(move || {
                for _ in 0..EDITS {
                    writer.edit().unwrap();
                    thread::sleep(Duration::from_millis(pace.below(PAUSE_MS_MAX)));
                }
            });
        }
    });
    cluster.assert_same();
    ledger.assert_kept(cluster.nodes());
}
