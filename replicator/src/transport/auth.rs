//! The proof that both ends know the password, on a connection's first stream.
//!
//! ```text
//! dialer                                   acceptor
//!   suite (1), SPAKE2 element (33)   ──>
//!                                    <──   suite (1), SPAKE2 element (33)
//!   MAC "dialer" (32)                ──>
//!                                    <──   MAC "acceptor" (32)
//! ```
//!
//! The MAC key mixes the SPAKE2 key with a secret exported from this very TLS
//! session, so a relay that ends TLS on both sides fails although it passes
//! every byte on. An observer learns nothing to test guesses against; a fake
//! peer gets one guess a run, and only the dialer's MAC is ever sent to a peer
//! that has proved nothing.

use blake3::Hash;
use quinn::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream, WriteError};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::secret::Secret;
use crate::id::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Dialer,
    Acceptor,
}

/// Who stands at the two ends.
pub(super) struct Ends {
    pub role: Role,
    pub us: NodeId,
    pub peer: NodeId,
}

#[derive(Debug)]
pub(super) enum AuthError {
    /// The peer's proof is wrong: another password, another cluster name, or
    /// somebody in between.
    WrongPassword,
    OtherSuite,
    /// What came is no part of this exchange.
    Malformed,
    /// The connection ended; its close code may say why.
    Lost(ConnectionError),
}

/// Runs the exchange and returns the stream, which from now on is between
/// members.
pub(super) async fn prove(
    connection: &Connection,
    ends: &Ends,
    secret: &Secret,
) -> Result<(SendStream, RecvStream), AuthError> {
    let (mut send, mut recv) = match ends.role {
        Role::Dialer => connection.open_bi().await,
        Role::Acceptor => connection.accept_bi().await,
    }
    .map_err(AuthError::Lost)?;
    // The acceptor says nothing before it has read a whole first message.
    let (spake, ours) = start(ends, secret);
    let theirs = match ends.role {
        Role::Dialer => {
            write(&mut send, &ours).await?;
            read::<ELEMENT_BYTES>(&mut recv).await?
        }
        Role::Acceptor => {
            let theirs = read::<ELEMENT_BYTES>(&mut recv).await?;
            if theirs[0] == SUITE {
                write(&mut send, &ours).await?;
            }
            theirs
        }
    };
    if theirs[0] != SUITE {
        return Err(AuthError::OtherSuite);
    }
    let shared = spake.finish(&theirs[1..]).map_err(|_| AuthError::Malformed)?;
    let macs = Macs::new(connection, ends, &Zeroizing::new(shared), &ours, &theirs)?;
    match ends.role {
        Role::Dialer => {
            write(&mut send, macs.dialer.as_bytes()).await?;
            expect(&mut recv, macs.acceptor).await?;
        }
        Role::Acceptor => {
            expect(&mut recv, macs.dialer).await?;
            write(&mut send, macs.acceptor.as_bytes()).await?;
        }
    }
    Ok((send, recv))
}

/// Names the whole construction (Argon2id as in `secret`, SPAKE2 over
/// Ed25519, BLAKE3 MACs), so that another can follow it one day.
const SUITE: u8 = 1;

/// The suite and a SPAKE2 message, which is a side byte and a point.
const ELEMENT_BYTES: usize = 1 + 33;

const EXPORTER_LABEL: &[u8] = b"EXPORTER-replicator-auth-v1";
const CONFIRM_CONTEXT: &str = "replicator 2026 authentication confirmation key v1";

fn start(ends: &Ends, secret: &Secret) -> (Spake2<Ed25519Group>, Vec<u8>) {
    let (dialer, acceptor) = by_role(ends);
    let named = |role: &[u8], id: NodeId| Identity::new(&[role, id.as_bytes()].concat());
    let (a, b) = (named(b"dialer", dialer), named(b"acceptor", acceptor));
    let password = Password::new(secret.key());
    let (spake, element) = match ends.role {
        Role::Dialer => Spake2::<Ed25519Group>::start_a(&password, &a, &b),
        Role::Acceptor => Spake2::<Ed25519Group>::start_b(&password, &a, &b),
    };
    let mut message = vec![SUITE];
    message.extend_from_slice(&element);
    (spake, message)
}

fn by_role(ends: &Ends) -> (NodeId, NodeId) {
    match ends.role {
        Role::Dialer => (ends.us, ends.peer),
        Role::Acceptor => (ends.peer, ends.us),
    }
}

struct Macs {
    dialer: Hash,
    acceptor: Hash,
}

impl Macs {
    fn new(
        connection: &Connection,
        ends: &Ends,
        shared: &[u8],
        ours: &[u8],
        theirs: &[u8],
    ) -> Result<Self, AuthError> {
        let mut exported = Zeroizing::new([0; 32]);
        connection
            .export_keying_material(exported.as_mut(), EXPORTER_LABEL, b"")
            .map_err(|_| AuthError::Malformed)?;
        let material = Zeroizing::new([shared, exported.as_ref()].concat());
        let key = Zeroizing::new(blake3::derive_key(CONFIRM_CONTEXT, &material));
        let (from_dialer, from_acceptor) = match ends.role {
            Role::Dialer => (ours, theirs),
            Role::Acceptor => (theirs, ours),
        };
        let (dialer, acceptor) = by_role(ends);
        // Every part has a fixed length, so no two transcripts look alike.
        let mac = |role: u8| {
            let mut hasher = blake3::Hasher::new_keyed(&key);
            hasher.update(&[role]);
            hasher.update(dialer.as_bytes()).update(acceptor.as_bytes());
            hasher.update(from_dialer).update(from_acceptor);
            hasher.finalize()
        };
        Ok(Self { dialer: mac(b'D'), acceptor: mac(b'A') })
    }
}

async fn expect(recv: &mut RecvStream, wanted: Hash) -> Result<(), AuthError> {
    let theirs = Hash::from_bytes(read(recv).await?);
    // `Hash` compares in constant time.
    if theirs == wanted { Ok(()) } else { Err(AuthError::WrongPassword) }
}

async fn read<const N: usize>(recv: &mut RecvStream) -> Result<[u8; N], AuthError> {
    let mut bytes = [0; N];
    match recv.read_exact(&mut bytes).await {
        Ok(()) => Ok(bytes),
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
            Err(AuthError::Lost(error))
        }
        Err(_) => Err(AuthError::Malformed),
    }
}

async fn write(send: &mut SendStream, bytes: &[u8]) -> Result<(), AuthError> {
    match send.write_all(bytes).await {
        Ok(()) => Ok(()),
        Err(WriteError::ConnectionLost(error)) => Err(AuthError::Lost(error)),
        Err(_) => Err(AuthError::Malformed),
    }
}
