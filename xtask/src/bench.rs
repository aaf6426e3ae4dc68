//! `cargo xtask bench`: builds the program and the benchmarks for speed, then
//! runs them with all arguments passed on.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::cargo;

#[derive(clap::Args)]
pub struct Args {
    /// Passed on to the benchmark: `--help` after `--` lists its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

pub fn run(args: Args) -> Result<()> {
    let program = cargo::build(&["--release", "--package", "replicator"], "replicator")?;
    let name = "replicator-benches";
    let benches = cargo::build(&["--release", "--package", name], name)?;
    cargo::run(Command::new(benches).args(args.passed_on).env("REPLICATOR_BIN", program))
}
