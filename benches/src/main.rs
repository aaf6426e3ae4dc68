//! Measures this program beside the ones people use today, interleaved in one
//! run, so that noise hits all alike, and prints ratios.
//!
//! Both nodes run on this machine over loopback. Absolute numbers belong to
//! the machine; the ratios are the result.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

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

use report::Report;
use system::{Place, System};
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
    let work = tempfile::Builder::new()
        .prefix("replicator-bench-")
        .tempdir_in(arguments.work.clone().unwrap_or_else(std::env::temp_dir))?;
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
    let seeds = Seeds::make(work.path(), &workloads, sizes)?;
    let mut report = Report::default();
    for round in 0..arguments.rounds {
        for &workload in &workloads {
            for mut system in chosen(&arguments.systems) {
                let place = Place::make(work.path())?;
                eprintln!("round {}: {workload}, {}", round + 1, system.name());
                let result = workload.measure(&seeds, &place, system.as_mut());
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

/// Every system that is installed, this one first.
fn chosen(wanted: &[String]) -> Vec<Box<dyn System>> {
    let mut systems: Vec<Box<dyn System>> = vec![Box::<system::Replicator>::default()];
    systems.extend(rsync::Rsync::installed().map(|system| Box::new(system) as _));
    systems.extend(lsyncd::Lsyncd::installed(0).map(|system| Box::new(system) as _));
    systems.extend(lsyncd::Lsyncd::installed(1).map(|system| Box::new(system) as _));
    systems.extend(syncthing::Syncthing::installed().map(|system| Box::new(system) as _));
    systems.retain(|system| wanted.is_empty() || wanted.iter().any(|name| name == system.name()));
    systems
}
