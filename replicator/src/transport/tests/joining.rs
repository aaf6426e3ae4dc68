//! Who becomes a peer of whom, and how often.

use std::time::Instant;

use super::*;
use crate::transport::Lane;
use crate::transport::error::{Error, SendError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_password_joins_and_names_are_exchanged() {
    LazyLock::force(&RIGHT);
    let (mut a, mut b) = (Node::start(), Node::start());
    let before = Instant::now();
    a.dial(&b);
    let Event::Up { peer, name, address, seen_from } = a.event().await else { panic!() };
    assert_eq!((peer, address), (b.id(), b.transport.local_addr()));
    assert_eq!(name, "node at 127.0.0.1:0");
    assert_eq!(seen_from.to_string(), "127.0.0.1");
    assert_eq!(b.up().await, a.id());
    assert!(before.elapsed() < Duration::from_secs(2), "no retry was needed");
    let [info] = &a.transport.peers()[..] else { panic!() };
    assert!(info.dialed_by_us && info.id == b.id() && info.sent_bytes > 0);
    assert!(!b.transport.peers()[0].dialed_by_us);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_on_both_sides() {
    let (mut a, mut b) = (Node::with(&WRONG), Node::start());
    a.dial(&b);
    assert_eq!(a.refusal().await, Refusal::WrongPassword);
    assert_eq!(b.refusal().await, Refusal::WrongPassword);
    assert!(a.transport.peers().is_empty() && b.transport.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_name_is_another_password() {
    let other = Secret::derive(b"correct horse", "web").unwrap();
    let (mut a, mut b) = (Node::with(&other), Node::start());
    a.dial(&b);
    assert_eq!(a.refusal().await, Refusal::WrongPassword);
    assert_eq!(b.refusal().await, Refusal::WrongPassword);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_dial_each_other_keep_one_connection() {
    for _ in 0..10 {
        let (mut a, mut b) = (Node::start(), Node::start());
        a.dial(&b);
        b.dial(&a);
        assert_eq!(a.up().await, b.id());
        assert_eq!(b.up().await, a.id());
        a.transport.send(b.id(), Lane::Control, Bytes::from_static(b"one")).await.unwrap();
        b.transport.send(a.id(), Lane::Control, Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(&b.message().await[..], b"one");
        assert_eq!(&a.message().await[..], b"two");
        tokio::join!(a.stays_quiet(), b.stays_quiet());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dials_itself_stops() {
    let mut a = Node::start();
    a.dial(&Node {
        transport: a.transport.clone(),
        events: Node::start().events,
        dir: tempfile::tempdir().unwrap(),
    });
    soon(async {
        while a.transport.handle.dialers().values().any(|dialer| !dialer.task.is_finished()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    a.stays_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_is_noticed_at_once_and_the_peer_is_dialed_again() {
    let (mut a, b) = pair().await;
    let before = Instant::now();
    b.transport.close().await;
    assert_eq!(a.down().await, "the peer is going down");
    assert!(before.elapsed() < Duration::from_secs(2));
    assert_eq!(
        a.transport.send(b.id(), Lane::Control, Bytes::new()).await,
        Err(SendError::NotConnected)
    );
    let (address, id) = (b.transport.local_addr(), b.id());
    let Node { transport, events, dir } = b;
    drop((transport, events));
    let mut b = restart(address, dir).await;
    assert_eq!(b.id(), id, "the key is kept");
    assert_eq!(a.up().await, id);
    assert_eq!(b.up().await, a.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_not_needed_is_told_from_one_that_was_lost() {
    let (mut a, mut b) = pair().await;
    let unwanted = |event: Event| match event {
        Event::Down { unwanted, .. } => unwanted,
        other => panic!("expected Down, got {other:?}"),
    };
    a.transport.disconnect(b.id());
    assert!(unwanted(a.event().await) && unwanted(b.event().await));
    // It was to be dialed, and is dialed again.
    assert_eq!((a.up().await, b.up().await), (b.id(), a.id()));
    b.transport.close().await;
    assert!(!unwanted(a.event().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_without_a_goodbye_replaces_itself() {
    let (mut a, mut b) = (Node::start(), Node::start());
    b.dial(&a);
    assert_eq!((a.up().await, b.up().await), (b.id(), a.id()));
    // A second life with the same key while the first connection stands, as
    // after a power failure.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(b.dir.path().join("node.key"), copy.path().join("node.key")).unwrap();
    b.transport.forget(&a.address());
    let mut again = Node::at("127.0.0.1:0".parse().unwrap(), copy, &RIGHT);
    again.dial(&a);
    assert_eq!(a.down().await, "a newer start of the peer took its place");
    assert_eq!(a.up().await, b.id());
    assert_eq!(again.up().await, a.id());
    assert_eq!(b.down().await, "another node with our identity took its place");
    let told = b.event().await;
    assert!(matches!(told, Event::Twin { told_by } if told_by == a.id()), "{told:?}");
    again.transport.send(a.id(), Lane::Bulk, Bytes::from_static(b"hello again")).await.unwrap();
    assert_eq!(&a.message().await[..], b"hello again");
}

#[test]
fn a_peer_that_was_restarted_is_noticed_though_it_dials_nobody() {
    let here = tokio::runtime::Runtime::new().unwrap();
    let there = tokio::runtime::Runtime::new().unwrap();
    let b = there.block_on(async { Node::start() });
    let mut a = here.block_on(async {
        let mut a = Node::start();
        a.dial(&b);
        assert_eq!(a.up().await, b.id());
        a.transport.forget(&b.address());
        a
    });
    let address = b.transport.local_addr();
    let Node { transport, events, dir } = b;
    // The process dies: its tasks stop first, so no goodbye leaves it.
    there.shutdown_timeout(PATIENCE);
    drop((transport, events));
    here.block_on(async {
        let _b = restart(address, dir).await;
        assert_eq!(a.down().await, "the peer was restarted");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_address_is_tried_until_it_answers() {
    let mut a = Node::start();
    let reserved = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    a.transport.dial("host.invalid:7400".parse().unwrap());
    a.transport.dial(address.into());
    a.stays_quiet().await;
    drop(reserved);
    let b = Node::at(address, tempfile::tempdir().unwrap(), &RIGHT);
    assert_eq!(a.up().await, b.id());
    a.transport.forget(&address.into());
    b.transport.close().await;
    a.down().await;
    a.stays_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_behind_one_address_joins_at_once() {
    const NODES: usize = 40;
    let mut seed = Node::start();
    let nodes: Vec<_> = (0..NODES).map(|_| Node::start()).collect();
    nodes.iter().for_each(|node| node.dial(&seed));
    let mut joined = std::collections::HashSet::new();
    while joined.len() < NODES {
        joined.insert(seed.up().await);
    }
    assert_eq!(seed.transport.peers().len(), NODES);
}

#[tokio::test]
async fn a_bad_listen_address_is_told_with_advice() {
    let a = Node::start();
    let failed = |listen: SocketAddr| {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let options = Options { identity, secret: RIGHT.clone(), listen, name: String::new() };
        Transport::start(options).err().unwrap()
    };
    let busy = failed(a.transport.local_addr());
    assert!(matches!(busy, Error::Listen { .. }));
    assert!(busy.to_string().contains("the port is in use"), "{busy}");
    let foreign = failed("192.0.2.1:7400".parse().unwrap());
    assert!(foreign.to_string().contains("no such address"), "{foreign}");
}

/// The socket of the former life may take a moment to close.
async fn restart(address: SocketAddr, dir: TempDir) -> Node {
    soon(async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    Node::at(address, dir, &RIGHT)
}
