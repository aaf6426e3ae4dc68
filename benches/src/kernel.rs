//! What the kernel programs cost those who write: processor time of one small
//! write with and without a daemon, of one outside of the folder, and of a
//! system call that has nothing to do with files.
//!
//! With and without take turns within one run. Processor time of the writing
//! thread is measured, so that neighbours on the machine count for little.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;
use replicator_tests::{Cluster, FileSystem, Volume};
use rustix::time::{ClockId, clock_gettime};

/// Calls of one measurement.
const WRITES: u32 = 100_000;
const OTHER_CALLS: u32 = 1_000_000;

/// Measurements of each between a start and an end of the daemon. One before
/// them does not count: a daemon that has just started is at work itself.
const SAMPLES: usize = 5;

/// Bytes of one write: small, so that its own work is small as well.
const WRITE_BYTES: usize = 8;

/// The most the programs should add, in nanoseconds.
const AIMS: [(&str, f64); 3] = [("watched", 150.0), ("outside", 100.0), ("getppid", 20.0)];

/// Measures on every file system that this machine has and prints a table.
pub fn measure(work: &Path, rounds: usize) -> Result<()> {
    println!("{:10} {:10} {:>9} {:>9} {:>8} {:>6}", "", "", "without", "with", "more", "aim");
    for kind in FileSystem::ALL {
        match Volume::new(kind) {
            Ok(volume) => measure_on(&kind.to_string(), volume.path(), rounds)?,
            Err(error) => println!("{kind}: skipped: {error:#}"),
        }
    }
    measure_on("here", work, rounds)
}

fn measure_on(name: &str, dir: &Path, rounds: usize) -> Result<()> {
    let mut cluster = Cluster::new(1).with_roots_in(dir);
    let watched = File::create(cluster[0].path("watched"))?;
    let outside = File::create(dir.join("outside"))?;
    let mut samples: [[Vec<f64>; 2]; 3] = Default::default();
    let mut level = String::new();
    for _ in 0..rounds {
        for with in [0, 1] {
            if with == 1 {
                cluster.start();
                level = cluster[0].status()?.capture().to_owned();
            }
            for sample in 0..=SAMPLES {
                let nanos = [
                    nanos_each(WRITES, || write(&watched))?,
                    nanos_each(WRITES, || write(&outside))?,
                    nanos_each(OTHER_CALLS, other_call)?,
                ];
                if sample > 0 {
                    (0..nanos.len()).for_each(|what| samples[what][with].push(nanos[what]));
                }
            }
        }
        cluster.nodes_mut()[0].stop()?;
    }
    for ((what, aim), [without, with]) in AIMS.into_iter().zip(samples) {
        let (without, with) = (median(without), median(with));
        let more = with - without;
        let verdict = if more <= aim { "" } else { "  more than it should" };
        println!(
            "{name:10} {what:10} {without:6.0} ns {with:6.0} ns {more:5.0} ns {aim:6.0}{verdict}"
        );
    }
    println!("{name:10} at the level {level}");
    Ok(())
}

fn write(file: &File) -> Result<()> {
    // Here and there in one page, as a log or a database writes.
    Ok(file.write_all_at(&[1; WRITE_BYTES], 1000)?)
}

fn other_call() -> Result<()> {
    std::hint::black_box(rustix::process::getppid());
    Ok(())
}

/// Processor time of this thread for one of so many calls.
fn nanos_each(count: u32, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = clock_gettime(ClockId::ThreadCPUTime);
    for _ in 0..count {
        call()?;
    }
    let end = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = (end.tv_sec - start.tv_sec) * 1_000_000_000 + (end.tv_nsec - start.tv_nsec);
    Ok(nanos as f64 / f64::from(count))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
