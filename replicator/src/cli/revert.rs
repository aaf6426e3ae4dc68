//! `replicator revert`: undoes what changed on a node that only receives.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, status};
use crate::status::control::{self, Request, Response};

/// How long a healthy node may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Undo what changed here, on a node with mode receive-only.
///
/// The entries become again what the other nodes hold; what was changed or
/// added here rests in the trash.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Revert {
    #[command(flatten)]
    node: Node,
}

impl Revert {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let socket = self.node.place().control_socket();
        match control::ask(&socket, &Request::Revert, PATIENCE)? {
            Response::Reverted { entries } => {
                print(&format!("{entries} entries go back to what the other nodes hold\n"))?;
                Ok(Exit::Fine)
            }
            other => Err(status::unexpected(other)),
        }
    }
}
