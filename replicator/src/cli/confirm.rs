//! `replicator confirm`: deletions that were held back are meant, or not.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, status};
use crate::status::control::{self, Request, Response};

/// How long a healthy node may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Let held deletions through, or bring the files back.
///
/// When much of a folder vanished while nobody looked, the deletions are held
/// back: nothing is deleted on other nodes, `replicator status` says how many
/// there are.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Confirm {
    #[command(flatten)]
    node: Node,
    /// They were none: the files come back from the other nodes
    #[arg(long)]
    restore: bool,
}

impl Confirm {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let socket = self.node.place().control_socket();
        let request = Request::Confirm { restore: self.restore };
        let entries = match control::ask(&socket, &request, PATIENCE)? {
            Response::Confirmed { entries } => entries,
            other => return Err(status::unexpected(other)),
        };
        print(&match (entries, self.restore) {
            (0, _) => "nothing is held back\n".to_owned(),
            (entries, false) => format!("{entries} deletions go to the other nodes\n"),
            (entries, true) => format!("{entries} entries come back from the other nodes\n"),
        })?;
        Ok(Exit::Fine)
    }
}
