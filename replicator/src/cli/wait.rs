//! `replicator wait`: returns when the cluster holds one tree.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, status};
use crate::config::parse_duration;
use crate::status::control::{self, Request, Response};
use crate::status::{human_duration, printable};

/// What a node may take beyond the time it was given.
const GRACE: Duration = Duration::from_secs(10);

/// Wait until this node and every connected peer hold the same tree.
///
/// Exit code 0 when they do, 1 when they do not within the time given.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Wait {
    #[command(flatten)]
    node: Node,
    /// How long to wait at most, like 500ms, 30s or 5m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

impl Wait {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let socket = self.node.place().control_socket();
        let patience = self.timeout.saturating_add(GRACE);
        let waited = match control::ask(&socket, &Request::Wait { timeout_ms }, patience)? {
            Response::Waited(waited) => waited,
            other => return Err(status::unexpected(other)),
        };
        let took = human_duration(Duration::from_millis(waited.waited_ms));
        if waited.in_sync {
            print(&format!("in sync after {took}\n"))?;
            return Ok(Exit::Fine);
        }
        let mut text = format!("not in sync after {took}\n");
        for reason in &waited.reasons {
            text += &format!("  {}\n", printable(reason));
        }
        print(&text)?;
        Ok(Exit::Differs)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|reason| format!("'{text}' {reason}"))
}
