//! The leaves of a large file, from several peers at once.
//!
//! Each peer is asked for what it has and is missing here. Whatever ends the
//! pulling, every write under way is waited for: the file is kept, and a write
//! that came later than that would spoil what another attempt puts there.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::arrivals::Arriving;
use super::download::{Answer, ask, held_leaves};
use super::pieces::Offer;
use super::staging::{WRITE_BYTES, failed};
use super::wanted::Wanted;
use super::way::Way;
use crate::apply;
use crate::engine::Engine;
use crate::hash::{LeafHasher, Leaves};
use crate::id::NodeId;
use crate::range::{Range, RangeSet};
use crate::sync::effect::Outcome;
use crate::sync::message::Part;
use crate::transport::Transport;

/// Until all is here, nobody has more, or it is asked to give way. Of several
/// sources one may be known to hold all: the `origin`.
pub(super) async fn pull_all(
    transport: &Transport,
    engine: &Engine,
    sources: &[NodeId],
    origin: Option<NodeId>,
    arriving: &Arc<Arriving>,
    way: &Way,
) -> Result<(), Outcome> {
    let (stopper, stop) = Way::new();
    let patience = if origin.is_some() { PATIENCE } else { PATIENCE_WITHOUT_ORIGIN };
    let batch_bytes = (arriving.leaves.size() / BATCHES_MIN).min(BATCH_BYTES_MAX);
    let pull = |peer, holds_all| Pull {
        transport: transport.clone(),
        engine: engine.clone(),
        arriving: Arc::clone(arriving),
        peer,
        holds_all,
        batch_bytes,
        patience,
        stop: stop.clone(),
    };
    arriving.with(|pieces| pieces.begin(sources.len()));
    let mut pulls = JoinSet::new();
    if let [only] = sources {
        pulls.spawn(Pull { batch_bytes: u64::MAX, patience: PATIENCE, ..pull(*only, true) }.run());
    } else {
        for source in sources {
            let is_origin = Some(*source) == origin;
            for _ in 0..if is_origin { REQUESTS_AT_ONCE } else { 1 } {
                pulls.spawn(pull(*source, is_origin).run());
            }
        }
    }
    let mut ended = Ok(());
    loop {
        let pulled = tokio::select! {
            pulled = pulls.join_next() => pulled,
            () = way.asked(), if !stop.is_asked() => {
                stopper.ask();
                ended = Err(Outcome::GaveWay);
                continue;
            }
        };
        let Some(pulled) = pulled else { return ended };
        match pulled.unwrap_or((false, Err(Outcome::Broken))) {
            (_, Ok(())) => {}
            // What they say who are stopped is of no interest.
            _ if stop.is_asked() => {}
            // Gone on to another version, or gone: another attempt, with what
            // is here, knows better whom to ask. Or the disk is full.
            (true, last) | (false, last @ Err(Outcome::Failed(_))) => {
                stopper.ask();
                ended = last;
            }
            (false, without) => ended = without,
        }
    }
}

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

/// Takes what one peer has.
struct Pull {
    transport: Transport,
    engine: Engine,
    arriving: Arc<Arriving>,
    peer: NodeId,
    /// Or only what it says it holds.
    holds_all: bool,
    batch_bytes: u64,
    patience: Duration,
    stop: Way,
}

impl Pull {
    /// How it ended, and whether this was a peer that holds all.
    async fn run(self) -> (bool, Result<(), Outcome>) {
        let pulled = self.pull().await;
        self.arriving.told(self.peer, Vec::new());
        (self.holds_all, pulled)
    }

    async fn pull(&self) -> Result<(), Outcome> {
        let arriving = &self.arriving;
        let most = self.batch_bytes / arriving.leaves.leaf_bytes();
        let most = most.clamp(1, LEAVES_ASKED_MAX) as usize;
        let mut idle = IDLE_MIN;
        loop {
            let batch = match self.holds_all {
                true => {
                    let urgent = arriving.waiting() >= URGENT_AFTER;
                    arriving.with(|pieces| pieces.take(Offer::All { urgent }, most))
                }
                false => self.unless_stopped(self.take_offered(most)).await?,
            };
            if batch.is_empty() {
                if arriving.with(|pieces| pieces.is_over()) {
                    return Ok(());
                }
                // Removed or changed before anyone had all of it.
                if arriving.with(|pieces| pieces.is_nowhere()) {
                    return Err(Outcome::NotHeld);
                }
                if arriving.waiting() >= self.patience {
                    return Err(Outcome::Broken);
                }
                // Whatever it is that comes first.
                let changed = tokio::time::timeout(idle, arriving.changed.notified());
                let _ = self.unless_stopped(async { Ok(changed.await) }).await?;
                idle = (idle * 2).min(IDLE_MAX);
                continue;
            }
            idle = IDLE_MIN;
            self.fetch_batch(batch).await?;
        }
    }

    /// Asks the peer what it holds, and takes of that what is missing.
    async fn take_offered(&self, most: usize) -> Result<Vec<u64>, Outcome> {
        let (arriving, peer) = (&*self.arriving, self.peer);
        if arriving.with(|pieces| pieces.is_over()) {
            return Ok(Vec::new());
        }
        let count = arriving.leaves.count() as usize;
        let held = held_leaves(&self.transport, peer, &wanted(arriving), count).await?;
        let Some(held) = held else {
            arriving.told(peer, Vec::new());
            return Ok(Vec::new());
        };
        let batch = arriving.with(|pieces| pieces.take(Offer::Some(&held), most));
        match held.contains(&false) {
            true => arriving.told(peer, held),
            false => arriving.with(|pieces| pieces.told_all(peer)),
        }
        Ok(batch)
    }

    /// What a peer that holds all sends is taken as it comes: it may be writing
    /// to it.
    async fn fetch_batch(&self, batch: Vec<u64>) -> Result<(), Outcome> {
        let arriving = &self.arriving;
        let ranges: RangeSet = batch.iter().map(|leaf| arriving.leaves.range_of(*leaf)).collect();
        let part = Part::Ranges(ranges);
        let mut writing = JoinSet::new();
        let received = self.unless_stopped(async {
            let items = vec![wanted(arriving).item(part)];
            let mut answer = ask(&self.transport, self.peer, items).await?;
            answer.held().await?;
            for leaf in &batch {
                let came = receive_leaf(&mut answer, &arriving.leaves, *leaf).await?;
                if !came.is_right && !self.holds_all {
                    return Err(Outcome::Broken);
                }
                if writing.len() >= WRITES_IN_FLIGHT_MAX {
                    written(writing.join_next().await)?;
                }
                writing.spawn(write_leaf(self.engine.clone(), Arc::clone(arriving), *leaf, came));
            }
            Ok(())
        });
        let mut ended = received.await;
        while let Some(done) = writing.join_next().await {
            ended = ended.and(written(Some(done)));
        }
        // What has arrived stays.
        arriving.give_back(&batch);
        ended
    }

    /// For what can be dropped at any moment: not where bytes are written.
    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Outcome>>,
    ) -> Result<T, Outcome> {
        tokio::select! {
            done = work => done,
            () = self.stop.asked() => Err(Outcome::GaveWay),
        }
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

fn wanted(arriving: &Arriving) -> Wanted {
    Wanted { body: arriving.body, size: arriving.leaves.size(), digest: arriving.digest }
}
