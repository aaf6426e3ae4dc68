//! The wire: authenticated QUIC connections between the nodes of a cluster.
//!
//! This room owns the socket, the node's key, the password check, the rule of
//! one connection per pair of nodes, and the frames on its streams. It never
//! looks into a payload and never decides what to send: it carries bytes and
//! says who is there. Nothing of ours but a public key is told to a peer that
//! has not proved that it knows the password.
//!
//! ```text
//!  dial.rs ──┐                 ┌─> auth.rs ─> greeting.rs ─> registry.rs ─> link.rs
//!            ├─> handshake.rs ─┘   SPAKE2      names, verdict   one a pair    lanes, fetches
//!  accept.rs ┘     (gate.rs: how many strangers, how many wrong guesses)        │
//!                                                                 event.rs <────┘
//! ```
//!
//! Every payload of a peer rides on one of four things: the Control stream,
//! the Bulk stream, a stream of its own (a fetch and its answer), or a
//! datagram that may be lost.

mod accept;
mod auth;
mod congestion;
mod dial;
mod error;
mod event;
mod fetch;
mod frame;
mod gate;
mod greeting;
mod handshake;
mod identity;
mod link;
mod registry;
mod secret;
mod settings;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::Endpoint;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

pub use dial::Unreached;
pub use error::{Error, SendError};
pub use event::{Event, Events};
pub use fetch::{Fetch, Reply};
pub use identity::Identity;
pub use secret::Secret;

use crate::address::Address;
use crate::id::NodeId;
use crate::limits::{DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, NODE_NAME_BYTES_MAX};
use event::Inlet;
use gate::Gate;
use registry::Registry;
use settings::{Close, FETCH_REQUEST_BYTES_MAX};

/// What a transport is started with.
pub struct Options {
    pub identity: Identity,
    pub secret: Secret,
    /// Where to listen, and the address every connection we dial comes from.
    pub listen: SocketAddr,
    /// The name that peers show for this node.
    pub name: String,
}

/// Which of the two message streams of a peer a message takes. A full Bulk
/// lane never delays Control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    Control,
    Bulk,
}

/// A connected peer, for people to look at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerInfo {
    pub id: NodeId,
    pub name: String,
    pub address: SocketAddr,
    pub dialed_by_us: bool,
    pub rtt_us: u64,
    pub mtu_bytes: u16,
    /// UDP payload bytes and datagrams of this connection.
    pub sent_bytes: u64,
    pub sent_packets: u64,
    pub received_bytes: u64,
    pub received_packets: u64,
    pub lost_packets: u64,
    pub connected_for_ms: u64,
}

/// A handle to the running transport; clones share it. When the last one is
/// dropped the connections are closed.
#[derive(Clone)]
pub struct Transport {
    handle: Arc<Handle>,
}

impl Transport {
    /// Binds the socket and starts to listen. Must be called inside a tokio
    /// runtime.
    pub fn start(options: Options) -> Result<(Transport, Events), Error> {
        tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        if options.name.len() > NODE_NAME_BYTES_MAX {
            return Err(Error::NameTooLong(options.name.len()));
        }
        let configs = tls::Configs::new(&options.identity)?;
        let endpoint = socket::listen(options.listen, &options.identity, configs.server)?;
        let local_addr = endpoint
            .local_addr()
            .map_err(|source| Error::Listen { address: options.listen, source })?;
        let (inlet, events) = event::channel();
        let shared = Arc::new(Shared {
            id: options.identity.id(),
            local_addr,
            instance: getrandom::u64().map_err(|error| Error::Random(error.to_string()))?,
            name: options.name,
            secret: options.secret,
            endpoint,
            client: configs.client,
            gate: Gate::new(),
            registry: Registry::new(),
            inlet,
        });
        tokio::spawn(accept::run(Arc::clone(&shared)));
        let handle = Arc::new(Handle { shared, dialers: Mutex::default() });
        Ok((Transport { handle }, events))
    }

    pub fn id(&self) -> NodeId {
        self.handle.shared.id
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.handle.shared.local_addr
    }

    /// Keeps a connection to whoever answers at this address until
    /// [`Transport::forget`]. Names are resolved again on every try. An
    /// address that turns out to be our own is dropped.
    pub fn dial(&self, address: Address) {
        let mut dialers = self.handle.dialers();
        dialers.retain(|_, dialer| !dialer.task.is_finished());
        if dialers.len() >= settings::DIALERS_MAX {
            tracing::warn!(%address, limit = settings::DIALERS_MAX, "too many addresses to dial, this one is left out");
            return;
        }
        dialers.entry(address.clone()).or_insert_with(|| {
            let (shared, outcome) = (Arc::clone(&self.handle.shared), Arc::default());
            let task = tokio::spawn(dial::run(shared, address, Arc::clone(&outcome)));
            Dialer { task: task.abort_handle(), outcome }
        });
    }

    /// Stops dialing this address. A connection that stands stays.
    pub fn forget(&self, address: &Address) {
        if let Some(dialer) = self.handle.dialers().remove(address) {
            dialer.task.abort();
        }
    }

    /// Why nobody at this address is a peer now; `None` where somebody is, or
    /// it is not dialed, or was not yet.
    pub fn unreached(&self, address: &Address) -> Option<Unreached> {
        self.handle.dialers().get(address).and_then(|dialer| dialer.outcome.unreached())
    }

    /// Closes the connection to a peer; both sides see it go down. A dialer
    /// that made it dials again unless it was told to forget.
    pub fn disconnect(&self, peer: NodeId) {
        if let Some(link) = self.handle.shared.registry.up(peer) {
            link.close(Close::Unwanted, "the connection is no longer needed");
        }
    }

    /// Queues a message for a peer, in order within its lane, and waits while
    /// that lane's queue is full. Success means queued: a message is lost when
    /// the connection ends before it was sent, and [`Event::Down`] says so.
    pub async fn send(&self, peer: NodeId, lane: Lane, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > FRAME_BYTES_MAX {
            return Err(SendError::TooLong(payload.len()));
        }
        let link = self.handle.shared.registry.up(peer).ok_or(SendError::NotConnected)?;
        link.send(lane, payload).await
    }

    /// Sends a datagram that arrives once, or not at all, and in no order.
    pub fn datagram(&self, peer: NodeId, payload: Bytes) -> Result<(), SendError> {
        if payload.len() > DATAGRAM_BYTES_MAX {
            return Err(SendError::TooLong(payload.len()));
        }
        let link = self.handle.shared.registry.up(peer).ok_or(SendError::NotConnected)?;
        link.datagram(payload)
    }

    /// Bytes accepted by [`Transport::send`] on both lanes that have not gone
    /// to the peer's streams yet; 0 for a peer that is not connected.
    #[cfg(test)]
    pub fn queued(&self, peer: NodeId) -> usize {
        self.handle.shared.registry.up(peer).map_or(0, |link| link.queued())
    }

    /// Sends a request on a stream of its own. The answer is read chunk by
    /// chunk as it arrives; what is not read is not sent.
    pub async fn fetch(&self, peer: NodeId, request: Bytes) -> Result<Fetch, Error> {
        if request.len() > FETCH_REQUEST_BYTES_MAX {
            return Err(Error::RequestTooLong(request.len()));
        }
        let link = self.handle.shared.registry.up(peer).ok_or(Error::NotConnected)?;
        fetch::request(link.connection(), request).await
    }

    /// The connected peers, by id.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let mut peers: Vec<_> =
            self.handle.shared.registry.all_up().iter().map(|link| link.info()).collect();
        peers.sort_by_key(|peer| peer.id);
        peers
    }

    /// Says goodbye to every peer and waits until it is out.
    pub async fn close(&self) {
        self.handle.stop();
        let idle = self.handle.shared.endpoint.wait_idle();
        if tokio::time::timeout(CLOSE_WAIT_MAX, idle).await.is_err() {
            tracing::debug!("some peers did not acknowledge the goodbye");
        }
    }
}

const GOODBYE: &str = "the node is going down";

/// A peer that is gone must not hold up our own end.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the tasks of this room share.
struct Shared {
    id: NodeId,
    local_addr: SocketAddr,
    /// Drawn at each start: tells a node that came back from one that dials a
    /// second time.
    instance: u64,
    name: String,
    secret: Secret,
    endpoint: Endpoint,
    client: quinn::ClientConfig,
    gate: Gate,
    registry: Registry,
    inlet: Inlet,
}

/// Ends what the transport started once nobody holds it: the tasks hold
/// [`Shared`], so it alone would never be dropped.
struct Handle {
    shared: Arc<Shared>,
    dialers: Mutex<HashMap<Address, Dialer>>,
}

/// A task that keeps a connection to one address.
struct Dialer {
    task: AbortHandle,
    outcome: Arc<dial::Outcome>,
}

impl Handle {
    fn dialers(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Dialer>> {
        // The map is whole at every point where a holder could panic.
        self.dialers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        for (_, dialer) in self.dialers().drain() {
            dialer.task.abort();
        }
        for link in self.shared.registry.all() {
            congestion::close(link.connection(), Close::Goodbye, GOODBYE);
        }
        self.shared.endpoint.close(Close::Goodbye.code(), GOODBYE.as_bytes());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}
