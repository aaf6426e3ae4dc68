//! Which version of which body is to be had.

use crate::hash::Digest;
use crate::id::BodyId;
use crate::sync::message::{FetchItem, Part};

/// A version of a body.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub body: BodyId,
    pub size: u64,
    pub digest: Digest,
}

impl Wanted {
    /// How a peer is asked for it, or for a part of it.
    pub fn item(&self, part: Part) -> FetchItem {
        FetchItem { body: self.body, digest: self.digest, size: self.size, part }
    }
}
