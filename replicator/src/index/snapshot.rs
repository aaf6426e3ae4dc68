//! What the database held at its last commit that this thread knows of.
//!
//! Tables stay open between reads, so a read costs a walk down a tree.

use redb::{AccessGuard, Database, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata};

use super::error::Error;
use super::tables::{self, BODIES, HOLDERS, INODES, LEAVES, LOG, META, NAMES};
use crate::hash::Leaves;
use crate::id::{Actor, BodyId};
use crate::path::RelPath;
use crate::sync::record::{BodyRow, NameRow};

pub(super) struct Snapshot {
    names: ReadOnlyTable<&'static [u8], &'static [u8]>,
    bodies: ReadOnlyTable<&'static [u8; 16], &'static [u8]>,
    inodes: ReadOnlyTable<u64, &'static [u8; 16]>,
    holders: ReadOnlyTable<&'static [u8; 24], ()>,
    log: ReadOnlyTable<&'static [u8; 16], &'static [u8]>,
    leaves: ReadOnlyTable<&'static [u8; 20], &'static [u8]>,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
}

/// A value that nobody has decoded yet.
pub(super) type Encoded = AccessGuard<'static, &'static [u8]>;

/// A place in an actor's log, and what it leads to.
pub(super) type Logged = ((Actor, u64), Encoded);

impl Snapshot {
    pub(super) fn take(db: &Database) -> Result<Self, Error> {
        let txn = db.begin_read()?;
        Ok(Self {
            names: txn.open_table(NAMES)?,
            bodies: txn.open_table(BODIES)?,
            inodes: txn.open_table(INODES)?,
            holders: txn.open_table(HOLDERS)?,
            log: txn.open_table(LOG)?,
            leaves: txn.open_table(LEAVES)?,
            meta: txn.open_table(META)?,
        })
    }

    pub(super) fn name(&self, path: &RelPath) -> Result<Option<NameRow>, Error> {
        let row = self.names.get(path.as_bytes())?;
        row.map(|row| tables::decode(row.value())).transpose()
    }

    /// Names with `start < path < end`; no end where `end` is empty.
    pub(super) fn names_between(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Result<impl Iterator<Item = Result<(RelPath, Encoded), Error>> + use<>, Error> {
        use std::ops::Bound::{Excluded, Unbounded};
        let end = if end.is_empty() { Unbounded } else { Excluded(end) };
        let range = self.names.range::<&[u8]>((Excluded(start), end))?;
        Ok(range.map(|entry| {
            let (key, row) = entry?;
            let path = RelPath::parse(key.value());
            Ok((path.map_err(|bad| Error::Corrupt(format!("a path: {bad}")))?, row))
        }))
    }

    pub(super) fn body(&self, id: BodyId) -> Result<Option<BodyRow>, Error> {
        let row = self.bodies.get(&tables::body_key(id))?;
        row.map(|row| tables::decode(row.value())).transpose()
    }

    pub(super) fn body_of_inode(&self, inode: u64) -> Result<Option<BodyId>, Error> {
        Ok(self.inodes.get(inode)?.map(|key| tables::body_of_key(key.value())))
    }

    /// At most so many.
    pub(super) fn holders(&self, hash: u64, most: usize) -> Result<Vec<BodyId>, Error> {
        let ends = [BodyId::FIRST, BodyId::LAST].map(|id| tables::holder_key((hash, id)));
        let held = self.holders.range::<&[u8; 24]>(&ends[0]..=&ends[1])?.take(most);
        held.map(|entry| Ok(tables::holder_of_key(entry?.0.value()))).collect()
    }

    pub(super) fn leaves(&self, id: BodyId) -> Result<Option<Leaves>, Error> {
        let (first, last) = (tables::chunk_key(id, 0), tables::chunk_key(id, u32::MAX));
        let mut chunks = Vec::new();
        for entry in self.leaves.range::<&[u8; 20]>(&first..=&last)? {
            chunks.extend_from_slice(entry?.1.value());
        }
        if chunks.is_empty() { Ok(None) } else { tables::leaves_of(&chunks).map(Some) }
    }

    /// Places `(actor, after)` to `(actor, up_to)`, without the first.
    pub(super) fn log(
        &self,
        actor: Actor,
        after: u64,
        up_to: u64,
    ) -> Result<impl Iterator<Item = Result<Logged, Error>> + use<>, Error> {
        use std::ops::Bound::{Excluded, Included};
        let (start, end) = (tables::place_key((actor, after)), tables::place_key((actor, up_to)));
        let range = self.log.range::<&[u8; 16]>((Excluded(&start), Included(&end)))?;
        Ok(range.map(|entry| {
            let (key, row) = entry?;
            Ok((tables::place_of_key(key.value()), row))
        }))
    }

    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.meta.get(key)?.map(|value| value.value().to_vec()))
    }

    /// How many names and bodies. Reads one page each.
    pub(super) fn counts(&self) -> Result<(u64, u64), Error> {
        Ok((self.names.len()?, self.bodies.len()?))
    }
}
