//! `replicator verify`: reads everything again and compares.

use std::time::Duration;

use super::failure::{Exit, Failure};
use super::{Node, print, print_json, status};
use crate::limits::VERIFY_TIME_MAX;
use crate::status::control::{self, Request, Response, Verified};
use crate::status::{human_bytes, human_duration, printable};

/// Read every file again and compare it with the index, and the index with
/// those of the connected peers.
///
/// Names what changed though nobody told of it; that is then replicated as any
/// change. Exit code 0 when all is the same, 1 when something differs.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Verify {
    #[command(flatten)]
    node: Node,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let socket = self.node.place().control_socket();
        let verified = match control::ask(&socket, &Request::Verify, VERIFY_TIME_MAX)? {
            Response::Verified(verified) => verified,
            other => return Err(status::unexpected(other)),
        };
        if self.json {
            print_json(&verified)?;
        } else {
            print(&describe(&verified))?;
        }
        Ok(if verified.is_same() { Exit::Fine } else { Exit::Differs })
    }
}

fn describe(verified: &Verified) -> String {
    let mut text = format!(
        "checked {} files, {}, in {}: {} differ\n",
        verified.files,
        human_bytes(verified.bytes),
        human_duration(Duration::from_millis(verified.took_ms)),
        verified.differing_total
    );
    for differing in &verified.differing {
        text += &format!("  {}: {}\n", printable(&differing.path), printable(&differing.reason));
    }
    let unnamed = verified.differing_total.saturating_sub(verified.differing.len() as u64);
    if unnamed > 0 {
        text += &format!("  and {unnamed} more\n");
    }
    if verified.alone {
        text += "no peer is connected to compare with\n";
    }
    for peer in &verified.peers {
        let verdict = if peer.agrees { "holds the same tree" } else { "differs" };
        let detail =
            if peer.detail.is_empty() { String::new() } else { format!(": {}", peer.detail) };
        text += &format!("{} {verdict}{}\n", printable(&peer.peer), printable(&detail));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::control::{Differing, PeerAgreement};

    #[test]
    fn what_differs_is_named() {
        let verified = Verified {
            files: 2,
            bytes: 2048,
            differing: vec![Differing { path: "a\n".into(), reason: "content".into() }],
            differing_total: 3,
            peers: vec![PeerAgreement {
                peer: "b".into(),
                agrees: false,
                detail: "1 entry".into(),
            }],
            ..Default::default()
        };
        let text = describe(&verified);
        for line in
            ["checked 2 files, 2.0 KiB", "  a\\n: content", "  and 2 more", "b differs: 1 entry"]
        {
            assert!(text.contains(line), "{text}");
        }
        assert!(!verified.is_same());
    }
}
