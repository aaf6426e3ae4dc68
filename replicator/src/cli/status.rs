//! `replicator status`: what a node does now, or what it did last.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, print_json};
use crate::status::control::{self, Request, Response};
use crate::status::{StateDir, file, human_duration, render};

/// How long a healthy node may take to tell what it does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Show what a node does: state, peers, problems.
///
/// Without a running node: its last report, with its age (`taken_ms` in JSON),
/// and exit code 69.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Status {
    #[command(flatten)]
    node: Node,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let place = self.node.place();
        match control::ask(&place.control_socket(), &Request::Status, PATIENCE) {
            Ok(Response::Status(snapshot)) if self.json => print_json(&snapshot)?,
            Ok(Response::Status(snapshot)) => print(&render(&snapshot))?,
            Ok(other) => return Err(unexpected(other)),
            Err(error @ control::Error::NotRunning { .. }) => {
                self.print_last_report(&place)?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Exit::Fine)
    }

    /// A node that never ran has no report; the exit code says the rest.
    fn print_last_report(&self, place: &StateDir) -> Result<(), Failure> {
        if self.json {
            return file::read_facts(place).map_or(Ok(()), |facts| print_json(&facts));
        }
        let Ok((text, written)) = file::read(place) else {
            return Ok(());
        };
        let age = human_duration(written.elapsed().unwrap_or_default());
        print(&format!("Not running. The last report is {age} old:\n\n{text}"))
    }
}

/// A refusal in the node's own words, or an answer to another question.
pub fn unexpected(response: Response) -> Failure {
    match response {
        Response::Refused { reason } => Failure::new(Exit::Failed, reason),
        _ => Failure::new(Exit::Failed, "the running replicator is of another version: restart it"),
    }
}
