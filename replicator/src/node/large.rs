//! Large files: leaf by leaf, from whoever has them, beside their place.
//!
//! The hash list comes first and is checked against the digest; from then on
//! every leaf is verified before it is written, so what has arrived can be
//! served to others at once, and what an earlier attempt or an earlier
//! version left here is used again. A leaf that its origin was writing to is
//! kept as it came, for `mixture.rs`.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::arrivals::{Arrivals, Arriving, same_leaves};
use super::download::{Answer, ask, fetch_leaves};
use super::mixture::{self, CaughtUp};
use super::pieces::{Offer, Pieces, from_bitmap};
use super::staging::{WRITE_BYTES, Written, failed};
use super::wanted::Wanted;
use crate::apply::{self, Staged};
use crate::engine::Engine;
use crate::hash::{LeafHasher, Leaves, leaf_hash};
use crate::id::NodeId;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::root::Root;
use crate::sync::effect::Outcome;
use crate::sync::message::Part;
use crate::transport::Transport;

/// Leaves of one answer being written: enough to overlap the network with the
/// disk, few, since they wait for each other at the lock of the inode.
const WRITES_IN_FLIGHT_MAX: usize = 2;

/// What is asked of one of several peers at once, at the most: seconds of a
/// slow link, and still few requests.
const BATCH_BYTES_MAX: u64 = 8 << 20;

/// And into how many such batches a file is cut at the least: each is a
/// chance to hear what others hold by now.
const BATCHES_MIN: u64 = 128;

/// Leaves in one request, however scattered: it must fit into a frame.
const LEAVES_ASKED_MAX: u64 = 16 << 10;

/// Requests to a peer that holds all, where there are several: one is
/// answered while the next is on its way.
const REQUESTS_AT_ONCE: usize = 2;

/// How long to wait before asking again a peer that has nothing new.
const IDLE_MIN: Duration = Duration::from_millis(20);
const IDLE_MAX: Duration = Duration::from_secs(1);

/// After so long without a single leaf the origin is asked for anything.
const URGENT_AFTER: Duration = Duration::from_secs(1);

/// After so long without a single leaf a peer without any is let go.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same where nobody is known to hold all: of a file that was removed on
/// its way several may have parts, and wait for each other in vain.
const PATIENCE_WITHOUT_ORIGIN: Duration = Duration::from_secs(1);

/// Fetches large files.
#[derive(Clone)]
pub(super) struct Large {
    pub root: Arc<Root>,
    pub engine: Engine,
    pub transport: Transport,
    pub arrivals: Arc<Arrivals>,
    pub min_free: u64,
}

/// An earlier version on this disk.
pub(super) struct Base {
    pub path: RelPath,
    pub leaves: Leaves,
}

impl Large {
    /// Writes the wanted version beside its place, out of what is here and
    /// what these peers have. `list` is its hash list, where that is known,
    /// and whom it came from.
    pub async fn fetch(
        self,
        sources: Vec<NodeId>,
        wanted: Wanted,
        list: Option<(NodeId, Leaves)>,
        base: Option<Base>,
    ) -> Result<Written, Outcome> {
        let mut parked = self.arrivals.claim(wanted.body, wanted.digest);
        let is_mixture = |there: &Arriving| there.is_mixture_for(wanted.body, wanted.digest);
        if let Some(mixture) = parked.take_if(|(there, _)| is_mixture(there)) {
            let (transport, engine, arrivals) = (&self.transport, &self.engine, &self.arrivals);
            let caught = mixture::catch_up(transport, engine, arrivals, &sources, &wanted, mixture);
            match caught.await? {
                CaughtUp::Whole(written) => return Ok(written),
                CaughtUp::Untold(left) => parked = Some(left),
            }
        }
        let known = parked.as_ref().filter(|(there, _)| there.digest == wanted.digest);
        let (origin, leaves) = match (known, list) {
            (Some((there, _)), _) => (None, there.leaves.clone()),
            (None, Some((origin, leaves))) => (Some(origin), leaves),
            (None, None) => match fetch_leaves(&self.transport, &sources, &wanted).await {
                Ok((origin, leaves)) => (Some(origin), leaves),
                Err(outcome) => {
                    // What is here is of use for the version that comes next.
                    parked
                        .into_iter()
                        .for_each(|(there, staged)| self.arrivals.park(there, staged));
                    return Err(outcome);
                }
            },
        };
        let (arriving, staged) = self.begin(&wanted, leaves, parked, base).await?;
        self.arrivals.begin(&arriving);
        let ended = self.pull_all(&sources, origin, &arriving).await;
        if arriving.with(|pieces| pieces.is_complete()) {
            // Served on until its job ends: others rely on what was offered.
            let leaves = arriving.leaves.clone();
            return Ok(Written { staged, leaves });
        }
        self.arrivals.end(&[arriving.body]);
        self.arrivals.park(arriving, staged);
        Err(ended.err().unwrap_or(Outcome::Broken))
    }

    /// The file beside its place, with as much of it as is here already.
    async fn begin(
        &self,
        wanted: &Wanted,
        leaves: Leaves,
        parked: Option<(Arc<Arriving>, Staged)>,
        base: Option<Base>,
    ) -> Result<(Arc<Arriving>, Staged), Outcome> {
        apply::check_room(&self.root, wanted.size, self.min_free).map_err(failed)?;
        let seed = u64::from_le_bytes(first_eight(self.transport.id()));
        let (staged, held, is_blank) = match (parked, base) {
            (Some((there, staged)), _) => {
                let held = there.held_of(&leaves);
                staged.resize(wanted.size).map_err(failed)?;
                let is_blank = there.is_blank && there.digest == wanted.digest && !there.is_mixed();
                (staged, held, is_blank)
            }
            (None, Some(base)) if is_worth_copying(&base.leaves, &leaves) => {
                let staged = self.copy(&base.path, wanted.size).await?;
                let held = self.check_copy(&staged, &base.leaves, &leaves).await?;
                (staged, held, false)
            }
            (None, _) => {
                let staged = Staged::create(&self.root, wanted.size).map_err(failed)?;
                (staged, vec![false; leaves.count() as usize], true)
            }
        };
        let pieces = Pieces::new(held, seed);
        let arriving = Arriving::new(wanted.body, leaves, &staged, is_blank, pieces);
        Ok((Arc::new(arriving), staged))
    }

    async fn copy(&self, path: &RelPath, size: u64) -> Result<Staged, Outcome> {
        let (root, path) = (Arc::clone(&self.root), path.clone());
        let copied = tokio::task::spawn_blocking(move || {
            let staged = Staged::copy_of(&root, &path).map_err(failed)?;
            staged.resize(size).map_err(failed)?;
            Ok(staged)
        });
        copied.await.map_err(failed)?
    }

    /// Which leaves of a copy are those of the wanted version. They are read:
    /// somebody may have written to the file just now.
    async fn check_copy(
        &self,
        staged: &Staged,
        before: &Leaves,
        wanted: &Leaves,
    ) -> Result<Vec<bool>, Outcome> {
        let mut held = same_leaves(before, wanted);
        for (leaf, held) in (0..).zip(held.iter_mut()).filter(|(_, held)| **held) {
            let range = wanted.range_of(leaf);
            let bytes = self.engine.read(staged.file(), range).await.map_err(failed)?;
            let whole = bytes.len() as u64 == range.len();
            *held = whole && Some(&leaf_hash(wanted.size(), leaf, &bytes)) == wanted.get(leaf);
        }
        Ok(held)
    }

    /// Until all is here or nobody has more.
    async fn pull_all(
        &self,
        sources: &[NodeId],
        origin: Option<NodeId>,
        arriving: &Arc<Arriving>,
    ) -> Result<(), Outcome> {
        if let [only] = sources {
            return self.pull(*only, Arc::clone(arriving), u64::MAX, PATIENCE, true).await;
        }
        let patience = if origin.is_some() { PATIENCE } else { PATIENCE_WITHOUT_ORIGIN };
        let batch_bytes = (arriving.leaves.size() / BATCHES_MIN).min(BATCH_BYTES_MAX);
        arriving.with(|pieces| pieces.begin(sources.len()));
        let mut pulls = JoinSet::new();
        for source in sources {
            let is_origin = Some(*source) == origin;
            for _ in 0..if is_origin { REQUESTS_AT_ONCE } else { 1 } {
                let (large, arriving) = (self.clone(), Arc::clone(arriving));
                let source = *source;
                pulls.spawn(async move {
                    let there = Arc::clone(&arriving);
                    let pull = large.pull(source, there, batch_bytes, patience, is_origin);
                    let pulled = pull.await;
                    arriving.told(source, Vec::new());
                    (is_origin, pulled)
                });
            }
        }
        let mut ended = Ok(());
        while let Some(pulled) = pulls.join_next().await {
            match pulled.unwrap_or((false, Err(Outcome::Broken))) {
                (_, Ok(())) => {}
                // Gone on to another version, or gone: another attempt, with
                // what is here, knows better whom to ask.
                (true, gone) => return gone,
                (false, Err(Outcome::Failed(reason))) => return Err(Outcome::Failed(reason)),
                (false, without) => ended = without,
            }
        }
        ended
    }

    /// Takes what one peer has.
    async fn pull(
        &self,
        peer: NodeId,
        arriving: Arc<Arriving>,
        batch_bytes: u64,
        patience: Duration,
        holds_all: bool,
    ) -> Result<(), Outcome> {
        let most = (batch_bytes / arriving.leaves.leaf_bytes()).clamp(1, LEAVES_ASKED_MAX) as usize;
        let mut idle = IDLE_MIN;
        loop {
            let batch = match holds_all {
                true => {
                    let urgent = arriving.waiting() >= URGENT_AFTER;
                    arriving.with(|pieces| pieces.take(Offer::All { urgent }, most))
                }
                false => self.take_offered(peer, &arriving, most).await?,
            };
            if batch.is_empty() {
                if arriving.with(|pieces| pieces.is_over()) {
                    return Ok(());
                }
                // Removed or changed before anyone had all of it.
                if arriving.with(|pieces| pieces.is_nowhere()) {
                    return Err(Outcome::NotHeld);
                }
                if arriving.waiting() >= patience {
                    return Err(Outcome::Broken);
                }
                // Whatever it is that comes first.
                let _ = tokio::time::timeout(idle, arriving.changed.notified()).await;
                idle = (idle * 2).min(IDLE_MAX);
                continue;
            }
            idle = IDLE_MIN;
            self.fetch_batch(peer, &arriving, batch, holds_all).await?;
        }
    }

    /// Asks a peer what it holds, and takes of that what is missing.
    async fn take_offered(
        &self,
        peer: NodeId,
        arriving: &Arriving,
        most: usize,
    ) -> Result<Vec<u64>, Outcome> {
        if arriving.with(|pieces| pieces.is_over()) {
            return Ok(Vec::new());
        }
        let mut answer =
            ask(&self.transport, peer, vec![wanted(arriving).item(Part::Held)]).await?;
        match answer.held().await {
            Ok(()) => {}
            Err(Outcome::NotHeld) => {
                arriving.told(peer, Vec::new());
                return Ok(Vec::new());
            }
            Err(outcome) => return Err(outcome),
        }
        let count = arriving.leaves.count() as usize;
        let held = from_bitmap(&answer.take(count.div_ceil(8)).await?, count);
        let batch = arriving.with(|pieces| pieces.take(Offer::Some(&held), most));
        match held.contains(&false) {
            true => arriving.told(peer, held),
            false => arriving.with(|pieces| pieces.told_all(peer)),
        }
        Ok(batch)
    }

    /// What a peer that holds all sends is taken as it comes: it may be writing
    /// to it.
    async fn fetch_batch(
        &self,
        peer: NodeId,
        arriving: &Arc<Arriving>,
        batch: Vec<u64>,
        holds_all: bool,
    ) -> Result<(), Outcome> {
        let ranges: RangeSet = batch.iter().map(|leaf| arriving.leaves.range_of(*leaf)).collect();
        let part = Part::Ranges(ranges);
        let mut writing = JoinSet::new();
        let received = async {
            let mut answer = ask(&self.transport, peer, vec![wanted(arriving).item(part)]).await?;
            answer.held().await?;
            for leaf in &batch {
                let came = receive_leaf(&mut answer, &arriving.leaves, *leaf).await?;
                if !came.is_right && !holds_all {
                    return Err(Outcome::Broken);
                }
                if writing.len() >= WRITES_IN_FLIGHT_MAX {
                    written(writing.join_next().await)?;
                }
                writing.spawn(write_leaf(self.engine.clone(), Arc::clone(arriving), *leaf, came));
            }
            Ok(())
        }
        .await;
        let mut ended = received;
        while let Some(done) = writing.join_next().await {
            ended = ended.and(written(Some(done)));
        }
        // What has arrived stays.
        arriving.give_back(&batch);
        ended
    }
}

/// A leaf as it came.
struct Came {
    parts: Vec<Bytes>,
    /// It is what it should be.
    is_right: bool,
}

async fn receive_leaf(answer: &mut Answer, leaves: &Leaves, leaf: u64) -> Result<Came, Outcome> {
    let mut hasher = LeafHasher::new(leaves.size(), leaf);
    let mut rest = leaves.range_of(leaf).len() as usize;
    let mut parts = Vec::with_capacity(rest.div_ceil(WRITE_BYTES));
    while rest > 0 {
        let bytes = answer.take(rest.min(WRITE_BYTES)).await?;
        hasher.update(&bytes);
        rest -= bytes.len();
        parts.push(bytes);
    }
    Ok(Came { parts, is_right: leaves.get(leaf) == Some(&hasher.finish()) })
}

async fn write_leaf(
    engine: Engine,
    arriving: Arc<Arriving>,
    leaf: u64,
    came: Came,
) -> Result<(), Outcome> {
    let range = arriving.leaves.range_of(leaf);
    let mut at = range.start;
    for bytes in came.parts {
        let end = at + bytes.len() as u64;
        if bytes.iter().any(|byte| *byte != 0) {
            engine.write(&arriving.file, at, bytes).await.map_err(failed)?;
        } else if let Some(hole) = Range::new(at, end).filter(|_| !arriving.is_blank) {
            apply::punch(arriving.file.as_fd(), hole).map_err(failed)?;
        }
        at = end;
    }
    match came.is_right {
        true => arriving.arrived(leaf),
        false => arriving.mixed(leaf),
    }
    // What cannot be written is told by the flush.
    let _ = engine.begin_writeback(&arriving.file, range).await;
    Ok(())
}

fn written(
    done: Option<Result<Result<(), Outcome>, tokio::task::JoinError>>,
) -> Result<(), Outcome> {
    done.map_or(Ok(()), |done| done.map_err(failed)?)
}

/// Copying here costs the whole file once more; so much must be the same.
fn is_worth_copying(before: &Leaves, wanted: &Leaves) -> bool {
    let Some(before) = before.resized(wanted.size()) else { return false };
    let differing: u64 = wanted.differing(&before).bytes();
    differing <= wanted.size() / 4 * 3
}

fn wanted(arriving: &Arriving) -> Wanted {
    Wanted { body: arriving.body, size: arriving.leaves.size(), digest: arriving.digest }
}

fn first_eight(id: NodeId) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&id.as_bytes()[..8]);
    eight
}
