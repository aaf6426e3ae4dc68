//! Rows that were written but do not lie in the database yet.
//!
//! One batch becomes one transaction. It is filled by the node's thread,
//! then frozen and shared with the writer, and read all the while.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::hash::Leaves;
use crate::id::{Actor, BodyId};
use crate::path::RelPath;
use crate::sync::record::{BodyRow, Key, NameRow};
use crate::sync::version::VersionVector;

/// `None` in a map takes the row away. All maps are sorted, because sorted
/// keys touch each page of the database once.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) names: BTreeMap<ByBytes, Option<Arc<NameRow>>>,
    pub(super) bodies: BTreeMap<BodyId, Option<Arc<BodyRow>>>,
    pub(super) inodes: BTreeMap<u64, Option<BodyId>>,
    /// What holds something of this hash, and what does no longer.
    pub(super) holders: BTreeMap<(u64, BodyId), bool>,
    pub(super) log: BTreeMap<(Actor, u64), Option<Key>>,
    pub(super) leaves: BTreeMap<BodyId, Option<Arc<Leaves>>>,
    pub(super) have: Option<VersionVector>,
    pub(super) notes: BTreeMap<String, Vec<u8>>,
    /// Hashes in `leaves`: a list is as heavy as it is long.
    pub(super) hashes: u64,
}

/// A path to be looked up by bytes that need not be a path: ranges begin at
/// `a/`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByBytes(pub(super) RelPath);

impl Borrow<[u8]> for ByBytes {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.bodies.is_empty()
            && self.inodes.is_empty()
            && self.holders.is_empty()
            && self.log.is_empty()
            && self.leaves.is_empty()
            && self.have.is_none()
            && self.notes.is_empty()
    }

    /// How much memory and work it is, in rows.
    pub(super) fn weight(&self) -> usize {
        self.names.len()
            + self.bodies.len()
            + self.leaves.len()
            + self.notes.len()
            + (self.hashes / HASHES_PER_ROW) as usize
    }
}

/// A decoded row takes about as much memory as this many hashes.
const HASHES_PER_ROW: u64 = 16;
