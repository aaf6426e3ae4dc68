//! Names for nodes and for the beings they make: identifiers that never
//! change hands.
//!
//! This module owns their shapes and their text form. It draws no random
//! numbers and reads no keys: whoever owns a key or a random source makes the
//! value and hands it in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node for its whole life: the first 16 bytes of the BLAKE3 hash of its
/// TLS public key (the `SubjectPublicKeyInfo`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The id of the node that owns this public key.
    pub fn of_public_key(subject_public_key_info: &[u8]) -> Self {
        let hash = blake3::hash(subject_public_key_info);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        Self(id)
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    /// The first eight digits, enough to tell nodes of one cluster apart in a
    /// log; `{:#}` writes all 32.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if f.alternate() { 16 } else { 4 };
        self.0[..digits].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(NotAnId);
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| NotAnId)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotAnId)?;
        }
        Ok(Self(id))
    }
}

/// The text is not 32 hexadecimal digits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node id is 32 hexadecimal digits")]
pub struct NotAnId;

/// One writing life of a node: drawn at random when its state is made and
/// again after every unclean end, so that a version counter lost in a crash
/// is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor(pub u64);

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// What an inode is, across renames, hard links and nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BodyId {
    /// The actor that saw the inode first.
    pub origin: Actor,
    /// Counts the bodies of that actor, from 1.
    pub counter: u64,
}

impl BodyId {
    /// The ends of a range of all there can be.
    pub const FIRST: Self = Self { origin: Actor(0), counter: 0 };
    pub const LAST: Self = Self { origin: Actor(u64::MAX), counter: u64::MAX };
}

impl fmt::Debug for BodyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.origin, self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_text_form_round_trips() {
        let id = NodeId::of_public_key(b"a public key");
        assert_eq!(format!("{id:#}").parse(), Ok(id));
        assert_eq!("ab".parse::<NodeId>(), Err(NotAnId));
        assert_eq!("é".repeat(16).parse::<NodeId>(), Err(NotAnId));
    }
}
