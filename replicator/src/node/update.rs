//! A file that lies here becomes another version: patched in place, or in a
//! copy that takes its place, with as few bytes fetched as can be.

use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;

use super::carry::{
    Carrier, Prepared, Written, failed, kept, leaves_of, overlay, punch, write_all,
};
use super::download::{self, Wanted, Writes};
use super::large::Base;
use crate::apply::{self, Expect, Staged, Step};
use crate::entry::{Fingerprint, Kind, Metadata};
use crate::hash::Leaves;
use crate::id::{BodyId, NodeId};
use crate::limits::PATCH_IN_PLACE_BYTES_MAX;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::root::Access;
use crate::sync::effect::{Keep, Outcome, Source, Update};

/// Fewer zeros than this are written as they are: a hole saves little there,
/// and a file of many small ones is slow.
const HOLE_BYTES_MIN: u64 = 64 << 10;

impl Carrier {
    /// A file that lies here changes to another version.
    pub(super) async fn update(
        &self,
        path: RelPath,
        body: BodyId,
        update: Update,
        written: Option<Written>,
    ) -> Prepared {
        let result = match (&update.source, written) {
            (_, Some(written)) if !update.linked => Ok(replace(&path, &update, written)),
            (_, Some(written)) => self.copy_into(&path, &update, written).await,
            (Source::Inline { writes, holes }, None) => {
                self.hash_and_patch(&path, &update, writes.clone(), holes.clone()).await
            }
            // Its copy, made above, is all there is of this source.
            (Source::Copy { .. }, None) => Err(Outcome::NotHeld),
            (Source::Peers(peers), None) => self.patch_from(peers, &path, body, &update).await,
        };
        result.unwrap_or_else(Prepared::Ended)
    }

    /// Gets what differs from peers: the very bytes where one remembers which
    /// they are, else the leaves that are not the same here.
    async fn patch_from(
        &self,
        peers: &[NodeId],
        path: &RelPath,
        body: BodyId,
        update: &Update,
    ) -> Result<Prepared, Outcome> {
        let wanted = Wanted { body, size: update.size, digest: update.to };
        let Some(first) = peers.first() else { return Err(Outcome::NotHeld) };
        let since = download::since(&self.transport, *first, &wanted, update.from).await?;
        let (mut writes, mut holes) = since.unwrap_or_default();
        let mut after = None;
        if !writes.is_empty() || !holes.is_empty() {
            let leaves = self.leaves_after(path, update, &writes, &holes).await?;
            if leaves.digest() == update.to {
                return self.patch(path, update, writes, holes, leaves).await;
            }
            // Bytes next to these were being written when they were read
            // there: what was told is right, but not all.
            after = Some(leaves);
        }
        let (holder, theirs) = download::fetch_leaves(&self.transport, peers, &wanted).await?;
        let mine = match (after, update.held.clone()) {
            (Some(leaves), _) | (None, Some(leaves)) => leaves,
            (None, None) => self.read_leaves(path, update.expect).await?,
        };
        let mut differing = match mine.resized(update.size) {
            Some(mine) => theirs.differing(&mine),
            None => Range::new(0, update.size).into_iter().collect(),
        };
        differing.truncate(update.size);
        if differing.bytes() > PATCH_IN_PLACE_BYTES_MAX && !update.linked {
            let held = update.held.clone();
            let base = held.map(|leaves| Base { path: path.clone(), leaves });
            let written = self.large().fetch(peers.to_vec(), wanted, base).await?;
            return Ok(replace(path, update, written));
        }
        let more = download::ranges(&self.transport, holder, &wanted, &differing).await?;
        let (more, more_holes) = without_zeros(more);
        writes = outside(&writes, &differing);
        writes.extend(more);
        holes.subtract(&differing);
        holes.extend(&more_holes);
        self.hash_and_patch(path, update, writes, holes).await
    }

    /// Sees what these bytes lead to before they are written.
    async fn hash_and_patch(
        &self,
        path: &RelPath,
        update: &Update,
        writes: Writes,
        holes: RangeSet,
    ) -> Result<Prepared, Outcome> {
        let leaves = self.leaves_after(path, update, &writes, &holes).await?;
        self.patch(path, update, writes, holes, leaves).await
    }

    /// Writes into the file, or into a copy of it that takes its place.
    async fn patch(
        &self,
        path: &RelPath,
        update: &Update,
        writes: Writes,
        holes: RangeSet,
        leaves: Leaves,
    ) -> Result<Prepared, Outcome> {
        if leaves.digest() != update.to {
            tracing::debug!(%path, "the bytes that came along lead to another version");
            return Err(Outcome::NotHeld);
        }
        let bytes: u64 = writes.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let conflict = matches!(update.keep, Keep::Conflict(_));
        let fits = self.in_place && !update.is_own && bytes <= PATCH_IN_PLACE_BYTES_MAX;
        if update.linked || (fits && !conflict) {
            let step = Step::Patch {
                path: path.clone(),
                expect: file(update.expect),
                writes,
                holes: holes.iter().collect(),
                size: update.size,
                metadata: update.metadata.clone(),
                keep: kept(update.keep),
            };
            return Ok(Prepared::Steps(vec![step], Some(leaves)));
        }
        let (root, from, size) = (Arc::clone(&self.root), path.clone(), update.size);
        let copied = tokio::task::spawn_blocking(move || {
            let staged = Staged::copy_of(&root, &from).map_err(failed)?;
            for hole in holes.iter() {
                punch(staged.file(), hole).map_err(failed)?;
            }
            write_all(&staged, &writes).map_err(failed)?;
            rustix::fs::ftruncate(staged.file().as_fd(), size).map_err(failed)?;
            Ok(staged)
        });
        let staged = copied.await.map_err(failed)??;
        Ok(replace(path, update, Written { staged, leaves }))
    }

    /// A whole new version goes into an inode that several names share.
    async fn copy_into(
        &self,
        path: &RelPath,
        update: &Update,
        written: Written,
    ) -> Result<Prepared, Outcome> {
        let whole = Range::new(0, update.size);
        let bytes = match whole {
            Some(range) => self.engine.read(written.staged.file(), range).await.map_err(failed)?,
            None => Bytes::new(),
        };
        let (writes, holes) = without_zeros(vec![(0, bytes)]);
        let step = Step::Patch {
            path: path.clone(),
            expect: file(update.expect),
            writes,
            holes: holes.iter().collect(),
            size: update.size,
            metadata: update.metadata.clone(),
            keep: kept(update.keep),
        };
        Ok(Prepared::Steps(vec![step], Some(written.leaves)))
    }

    /// The hash list the file will have, reading only the leaves that change.
    async fn leaves_after(
        &self,
        path: &RelPath,
        update: &Update,
        writes: &[(u64, Bytes)],
        holes: &RangeSet,
    ) -> Result<Leaves, Outcome> {
        let opened = self.root.open_file(path, Access::Read).map_err(failed)?;
        let old = Arc::new(opened.ok_or(Outcome::Raced)?);
        let known = update.held.as_ref().and_then(|held| held.resized(update.size));
        let mut touched: RangeSet = writes
            .iter()
            .filter_map(|(at, bytes)| Range::new(*at, at + bytes.len() as u64))
            .collect();
        touched.extend(holes);
        let mut leaves = match known {
            Some(leaves) => {
                touched.extend(&leaves.stale());
                leaves
            }
            None => {
                touched.extend(&Range::new(0, update.size).into_iter().collect());
                Leaves::new(update.size).ok_or_else(|| failed("the file is too large"))?
            }
        };
        touched.truncate(update.size);
        for index in leaves.touched(&touched) {
            let range = leaves.range_of(index);
            let mut bytes = self.engine.read(&old, range).await.map_err(failed)?.to_vec();
            bytes.resize(range.len() as usize, 0);
            let before = update.expect.size;
            if before < range.end && before > range.start {
                bytes[(before - range.start) as usize..].fill(0);
            }
            for hole in holes.iter().filter_map(|hole| hole.intersection(&range)) {
                let place = (hole.start - range.start) as usize..(hole.end - range.start) as usize;
                bytes[place].fill(0);
            }
            overlay(&mut bytes, range, writes);
            leaves.set(index, &bytes);
        }
        Ok(leaves)
    }

    async fn read_leaves(&self, path: &RelPath, expect: Fingerprint) -> Result<Leaves, Outcome> {
        let opened = self.root.open_file(path, Access::Read).map_err(failed)?;
        leaves_of(&self.engine, &Arc::new(opened.ok_or(Outcome::Raced)?), expect.size).await
    }
}

/// A new version takes the place of the present one as a whole.
fn replace(path: &RelPath, update: &Update, written: Written) -> Prepared {
    let over = apply::Over { expect: file(update.expect), keep: kept(update.keep) };
    let metadata: Metadata = update.metadata.clone();
    let step =
        Step::Place { path: path.clone(), staged: written.staged, metadata, over: Some(over) };
    Prepared::Steps(vec![step], Some(written.leaves))
}

fn file(fingerprint: Fingerprint) -> Expect {
    Expect { kind: Kind::File, fingerprint }
}

/// What of these writes lies outside of some ranges.
fn outside(writes: &[(u64, Bytes)], ranges: &RangeSet) -> Writes {
    let mut left = Vec::with_capacity(writes.len());
    for (start, bytes) in writes {
        let span = Range::new(*start, start + bytes.len() as u64);
        let mut span: RangeSet = span.into_iter().collect();
        span.subtract(ranges);
        let piece = |range: Range| {
            bytes.slice((range.start - start) as usize..(range.end - start) as usize)
        };
        left.extend(span.iter().map(|range| (range.start, piece(range))));
    }
    left
}

/// Fetched bytes do not tell which zeros were holes: long runs of them
/// become holes, as they do in a file that is fetched as a whole.
fn without_zeros(fetched: Writes) -> (Writes, RangeSet) {
    let (mut writes, mut holes) = (Vec::with_capacity(fetched.len()), RangeSet::new());
    for (start, bytes) in fetched {
        let end = start + bytes.len() as u64;
        let piece =
            |from: u64, to: u64| bytes.slice((from - start) as usize..(to - start) as usize);
        let (mut at, mut data_from) = (start, start);
        while at < end {
            let next = (at / HOLE_BYTES_MIN + 1).saturating_mul(HOLE_BYTES_MIN).min(end);
            let is_aligned = at.is_multiple_of(HOLE_BYTES_MIN) && next - at == HOLE_BYTES_MIN;
            if is_aligned && piece(at, next).iter().all(|byte| *byte == 0) {
                holes.extend(&Range::new(at, next).into_iter().collect());
                if data_from < at {
                    writes.push((data_from, piece(data_from, at)));
                }
                data_from = next;
            }
            at = next;
        }
        if data_from < end {
            writes.push((data_from, piece(data_from, end)));
        }
    }
    (writes, holes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeros_are_holes_and_all_else_is_written() {
        let hole = HOLE_BYTES_MIN as usize;
        let mut content = vec![0; 5 * hole + 10];
        content[hole - 1] = 1;
        content[3 * hole] = 2;
        let start = HOLE_BYTES_MIN * 7;
        let (writes, holes) = without_zeros(vec![(start, content.clone().into())]);
        let holes: Vec<_> = holes.iter().map(|hole| (hole.start - start, hole.len())).collect();
        assert_eq!(
            holes,
            [(HOLE_BYTES_MIN, 2 * HOLE_BYTES_MIN), (4 * HOLE_BYTES_MIN, HOLE_BYTES_MIN)]
        );
        let mut again = vec![0; content.len()];
        let whole = Range { start, end: start + content.len() as u64 };
        overlay(&mut again, whole, &writes);
        assert!(again == content);
        let written: usize = writes.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(written, 2 * hole + 10);
    }

    #[test]
    fn zeros_that_are_no_whole_block_are_written() {
        let content = Bytes::from(vec![0; HOLE_BYTES_MIN as usize]);
        let (writes, holes) = without_zeros(vec![(100, content.clone()), (0, Bytes::new())]);
        assert!(writes == [(100, content)] && holes.is_empty());
    }

    #[test]
    fn writes_are_cut_where_newer_bytes_came() {
        let newer = [Range { start: 3, end: 5 }, Range { start: 8, end: 20 }];
        let left = outside(&[(0, Bytes::from_static(b"0123456789"))], &newer.into_iter().collect());
        assert_eq!(left, [(0, Bytes::from_static(b"012")), (5, Bytes::from_static(b"567"))]);
    }
}
