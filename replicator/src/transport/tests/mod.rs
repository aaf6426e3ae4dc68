//! Stories of nodes on loopback: real sockets, real keys, real handshakes.

mod flow;
mod joining;
mod strangers;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::error::Refusal;
use super::{Event, Events, Identity, Options, Secret, Transport};
use crate::address::Address;
use crate::id::NodeId;

/// Far above what any story takes; reaching it is the failure.
const PATIENCE: Duration = Duration::from_secs(30);

static RIGHT: LazyLock<Secret> =
    LazyLock::new(|| Secret::derive(b"correct horse", "media").unwrap());
static WRONG: LazyLock<Secret> = LazyLock::new(|| Secret::derive(b"wrong horse", "media").unwrap());

struct Node {
    transport: Transport,
    events: Events,
    dir: TempDir,
}

impl Node {
    fn start() -> Node {
        Self::with(&RIGHT)
    }

    fn with(secret: &Secret) -> Node {
        Self::at("127.0.0.1:0".parse().unwrap(), tempfile::tempdir().unwrap(), secret)
    }

    fn at(listen: SocketAddr, dir: TempDir, secret: &Secret) -> Node {
        let options = Options {
            identity: Identity::load_or_create(dir.path()).unwrap(),
            secret: secret.clone(),
            listen,
            name: format!("node at {listen}"),
        };
        let (transport, events) = Transport::start(options).unwrap();
        Node { transport, events, dir }
    }

    fn id(&self) -> NodeId {
        self.transport.id()
    }

    fn address(&self) -> Address {
        self.transport.local_addr().into()
    }

    fn dial(&self, other: &Node) {
        self.transport.dial(other.address());
    }

    async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.expect("the transport is running")
    }

    async fn up(&mut self) -> NodeId {
        match self.event().await {
            Event::Up { peer, .. } => peer,
            other => panic!("expected Up, got {other:?}"),
        }
    }

    async fn down(&mut self) -> String {
        match self.event().await {
            Event::Down { reason, .. } => reason,
            other => panic!("expected Down, got {other:?}"),
        }
    }

    async fn message(&mut self) -> Bytes {
        match self.event().await {
            Event::Message { payload, .. } => payload,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    async fn refusal(&mut self) -> Refusal {
        match self.event().await {
            Event::Refused { reason, .. } => reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Nothing happens for a while: the only way to see that there is no flap.
    async fn stays_quiet(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(700), self.events.recv()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}

/// Two connected nodes; the first dialed.
async fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::start(), Node::start());
    a.dial(&b);
    assert_eq!(a.up().await, b.id());
    assert_eq!(b.up().await, a.id());
    (a, b)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}
