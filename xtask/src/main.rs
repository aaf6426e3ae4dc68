//! The project's own commands, one file each: `cargo xtask <command>`.
//!
//! They start other programs and print what comes of it. Nothing the daemon
//! needs lives here.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod build_and_run;
mod build_ebpf;
mod cargo;
mod interrupt;
mod simulate;
mod test;
mod test_kernels;
mod tour;
mod view;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and run a local cluster to play with
    BuildAndRun(build_and_run::Args),
    /// Build the kernel programs, or check that the committed object is theirs
    BuildEbpf(build_ebpf::Args),
    /// Run all tests: units, the simulator, and stories on real daemons
    Test(test::Args),
    /// Try more clusters in the simulator, or one of them again
    Simulate(simulate::Args),
    /// Try every method of writing on Debian's stock kernels, in an emulator
    TestKernels(test_kernels::Args),
    /// Measure this program beside lsyncd, rsync and Syncthing
    Bench(bench::Args),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::BuildAndRun(args) => build_and_run::run(args),
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::Test(args) => test::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::TestKernels(args) => test_kernels::run(args),
        Command::Bench(args) => bench::run(args),
    }
}
