//! The command line: one file a command, and the few things around a process
//! (log, signals, service manager) that no other room should know of.
//!
//! Commands print facts and choose an exit code. They decide nothing about
//! files: `run` hands over to the node, the others ask the running node or
//! the room that owns the answer.

mod confirm;
mod conflicts;
mod doctor;
mod failure;
mod leave;
mod logging;
mod notify;
mod revert;
mod run;
mod signals;
mod status;
mod verify;
mod wait;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::status::StateDir;
use failure::{Exit, Failure};

/// Parses the command line, runs the command and says how it went.
pub fn main() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            // Help and version are no mistakes. Where printing fails there is
            // nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Fine.into() };
        }
    };
    let outcome = match command {
        Command::Run(run) => run.execute(),
        Command::Status(status) => status.execute(),
        Command::Wait(wait) => wait.execute(),
        Command::Verify(verify) => verify.execute(),
        Command::Confirm(confirm) => confirm.execute(),
        Command::Revert(revert) => revert.execute(),
        Command::Leave(leave) => leave.execute(),
        Command::Conflicts(conflicts) => conflicts.execute(),
        Command::Doctor(doctor) => doctor.execute(),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}

/// Keeps a folder the same on every server of a cluster, live.
///
/// Exit codes: 0 fine, 1 differs or skipped, 2 failed, 64 usage, 69 no
/// replicator reachable, 77 permission, 78 configuration.
#[derive(Parser)]
#[command(name = "replicator", version, verbatim_doc_comment)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Status(status::Status),
    Wait(wait::Wait),
    Verify(verify::Verify),
    Conflicts(conflicts::Conflicts),
    Confirm(confirm::Confirm),
    Revert(revert::Revert),
    Leave(leave::Leave),
    Doctor(doctor::Doctor),
}

/// Where the node to talk to keeps its state.
#[derive(clap::Args)]
struct Node {
    /// The node's state directory
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
}

impl Node {
    fn place(&self) -> StateDir {
        StateDir::new(&self.state_dir)
    }
}

/// Prints to standard output. A reader that has seen enough (`head`) is no
/// failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON, for scripts.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }
}
