//! Who is connected: at most one connection for each pair of nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::link::Link;
use crate::id::NodeId;

pub(super) struct Registry {
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
    /// Ticks whenever a link leaves.
    departures: watch::Sender<()>,
}

/// The judge's answer to a new connection.
pub(super) enum Verdict {
    /// It is kept, in place of the one before, if any.
    Keep { predecessor: Option<Arc<Link>> },
    /// The pair has a connection that works.
    Duplicate,
}

/// How long after a connection was kept its peer may not have learned of it
/// and still call itself unconnected: the time a handshake may take.
const VERDICT_TRAVEL_MAX: Duration = super::settings::HANDSHAKE_TIME_MAX;

impl Registry {
    pub(super) fn new() -> Self {
        Self { links: Mutex::default(), departures: watch::Sender::new(()) }
    }

    /// Decides about a new connection and enters it if it is kept. Only the
    /// node with the lower id of a pair calls this.
    pub(super) fn judge(&self, new: &Arc<Link>, peer_is_connected: bool) -> Verdict {
        let mut links = self.links();
        if let Some(old) = links.get(&new.peer) {
            let same_life = old.instance == new.instance;
            let stale =
                old.is_closed() || (!peer_is_connected && old.since.elapsed() > VERDICT_TRAVEL_MAX);
            if same_life && !stale {
                return Verdict::Duplicate;
            }
        }
        Verdict::Keep { predecessor: links.insert(new.peer, Arc::clone(new)) }
    }

    /// Enters a connection that the judge at the other end keeps.
    pub(super) fn enter(&self, new: &Arc<Link>) -> Verdict {
        let mut links = self.links();
        if let Some(old) = links.get(&new.peer)
            && old.instance == new.instance
            && old.serial() > new.serial()
        {
            return Verdict::Duplicate;
        }
        Verdict::Keep { predecessor: links.insert(new.peer, Arc::clone(new)) }
    }

    /// Removes a link that ended, unless another took its place.
    pub(super) fn leave(&self, link: &Arc<Link>) {
        let mut links = self.links();
        if links.get(&link.peer).is_some_and(|current| Arc::ptr_eq(current, link)) {
            links.remove(&link.peer);
        }
        drop(links);
        self.departures.send_replace(());
    }

    /// Whether a connection with this peer stands, known to the node or not.
    pub(super) fn is_connected(&self, peer: NodeId) -> bool {
        self.links().get(&peer).is_some_and(|link| !link.is_closed())
    }

    /// Returns when no connection with this peer stands.
    pub(super) async fn departed(&self, peer: NodeId) {
        let mut departures = self.departures.subscribe();
        // The sender lives as long as `self`.
        let _ = departures.wait_for(|()| !self.links().contains_key(&peer)).await;
    }

    /// The link with this peer, if the node has been told of it.
    pub(super) fn up(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.links().get(&peer).filter(|link| link.life.is_up()).cloned()
    }

    pub(super) fn all_up(&self) -> Vec<Arc<Link>> {
        self.links().values().filter(|link| link.life.is_up()).cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links().values().cloned().collect()
    }

    fn links(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Link>>> {
        // Each change is one insertion or removal, so the map is always whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
