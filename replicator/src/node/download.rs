//! The asking side of a fetch: many small files in one answer, hash lists,
//! and parts of a file in memory. Large files are `large.rs`.
//!
//! Nothing a peer sends is believed: a file counts only when its leaves add
//! up to the digest that its record names.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::change::Change;
use super::pieces::from_bitmap;
use super::staging::{Written, failed, stage_bytes};
use super::wanted::Wanted;
use crate::hash::{Digest, Leaves};
use crate::id::NodeId;
use crate::limits::{ANSWER_RANGES_MAX, PATCH_IN_PLACE_BYTES_MAX, WHOLE_BYTES_MAX};
use crate::root::Root;
use crate::sync::effect::Outcome;
use crate::sync::message::{Delta, FetchItem, FetchRequest, ItemStatus, Part};
use crate::transport::{Fetch, Transport};

/// The list of changed ranges that comes before their bytes: two numbers of up
/// to ten bytes a range, and the lengths of its lists.
const DELTA_BYTES_MAX: usize = ANSWER_RANGES_MAX * 20 + 32;

/// So much of a change at the most is lost with a line that is cut.
const PIECE_BYTES: u64 = 256 << 10;

/// Fetches small files, no larger than [`WHOLE_BYTES_MAX`], and writes each
/// beside its place; one result a number.
pub(super) async fn small_files(
    root: &Arc<Root>,
    transport: &Transport,
    peer: NodeId,
    wanted: Vec<(usize, Wanted)>,
) -> BTreeMap<usize, Result<Written, Outcome>> {
    let mut results = BTreeMap::new();
    let items = wanted.iter().map(|(_, wanted)| wanted.item(Part::Whole)).collect();
    let mut answer = match ask(transport, peer, items).await {
        Ok(answer) => answer,
        Err(outcome) => {
            results.extend(wanted.into_iter().map(|(at, _)| (at, Err(outcome.clone()))));
            return results;
        }
    };
    let mut received = Vec::new();
    for (at, wanted) in wanted {
        let bytes = match answer.is_cut {
            true => Err(Outcome::Broken),
            false => receive_small(&mut answer, &wanted).await,
        };
        match bytes {
            Ok(bytes) => received.push((at, wanted, bytes)),
            Err(outcome) => {
                results.insert(at, Err(outcome));
            }
        }
    }
    let root = Arc::clone(root);
    let staged = tokio::task::spawn_blocking(move || {
        let stage = |(at, wanted, bytes): (usize, Wanted, Bytes)| {
            (at, stage_bytes(&root, &[(0, bytes)], wanted.size, wanted.digest))
        };
        received.into_iter().map(stage).collect::<Vec<_>>()
    });
    results.extend(staged.await.unwrap_or_default());
    results
}

async fn receive_small(answer: &mut Answer, wanted: &Wanted) -> Result<Bytes, Outcome> {
    debug_assert!(wanted.size <= WHOLE_BYTES_MAX);
    answer.held().await?;
    answer.take(wanted.size as usize).await
}

/// Fetches the hash list of a version from the first of these that has it.
pub(super) async fn fetch_leaves(
    transport: &Transport,
    sources: &[NodeId],
    wanted: &Wanted,
) -> Result<(NodeId, Leaves), Outcome> {
    let mut ended = Outcome::NotHeld;
    for source in sources {
        match leaves_of(transport, *source, wanted).await {
            Ok(leaves) => return Ok((*source, leaves)),
            Err(Outcome::NotHeld) => {}
            Err(Outcome::Broken) => ended = Outcome::Broken,
            Err(outcome) => return Err(outcome),
        }
    }
    Err(ended)
}

async fn leaves_of(
    transport: &Transport,
    peer: NodeId,
    wanted: &Wanted,
) -> Result<Leaves, Outcome> {
    let empty = Leaves::new(wanted.size).ok_or_else(|| failed("the file is too large"))?;
    let mut answer = ask(transport, peer, vec![wanted.item(Part::Leaves)]).await?;
    answer.held().await?;
    let bytes = answer.take(empty.count() as usize * 32).await?;
    let leaves = Leaves::from_bytes(wanted.size, &bytes).ok_or(Outcome::Broken)?;
    match leaves.digest() == wanted.digest {
        true => Ok(leaves),
        false => Err(Outcome::Broken),
    }
}

/// Does a peer hold all of a version?
pub(super) async fn holds_all(
    transport: &Transport,
    peer: NodeId,
    wanted: &Wanted,
) -> Result<bool, Outcome> {
    let empty = Leaves::new(wanted.size).ok_or_else(|| failed("the file is too large"))?;
    let held = held_leaves(transport, peer, wanted, empty.count() as usize).await?;
    Ok(held.is_some_and(|held| !held.contains(&false)))
}

/// Which of so many leaves of a version a peer holds; `None` where it holds
/// nothing of it.
pub(super) async fn held_leaves(
    transport: &Transport,
    peer: NodeId,
    wanted: &Wanted,
    count: usize,
) -> Result<Option<Vec<bool>>, Outcome> {
    let mut answer = ask(transport, peer, vec![wanted.item(Part::Held)]).await?;
    match answer.held().await {
        Ok(()) => {}
        Err(Outcome::NotHeld) => return Ok(None),
        Err(outcome) => return Err(outcome),
    }
    Ok(Some(from_bitmap(&answer.take(count.div_ceil(8)).await?, count)))
}

/// Asks what differs from an earlier version, and for its bytes, which follow
/// in the answer. `None` where the peer does not know, or where it is much.
pub(super) async fn since(
    transport: &Transport,
    peer: NodeId,
    wanted: &Wanted,
    from: Digest,
) -> Result<Option<(Delta, Answer)>, Outcome> {
    let mut answer = ask(transport, peer, vec![wanted.item(Part::Since(from))]).await?;
    match answer.held().await {
        Ok(()) => {}
        Err(Outcome::NotHeld) => return Ok(None),
        Err(outcome) => return Err(outcome),
    }
    let mut length = [0; 4];
    length.copy_from_slice(&answer.take(4).await?);
    let length = u32::from_le_bytes(length) as usize;
    if length > DELTA_BYTES_MAX {
        return Err(failed("the peer sent too long a list of changes"));
    }
    let delta = answer.take(length).await?;
    let delta = Delta::decode(&delta, wanted.size).map_err(failed)?;
    if delta.ranges.bytes() > PATCH_IN_PLACE_BYTES_MAX {
        return Err(failed("the peer sent more changes than it may"));
    }
    Ok(Some((delta, answer)))
}

/// Asks for what is missing of a change; `None` where nothing is.
pub(super) async fn rest(
    transport: &Transport,
    peer: NodeId,
    wanted: &Wanted,
    change: &Change,
) -> Result<Option<Answer>, Outcome> {
    let missing = change.missing();
    if missing.is_empty() {
        return Ok(None);
    }
    let mut answer = ask(transport, peer, vec![wanted.item(Part::Ranges(missing))]).await?;
    answer.held().await?;
    Ok(Some(answer))
}

/// Takes what is missing of a change, in its order, piece by piece.
pub(super) async fn take_missing(answer: &mut Answer, change: &mut Change) -> Result<(), Outcome> {
    for range in change.missing().iter() {
        let mut at = range.start;
        while at < range.end {
            let next = (at / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES).min(range.end);
            change.put(at, answer.take((next - at) as usize).await?);
            at = next;
        }
    }
    Ok(())
}

/// An answer, cut into pieces of wanted lengths.
pub(super) struct Answer {
    fetch: Fetch,
    rest: Bytes,
    /// It ended before all had come.
    is_cut: bool,
}

impl Answer {
    /// An item is held, and its bytes follow.
    pub async fn held(&mut self) -> Result<(), Outcome> {
        match ItemStatus::try_from(self.take(1).await?[0]) {
            Ok(ItemStatus::Held) => Ok(()),
            Ok(ItemStatus::NotHeld) => Err(Outcome::NotHeld),
            Ok(ItemStatus::Changing) => Err(Outcome::Broken),
            Err(error) => Err(failed(error)),
        }
    }

    /// Exactly this many bytes; the caller bounds the number.
    pub async fn take(&mut self, length: usize) -> Result<Bytes, Outcome> {
        if self.rest.len() >= length {
            return Ok(self.rest.split_to(length));
        }
        let mut gathered = BytesMut::with_capacity(length);
        gathered.extend_from_slice(&self.rest);
        self.rest.clear();
        while gathered.len() < length {
            match self.fetch.chunk().await {
                Ok(Some(mut chunk)) => {
                    let missing = length - gathered.len();
                    if chunk.len() > missing {
                        self.rest = chunk.split_off(missing);
                    }
                    gathered.extend_from_slice(&chunk);
                }
                Ok(None) | Err(_) => {
                    self.is_cut = true;
                    return Err(Outcome::Broken);
                }
            }
        }
        Ok(gathered.freeze())
    }
}

/// Asks a peer for these, in one answer.
pub(super) async fn ask(
    transport: &Transport,
    peer: NodeId,
    items: Vec<FetchItem>,
) -> Result<Answer, Outcome> {
    let request = FetchRequest { items }.encode();
    let fetch = transport.fetch(peer, request).await.map_err(|error| {
        tracing::debug!(%peer, "a fetch did not start: {error}");
        Outcome::Broken
    })?;
    Ok(Answer { fetch, rest: Bytes::new(), is_cut: false })
}
