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
    Made::by(cargo(&["build"]).args(arguments))?.program(name)
}

/// Builds a test of a package and returns the executable without running it.
pub fn build_test(package: &str, name: &str) -> Result<PathBuf> {
    let arguments = ["test", "--no-run", "--package", package, "--test", name];
    Made::by(&mut cargo(&arguments))?.executable("test", name, true)
}

/// What a run of cargo made.
pub struct Made(Vec<Value>);

impl Made {
    pub fn by(command: &mut Command) -> Result<Self> {
        let output = command
            .args(["--locked", "--message-format=json-render-diagnostics"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("the build failed");
        }
        let output = String::from_utf8_lossy(&output.stdout);
        Ok(Self(output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
    }

    pub fn program(&self, name: &str) -> Result<PathBuf> {
        self.executable("bin", name, false)
    }

    /// The tests that lie within the library of this name.
    pub fn tests_of_library(&self, name: &str) -> Result<PathBuf> {
        self.executable("lib", name, true)
    }

    fn executable(&self, kind: &str, name: &str, is_test: bool) -> Result<PathBuf> {
        let is_it = |message: &&Value| {
            let target = &message["target"];
            let is_kind =
                target["kind"].as_array().is_some_and(|kinds| kinds.contains(&kind.into()));
            is_kind && target["name"] == name && message["profile"]["test"] == is_test
        };
        let mut found = self.0.iter().filter(is_it);
        found
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo built no {kind} called {name}"))
    }
}

/// Runs a command with this terminal and demands success.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command.get_program());
    }
    Ok(())
}
