//! Those who do not know the password, and members who break the rules.

use std::sync::Arc;

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use spake2::{Ed25519Group, Spake2};

use super::*;
use crate::transport::auth::{self, Ends, Role};
use crate::transport::greeting::{self, Greeting};
use crate::transport::settings::{
    ALPN, Close, GUESSES_PER_SOURCE, SERVER_NAME, STRANGERS_PER_SOURCE_MAX,
};
use crate::transport::{socket, tls};

/// Somebody with a key and a socket, who speaks QUIC but not as a node would.
struct Stranger {
    endpoint: Endpoint,
    configs: tls::Configs,
    id: NodeId,
}

impl Stranger {
    fn new() -> Self {
        Self::speaking(ALPN)
    }

    fn speaking(alpn: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let configs = tls::Configs::speaking(&identity, alpn).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let endpoint = socket::listen(any, &identity, configs.server.clone()).unwrap();
        Self { endpoint, configs, id: identity.id() }
    }

    async fn connect(&self, to: SocketAddr) -> Result<Connection, quinn::ConnectionError> {
        let client = self.configs.client.clone();
        soon(self.endpoint.connect_with(client, to, SERVER_NAME).unwrap()).await
    }

    /// A member as far as the password goes; what comes next is up to the test.
    async fn join(&self, node: &mut Node) -> Connection {
        let connection = self.connect(node.transport.local_addr()).await.unwrap();
        let ends = Ends { role: Role::Dialer, us: self.id, peer: node.id() };
        let (mut send, recv) = soon(auth::prove(&connection, &ends, &RIGHT)).await.unwrap();
        let mut reader =
            crate::transport::frame::FrameReader::new(recv, greeting::GREETING_BYTES_MAX);
        let ours = Greeting {
            name: "a stranger".into(),
            instance: 1,
            connected: false,
            seen_from: "127.0.0.1".parse().unwrap(),
            hello: vec![],
        };
        greeting::tell(&mut send, &ours).await.unwrap();
        soon(greeting::hear(&mut reader)).await.unwrap();
        match self.id < node.id() {
            true => greeting::tell_kept(&mut send, 1).await.unwrap(),
            false => drop(soon(greeting::hear_kept(&mut reader)).await.unwrap()),
        }
        assert_eq!(node.up().await, self.id);
        connection
    }
}

/// Why the node closed the connection, in its own words.
async fn close_reason(connection: &Connection) -> Option<Close> {
    match soon(connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => Close::of(&close),
        other => panic!("not closed by the node: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_version_is_told_on_both_sides() {
    let mut node = Node::start();
    let newer = Stranger::speaking(b"replicator/8");
    assert!(newer.connect(node.transport.local_addr()).await.is_err());
    assert_eq!(node.refusal().await, Refusal::OtherVersion);
    let accepting = newer.endpoint.clone();
    let serving = tokio::spawn(async move { accepting.accept().await.unwrap().await });
    node.transport.dial(newer.endpoint.local_addr().unwrap().into());
    assert_eq!(node.refusal().await, Refusal::OtherVersion);
    assert!(soon(serving).await.unwrap().is_err());
    assert!(Refusal::OtherVersion.to_string().contains("upgrade"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_in_the_middle_fails_though_it_passes_every_byte() {
    let (mut a, mut b) = (Node::start(), Node::start());
    let (front, back) = (Stranger::new(), Stranger::new());
    let target = b.transport.local_addr();
    let entrance = front.endpoint.local_addr().unwrap();
    let relay = tokio::spawn(async move {
        let inbound = front.endpoint.accept().await.unwrap().await.unwrap();
        let outbound = back.connect(target).await.unwrap();
        let (mut to_a, mut from_a) = inbound.accept_bi().await.unwrap();
        let (mut to_b, mut from_b) = outbound.open_bi().await.unwrap();
        tokio::select! {
            _ = tokio::io::copy(&mut from_a, &mut to_b) => {}
            _ = tokio::io::copy(&mut from_b, &mut to_a) => {}
        }
        // What the acceptor said is passed on, too.
        inbound.close(1u32.into(), b"");
        front.endpoint.wait_idle().await;
    });
    a.transport.dial(entrance.into());
    assert_eq!(a.refusal().await, Refusal::WrongPassword);
    assert_eq!(b.refusal().await, Refusal::WrongPassword);
    assert!(a.transport.peers().is_empty() && b.transport.peers().is_empty());
    soon(relay).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_ours_is_said_to_who_dials_without_the_password() {
    let node = Node::start();
    let stranger = Stranger::new();
    let connection = stranger.connect(node.transport.local_addr()).await.unwrap();
    let (send, recv) = connection.open_bi().await.unwrap();
    // The suite and a SPAKE2 element, and no proof.
    assert_says_only(1 + ELEMENT_BYTES, &connection, (send, recv), Role::Dialer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_ours_is_said_to_who_is_dialed_and_lacks_the_password() {
    let mut node = Node::start();
    let stranger = Stranger::new();
    node.transport.dial(stranger.endpoint.local_addr().unwrap().into());
    let connection = soon(stranger.endpoint.accept()).await.unwrap().await.unwrap();
    let streams = soon(connection.accept_bi()).await.unwrap();
    // The same, and a proof that is worth one guess.
    let bytes = 1 + ELEMENT_BYTES + MAC_BYTES;
    assert_says_only(bytes, &connection, streams, Role::Acceptor).await;
    assert_eq!(node.refusal().await, Refusal::WrongPassword);
}

/// A SPAKE2 message, which is a side byte and a point, and a proof.
const ELEMENT_BYTES: usize = 33;
const MAC_BYTES: usize = 32;

/// The first message of a role, made from a wrong password: the suite, then
/// what SPAKE2 says.
fn guess(role: Role) -> Vec<u8> {
    let (nobody, password) = (spake2::Identity::new(b""), spake2::Password::new(b"a guess"));
    let (_, element) = match role {
        Role::Dialer => Spake2::<Ed25519Group>::start_a(&password, &nobody, &nobody),
        Role::Acceptor => Spake2::<Ed25519Group>::start_b(&password, &nobody, &nobody),
    };
    [&[1], &element[..]].concat()
}

/// To a guess the node says so many bytes and no more, to a wrong proof that
/// it is wrong; and its name is in none of it.
async fn assert_says_only(
    bytes: usize,
    connection: &Connection,
    (mut send, mut recv): (SendStream, RecvStream),
    role: Role,
) {
    send.write_all(&guess(role)).await.unwrap();
    let mut said = vec![0; bytes];
    soon(recv.read_exact(&mut said)).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(200), recv.read_chunk(1, true)).await;
    assert!(more.is_err(), "it says more: {more:?}");
    assert_eq!(connection.stats().frame_rx.datagram, 0);
    send.write_all(&[7; MAC_BYTES]).await.unwrap();
    assert!(soon(connection.accept_uni()).await.is_err(), "a message stream was opened");
    let quinn::ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else {
        panic!("not closed by the node");
    };
    assert_eq!(Close::of(&close), Some(Close::WrongPassword));
    said.extend_from_slice(&close.reason);
    let certificates = connection.peer_identity().unwrap();
    let certificates: Box<Vec<rustls::pki_types::CertificateDer>> =
        certificates.downcast().unwrap();
    said.extend(certificates.iter().flat_map(|certificate| certificate.to_vec()));
    let secret = b"node at";
    assert!(!said.windows(secret.len()).any(|window| window == secret), "its name was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_way_of_ending_speaks_of_a_twin() {
    let mut node = Node::start();
    for end in Close::ALL {
        let connection = Stranger::new().join(&mut node).await;
        connection.close(end.code(), b"");
        node.down().await;
        if end == Close::Twin {
            assert!(matches!(node.event().await, Event::Twin { .. }));
        }
    }
    assert_eq!(Close::Twin.code(), 9u32.into(), "nodes in use speak of a twin by this number");
    node.stays_quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_guesses_run_out() {
    let mut node = Node::start();
    let stranger = Stranger::new();
    let mut seed = 1u64;
    for round in 0..GUESSES_PER_SOURCE {
        let connection = stranger.connect(node.transport.local_addr()).await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        // A right first byte, then noise: the node must judge the noise.
        let mut noise = vec![1u8];
        noise.extend((0..round * 40 + 66).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        }));
        // The node may close while we still write.
        let _ = send.write_all(&noise).await;
        let _ = send.finish();
        close_reason(&connection).await;
        node.refusal().await;
    }
    let connection = stranger.connect(node.transport.local_addr()).await.unwrap();
    assert_eq!(close_reason(&connection).await, Some(Close::TooManyGuesses));
    assert_eq!(node.refusal().await, Refusal::TooManyGuesses);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_known_joins_beside_a_guesser() {
    let (mut a, mut b) = pair().await;
    let guesser = Node::with(&WRONG);
    let stranger = Stranger::new();
    guesser.dial(&b);
    assert_eq!(b.refusal().await, Refusal::WrongPassword);
    for _ in 1..GUESSES_PER_SOURCE {
        let connection = stranger.connect(b.transport.local_addr()).await.unwrap();
        let ends = Ends { role: Role::Dialer, us: stranger.id, peer: b.id() };
        assert!(soon(auth::prove(&connection, &ends, &WRONG)).await.is_err());
        assert_eq!(b.refusal().await, Refusal::WrongPassword);
    }
    a.transport.disconnect(b.id());
    a.down().await;
    assert_eq!(a.up().await, b.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_strangers_take_their_places_and_no_more() {
    let node = Node::start();
    let stranger = Stranger::new();
    let mut inside = Vec::new();
    for _ in 0..STRANGERS_PER_SOURCE_MAX {
        inside.push(stranger.connect(node.transport.local_addr()).await.unwrap());
    }
    let refused = stranger.connect(node.transport.local_addr()).await;
    assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
    // More than the one stream, or a message stream, is not granted.
    let _first = inside[0].open_bi().await.unwrap();
    let short = Duration::from_millis(200);
    assert!(tokio::time::timeout(short, inside[0].open_bi()).await.is_err());
    assert!(tokio::time::timeout(short, inside[0].open_uni()).await.is_err());
    // They are sent away when their time is up, and there is room again.
    for connection in &inside {
        soon(connection.closed()).await;
    }
    let mut member = Node::start();
    member.dial(&node);
    assert_eq!(member.up().await, node.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_breaks_framing_is_cut_off_with_a_reason() {
    let oversized = [&[0u8][..], &u32::MAX.to_le_bytes()].concat();
    let cases: [(Vec<u8>, &str); 4] = [
        (oversized, "4294967295 bytes"),
        (vec![7], "unknown kind"),
        (vec![0, 9, 0, 0, 0, 1], "inside a frame"),
        (vec![1, 0, 0, 0, 0], "a message stream ended"),
    ];
    let mut node = Node::start();
    for (bytes, wanted) in cases {
        let stranger = Stranger::new();
        let connection = stranger.join(&mut node).await;
        let mut stream = soon(connection.open_uni()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let _ = stream.finish();
        let reason = loop {
            match node.event().await {
                Event::Message { payload, .. } => assert!(payload.is_empty()),
                Event::Down { reason, .. } => break reason,
                other => panic!("{other:?}"),
            }
        };
        assert!(reason.contains(wanted), "{reason}");
        assert_eq!(close_reason(&connection).await, Some(Close::Broken));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_request_is_cut_off() {
    let mut node = Node::start();
    let stranger = Arc::new(Stranger::new());
    let connection = stranger.join(&mut node).await;
    let (mut send, _recv) = soon(connection.open_bi()).await.unwrap();
    send.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let reason = node.down().await;
    assert!(reason.contains("at most"), "{reason}");
}
