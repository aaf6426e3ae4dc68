//! A membership datagram with the member it is for, so that others can hand
//! it on.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::NodeId;
use crate::limits::DATAGRAM_BYTES_MAX;

/// Version (1), hops left (1), receiver (16).
const HEADER_BYTES: usize = 18;

/// Room for foca's own packet.
pub(super) const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES;

const VERSION: u8 = 1;

/// Greedy routing halves the distance with each hop: enough for 65,536 nodes.
const HOPS_MAX: u8 = 16;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relayed<'a> {
    hops_left: u8,
    pub to: NodeId,
    pub payload: &'a [u8],
}

impl<'a> Relayed<'a> {
    pub(super) fn new(to: NodeId, payload: &'a [u8]) -> Self {
        Self { hops_left: HOPS_MAX, to, payload }
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
        let id: [u8; 16] = header[2..].try_into().ok()?;
        let known = header[0] == VERSION && payload.len() <= PAYLOAD_BYTES_MAX;
        known.then(|| Self { hops_left: header[1], to: NodeId::from_bytes(id), payload })
    }

    /// Counts a hop; false when the datagram has travelled enough.
    pub(super) fn pass_on(&mut self) -> bool {
        self.hops_left = self.hops_left.min(HOPS_MAX).saturating_sub(1);
        self.hops_left > 0
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.payload.len());
        bytes.put_u8(VERSION);
        bytes.put_u8(self.hops_left);
        bytes.put_slice(self.to.as_bytes());
        bytes.put_slice(self.payload);
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let to = NodeId::from_bytes([3; 16]);
        let encoded = Relayed::new(to, b"swim").encode();
        assert_eq!(&encoded[..], [&[1, 16][..], &[3; 16], b"swim"].concat());
        assert_eq!(Relayed::decode(&encoded), Some(Relayed::new(to, b"swim")));
    }

    #[test]
    fn other_things_are_not_read() {
        let mut encoded = Relayed::new(NodeId::from_bytes([3; 16]), b"").encode().to_vec();
        assert!(Relayed::decode(&encoded[..17]).is_none());
        encoded[0] = 2;
        assert!(Relayed::decode(&encoded).is_none());
        assert!(Relayed::decode(&[1; HEADER_BYTES + PAYLOAD_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn no_datagram_travels_for_ever() {
        let mut relayed = Relayed::new(NodeId::from_bytes([3; 16]), b"");
        relayed.hops_left = u8::MAX;
        let hops = (0..).take_while(|_| relayed.pass_on()).count();
        assert_eq!(hops, usize::from(HOPS_MAX) - 1);
    }
}
