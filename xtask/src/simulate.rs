//! `cargo xtask simulate`: more clusters in the simulator than a test run tries,
//! or one of them again.

use anyhow::Result;

use crate::cargo;

#[derive(clap::Args)]
pub struct Args {
    /// The first seed of each scenario
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many seeds of each scenario
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    clusters: u64,
    /// Only this seed, with a trace: the one that a failure has named
    #[arg(long, conflicts_with_all = ["first", "clusters"])]
    seed: Option<u64>,
    /// Scenarios whose name contains this; those of crowds take hours
    #[arg(default_value = "end_the_same")]
    scenario: String,
}

pub fn run(args: Args) -> Result<()> {
    let end = args.first.saturating_add(args.clusters);
    let mut tests = cargo::cargo(&["test", "--locked", "--package", "replicator", "--lib"]);
    tests.args([&args.scenario, "--", "--nocapture"]);
    match args.seed {
        Some(seed) => tests.env("REPLICATOR_SIM_SEED", seed.to_string()),
        None => tests
            .env("REPLICATOR_SIM_FIRST", args.first.to_string())
            .env("REPLICATOR_SIM_RUNS", end.to_string()),
    };
    cargo::run(&mut tests)
}
