//! Where the content of a winner comes from.
//!
//! Bytes that rode along with the record, else a file of this disk with the
//! same content, else the peers that may hold it. Which one is tried follows
//! from how often it was tried before.

use crate::entry::Fingerprint;
use crate::hash::Digest;
use crate::id::{BodyId, NodeId};
use crate::limits::SOURCES_MAX;
use crate::path::RelPath;
use crate::range::RangeSet;
use crate::sync::core::Core;
use crate::sync::effect::Source;
use crate::sync::record::{BodyRow, Content};
use crate::sync::settle::Spot;
use crate::sync::store::Store;
use crate::sync::tree::Lying;
use crate::sync::version::Dot;

impl<S: Store> Core<S> {
    /// Where to get the content of a body's winner from, for a place at which the
    /// same may lie already, as another file that is to have another name yet.
    /// Where several came with equal trees all may have made theirs that one.
    pub(in crate::sync) fn source_at(
        &self,
        path: &RelPath,
        id: BodyId,
        body: &BodyRow,
        lying: Option<&Lying>,
    ) -> Option<Source> {
        let (spot, winner) = (Spot::Path(path.clone()), &body.content.winner().value);
        let same = lying.filter(|lying| lying.row().content_on_disk() == Some(winner));
        // It may have changed, and nobody looked yet.
        let is_its_turn = self.attempts(&spot).is_multiple_of(2);
        match same.filter(|_| is_its_turn && winner.size() > 0) {
            Some(lying) => {
                let expect = lying.disk().fingerprint;
                Some(Source::Copy { from: path.clone(), expect })
            }
            None => self.source(spot, id, body, None),
        }
    }

    fn attempts(&self, spot: &Spot) -> usize {
        self.retries.get(spot).map_or(0, |retry| retry.attempts) as usize
    }

    /// Where to get the content of a body's winner from.
    pub(in crate::sync) fn source(
        &self,
        spot: Spot,
        id: BodyId,
        body: &BodyRow,
        from: Option<Digest>,
    ) -> Option<Source> {
        let winner = body.content.winner();
        if winner.value.size() == 0 {
            return Some(Source::Inline { writes: Vec::new(), holes: RangeSet::new() });
        }
        let to = winner.value.digest();
        if let Some(mut patch) = to.and_then(|to| self.patches.between(id, from, to)) {
            patch.truncate(winner.value.size());
            return Some(Source::Inline { writes: patch.writes, holes: patch.holes });
        }
        let attempts = self.attempts(&spot);
        if attempts == 0
            && let Some((from, expect)) = self.same_content(id, winner.value.digest()?)
        {
            return Some(Source::Copy { from, expect });
        }
        self.fetch_from(winner.dot, attempts).map(Source::Peers)
    }

    /// Another file on this disk with this content.
    pub(in crate::sync) fn same_content(
        &self,
        id: BodyId,
        digest: Digest,
    ) -> Option<(RelPath, Fingerprint)> {
        let holders = self.store.bodies_of_content(digest).into_iter();
        let lies_at = |other| {
            let row = self.store.body(other)?;
            (row.content_on_disk().and_then(Content::digest) == Some(digest)).then_some(())?;
            let disk = row.disk.as_ref()?;
            Some((disk.names.first()?.clone(), disk.fingerprint))
        };
        holders.filter(|other| *other != id).find_map(lies_at)
    }

    /// The author first, then those that say they hold the change, then any;
    /// another one at every attempt.
    fn fetch_from(&self, dot: Dot, attempts: usize) -> Option<Vec<NodeId>> {
        let mut candidates: Vec<(u8, NodeId)> = self
            .peers
            .iter()
            .map(|(id, peer)| {
                let distance = match peer.actor {
                    Some(actor) if actor == dot.actor => 0,
                    _ if peer.holds(dot) => 1,
                    _ => 2,
                };
                (distance, *id)
            })
            .collect();
        candidates.sort();
        let mut sources: Vec<NodeId> = candidates.into_iter().map(|(_, id)| id).collect();
        let first = attempts.checked_rem(sources.len())?;
        sources.rotate_left(first);
        sources.truncate(SOURCES_MAX);
        Some(sources)
    }
}
