//! What can go wrong here, said so that the reader knows whose turn it is.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::settings::FETCH_REQUEST_BYTES_MAX;
use crate::limits::{DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, NODE_NAME_BYTES_MAX};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine or its user: the address cannot be had.
    #[error("cannot listen on {address}: {}", listen_advice(source))]
    Listen { address: SocketAddr, source: io::Error },

    /// The machine or its user: the key file cannot be read or written.
    #[error("cannot use the node key {}: {source}", path.display())]
    KeyFile { path: PathBuf, source: io::Error },

    /// The user: others could read the private key.
    #[error(
        "the node key {0} can be read by others (mode {mode:o}); run: chmod 600 {0}",
        path.display()
    )]
    KeyFileOpen { path: PathBuf, mode: u32 },

    /// The file does not hold what we wrote.
    #[error(
        "the node key {} is damaged ({reason}); restore it, or remove it to become a new node",
        path.display()
    )]
    KeyFileDamaged { path: PathBuf, reason: String },

    /// The user.
    #[error("the password is empty; put one into the password file")]
    EmptyPassword,

    /// The machine: 64 MiB could not be used for it.
    #[error("cannot derive a key from the password: {0}")]
    Stretch(String),

    /// The machine.
    #[error("the system gives no random numbers: {0}")]
    Random(String),

    /// Our own: key and certificate do not fit TLS.
    #[error("cannot set up TLS: {0}")]
    Tls(String),

    /// The caller.
    #[error("the node's name has {0} bytes, at most {NODE_NAME_BYTES_MAX} are possible")]
    NameTooLong(usize),

    /// The caller.
    #[error("the request has {0} bytes, at most {FETCH_REQUEST_BYTES_MAX} are possible")]
    RequestTooLong(usize),

    /// The caller.
    #[error("the transport was started outside a tokio runtime")]
    NoRuntime,

    /// Nobody: the peer is not there now.
    #[error("the peer is not connected")]
    NotConnected,

    /// The peer or the network: the connection or the stream ended early.
    #[error("the peer gave no full answer: {0}")]
    Cut(String),
}

impl Error {
    /// What a process exits with that cannot start for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { source, .. } | Self::KeyFile { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                77
            }
            Self::Listen { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
                ) =>
            {
                78
            }
            Self::KeyFileOpen { .. } | Self::KeyFileDamaged { .. } | Self::EmptyPassword => 78,
            _ => 2,
        }
    }
}

/// A message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    #[error("the peer is not connected")]
    NotConnected,
    /// The caller broke a limit.
    #[error(
        "the message has {0} bytes; a frame takes {FRAME_BYTES_MAX}, a datagram {DATAGRAM_BYTES_MAX}"
    )]
    TooLong(usize),
}

/// Why two nodes did not become peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error(
        "the password or the cluster name differs; both must be the same on every node of the cluster"
    )]
    WrongPassword,
    #[error(
        "it speaks another protocol version than this node (replicator/7); upgrade the older of the two"
    )]
    OtherVersion,
    #[error("too many wrong passwords came from this address; it may try again in a minute")]
    TooManyGuesses,
    #[error("what answers there is not a node of this program; check the address and the port")]
    NotANode,
}

fn listen_advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop the other program or choose another port".into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use one of its own, or 0.0.0.0".into()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; choose a port above 1023 or give the service CAP_NET_BIND_SERVICE"
                .into()
        }
        _ => error.to_string(),
    }
}
