//! What the core asks for is begun, each in a task of its own.
//!
//! Nothing here waits: the core goes on, and hears of the end by a report.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::report::Report;
use super::wanted::Wanted;
use super::{Error, Node, download, look, outbox};
use crate::apply;
use crate::sync::effect::Effect;

/// Questions at once whether a peer holds a version: who deleted thousands of
/// files that nobody had yet is asked for all of them.
const ASKING_MAX: usize = 64;

static ASKING: Semaphore = Semaphore::const_new(ASKING_MAX);

impl Node {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        let reports = self.reports.clone();
        match effect {
            Effect::Look(looks) => {
                let (root, engine) = (Arc::clone(&self.carrier.root), self.carrier.engine.clone());
                let capture = Arc::clone(&self.capture);
                tokio::spawn(look::look(root, engine, capture, looks, reports));
            }
            Effect::Scan { beneath, sync } => {
                let (root, capture) = (&self.carrier.root, &self.capture);
                let (root, capture) = (Arc::clone(root), Arc::clone(capture));
                tokio::spawn(look::scan(root, capture, beneath, sync, reports));
            }
            Effect::Listen => self.report_when_told(Report::Heard),
            Effect::Send { peer, message } => {
                if let Err(outbox::Full) = self.outboxes.put(peer, message) {
                    tracing::warn!(%peer, "disconnecting: it takes no messages any more");
                    self.carrier.transport.disconnect(peer);
                }
            }
            Effect::Forget(member) => {
                self.members.retire(member);
                self.facts.forget(member);
                self.carrier.transport.disconnect(member);
            }
            Effect::NewActor => self.over = Some(Error::NewActor),
            Effect::Rejoin => self.over = Some(Error::Rejoin),
            Effect::Retired => self.over = Some(Error::Retired),
            Effect::Apply(job) => {
                let (carrier, id) = (self.carrier.clone(), job.id);
                let way = self.ways.begin(id);
                tokio::spawn(async move {
                    let outcomes = carrier.carry(job, way).await;
                    // Nobody listens any more: the node is ending.
                    let _ = reports.send(Report::Applied(id, outcomes)).await;
                });
            }
            Effect::GiveWay { job } => self.ways.ask(job),
            Effect::Ask { peer, body, digest, size } => {
                // Without room it is asked when somebody wants it in vain again.
                let Ok(room) = ASKING.try_acquire() else { return };
                let transport = self.carrier.transport.clone();
                tokio::spawn(async move {
                    let wanted = Wanted { body, size, digest };
                    if let Ok(holds) = download::holds_all(&transport, peer, &wanted).await {
                        // Nobody listens any more: the node is ending.
                        let _ = reports.send(Report::Answered { peer, body, digest, holds }).await;
                    }
                    drop(room);
                });
            }
        }
    }

    pub(super) fn sweep(&self) {
        let (root, keep) = (Arc::clone(&self.carrier.root), self.facts.trash_keep());
        tokio::task::spawn_blocking(move || match apply::trash::sweep(&root, keep) {
            Ok(swept) => tracing::debug!(?swept, "the trash was swept"),
            Err(error) => tracing::warn!("the trash cannot be swept: {error}"),
        });
    }
}
