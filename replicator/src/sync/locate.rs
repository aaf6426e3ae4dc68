//! Where versions lie that peers ask for.

use super::core::Core;
use super::message::Delta;
use super::record::Content;
use super::store::Store;
use crate::entry::Fingerprint;
use crate::hash::{Digest, Leaves};
use crate::id::BodyId;
use crate::path::RelPath;

/// A version of a file on this disk.
#[derive(Clone, Debug)]
pub struct Located {
    pub path: RelPath,
    pub fingerprint: Fingerprint,
    pub leaves: Option<Leaves>,
}

impl<S: Store> Core<S> {
    /// Where a version of a body lies on this disk, with its hash list if it
    /// has several leaves: to answer a peer's request.
    pub fn locate(&self, body: BodyId, digest: Digest) -> Option<Located> {
        let row = self.store.body(body)?;
        let disk = row.disk.as_ref()?;
        let held = row.content_on_disk().and_then(Content::digest)?;
        (held == digest).then_some(())?;
        let (path, fingerprint) = self.place_of_bytes(disk)?;
        Some(Located { path, fingerprint, leaves: self.store.leaves(body) })
    }

    /// Where a body lies that was this version a while ago and is a later one
    /// now.
    pub fn locate_former(&self, body: BodyId, digest: Digest) -> Option<Located> {
        let row = self.store.body(body)?;
        let now = row.content_on_disk().and_then(Content::digest)?;
        self.history.knows(body, digest, now).then(|| self.locate(body, now)).flatten()
    }

    /// What differs between an earlier version of a body and one that lies
    /// here, if it is remembered.
    pub fn changed_since(&self, body: BodyId, from: Digest, to: Digest) -> Option<Delta> {
        self.history.between(body, from, to)
    }
}
