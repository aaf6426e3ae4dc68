//! `replicator leave`: a node leaves its cluster for good.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, status};
use crate::config::parse_duration;
use crate::status::control::{self, Request, Response};
use crate::status::printable;

/// What a node may take beyond the time it was given.
const GRACE: Duration = Duration::from_secs(20);

/// Members that are away and named.
const AWAY_NAMED_MAX: usize = 10;

/// Leave the cluster for good, or let the others forget a dead node.
///
/// The node waits until the others hold what it holds, tells them and ends.
/// Its folder keeps its files. Exit code 1: not all had it in time, and
/// nothing has changed.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Leave {
    #[command(flatten)]
    node: Node,
    /// Another member, by name or id, that is gone for good
    #[arg(long = "node", value_name = "NODE")]
    other: Option<String>,
    /// How long to wait for the others at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

impl Leave {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let socket = self.node.place().control_socket();
        let request = Request::Leave { node: self.other.clone(), timeout_ms };
        let patience = self.timeout.saturating_add(GRACE);
        let answer = control::ask(&socket, &request, patience).map_err(|error| match error {
            control::Error::NotRunning { .. } => Failure::new(
                Exit::Unreachable,
                format!(
                    "{error}: start it to let it leave, or run `replicator leave --node NAME` on another member"
                ),
            ),
            error => error.into(),
        })?;
        match (answer, &self.other) {
            (Response::Left { .. }, Some(other)) => {
                print(&format!("{} is no member any more\n", printable(other)))?;
                Ok(Exit::Fine)
            }
            (Response::Left { untold, away }, None) => {
                print(&farewell(untold, &away))?;
                Ok(Exit::Fine)
            }
            (Response::Waited(waited), _) => {
                let mut text = String::from("not left: the others do not hold all of it yet\n");
                for reason in &waited.reasons {
                    text += &format!("  {}\n", printable(reason));
                }
                print(&text)?;
                Ok(Exit::Differs)
            }
            (other, _) => Err(status::unexpected(other)),
        }
    }
}

/// What is said of a node that has left.
fn farewell(untold: u64, away: &[String]) -> String {
    let mut text = match untold {
        0 => "left the cluster; the folder's files stay\n".to_owned(),
        untold => format!("left the cluster; {untold} members did not answer\n"),
    };
    if !away.is_empty() {
        text += "away now, to hear of it from the others:\n";
    }
    for node in away.iter().take(AWAY_NAMED_MAX) {
        text += &format!("  {}\n", printable(node));
    }
    if away.len() > AWAY_NAMED_MAX {
        text += &format!("  and {} more\n", away.len() - AWAY_NAMED_MAX);
    }
    text
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|reason| format!("'{text}' {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_is_named_but_not_without_end() {
        let away: Vec<String> = (0..12).map(|number| format!("node {number}\u{7}")).collect();
        let text = farewell(2, &away);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "left the cluster; 2 members did not answer");
        assert_eq!(lines[2], "  node 0\\u{7}");
        assert_eq!(lines[11..], ["  node 9\\u{7}", "  and 2 more"]);
        assert_eq!(farewell(0, &[]), "left the cluster; the folder's files stay\n");
    }
}
