//! Every limit, time and code of the wire, by name and with its reason.

use std::time::Duration;

use quinn::{ApplicationClose, VarInt};

/// The protocol this build speaks; TLS refuses a peer that speaks another.
pub(super) const ALPN: &[u8] = b"replicator/7";

/// The name every node answers to; it identifies nobody.
pub(super) const SERVER_NAME: &str = "replicator";

/// Longest hello of a peer, in bytes.
pub(super) const HELLO_BYTES_MAX: usize = 4 << 10;

/// Longest request of a fetch, in bytes: a list of some ten thousand ranges.
pub(super) const FETCH_REQUEST_BYTES_MAX: usize = 1 << 20;

/// Addresses dialed at once: a full mesh of the largest cluster foreseen.
pub(super) const DIALERS_MAX: usize = 1024;

/// Addresses of one name that a try looks at.
pub(super) const RESOLVED_MAX: usize = 64;

// -- Before a peer has proved that it knows the password --

/// The whole way from first packet to verdict. 0.8 to 1.1 ms were measured
/// on loopback; three round trips around the world are one second.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// What a stranger may make us buffer. The exchange takes less than 200 bytes.
pub(super) const STRANGER_WINDOW_BYTES: u32 = 64 << 10;

/// Strangers at once, from everywhere and from one address: one address
/// cannot take all the room.
pub(super) const STRANGERS_MAX: usize = 32;
pub(super) const STRANGERS_PER_SOURCE_MAX: usize = 16;

/// With more strangers than this, a new one must prove its address first.
pub(super) const STRANGERS_UNPROVEN_MAX: usize = 8;

/// Wrong guesses a minute, from one address and from everywhere.
pub(super) const GUESSES_PER_SOURCE: u32 = 5;
pub(super) const GUESSES_IN_ALL: u32 = 60;
pub(super) const GUESSES_PERIOD: Duration = Duration::from_secs(60);

/// Sources whose wrong guesses are remembered; beyond it only the limit for
/// all of them holds.
pub(super) const SOURCES_MAX: usize = 4096;

/// Nodes that authenticated once and are no longer subject to the guess
/// limits, so that a stranger behind the same address cannot keep them out.
pub(super) const KNOWN_NODES_MAX: usize = 4096;

// -- An established connection --

/// One stream's receive window: 4 MiB in each round trip, 34 Gbit/s at 1 ms.
/// A larger file part on a long path is fetched over several streams.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Fetches that a peer may have open here at once.
pub(super) const FETCHES_PER_PEER_MAX: u32 = 32;

/// The message streams: Control and Bulk.
pub(super) const LANES: u32 = 2;

/// The connection's receive window holds all streams' windows at once, so
/// fetches and a Bulk lane that nobody reads leave room for Control.
pub(super) const CONNECTION_WINDOW_BYTES: u32 =
    STREAM_WINDOW_BYTES * (FETCHES_PER_PEER_MAX + LANES);

/// Unacknowledged bytes a connection holds: 10 Gbit/s over 50 ms.
pub(super) const SEND_WINDOW_BYTES: u64 = 64 << 20;

/// First congestion window: ten packets, as RFC 6928 has it, of the largest
/// size. With quinn's 12,000 bytes one MTU probe on its way held up the first
/// real packets.
pub(super) const INITIAL_WINDOW_BYTES: u64 = 10 * MTU_BYTES_MAX as u64;

/// A peer that is silent for this long is gone, and how often a silent
/// connection says that it lives: two lost keep-alives are survived.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_secs(6);
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Without a measured round trip a lost first packet is sent again after
/// three times this.
pub(super) const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Datagrams of a peer that wait to be read, in bytes.
pub(super) const DATAGRAM_BUFFER_BYTES: usize = 256 << 10;

/// Bytes and messages waiting on one lane of one peer before a sender waits.
pub(super) const LANE_QUEUE_BYTES: usize = 16 << 20;
pub(super) const LANE_QUEUE_MESSAGES: usize = 1024;

/// Bytes and events waiting for the node, for all peers together. Bulk has
/// its own room, so that Control passes.
pub(super) const EVENT_QUEUE_CONTROL_BYTES: usize = 16 << 20;
pub(super) const EVENT_QUEUE_BULK_BYTES: usize = 32 << 20;
pub(super) const EVENT_QUEUE_EVENTS: usize = 1024;

/// Socket buffers asked for, in bytes. 4 MiB brought packet loss on loopback
/// from 8,057 to none; 7.5 MiB is what quic-go and others ask for.
pub(super) const SOCKET_BUFFER_BYTES: usize = 15 << 19;

/// Largest UDP payload tried: a 9,000-byte frame less IPv6 and UDP headers.
/// MTU discovery finds what the path really takes.
pub(super) const MTU_BYTES_MAX: u16 = 8952;

/// Largest UDP payload of one send call over IPv4. A batch above it is
/// refused by the kernel as a whole, which looks like loss of all its packets.
pub(super) const UDP_BYTES_MAX: usize = 65_507;

// -- Dialing --

/// Pause between tries: doubles from the first to the last.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(super) const RETRY_LAST: Duration = Duration::from_secs(5);

/// Time for an answer to our first packet: grows with the tries as well, so
/// that a node that starts a moment after us is found at once and one behind
/// a slow path in the end.
pub(super) const ANSWER_TIME_FIRST: Duration = Duration::from_millis(500);

/// Pause after a refusal that only a person can mend. With its jitter it
/// stays below `GUESSES_PER_SOURCE` a minute, so one node with a wrong
/// password does not use up the guesses of the address it shares.
pub(super) const RETRY_REFUSED: Duration = Duration::from_secs(16);

/// Pause when every address of a name is our own: others may join it later.
pub(super) const RETRY_OURSELVES: Duration = Duration::from_secs(30);

/// Head start of one address of a name over the next.
pub(super) const DIAL_STAGGER: Duration = Duration::from_millis(200);

// -- Codes; part of the protocol --

/// Why a node closes a connection: the code in a CONNECTION_CLOSE. An enum,
/// so that the compiler refuses two reasons of one number: one taken for
/// another can end a healthy node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Close {
    Goodbye = 0,
    WrongPassword = 1,
    OtherVersion = 2,
    TooManyGuesses = 3,
    Duplicate = 4,
    Replaced = 5,
    Broken = 6,
    Ourselves = 7,
    Unwanted = 8,
    Twin = 9,
    TooSlow = 10,
}

impl Close {
    pub(super) const ALL: [Self; 11] = [
        Self::Goodbye,
        Self::WrongPassword,
        Self::OtherVersion,
        Self::TooManyGuesses,
        Self::Duplicate,
        Self::Replaced,
        Self::Broken,
        Self::Ourselves,
        Self::Unwanted,
        Self::Twin,
        Self::TooSlow,
    ];

    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    /// What the peer meant; `None` for a reason of another build.
    pub(super) fn of(close: &ApplicationClose) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == close.error_code)
    }
}

/// Code of a stream that ends without its answer.
pub(super) const RESET_NO_ANSWER: u32 = 1;

const _: () = {
    use crate::limits::FRAME_BYTES_MAX;
    assert!(FRAME_BYTES_MAX <= LANE_QUEUE_BYTES);
    assert!(FRAME_BYTES_MAX <= EVENT_QUEUE_CONTROL_BYTES);
    assert!(FRAME_BYTES_MAX <= EVENT_QUEUE_BULK_BYTES);
    assert!(RETRY_REFUSED.as_secs() * GUESSES_PER_SOURCE as u64 > GUESSES_PERIOD.as_secs());
    assert!(KEEP_ALIVE.as_millis() * 3 <= IDLE_TIME_MAX.as_millis());
};
