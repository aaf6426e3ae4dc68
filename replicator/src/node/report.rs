//! What work beside the core reports, through one bounded queue.
//!
//! Looks, jobs and answers run in tasks of their own and know nothing of the
//! core. Where a report says that something is so, all that capture told
//! before it is handed to the core first.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::ending::Ending;
use super::{Error, Node, serve};
use crate::capture::Change;
use crate::hash::Digest;
use crate::id::{BodyId, NodeId};
use crate::path::RelPath;
use crate::root;
use crate::sync::effect::{Listed, Outcome, Sight};
use crate::sync::message::Message;

/// Reports, changes and messages handled before the core's effects are
/// carried out: a burst makes one round of large effects, not many small.
const EVENTS_PER_TURN_MAX: usize = 64;

/// What work beside the core reports.
pub(super) enum Report {
    /// Was capture asked after the looks for what it knew by then?
    Seen {
        sights: Vec<Sight>,
        heard: bool,
    },
    Listed(RelPath, Vec<Listed>),
    /// Another replicator serves a folder in this one.
    Nested(PathBuf),
    Scanned(RelPath),
    Applied(u64, Vec<Outcome>),
    /// These are not what the index says.
    Stale(Vec<serve::Stale>),
    /// Whether a peer holds all of a version.
    Answered {
        peer: NodeId,
        body: BodyId,
        digest: Digest,
        holds: bool,
    },
    /// The transport has taken a message that counts.
    Sent(NodeId),
    /// All changes made before a question are in the queue.
    Flushed(u64),
    /// All that happened before the core listened is in the queue.
    Heard,
    /// The same before the end of this run.
    LastTold,
    /// A peer's question, once what happened before it is in the queue.
    Probed(NodeId, Message),
    /// The folder is not what it was.
    RootGone(root::Error),
}

/// A report and those that have come after it by now. What several looks found
/// is one: the core goes through all that it doubts each time.
pub(super) fn gather(first: Report, reports: &mut mpsc::Receiver<Report>) -> Vec<Report> {
    let mut gathered = vec![first];
    for _ in 0..EVENTS_PER_TURN_MAX {
        let Ok(report) = reports.try_recv() else { break };
        match (gathered.last_mut(), report) {
            (
                Some(Report::Seen { sights, heard }),
                Report::Seen { sights: more, heard: also_heard },
            ) => {
                sights.extend(more);
                *heard |= also_heard;
            }
            (_, report) => gathered.push(report),
        }
    }
    gathered
}

impl Node {
    pub(super) fn handle_report(
        &mut self,
        report: Report,
        changes: &mut mpsc::Receiver<Vec<Change>>,
    ) -> Result<(), Error> {
        let now = self.now();
        match report {
            Report::Seen { sights, heard } => {
                if heard {
                    self.drain_changes(changes);
                }
                self.core.handle_sights(now, sights);
            }
            Report::Nested(other) => {
                let root = self.carrier.root.path().to_path_buf();
                return Err(Error::Nested { root, other });
            }
            Report::Listed(beneath, listed) => self.core.handle_listed(now, &beneath, listed),
            Report::Scanned(beneath) => {
                self.drain_changes(changes);
                let before = self.core.progress().deletions_held;
                self.core.handle_scanned(now, &beneath);
                let held = self.core.progress().deletions_held;
                if held > before {
                    tracing::warn!(
                        entries = held,
                        "much of the folder vanished while nobody looked, or a backup lies there that lacks it: these deletions are held back; `replicator confirm` lets them through, `replicator confirm --restore` brings the files back"
                    );
                }
            }
            Report::Applied(job, outcomes) => {
                self.settled.store(false, Ordering::Release);
                self.ways.end(job);
                self.core.handle_applied(now, job, outcomes);
            }
            Report::Stale(files) => {
                self.drain_changes(changes);
                for serve::Stale { path, known } in files {
                    self.core.found_stale(now, path, &known);
                }
            }
            Report::Answered { peer, body, digest, holds } => {
                self.core.handle_answered(now, peer, (body, digest), holds);
            }
            Report::Sent(peer) => self.core.handle_sent(now, peer),
            Report::Flushed(waiter) => {
                self.drain_changes(changes);
                self.waiters.flushed(waiter);
            }
            Report::Heard => {
                self.drain_changes(changes);
                self.core.handle_heard(now);
            }
            Report::LastTold => {
                self.drain_changes(changes);
                self.ending.iter_mut().for_each(Ending::was_told);
            }
            Report::Probed(from, message) => {
                self.drain_changes(changes);
                self.core.handle_message(now, from, message);
            }
            Report::RootGone(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reports this once everything that has happened by now has been told.
    pub(super) fn report_when_told(&self, report: Report) {
        let (capture, reports) = (Arc::clone(&self.capture), self.reports.clone());
        tokio::spawn(async move {
            capture.flush().await;
            // Nobody listens any more: the node is ending.
            let _ = reports.send(report).await;
        });
    }

    pub(super) fn drain_changes(&mut self, changes: &mut mpsc::Receiver<Vec<Change>>) {
        while let Ok(batch) = changes.try_recv() {
            self.handle_changes(batch);
        }
    }
}
