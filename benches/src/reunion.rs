//! What it costs two nodes that hold nearly the same to meet.
//!
//! Neither a first meeting of two copies nor the return of a node after a day
//! away may cost in proportion to the tree: what crosses should be in
//! proportion to what differs. All nodes run on this machine: the times
//! belong to it, the bytes are the result.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use replicator_tests::{Cluster, sample};

/// Files that differ when they meet.
const DIFFERENCES: u64 = 10;

const SMALL_BYTES: usize = 64;

/// What may cross for so few differences, both ways, whatever the number of
/// files: twice what two connections and their questions take.
const DIFFERENCES_BYTES_MAX: u64 = 400_000;

/// What a first meeting may add for each file: it tells a thousand paths in
/// one line. The records of a file have 280 bytes.
const FIRST_BYTES_A_FILE_MAX: u64 = 4;

/// What takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(3600);

/// Lets two copies of so many files meet, parts them, changes a few, lets
/// them meet again, and prints what crossed; an error where that was more than
/// a few differences may cost.
pub fn measure(work: &Path, files: u64) -> Result<()> {
    let mut cluster = Cluster::new(2).with_roots_in(work);
    sample::small_files(&cluster[0].path("tree"), files, SMALL_BYTES)?;
    sample::copy(cluster[0].root(), cluster[1].root())?;
    change(&cluster, files, "before they met")?;

    println!("{files} files, of which {DIFFERENCES} differ");
    println!("{:>16} {:>12} {:>12} {:>9}", "", "to it", "from it", "seconds");
    let begin = Instant::now();
    cluster.start();
    let first = tell("first meeting", &cluster, begin)?;

    cluster.nodes_mut()[1].stop()?;
    change(&cluster, files, "while one was away")?;
    let begin = Instant::now();
    cluster.nodes_mut()[1].start()?;
    let again = tell("met again", &cluster, begin)?;
    let differences = cluster.differences();
    ensure!(differences.is_empty(), "the trees differ:\n{differences}");
    judge("the first meeting", first, DIFFERENCES_BYTES_MAX + FIRST_BYTES_A_FILE_MAX * files)?;
    judge("the meeting after a change", again, DIFFERENCES_BYTES_MAX)
}

fn judge(what: &str, crossed: u64, most: u64) -> Result<()> {
    ensure!(
        crossed <= most,
        "{what} took {crossed} bytes, more than {most}: it is to cost what differs, not what is there"
    );
    Ok(())
}

fn change(cluster: &Cluster, files: u64, content: &str) -> Result<()> {
    for number in 0..DIFFERENCES {
        let path = sample::small_file(number * (files / DIFFERENCES));
        fs::write(cluster[0].path("tree").join(path), content)?;
    }
    Ok(())
}

/// Waits until both say that they hold the same, and prints what the second
/// has sent and received since it started. Gives the sum.
fn tell(what: &str, cluster: &Cluster, begin: Instant) -> Result<u64> {
    for node in cluster.nodes() {
        let finished = node.wait(LIMIT)?;
        ensure!(finished.code == 0, "{what}: {}{}", finished.stdout, finished.stderr);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let traffic = cluster[1].status()?.traffic();
    let kilobytes = |bytes: u64| format!("{:.1} KB", bytes as f64 / 1e3);
    let (received, sent) = (kilobytes(traffic.received), kilobytes(traffic.sent));
    println!("{what:>16} {received:>12} {sent:>12} {seconds:>9.1}");
    Ok(traffic.received + traffic.sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meeting_in_proportion_to_the_tree_is_an_error() {
        assert!(judge("it", 400_000, DIFFERENCES_BYTES_MAX).is_ok());
        let error = judge("it", 400_001, DIFFERENCES_BYTES_MAX).unwrap_err().to_string();
        assert!(error.starts_with("it took 400001 bytes, more than 400000"), "{error}");
    }
}
