//! Calling cargo, and where its results lie.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The folder of the workspace's `Cargo.toml`.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where this project may leave files: git ignores it.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// cargo, in the workspace, as the one that runs this program.
///
/// Without what that one says of the package it runs: some build scripts look
/// at it (ring's does), and each change between cargo and this program would
/// build them, and all that stands on them, anew.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(arguments).current_dir(workspace());
    let of_package = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|beginning| name.starts_with(beginning))
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `cargo build` with these arguments and returns the executable called
/// `name` among what it made.
pub fn build(arguments: &[&str], name: &str) -> Result<PathBuf> {
    made(cargo(&["build"]).args(arguments), name, false)
}

/// Builds a test of a package and returns the executable without running it.
pub fn build_test(package: &str, name: &str) -> Result<PathBuf> {
    let arguments = ["test", "--no-run", "--package", package, "--test", name];
    made(&mut cargo(&arguments), name, true)
}

fn made(command: &mut Command, name: &str, is_test: bool) -> Result<PathBuf> {
    let output = command
        .args(["--locked", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the build failed");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message["target"]["name"] == name && message["profile"]["test"] == is_test
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no program called {name}"))
}

/// Runs a command with this terminal and demands success.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}
