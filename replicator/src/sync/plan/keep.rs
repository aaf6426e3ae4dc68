//! What becomes of a body that loses its place.
//!
//! The trash, where somebody replaced it knowingly; the conflict store, where
//! nobody did. When in doubt it is kept.

use crate::entry::Kind;
use crate::sync::core::Core;
use crate::sync::effect::Keep;
use crate::sync::record::{Binding, BodyRow, NameRow};
use crate::sync::store::Store;
use crate::sync::tree::Lying;

impl<S: Store> Core<S> {
    /// What loses a conflict may be the only copy of what a later record of a
    /// series under way brings back.
    pub(super) fn may_be_wanted(&self, keep: Keep) -> bool {
        matches!(keep, Keep::Conflict(_)) && !self.mid_series.is_empty()
    }

    /// What becomes of a body that loses its place at a name.
    pub(super) fn keep(&self, name: &NameRow, lying: &Lying, instead: Option<&BodyRow>) -> Keep {
        #[cfg(test)]
        if crate::sync::sim::planted::is_planted(crate::sync::sim::planted::Bug::KeepNothing) {
            return Keep::Discard;
        }
        let body = lying.row();
        let same =
            |instead: &BodyRow| body.content_on_disk() == Some(&instead.content.winner().value);
        if body.kind() == Kind::Directory || instead.is_some_and(same) {
            return Keep::Discard;
        }
        if let Some(loser) = name.loser() {
            return Keep::Conflict(loser.dot.actor);
        }
        if let Some(loser) = body.content_loser() {
            return Keep::Conflict(loser.dot.actor);
        }
        // The others may have gone without having been looked at yet: what is
        // laid to rest is the inode if this was its last name, else nothing.
        if lying.disk().names.len() > 1 {
            return Keep::Trash;
        }
        let written = body.content.winner();
        let replaced = name.binding.values().filter_map(Binding::replaced);
        let was_seen = match replaced.filter(|replaced| replaced.body == lying.id).count() {
            // Several others were here since. What this node wrote itself may
            // be unknown to who replaced it.
            0 => body.content_is_pending() || !self.lives.contains(&written.dot.actor),
            _ => self.is_let_go_at(name, lying) || self.is_buried(lying),
        };
        // That nobody holds it was said of it before it was found here.
        let is_found = written.value.is_lost();
        if was_seen && !is_found { Keep::Trash } else { Keep::Conflict(written.dot.actor) }
    }

    /// Was it taken from this name by somebody who knew all that lies here?
    fn is_let_go_at(&self, name: &NameRow, lying: &Lying) -> bool {
        lying.row().lies_let_go(lying.id, &name.binding)
    }

    /// Was it, with its last name, which may be one that it has no more here?
    fn is_buried(&self, lying: &Lying) -> bool {
        let grave = lying.row().grave.as_ref().and_then(|grave| self.store.name(grave));
        grave.is_some_and(|grave| self.is_let_go_at(&grave, lying))
    }
}
