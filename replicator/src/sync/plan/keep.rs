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
    /// What becomes of a body that loses its place at a name; `None` where it is
    /// to stay for now. What loses a conflict may be the only copy of what a
    /// later record of a series under way brings back.
    pub(super) fn keep(
        &self,
        name: &NameRow,
        lying: &Lying,
        instead: Option<&BodyRow>,
    ) -> Option<Keep> {
        #[cfg(test)]
        if crate::sync::sim::planted::is_planted(crate::sync::sim::planted::Bug::KeepNothing) {
            return Some(Keep::Discard);
        }
        match self.fate(name, lying, instead)? {
            Keep::Conflict(_) if !self.mid_series.is_empty() => None,
            keep => Some(keep),
        }
    }

    fn fate(&self, name: &NameRow, lying: &Lying, instead: Option<&BodyRow>) -> Option<Keep> {
        let body = lying.row();
        let same =
            |instead: &BodyRow| body.content_on_disk() == Some(&instead.content.winner().value);
        if body.kind() == Kind::Directory || instead.is_some_and(same) {
            return Some(Keep::Discard);
        }
        if let Some(loser) = name.loser() {
            return Some(Keep::Conflict(loser.dot.actor));
        }
        if let Some(loser) = body.content_loser() {
            return Some(Keep::Conflict(loser.dot.actor));
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
        match was_seen && !is_found {
            true => Some(Keep::Trash),
            false if lying.disk().names.len() > 1 => {
                let is_known = !self.may_lack_names(lying.disk());
                is_known.then_some(Keep::Linked(written.dot.actor))
            }
            false => Some(Keep::Conflict(written.dot.actor)),
        }
    }

    /// Was it taken from this name by somebody who knew all that lies here?
    fn is_let_go_at(&self, name: &NameRow, lying: &Lying) -> bool {
        lying.row().lies_let_go(lying.id, &name.binding)
    }

    /// Was it, with its last name, which may be one that it has no more here?
    fn is_buried(&self, lying: &Lying) -> bool {
        let grave = lying.row().grave.as_ref().and_then(|grave| self.store.name(grave));
        let is_last = |binding: &Binding| binding.replaced().is_some_and(|was| !was.moved);
        let is_let_go = |binding| lying.row().is_replaced_by(lying.id, binding);
        let mut bindings = grave.iter().flat_map(|grave| grave.binding.values());
        bindings.any(|binding| is_last(binding) && is_let_go(binding))
    }
}
