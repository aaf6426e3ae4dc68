//! A large file that was written to while it came.
//!
//! Its origin sends the bytes as they lie there, and some are newer than the
//! version that was asked for. All that is newer was written since that
//! version, and the origin remembers what was: laid over the mixture, these
//! writes make the later version, which is verified like any other. So a file
//! that is never quiet comes once, and then what was written meanwhile, each
//! time less, until the rest is followed as it happens. Where that does not
//! make the wanted version, and no later one comes, its leaves are compared
//! with those of the origin.

use std::sync::Arc;

use super::arrivals::{Arrivals, Arriving};
use super::download::{self, Answer};
use super::staging::{WRITE_BYTES, Written, failed, hash_again};
use super::wanted::Wanted;
use crate::apply::Staged;
use crate::engine::Engine;
use crate::hash::Leaves;
use crate::id::NodeId;
use crate::range::Range;
use crate::sync::effect::Outcome;
use crate::sync::message::Delta;
use crate::transport::Transport;

/// A mixture, and the file that holds it.
type Mixture = (Arc<Arriving>, Staged);

pub(super) enum CaughtUp {
    /// It is the wanted version now.
    Whole(Written),
    /// Nobody remembers what was written since.
    Untold(Mixture),
}

/// Lays over a mixture what was written since the version it was to be.
pub(super) async fn catch_up(
    transport: &Transport,
    engine: &Engine,
    arrivals: &Arrivals,
    sources: &[NodeId],
    wanted: &Wanted,
    (there, staged): Mixture,
) -> Result<CaughtUp, Outcome> {
    for source in sources {
        let told = download::since(transport, *source, wanted, there.digest).await;
        let ended = match told {
            Ok(None) => continue,
            Ok(Some((delta, answer))) => {
                lay_over(engine, wanted, &there, &staged, delta, answer).await
            }
            Err(outcome) => Err(outcome),
        };
        let outcome = match ended {
            Ok(leaves) if leaves.digest() == wanted.digest => {
                return Ok(CaughtUp::Whole(Written { staged, leaves }));
            }
            // What was laid over it is newer still, and the next attempt
            // lays it over once more, for a later version.
            Ok(leaves) => {
                there.missed(wanted.digest, leaves);
                Outcome::Broken
            }
            Err(outcome) => outcome,
        };
        arrivals.park(there, staged);
        return Err(outcome);
    }
    Ok(CaughtUp::Untold((there, staged)))
}

/// Gives the hash list of what it is afterwards.
async fn lay_over(
    engine: &Engine,
    wanted: &Wanted,
    there: &Arriving,
    staged: &Staged,
    delta: Delta,
    mut answer: Answer,
) -> Result<Leaves, Outcome> {
    there.is_changing();
    let mut touched = delta.ranges.clone();
    touched.extend(&delta.holes);
    let cut_off = Range::new(wanted.size, u64::MAX);
    touched.extend(&cut_off.into_iter().collect());
    for leaf in there.leaves.touched(&touched) {
        there.mixed(leaf);
    }
    staged.resize(wanted.size).map_err(failed)?;
    for hole in delta.holes.iter() {
        staged.punch(hole).map_err(failed)?;
    }
    for piece in delta.ranges.iter().flat_map(|range| range.pieces(WRITE_BYTES as u64)) {
        let bytes = answer.take(piece.len() as usize).await?;
        engine.write(staged.file(), piece.start, bytes).await.map_err(failed)?;
    }
    for leaf in there.with(|pieces| pieces.all_mixed().collect::<Vec<u64>>()) {
        touched.extend(&[there.leaves.range_of(leaf)].into_iter().collect());
    }
    let leaves = there.leaves.resized(wanted.size).or_else(|| Leaves::new(wanted.size));
    let leaves = leaves.ok_or_else(|| failed("the file is too large"))?;
    hash_again(engine, staged.file(), leaves, touched).await
}
