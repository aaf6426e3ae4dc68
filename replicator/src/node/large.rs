//! Large files: leaf by leaf, from whoever has them, beside their place.
//!
//! The hash list comes first and is checked against the digest; from then on
//! every leaf is verified before it is written (`pull.rs`), so what has arrived
//! can be served to others at once, and what an earlier attempt or an earlier
//! version left here is used again. A leaf that its origin was writing to is
//! kept as it came, for `mixture.rs`.

use std::sync::Arc;

use super::arrivals::{Arrivals, Arriving, same_leaves};
use super::download::fetch_leaves;
use super::mixture::{self, CaughtUp};
use super::pieces::Pieces;
use super::pull::pull_all;
use super::staging::{Written, failed};
use super::wanted::Wanted;
use super::way::Way;
use crate::apply::{self, Staged};
use crate::engine::Engine;
use crate::hash::{Leaves, leaf_hash};
use crate::id::NodeId;
use crate::path::RelPath;
use crate::root::Root;
use crate::sync::effect::Outcome;
use crate::transport::Transport;

/// Fetches large files.
#[derive(Clone)]
pub(super) struct Large {
    pub root: Arc<Root>,
    pub engine: Engine,
    pub transport: Transport,
    pub arrivals: Arc<Arrivals>,
    pub min_free: u64,
    /// Asked where others wait for the job.
    pub way: Way,
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
            (None, None) => match self.fetch_leaves(&sources, &wanted).await {
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
        let (transport, engine) = (&self.transport, &self.engine);
        let ended = pull_all(transport, engine, &sources, origin, &arriving, &self.way).await;
        if arriving.with(|pieces| pieces.is_complete()) {
            // Served on until its job ends: others rely on what was offered.
            let leaves = arriving.leaves.clone();
            return Ok(Written { staged, leaves });
        }
        self.arrivals.end(&[arriving.body]);
        self.arrivals.park(arriving, staged);
        Err(ended.err().unwrap_or(Outcome::Broken))
    }

    async fn fetch_leaves(
        &self,
        sources: &[NodeId],
        wanted: &Wanted,
    ) -> Result<(NodeId, Leaves), Outcome> {
        tokio::select! {
            fetched = fetch_leaves(&self.transport, sources, wanted) => fetched,
            () = self.way.asked() => Err(Outcome::GaveWay),
        }
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
}

/// Copying here costs the whole file once more; so much must be the same.
fn is_worth_copying(before: &Leaves, wanted: &Leaves) -> bool {
    let Some(before) = before.resized(wanted.size()) else { return false };
    let differing: u64 = wanted.differing(&before).bytes();
    differing <= wanted.size() / 4 * 3
}

fn first_eight(id: NodeId) -> [u8; 8] {
    let mut eight = [0; 8];
    eight.copy_from_slice(&id.as_bytes()[..8]);
    eight
}
