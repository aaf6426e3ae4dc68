//! What a large file costs the node it comes from when many others want it.
//!
//! Receivers serve each other what they have, so the file should leave its
//! origin about once, however many they are. All nodes run on this machine:
//! the times belong to it, the ratios are the result.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use replicator_tests::{Cluster, poll, sample};

/// Nodes that want the file.
const RECEIVERS: [usize; 4] = [2, 3, 5, 8];

/// How often it should leave its origin at the most.
const AIM: f64 = 2.0;

/// Above this the measurement fails: receivers do not serve each other as they
/// should. It is above the aim by what rounds on a busy machine differ.
const TIMES_MAX: f64 = 2.2;

/// What takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// Measures with ever more nodes and prints a table; an error where the origin
/// sent more than [`TIMES_MAX`] times the file.
pub fn measure(work: &Path, bytes: u64, rounds: usize) -> Result<()> {
    println!("a file of {} MiB", bytes >> 20);
    println!("{:>9} {:>14} {:>12} {:>9}", "to nodes", "origin sent", "all sent", "seconds");
    let mut most: f64 = 0.0;
    for receivers in RECEIVERS {
        for round in 0..rounds {
            most = most.max(measure_with(work, bytes, receivers, round as u64)?);
        }
    }
    judge(most)
}

fn judge(most: f64) -> Result<()> {
    ensure!(
        most <= TIMES_MAX,
        "the file left its origin {most:.2} times, more than {TIMES_MAX}: its receivers have to serve each other"
    );
    Ok(())
}

/// How often the file left its origin.
fn measure_with(work: &Path, bytes: u64, receivers: usize, seed: u64) -> Result<f64> {
    let dir = tempfile::tempdir_in(work)?;
    let file = dir.path().join("file");
    sample::random_file(&file, bytes, seed)?;
    let mut cluster = Cluster::new(1 + receivers).with_roots_in(dir.path());
    cluster.start();
    let connected = || cluster.nodes().iter().all(|node| is_connected(node, receivers));
    ensure!(poll::until(LIMIT, connected), "not all nodes have met");
    let before = sent(&cluster)?;
    let begin = Instant::now();
    fs::rename(&file, cluster[0].path("file"))?;
    let is_whole = |path: &Path| fs::metadata(path).is_ok_and(|there| there.len() == bytes);
    let arrived = || cluster.nodes().iter().all(|node| is_whole(&node.path("file")));
    ensure!(poll::until(LIMIT, arrived), "it has not arrived everywhere");
    let seconds = begin.elapsed().as_secs_f64();
    cluster.assert_same_within(LIMIT);
    let after = sent(&cluster)?;
    let times: Vec<f64> = (before.iter().zip(&after))
        .map(|(before, after)| (after - before) as f64 / bytes as f64)
        .collect();
    let (origin, all): (f64, f64) = (times[0], times.iter().sum());
    let verdict = if origin <= AIM { "" } else { "  more than it should" };
    println!("{receivers:>9} {origin:>8.2} times {all:>6.2} times {seconds:>9.1}{verdict}");
    Ok(origin)
}

fn is_connected(node: &replicator_tests::Node, peers: usize) -> bool {
    node.status().is_ok_and(|status| status.peers_connected() == peers)
}

/// Bytes that each node has sent to all others.
fn sent(cluster: &Cluster) -> Result<Vec<u64>> {
    cluster.nodes().iter().map(|node| Ok(node.status()?.traffic().sent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_from_the_origin_is_an_error() {
        assert!(judge(1.0).is_ok() && judge(TIMES_MAX).is_ok());
        let error = judge(2.21).unwrap_err().to_string();
        assert!(error.starts_with("the file left its origin 2.21 times"), "{error}");
    }
}
