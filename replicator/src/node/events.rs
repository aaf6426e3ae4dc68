//! What comes from outside: changes that capture told, and what peers do.

use std::sync::Arc;

use super::report::Report;
use super::{Error, Node, outbox, serve};
use crate::capture::{self, Change, LossCause};
use crate::sync::message::{FetchRequest, Message};
use crate::transport::Event;

impl Node {
    pub(super) fn handle_changes(&mut self, batch: Vec<Change>) {
        let now = self.now();
        for change in batch {
            match change {
                Change::Name(path) => self.core.path_changed(now, path),
                Change::Unlisted(directory) => self.core.scan(directory),
                Change::Moved(from, to) => self.core.path_moved(now, from, to),
                Change::Came(path) => self.core.path_came(now, path),
                Change::Data { inode, extent, mapped } => {
                    let ranges = match extent {
                        capture::Extent::Ranges(ranges) => Some(ranges),
                        capture::Extent::Whole => None,
                    };
                    self.core.bytes_changed(now, inode, ranges, mapped);
                }
                Change::DataAt(path) => self.core.bytes_changed_at(now, path),
                Change::Lost { beneath, cause, since } => {
                    match cause {
                        // Told once when it began; this comes every minute.
                        LossCause::WatchLimit => tracing::debug!(%beneath, "looking again"),
                        _ => tracing::warn!(%beneath, ?cause, "changes went unseen, looking again"),
                    }
                    self.core.scan_since(beneath, since);
                }
            }
        }
    }

    pub(super) fn handle_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Up { peer, name, address, seen_from, .. } => {
                self.members.up(peer, address, seen_from);
                self.facts.peer_up(peer, name, address);
                let messages = self.outboxes.open(peer);
                let (transport, reports) = (self.carrier.transport.clone(), self.reports.clone());
                tokio::spawn(outbox::post(transport, peer, messages, reports));
                self.core.handle_connected(now, peer);
            }
            Event::Down { peer, reason, unwanted } => {
                self.members.down(peer);
                self.facts.peer_down(peer, reason, unwanted);
                self.outboxes.close(peer);
                self.core.handle_disconnected(now, peer);
            }
            Event::Message { from, payload, .. } => match Message::decode(&payload) {
                Ok(message @ Message::Probe { .. }) => {
                    self.report_when_told(Report::Probed(from, message));
                }
                Ok(message) => self.core.handle_message(now, from, message),
                Err(error) => {
                    tracing::error!(peer = %from, "disconnecting: {error}");
                    self.carrier.transport.disconnect(from);
                }
            },
            Event::Fetch { from, request, reply } => match FetchRequest::decode(&request) {
                Ok(request) => {
                    let find = |item| serve::find(&self.core, &self.carrier.arrivals, item);
                    let items: Vec<serve::Found> = request.items.into_iter().map(find).collect();
                    let in_vain = items.iter().filter(|(_, holding)| holding.is_none());
                    in_vain.for_each(|(item, _)| {
                        self.core.asked_in_vain(now, item.body, item.digest);
                    });
                    let (root, engine) = (&self.carrier.root, &self.carrier.engine);
                    let (root, engine) = (Arc::clone(root), engine.clone());
                    let (capture, reports) = (Arc::clone(&self.capture), self.reports.clone());
                    tokio::spawn(async move {
                        let stale = serve::answer(root, engine, items, reply).await;
                        if !stale.is_empty() {
                            capture.flush().await;
                            // Nobody listens any more: the node is ending.
                            let _ = reports.send(Report::Stale(stale)).await;
                        }
                    });
                }
                Err(error) => tracing::error!(peer = %from, "a request was refused: {error}"),
            },
            Event::Datagram { from, payload } => self.members.datagram(from, &payload),
            Event::Twin { told_by } => self.over = Some(Error::Twin { told_by }),
            Event::Refused { address, reason } => self.facts.refused(address, reason.to_string()),
        }
    }
}
