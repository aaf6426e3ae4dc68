//! Measures this program beside the ones people use today, interleaved in one
//! run, so that noise hits all alike, and prints ratios.
//!
//! Both nodes run on this machine over loopback. Absolute numbers belong to
//! the machine; the ratios are the result.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use replicator_tests::FileSystem;
use tempfile::TempDir;

mod choice;
mod fanout;
mod kernel;
mod lsyncd;
mod process;
mod report;
mod reunion;
mod rsync;
mod syncthing;
mod system;
mod workload;

use choice::Choice;
use report::Report;
use system::Place;
use workload::{Seeds, Sizes, Workload};

#[derive(Parser)]
#[command(about = "Measure replicator beside lsyncd, rsync and Syncthing")]
struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these workloads: latency, edit, bulk, small
    #[arg(long, value_delimiter = ',')]
    only: Vec<Workload>,
    /// Only what the kernel programs cost those who write, and nothing else
    #[arg(long)]
    kernel: bool,
    /// Only how often a large file leaves its origin on its way to 2, 3, 5 and 8
    /// nodes, and nothing else
    #[arg(long)]
    fanout: bool,
    /// Size of that file, in MiB
    #[arg(long, default_value_t = 1024)]
    fanout_mib: u64,
    /// Only what crosses when two nodes meet that hold nearly the same, first
    /// and again, and nothing else
    #[arg(long)]
    reunion: bool,
    /// How many files they hold
    #[arg(long, default_value_t = 100_000)]
    reunion_files: u64,
    /// Only these systems: replicator, rsync, lsyncd0, lsyncd1, syncthing
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Small files written for the latency, one by one
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Size of the file that is edited, in MiB
    #[arg(long, default_value_t = 1024)]
    edit_mib: u64,
    /// Size of the file that is merged, in MiB
    #[arg(long, default_value_t = 2048)]
    bulk_mib: u64,
    /// How many small files are merged
    #[arg(long, default_value_t = 50_000)]
    small_files: u64,
    /// Where to put the trees [default: the temporary directory]
    #[arg(long)]
    work: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let choice = Choice::of(&arguments.systems)?;
    let work = work_folder(arguments.work.as_deref())?;
    let caution = caution(work.path());
    caution.iter().for_each(|line| eprintln!("{line}"));
    if arguments.kernel {
        return kernel::measure(work.path(), arguments.rounds);
    }
    if arguments.fanout {
        return fanout::measure(work.path(), arguments.fanout_mib << 20, arguments.rounds);
    }
    if arguments.reunion {
        return reunion::measure(work.path(), arguments.reunion_files);
    }
    let sizes = Sizes {
        samples: arguments.samples,
        edit_bytes: arguments.edit_mib << 20,
        bulk_bytes: arguments.bulk_mib << 20,
        small_files: arguments.small_files,
    };
    let mut workloads = Workload::ALL.to_vec();
    workloads.retain(|workload| arguments.only.is_empty() || arguments.only.contains(workload));
    let mut report = Report::default();
    caution.into_iter().for_each(|line| report.note(line));
    let missing = choice.missing();
    if !missing.is_empty() {
        let line = choice::not_installed(&missing);
        eprintln!("{line}");
        report.note(line);
    }
    let seeds = Seeds::make(work.path(), &workloads, sizes)?;
    for round in 0..arguments.rounds {
        for &workload in &workloads {
            for mut system in choice.systems() {
                let place = Place::make(work.path())?;
                eprintln!("round {}: {workload}, {}", round + 1, system.name());
                let result = workload.measure(&seeds, &place, system.as_mut());
                system.description().into_iter().for_each(|line| report.note(line));
                let stopped = system.stop();
                // A failure of one system must not hide what others reach.
                match result.and_then(|results| stopped.map(|()| results)) {
                    Ok(results) => report.add(workload, system.name(), results),
                    Err(error) => report.add_failure(workload, system.name(), &error),
                }
            }
        }
    }
    print!("{}", report.table());
    report.verdict()
}

/// Where the trees are to lie: a directory that goes at the end.
fn work_folder(asked: Option<&Path>) -> Result<TempDir> {
    let parent = asked.map_or_else(std::env::temp_dir, Path::to_owned);
    let folder = tempfile::Builder::new().prefix("replicator-bench-").tempdir_in(&parent);
    folder.with_context(|| format!("cannot work in {}", parent.display()))
}

/// What must be known of a folder to read what was measured in it.
fn caution(work: &Path) -> Option<String> {
    (FileSystem::of(work) == Some(FileSystem::Tmpfs)).then(|| {
        let parent = work.parent().unwrap_or(work).display();
        format!(
            "{parent} is a tmpfs: no disk is measured, and there is no ebpf capture; --work puts the trees elsewhere"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_in_memory_are_spoken_of() {
        let memory = Path::new("/dev/shm");
        if FileSystem::of(memory) == Some(FileSystem::Tmpfs) {
            let work = work_folder(Some(memory)).unwrap();
            let caution = caution(work.path()).unwrap();
            assert!(caution.starts_with("/dev/shm is a tmpfs: "), "{caution}");
        }
        assert_eq!(caution(Path::new("/proc")), None);
        let nowhere = work_folder(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert_eq!(nowhere, "cannot work in /nowhere");
    }
}
