//! The asking side of a fetch: many small files in one answer, large ones
//! written as they arrive, parts of a file in memory.
//!
//! Nothing a peer sends is believed: a file counts only when its leaves add
//! up to the digest that its record names.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

use super::carry::{Written, failed, stage_bytes};
use crate::apply::Staged;
use crate::engine::Engine;
use crate::hash::{Digest, Leaves, LeavesBuilder};
use crate::id::{BodyId, NodeId};
use crate::limits::{PATCH_IN_PLACE_BYTES_MAX, WHOLE_BYTES_MAX};
use crate::range::RangeSet;
use crate::root::Root;
use crate::sync::effect::Outcome;
use crate::sync::message::{FetchItem, FetchRequest, HELD, Part};
use crate::transport::{Fetch, Transport};

/// What one write of a large file takes.
const WRITE_BYTES: usize = 1 << 20;

/// Writes of one file in flight: enough to overlap the network with the disk,
/// few, since they wait for each other at the lock of the inode.
const WRITES_IN_FLIGHT_MAX: usize = 2;

/// A version of a body.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub body: BodyId,
    pub size: u64,
    pub digest: Digest,
}

pub(super) struct Download<'a> {
    pub root: &'a Arc<Root>,
    pub engine: &'a Engine,
}

impl Download<'_> {
    /// Fetches files and writes each beside its place; one result a number.
    pub async fn whole_files(
        &self,
        transport: &Transport,
        peer: NodeId,
        wanted: Vec<(usize, Wanted)>,
    ) -> BTreeMap<usize, Result<Written, Outcome>> {
        let mut results = BTreeMap::new();
        let items = wanted.iter().map(|(_, wanted)| item(wanted, Part::Whole)).collect();
        let mut answer = match ask(transport, peer, items).await {
            Ok(answer) => answer,
            Err(outcome) => {
                results.extend(wanted.into_iter().map(|(at, _)| (at, Err(outcome.clone()))));
                return results;
            }
        };
        let mut small = Vec::new();
        let mut cut = false;
        for (at, wanted) in wanted {
            if cut {
                results.insert(at, Err(Outcome::NotHeld));
                continue;
            }
            let received = self.receive(&mut answer, &wanted).await;
            match received {
                Ok(Received::Small(bytes)) => small.push((at, wanted, bytes)),
                Ok(Received::Written(written)) => {
                    results.insert(at, Ok(written));
                }
                Ok(Received::NotHeld) => {
                    results.insert(at, Err(Outcome::NotHeld));
                }
                Err(outcome) => {
                    cut = true;
                    results.insert(at, Err(outcome));
                }
            }
        }
        let root = Arc::clone(self.root);
        let staged = tokio::task::spawn_blocking(move || {
            let stage = |(at, wanted, bytes): (usize, Wanted, Bytes)| {
                (at, stage_bytes(&root, &[(0, bytes)], wanted.size, wanted.digest))
            };
            small.into_iter().map(stage).collect::<Vec<_>>()
        });
        results.extend(staged.await.unwrap_or_default());
        results
    }

    /// Fetches the hash list of a version.
    pub async fn leaves(
        &self,
        transport: &Transport,
        peer: NodeId,
        wanted: &Wanted,
    ) -> Result<Leaves, Outcome> {
        let empty = Leaves::new(wanted.size).ok_or_else(|| failed("the file is too large"))?;
        let mut answer = ask(transport, peer, vec![item(wanted, Part::Leaves)]).await?;
        if !answer.is_held().await? {
            return Err(Outcome::NotHeld);
        }
        let bytes = answer.take(empty.count() as usize * 32).await?;
        let leaves = Leaves::from_bytes(wanted.size, &bytes).ok_or(Outcome::NotHeld)?;
        if leaves.digest() != wanted.digest {
            return Err(Outcome::NotHeld);
        }
        Ok(leaves)
    }

    /// Fetches some bytes of a version.
    pub async fn ranges(
        &self,
        transport: &Transport,
        peer: NodeId,
        wanted: &Wanted,
        part: Part,
        ranges: &RangeSet,
    ) -> Result<Vec<(u64, Bytes)>, Outcome> {
        if ranges.bytes() > 4 * PATCH_IN_PLACE_BYTES_MAX {
            return Err(failed("too much of a file with several names changed at once"));
        }
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let mut answer = ask(transport, peer, vec![item(wanted, part)]).await?;
        if !answer.is_held().await? {
            return Err(Outcome::NotHeld);
        }
        let mut writes = Vec::with_capacity(ranges.count());
        for range in ranges.iter() {
            writes.push((range.start, answer.take(range.len() as usize).await?));
        }
        Ok(writes)
    }

    async fn receive(&self, answer: &mut Answer, wanted: &Wanted) -> Result<Received, Outcome> {
        if !answer.is_held().await? {
            return Ok(Received::NotHeld);
        }
        if wanted.size <= WHOLE_BYTES_MAX {
            return Ok(Received::Small(answer.take(wanted.size as usize).await?));
        }
        let staged = Staged::create(self.root, wanted.size).map_err(failed)?;
        let mut leaves =
            LeavesBuilder::new(wanted.size).ok_or_else(|| failed("the file is too large"))?;
        let mut writing = JoinSet::new();
        let mut at = 0;
        while at < wanted.size {
            let length = WRITE_BYTES.min((wanted.size - at) as usize);
            let bytes = answer.take(length).await?;
            leaves.update(&bytes);
            // Zeros are left out: the file was made as one hole.
            if bytes.iter().any(|byte| *byte != 0) {
                if writing.len() >= WRITES_IN_FLIGHT_MAX {
                    written(writing.join_next().await)?;
                }
                let (engine, file) = (self.engine.clone(), Arc::clone(staged.file()));
                writing.spawn(async move { engine.write(&file, at, bytes).await });
            }
            at += length as u64;
        }
        while let Some(done) = writing.join_next().await {
            written(Some(done))?;
        }
        let leaves = leaves.finish().ok_or(Outcome::NotHeld)?;
        if leaves.digest() != wanted.digest {
            return Ok(Received::NotHeld);
        }
        Ok(Received::Written(Written { staged, leaves }))
    }
}

/// One file of an answer.
enum Received {
    Small(Bytes),
    Written(Written),
    NotHeld,
}

/// An answer, cut into pieces of wanted lengths.
struct Answer {
    fetch: Fetch,
    rest: Bytes,
}

impl Answer {
    async fn is_held(&mut self) -> Result<bool, Outcome> {
        Ok(self.take(1).await?[0] == HELD)
    }

    /// Exactly this many bytes; the caller bounds the number.
    async fn take(&mut self, length: usize) -> Result<Bytes, Outcome> {
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
                Ok(None) | Err(_) => return Err(Outcome::NotHeld),
            }
        }
        Ok(gathered.freeze())
    }
}

async fn ask(
    transport: &Transport,
    peer: NodeId,
    items: Vec<FetchItem>,
) -> Result<Answer, Outcome> {
    let request = FetchRequest { items }.encode();
    let fetch = transport.fetch(peer, request).await.map_err(|error| {
        tracing::debug!(%peer, "a fetch did not start: {error}");
        Outcome::NotHeld
    })?;
    Ok(Answer { fetch, rest: Bytes::new() })
}

fn item(wanted: &Wanted, part: Part) -> FetchItem {
    FetchItem { body: wanted.body, digest: wanted.digest, size: wanted.size, part }
}

fn written(
    done: Option<Result<std::io::Result<()>, tokio::task::JoinError>>,
) -> Result<(), Outcome> {
    match done {
        Some(Ok(Ok(()))) | None => Ok(()),
        Some(Ok(Err(error))) => Err(failed(error)),
        Some(Err(error)) => Err(failed(error)),
    }
}
