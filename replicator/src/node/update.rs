//! A file that lies here becomes another version: patched in place, or in a
//! copy that takes its place, with as few bytes fetched as can be.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::carry::{Carrier, Prepared, kept};
use super::change::{CHANGE_BYTES_MAX, Change, without_zeros};
use super::download::{self, Answer};
use super::large::Base;
use super::staging::{WRITE_BYTES, Written, failed, leaves_of, overlay};
use super::wanted::Wanted;
use super::way::Way;
use crate::apply::{self, Expect, Staged, Step};
use crate::entry::{Fingerprint, Kind, Metadata};
use crate::hash::{Digest, Leaves};
use crate::id::{BodyId, NodeId};
use crate::limits::PATCH_IN_PLACE_BYTES_MAX;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::root::{self, Access};
use crate::sync::effect::{Keep, Outcome, Source, Update};
use crate::writes::{Writes, bytes_of, spans};

impl Carrier {
    /// A file that lies here changes to another version.
    pub(super) async fn update(
        &self,
        path: RelPath,
        body: BodyId,
        update: Update,
        written: Option<Written>,
        way: &Way,
    ) -> Prepared {
        let result = match (&update.source, written) {
            (_, Some(written)) if !update.linked => Ok(replace(&path, &update, written)),
            (_, Some(written)) => self.copy_into(&path, &update, written).await,
            (Source::Inline { writes, holes }, None) => {
                self.hash_and_patch(&path, &update, writes.clone(), holes.clone()).await
            }
            (Source::Copy { from, expect }, None) => {
                self.patch_from_other(from, *expect, &path, body, &update).await
            }
            (Source::Peers(peers), None) => self.patch_from(peers, &path, body, &update, way).await,
        };
        if result.is_ok() {
            self.outrun.is_over(body);
        }
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
        way: &Way,
    ) -> Result<Prepared, Outcome> {
        let wanted = Wanted { body, size: update.size, digest: update.to };
        let Some(first) = peers.first() else { return Err(Outcome::NotHeld) };
        if !update.linked && self.arrivals.is_mixed(body) {
            return self.replace_from(peers, path, wanted, None, update, way).await;
        }
        let mut change = self.told(*first, &wanted, update.from).await?;
        let mut after = None;
        if !change.is_empty() {
            let leaves = self.leaves_after(path, update, change.writes(), change.holes()).await?;
            if leaves.digest() == update.to {
                let (writes, holes) = change.finish();
                return self.patch(path, update, writes, holes, leaves).await;
            }
            // Bytes next to these were being written when they were read
            // there: what was told is right, but not all.
            after = Some(leaves);
        }
        let (holder, theirs) = download::fetch_leaves(&self.transport, peers, &wanted).await?;
        let differing = self.differing(path, update, after, &theirs).await?;
        if differing.bytes() > PATCH_IN_PLACE_BYTES_MAX && !update.linked {
            let list = Some((holder, theirs));
            return self.replace_from(peers, path, wanted, list, update, way).await;
        }
        if differing.bytes() > CHANGE_BYTES_MAX {
            return Err(failed("too much of a file with several names changed at once"));
        }
        change.differs(&differing);
        let answer = download::rest(&self.transport, holder, &wanted, &change).await?;
        let (writes, holes) = self.fill(change, answer).await?.finish();
        match self.hash_and_patch(path, update, writes, holes).await {
            // It is being written to where these came from.
            Err(Outcome::Broken) if !update.linked && self.outrun.again(body) => {
                let list = Some((holder, theirs));
                self.replace_from(peers, path, wanted, list, update, way).await
            }
            result => result,
        }
    }

    /// Takes what differs from another file of this disk that is the version.
    async fn patch_from_other(
        &self,
        other: &RelPath,
        expect: Fingerprint,
        path: &RelPath,
        body: BodyId,
        update: &Update,
    ) -> Result<Prepared, Outcome> {
        let opened = self.root.open_file(other, Access::Read).map_err(failed)?;
        let file = Arc::new(opened.ok_or(Outcome::NotHeld)?);
        let theirs = leaves_of(&self.engine, &file, update.size).await?;
        if theirs.digest() != update.to {
            return Err(Outcome::NotHeld);
        }
        let differing = self.differing(path, update, None, &theirs).await?;
        if differing.bytes() > PATCH_IN_PLACE_BYTES_MAX && !update.linked {
            let wanted = Wanted { body, size: update.size, digest: update.to };
            let written = self.copy_whole(other.clone(), expect, wanted).await?;
            return Ok(replace(path, update, written));
        }
        if differing.bytes() > CHANGE_BYTES_MAX {
            return Err(failed("too much of a file with several names changed at once"));
        }
        let mut bytes = Vec::new();
        for range in differing.iter().flat_map(|range| range.pieces(WRITE_BYTES as u64)) {
            bytes.push((range.start, self.engine.read(&file, range).await.map_err(failed)?));
        }
        let (writes, holes) = without_zeros(bytes);
        self.hash_and_patch(path, update, writes, holes).await
    }

    /// What of a version is not the same here.
    async fn differing(
        &self,
        path: &RelPath,
        update: &Update,
        mine: Option<Leaves>,
        theirs: &Leaves,
    ) -> Result<RangeSet, Outcome> {
        let mine = match mine.or_else(|| update.held.clone()) {
            Some(leaves) => leaves,
            None => self.read_leaves(path, update.expect).await?,
        };
        let mut differing = match mine.resized(update.size) {
            Some(mine) => theirs.differing(&mine),
            None => Range::new(0, update.size).into_iter().collect(),
        };
        differing.truncate(update.size);
        Ok(differing)
    }

    /// Makes the version beside its place, out of the one that lies here.
    async fn replace_from(
        &self,
        peers: &[NodeId],
        path: &RelPath,
        wanted: Wanted,
        list: Option<(NodeId, Leaves)>,
        update: &Update,
        way: &Way,
    ) -> Result<Prepared, Outcome> {
        let held = update.held.clone();
        let base = held.map(|leaves| Base { path: path.clone(), leaves });
        let written = self.large(way).fetch(peers.to_vec(), wanted, list, base).await?;
        Ok(replace(path, update, written))
    }

    /// What this peer remembers of the way to a version, with its bytes; what
    /// came of them before a line was cut does not come again. Empty where it
    /// does not know.
    async fn told(&self, peer: NodeId, wanted: &Wanted, from: Digest) -> Result<Change, Outcome> {
        if let Some(change) = self.changes.claim(wanted, from) {
            let answer = download::rest(&self.transport, peer, wanted, &change).await?;
            return self.fill(change, answer).await;
        }
        let change = Change::new(wanted, from);
        match download::since(&self.transport, peer, wanted, from).await? {
            Some((delta, answer)) => self.fill(change.told(delta), Some(answer)).await,
            None => Ok(change),
        }
    }

    /// Takes what is missing; what has come when the line is cut is kept.
    async fn fill(&self, mut change: Change, answer: Option<Answer>) -> Result<Change, Outcome> {
        let Some(mut answer) = answer else { return Ok(change) };
        match download::take_missing(&mut answer, &mut change).await {
            Ok(()) => Ok(change),
            Err(outcome) => {
                self.changes.keep(change);
                Err(outcome)
            }
        }
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
            return Err(Outcome::Broken);
        }
        let bytes = bytes_of(&writes);
        let conflict = matches!(update.keep, Keep::Conflict(_));
        let fits = self.in_place && !update.is_own && bytes <= PATCH_IN_PLACE_BYTES_MAX;
        if update.linked || (fits && !conflict && self.may_write(path)) {
            return Ok(in_place(path, update, writes, &holes, leaves));
        }
        let (root, from, size) = (Arc::clone(&self.root), path.clone(), update.size);
        let copied = tokio::task::spawn_blocking(move || {
            let staged = Staged::copy_of(&root, &from).map_err(failed)?;
            for hole in holes.iter() {
                staged.punch(hole).map_err(failed)?;
            }
            staged.write_all(&writes).map_err(failed)?;
            staged.resize(size).map_err(failed)?;
            Ok(staged)
        });
        let staged = copied.await.map_err(failed)??;
        Ok(replace(path, update, Written { staged, leaves }))
    }

    /// Not to what is being executed, and as an ordinary user not to what is
    /// read-only. What flags keep from everybody is freed for that.
    fn may_write(&self, path: &RelPath) -> bool {
        use io::ErrorKind::{ExecutableFileBusy, PermissionDenied};
        let is_bound = || {
            let found = self.root.stat(path).ok().flatten();
            found.is_some_and(|stat| stat.metadata.flags.is_binding())
        };
        match self.root.open_file(path, Access::ReadWrite) {
            Err(root::Error::Entry { source, .. }) => match source.kind() {
                ExecutableFileBusy => false,
                PermissionDenied => is_bound(),
                _ => true,
            },
            _ => true,
        }
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
        Ok(in_place(path, update, writes, &holes, written.leaves))
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
        let mut touched = spans(writes);
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

/// The present version is written over.
fn in_place(
    path: &RelPath,
    update: &Update,
    writes: Writes,
    holes: &RangeSet,
    leaves: Leaves,
) -> Prepared {
    let step = Step::Patch {
        path: path.clone(),
        expect: file(update.expect),
        writes,
        holes: holes.iter().collect(),
        size: update.size,
        metadata: update.metadata.clone(),
        keep: kept_in_place(update),
    };
    Prepared::Steps(vec![step], Some(leaves))
}

/// What becomes of the present version where it is written over. The last one
/// before a change made knowingly is kept nowhere then: it may be large, and
/// the change small.
fn kept_in_place(update: &Update) -> apply::Keep {
    match update.keep {
        Keep::Trash if !update.is_own => apply::Keep::Discard,
        keep => kept(keep),
    }
}

fn file(fingerprint: Fingerprint) -> Expect {
    Expect { kind: Kind::File, fingerprint }
}
