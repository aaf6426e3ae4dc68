//! What the core needs of an index.
//!
//! The core reads and writes rows through [`Store`] and never learns whether
//! they lie in a database or in a map; the simulator and the unit tests run
//! on one in memory. A store that fails does not answer with errors the
//! core could not mend: it remembers the failure, and the node stops.

use std::sync::Arc;

use super::record::{BodyRow, Content, Key, NameRow};
use super::roster::Roster;
use super::version::{Dot, VersionVector};
use crate::entry::{Fingerprint, Timestamp};
use crate::hash::{Digest, LeafHash, Leaves};
use crate::id::{Actor, BodyId};
use crate::limits::COPIED_BYTES_MIN;
use crate::path::RelPath;

/// Most bodies of one content that are asked for: the first whose file is still
/// that is copied.
pub const HOLDERS_MAX: usize = 8;

/// An index of names, bodies and logs. What was written is read back at once;
/// when it is durable is the store's affair. A row is shared with the store:
/// most of them are only looked at.
pub trait Store {
    fn name(&self, path: &RelPath) -> Option<Arc<NameRow>>;

    /// Also keeps the log: the row's stamp leads to this path, its former
    /// stamp no longer does.
    fn put_name(&mut self, path: &RelPath, row: NameRow);

    /// Forgets a name, and its place in the log.
    fn remove_name(&mut self, path: &RelPath);

    /// Names at and below `within`, in byte order of their paths, after
    /// `after`, at most `limit`.
    fn names_within(
        &self,
        within: &RelPath,
        after: Option<&RelPath>,
        limit: usize,
    ) -> Vec<(RelPath, Arc<NameRow>)>;

    fn body(&self, id: BodyId) -> Option<Arc<BodyRow>>;

    /// Also keeps the log, and the inode of `row.disk`: it leads to this
    /// body, the former row's inode no longer does. A number is given to
    /// another file as soon as it is free, and the body that had it may be
    /// written once more before anybody notices, or be met late by a look that
    /// was long under way: so of two bodies with one number it leads to the
    /// one that was born last.
    fn put_body(&mut self, id: BodyId, row: BodyRow);

    /// Forgets a body with its hash list, and its place in the log.
    fn remove_body(&mut self, id: BodyId);

    fn body_of_inode(&self, inode: u64) -> Option<BodyId>;

    /// Some of the bodies that lay on this disk with this content when they were
    /// written last, at most [`HOLDERS_MAX`]: a hint, for contents of
    /// [`COPIED_BYTES_MIN`] and more.
    fn bodies_of_content(&self, digest: Digest) -> Vec<BodyId>;

    /// Some of the bodies whose hash list begins with this leaf, at most
    /// [`HOLDERS_MAX`]: a hint.
    fn bodies_beginning_with(&self, leaf: &LeafHash) -> Vec<BodyId>;

    /// The hash list of the content on this disk, where it has more than one
    /// leaf.
    fn leaves(&self, id: BodyId) -> Option<Leaves>;

    fn put_leaves(&mut self, id: BodyId, leaves: Option<Leaves>);

    /// Places of an actor's log in `(after, up_to]`, in order, at most
    /// `limit`.
    fn log(&self, actor: Actor, after: u64, up_to: u64, limit: usize) -> Vec<(u64, Key)>;

    /// How far each actor's log is held here without a gap.
    fn have(&self) -> VersionVector;

    fn put_have(&mut self, have: VersionVector);

    /// Who else belongs to the cluster, as far as it was ever written.
    fn roster(&self) -> Option<Roster>;

    fn put_roster(&mut self, roster: Roster);

    /// The first own change since this node last met another one, as far as
    /// it was ever written.
    fn unmet(&self) -> Option<Dot>;

    fn put_unmet(&mut self, unmet: Option<Dot>);
}

/// The content on the disk by which a body is found, if it is worth finding.
pub fn content_key(row: &BodyRow) -> Option<u64> {
    match row.content_on_disk()? {
        Content::File { size, digest } if *size >= COPIED_BYTES_MIN => {
            Some(hash_key(digest.as_bytes()))
        }
        _ => None,
    }
}

/// The first leaf by which a body is found that has a hash list.
pub fn beginning_key(leaves: &Leaves) -> Option<u64> {
    leaves.get(0).filter(|_| leaves.count() > 1).map(hash_key)
}

/// Eight bytes of a hash tell it well enough for a hint.
pub fn hash_key(hash: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The inode that a body says it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub inode: u64,
    birth: Timestamp,
}

impl Claim {
    pub fn of(row: &BodyRow) -> Option<Self> {
        let Fingerprint { inode, birth, .. } = row.disk.as_ref()?.fingerprint;
        Some(Self { inode, birth })
    }

    /// Does the number lead to who claims it now, and no longer to its owner?
    pub fn holds_against(self, owner: Option<Claim>) -> bool {
        owner.is_none_or(|owner| owner.inode != self.inode || owner.birth <= self.birth)
    }
}

#[cfg(test)]
mod memory;
#[cfg(test)]
pub use memory::MemoryStore;
