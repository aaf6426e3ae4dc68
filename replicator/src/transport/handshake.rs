//! From a TLS session to a peer: authentication, greeting, verdict. Both
//! sides walk this way; only who speaks first differs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quinn::{Connection, ConnectionError, SendStream};

use super::auth::{self, AuthError, Ends, Role};
use super::congestion::close;
use super::error::Refusal;
use super::frame::FrameReader;
use super::greeting::{self, GREETING_BYTES_MAX, Greeting, GreetingError};
use super::link::{self, Introduction, Link};
use super::registry::Verdict;
use super::settings::{Close, HANDSHAKE_TIME_MAX};
use super::{Shared, tls};
use crate::id::NodeId;

/// Why a connection led to no new peer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The other end is this very node.
    Ourselves,
    /// This peer is connected already.
    Duplicate(NodeId),
    Refused(Refusal),
    /// The network, or the other end's fate.
    Lost(String),
}

/// Makes a peer of whoever is at the other end, within the time a stranger
/// has, and leaves a task that carries the connection.
pub(super) async fn run(
    shared: &Arc<Shared>,
    connection: &Connection,
    role: Role,
) -> Result<NodeId, Failure> {
    let outcome = tokio::time::timeout(HANDSHAKE_TIME_MAX, introduce(shared, connection, role))
        .await
        .unwrap_or_else(|_| {
            close(connection, Close::TooSlow, "the handshake took too long");
            Err(Failure::Lost("the handshake took too long".into()))
        });
    if let Err(Failure::Refused(reason)) = &outcome {
        report(shared, connection.remote_address(), *reason);
    }
    outcome
}

/// Tells the node and, once in a while, the log.
pub(super) fn report(shared: &Shared, address: std::net::SocketAddr, reason: Refusal) {
    if shared.gate.worth_telling(Instant::now(), address.ip(), reason) {
        tracing::warn!(%address, "no connection: {reason}");
    }
    shared.inlet.refused(address, reason);
}

/// What the end of a connection during its handshake means.
pub(super) fn failure_of(error: ConnectionError, peer: Option<NodeId>) -> Failure {
    let no_common_protocol = quinn::TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL);
    match &error {
        ConnectionError::TransportError(inner) if inner.code == no_common_protocol => {
            Failure::Refused(Refusal::OtherVersion)
        }
        ConnectionError::ConnectionClosed(close) if close.error_code == no_common_protocol => {
            Failure::Refused(Refusal::OtherVersion)
        }
        ConnectionError::VersionMismatch => Failure::Refused(Refusal::NotANode),
        ConnectionError::ApplicationClosed(close) => match (Close::of(close), peer) {
            (Some(Close::WrongPassword), _) => Failure::Refused(Refusal::WrongPassword),
            (Some(Close::OtherVersion), _) => Failure::Refused(Refusal::OtherVersion),
            (Some(Close::TooManyGuesses), _) => Failure::Refused(Refusal::TooManyGuesses),
            (Some(Close::Ourselves), _) => Failure::Ourselves,
            (Some(Close::Duplicate), Some(peer)) => Failure::Duplicate(peer),
            _ => Failure::Lost(error.to_string()),
        },
        _ => Failure::Lost(error.to_string()),
    }
}

/// TLS: none of the offered application protocols is spoken (RFC 7301).
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Numbers the connections that this node judged to be kept.
static SERIAL: AtomicU64 = AtomicU64::new(1);

async fn introduce(
    shared: &Arc<Shared>,
    connection: &Connection,
    role: Role,
) -> Result<NodeId, Failure> {
    let peer = tls::peer_of(connection).ok_or(Failure::Refused(Refusal::NotANode))?;
    if peer == shared.id {
        close(connection, Close::Ourselves, "this is the same node");
        return Err(Failure::Ourselves);
    }
    let source = connection.remote_address().ip();
    if role == Role::Acceptor && !shared.gate.may_guess(Instant::now(), source, peer) {
        close(connection, Close::TooManyGuesses, "too many wrong passwords");
        return Err(Failure::Refused(Refusal::TooManyGuesses));
    }
    let ends = Ends { role, us: shared.id, peer };
    let (send, recv) = auth::prove(connection, &ends, &shared.secret)
        .await
        .map_err(|error| judge_proof(shared, connection, role, peer, error))?;
    shared.gate.proved(peer);
    let reader = FrameReader::new(recv, GREETING_BYTES_MAX);
    match greet(shared, connection, &ends, send, reader).await {
        Ok(true) => Ok(peer),
        Ok(false) => {
            close(connection, Close::Duplicate, "these nodes are connected already");
            Err(Failure::Duplicate(peer))
        }
        Err(error) => Err(judge_greeting(connection, peer, error)),
    }
}

/// Exchanges greetings and the verdict; false if the pair keeps another
/// connection.
async fn greet(
    shared: &Arc<Shared>,
    connection: &Connection,
    ends: &Ends,
    mut send: SendStream,
    mut reader: FrameReader,
) -> Result<bool, GreetingError> {
    let ours = Greeting {
        name: shared.name.clone(),
        instance: shared.instance,
        connected: shared.registry.is_connected(ends.peer),
        seen_from: connection.remote_address().ip().to_canonical(),
        hello: Vec::new(),
    };
    greeting::tell(&mut send, &ours).await?;
    let theirs = greeting::hear(&mut reader).await?;
    let peer_is_connected = theirs.connected;
    let about = Introduction {
        peer: ends.peer,
        name: theirs.name,
        instance: theirs.instance,
        seen_from: theirs.seen_from,
        dialed_by_us: ends.role == Role::Dialer,
    };
    let (link, work) = Link::new(connection.clone(), about);
    let we_judge = ends.us < ends.peer;
    let verdict = if we_judge {
        link.set_serial(SERIAL.fetch_add(1, Ordering::Relaxed));
        shared.registry.judge(&link, peer_is_connected)
    } else {
        link.set_serial(greeting::hear_kept(&mut reader).await?);
        shared.registry.enter(&link)
    };
    let Verdict::Keep { predecessor } = verdict else {
        return Ok(false);
    };
    // From here on the link is in the registry, and only its task takes it
    // out: nothing may be awaited before that task is there.
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if we_judge {
            // A failure shows on the connection, which `link::run` watches.
            let _ = greeting::tell_kept(&mut send, link.serial()).await;
        }
        let _ = send.finish();
        link::run(shared, link, work, predecessor).await;
    });
    Ok(true)
}

fn judge_proof(
    shared: &Shared,
    connection: &Connection,
    role: Role,
    peer: NodeId,
    error: AuthError,
) -> Failure {
    let guessed = |code, reason: &str, refusal| {
        if role == Role::Acceptor {
            shared.gate.guessed_wrong(Instant::now(), connection.remote_address().ip());
        }
        close(connection, code, reason);
        Failure::Refused(refusal)
    };
    match error {
        AuthError::WrongPassword => {
            guessed(Close::WrongPassword, "wrong password", Refusal::WrongPassword)
        }
        AuthError::Malformed => guessed(Close::Broken, "not an authentication", Refusal::NotANode),
        AuthError::OtherSuite => {
            close(connection, Close::OtherVersion, "another authentication suite");
            Failure::Refused(Refusal::OtherVersion)
        }
        AuthError::Lost(error) => failure_of(error, Some(peer)),
    }
}

fn judge_greeting(connection: &Connection, peer: NodeId, error: GreetingError) -> Failure {
    match error {
        GreetingError::Malformed(reason) => {
            close(connection, Close::Broken, &reason);
            Failure::Lost(reason)
        }
        GreetingError::Lost(error) => failure_of(error, Some(peer)),
    }
}
