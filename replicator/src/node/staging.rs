//! Files beside their place: bytes are written there, read again and hashed
//! before any name leads to them.
//!
//! Where the bytes come from, and what becomes of the file, is for others.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::apply::Staged;
use crate::engine::Engine;
use crate::hash::{Digest, Leaves};
use crate::limits::WHOLE_BYTES_MAX;
use crate::range::{Range, RangeSet};
use crate::root::Root;
use crate::sync::effect::Outcome;

/// What one write takes.
pub(super) const WRITE_BYTES: usize = 1 << 20;

/// A whole file, written beside its place.
pub(super) struct Written {
    pub staged: Staged,
    pub leaves: Leaves,
}

/// Reads and hashes a whole file.
pub(super) async fn leaves_of(
    engine: &Engine,
    file: &Arc<OwnedFd>,
    size: u64,
) -> Result<Leaves, Outcome> {
    let leaves = Leaves::new(size).ok_or_else(|| failed("the file is too large"))?;
    hash_again(engine, file, leaves, RangeSet::new()).await
}

/// Reads and hashes what was touched of a file, and what has no hash yet.
pub(super) async fn hash_again(
    engine: &Engine,
    file: &Arc<OwnedFd>,
    mut leaves: Leaves,
    mut touched: RangeSet,
) -> Result<Leaves, Outcome> {
    touched.extend(&leaves.stale());
    for index in leaves.touched(&touched) {
        let range = leaves.range_of(index);
        let bytes = engine.read(file, range).await.map_err(failed)?;
        if bytes.len() as u64 != range.len() {
            return Err(Outcome::Raced);
        }
        leaves.set(index, &bytes);
    }
    Ok(leaves)
}

/// Bytes in memory become a file beside its place, if they are what they are
/// said to be.
pub(super) fn stage_bytes(
    root: &Root,
    writes: &[(u64, Bytes)],
    size: u64,
    digest: Digest,
) -> Result<Written, Outcome> {
    if size > WHOLE_BYTES_MAX {
        return Err(Outcome::Broken);
    }
    let content = match writes {
        [(0, bytes)] if bytes.len() as u64 == size => bytes.clone(),
        _ => {
            let mut content = vec![0; size as usize];
            if let Some(whole) = Range::new(0, size) {
                overlay(&mut content, whole, writes);
            }
            content.into()
        }
    };
    let leaves = Leaves::of(&content);
    if leaves.digest() != digest {
        return Err(Outcome::Broken);
    }
    let hole = !content.is_empty() && content.iter().all(|byte| *byte == 0);
    let staged = Staged::create(root, if hole { size } else { 0 }).map_err(failed)?;
    if !hole {
        staged.write_all(&[(0, content)]).map_err(failed)?;
    }
    Ok(Written { staged, leaves })
}

/// Puts what lies of `writes` within `range` into that range's bytes.
pub(super) fn overlay(bytes: &mut [u8], range: Range, writes: &[(u64, Bytes)]) {
    for (at, write) in writes {
        let Some(span) = Range::new(*at, at + write.len() as u64) else { continue };
        let Some(common) = span.intersection(&range) else { continue };
        let source = &write[(common.start - at) as usize..(common.end - at) as usize];
        let place = (common.start - range.start) as usize..(common.end - range.start) as usize;
        bytes[place].copy_from_slice(source);
    }
}

pub(super) fn failed(error: impl ToString) -> Outcome {
    Outcome::Failed(error.to_string())
}
