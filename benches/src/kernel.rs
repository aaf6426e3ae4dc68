//! What the kernel programs cost those who write: processor time of one small
//! write with and without a daemon, of one outside of the folder, and of a
//! system call that has nothing to do with files; and what programs that do
//! nothing cost at the tracepoints of a write, which is the least that is
//! possible with tracepoints on this machine.
//!
//! All take turns within one run, and of each the least counts: whatever else
//! happens on a machine adds to the time of a call and takes nothing from it (Chen
//! and Revels, "Robust benchmarking in noisy environments", 2016). A virtual one
//! runs for seconds at a time at little more than half of its speed, as the system
//! call shows (108 ns and 135): medians compared one speed with the other, and
//! found 60 to 240 ns for the same program. Processor time of the writing thread is
//! measured.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::RawTracePoint;
use replicator_tests::{Cluster, FileSystem, Volume};
use rustix::time::{ClockId, clock_gettime};

/// Calls of one measurement: some milliseconds.
const WRITES: u32 = 20_000;
const OTHER_CALLS: u32 = 100_000;

/// Measurements of each between a start and an end of the daemon. One before
/// them does not count: a daemon that has just started is at work itself.
const SAMPLES: usize = 10;

/// How often each takes its turn in one round.
const TURNS: usize = 4;

/// Bytes of one write: small, so that its own work is small as well.
const WRITE_BYTES: usize = 8;

/// The most the programs should add, in nanoseconds.
const AIMS: [(&str, f64); 3] = [("getppid", 20.0), ("outside", 100.0), ("watched", 150.0)];

/// The kernel programs, one of which does nothing.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../replicator-ebpf/replicator.bpf.o"
));

/// What is there beside the writer.
const NOBODY: usize = 0;
const EMPTY: usize = 1;
const DAEMON: usize = 2;

/// Measures on every file system that this machine has and prints a table.
pub fn measure(work: &Path, rounds: usize) -> Result<()> {
    println!("           {:10} {:>9} {:>9} {:>8} {:>6}", "", "without", "with", "more", "aim");
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
    let tracepoint = FileSystem::of(dir).and_then(write_tracepoint);
    let mut samples: [[Vec<f64>; 3]; 3] = Default::default();
    let mut level = String::new();
    for _ in 0..rounds * TURNS {
        for beside in [NOBODY, EMPTY, DAEMON] {
            let mut empty = None;
            match (beside, tracepoint) {
                (EMPTY, None) => continue,
                (EMPTY, Some(tracepoint)) => empty = Some(attach_nothing(tracepoint)?),
                (DAEMON, _) => {
                    cluster.start();
                    level = cluster[0].status()?.capture().to_owned();
                }
                _ => {}
            }
            for sample in 0..=SAMPLES {
                // In this order: what was written wakes the daemon, which then
                // shares a core with what comes next.
                let nanos = [
                    nanos_each(OTHER_CALLS, other_call)?,
                    nanos_each(WRITES, || write(&outside))?,
                    nanos_each(WRITES, || write(&watched))?,
                ];
                if sample > 0 {
                    (0..nanos.len()).for_each(|what| samples[what][beside].push(nanos[what]));
                }
            }
            drop(empty);
        }
        cluster.nodes_mut()[0].stop()?;
    }
    for ((what, aim), samples) in AIMS.into_iter().zip(samples) {
        let [without, empty, with] = samples.map(least);
        let more = with - without;
        let verdict = match empty - without {
            _ if more <= aim => "",
            least if least > aim => "  more than it should; as a program that does nothing would",
            _ => "  more than it should",
        };
        println!(
            "{name:10} {what:10} {without:6.0} ns {with:6.0} ns {more:5.0} ns {aim:6.0}{verdict}"
        );
        if what == "outside"
            && let Some(tracepoint) = tracepoint
        {
            let least = empty - without;
            println!("{name:10} with an empty program at {tracepoint} {least:5.0} ns");
        }
    }
    println!("{name:10} at the level {level}");
    Ok(())
}

/// Where a write on the file system meets a program.
fn write_tracepoint(kind: FileSystem) -> Option<&'static str> {
    match kind {
        FileSystem::Ext4 => Some("ext4_da_write_end"),
        FileSystem::Xfs => Some("xfs_file_buffered_write"),
        _ => None,
    }
}

/// Attached until what is returned is dropped.
fn attach_nothing(tracepoint: &str) -> Result<Ebpf> {
    let mut programs = Ebpf::load(PROGRAMS)?;
    let nothing = programs.program_mut("nothing").context("the object has no such program")?;
    let nothing: &mut RawTracePoint = nothing.try_into()?;
    nothing.load()?;
    nothing.attach(tracepoint)?;
    Ok(programs)
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

fn least(samples: Vec<f64>) -> f64 {
    samples.into_iter().fold(f64::NAN, f64::min)
}
