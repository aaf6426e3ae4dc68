//! `cargo xtask test`: everything that can be tested on this machine, with one
//! command from a fresh clone.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use replicator_tests::{apt, machine, sample};

use crate::cargo;

/// What the stories use beside the daemon, and Debian's packages of it.
const TOOLS: [(&str, &str); 14] = [
    ("rsync", "rsync"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.vfat", "dosfstools"),
    ("setpriv", "util-linux"),
    ("setfacl", "acl"),
    ("chattr", "e2fsprogs"),
    ("fio", "fio"),
    ("stress-ng", "stress-ng"),
    ("faketime", "faketime"),
    ("sqlite3", "sqlite3"),
    ("git", "git"),
    ("ip", "iproute2"),
];

/// A tester of file systems that Debian does not have.
const FSX: &str = "fsx";
const FSX_VERSION: &str = "0.3.2";

/// Each story runs two daemons or more: on the two cores of a small machine
/// more of them at once would measure the scheduler.
const STORIES_AT_ONCE: &str = "2";

#[derive(clap::Args)]
pub struct Args {
    /// Passed on to `cargo test`: a filter, or `-- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    passed_on: Vec<OsString>,
}

pub fn run(args: Args) -> Result<()> {
    install_tools();
    let path = install_fsx();
    let made = cargo::Made::by(&mut cargo::cargo(&["build", "--workspace", "--bins", "--tests"]))?;
    let skipped = cargo::target().join("skipped-tests");
    match fs::remove_file(&skipped) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut tests = cargo::cargo(&["test", "--locked", "--workspace"]);
    tests.args(args.passed_on).env("REPLICATOR_SKIPPED", &skipped);
    tests.env("REPLICATOR_BIN", made.program("replicator")?);
    tests.env("REPLICATOR_ROOM_TESTS", made.tests_of_library("replicator")?);
    if let Some(path) = path {
        tests.env("PATH", path);
    }
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        tests.env("RUST_TEST_THREADS", STORIES_AT_ONCE);
    }
    match sample::fetch_wordpress(&cargo::target()) {
        Ok(site) => drop(tests.env(sample::WORDPRESS_VARIABLE, site)),
        Err(error) => println!("note: a generated site stands in for wordpress: {error:#}"),
    }
    let result = cargo::run(&mut tests);
    let lines = fs::read_to_string(&skipped).unwrap_or_default();
    print!("{lines}");
    println!("{} tests were skipped on this machine.", lines.lines().count());
    result.context("some tests failed")
}

/// Tests of what is missing are skipped by name, so this is an offer, not a
/// condition.
fn install_tools() {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| machine::program(tool).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return;
    }
    if !machine::is_root() || machine::program("apt-get").is_none() {
        println!("note: install {} to run every test", missing.join(", "));
        return;
    }
    if let Err(error) = apt::install(&missing) {
        println!("note: could not install {}: {error:#}", missing.join(", "));
    }
}

/// A search path with `fsx`.
fn install_fsx() -> Option<OsString> {
    let fsx = match fsx() {
        Ok(fsx) => fsx,
        Err(error) => {
            println!("note: could not build {FSX}: {error:#}");
            return None;
        }
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = fsx.parent().map(PathBuf::from).into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).ok()
}

/// Builds `fsx` below the target folder unless that was done before.
pub fn fsx() -> Result<PathBuf> {
    let tools = cargo::target().join("tools").join(format!("{FSX}-{FSX_VERSION}"));
    let program = tools.join("bin").join(FSX);
    if !program.is_file() {
        let mut install = cargo::cargo(&["install", "--quiet", "--locked", FSX]);
        install.args(["--version", FSX_VERSION, "--root"]).arg(&tools);
        install.arg("--target-dir").arg(tools.join("build"));
        cargo::run(&mut install)?;
    }
    Ok(program)
}
