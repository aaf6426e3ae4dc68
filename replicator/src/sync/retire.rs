//! Forgetting what was deleted, once no member can bring it back.
//!
//! A tombstone whose place in the log every member holds is of no more use:
//! whatever a member writes from then on, it writes knowing of the deletion.
//! Bodies without a name go with it. Should a member still bind a name to a
//! body that was forgotten here (it had the file open under another name),
//! the body is asked for: whoever binds a body has its record. Where it was
//! nobody but a node that gave up another one, it may be that none has.
//!
//! Logs are gone through in small parts, and only where they have not been
//! gone through before.

use super::core::Core;
use super::effect::Now;
use super::message::Message;
use super::record::{Binding, BodyRecord, BodyRow, Key, NameRow};
use super::store::Store;
use super::version::{Dot, VersionVector};
use crate::id::{BodyId, NodeId};
use crate::limits::{BODIES_ASKED_MAX, SWEEP_PLACES_MAX};
use crate::path::RelPath;

/// Questions for bodies that a peer may leave open.
const ASKED_FOR_MAX: usize = 16;

impl<S: Store> Core<S> {
    /// The floor has risen: what lies below it is to be gone through.
    pub(super) fn begin_sweep(&mut self) {
        if !self.membership.sweeping.is_empty() {
            return;
        }
        // What is yet to come here is gone through when it is here.
        let roster = &self.membership.roster;
        let stretches = roster.floor.meet(&self.store.have());
        let stretches = stretches.iter().filter_map(|end| {
            let after = roster.swept.get(end.actor);
            (after < end.counter).then_some((end.actor, after, end.counter))
        });
        self.membership.sweeping = stretches.collect();
    }

    pub(super) fn sweep(&mut self) {
        let mut room = SWEEP_PLACES_MAX;
        while room > 0
            && let Some((actor, after, up_to)) = self.membership.sweeping.pop_front()
        {
            let places = self.store.log(actor, after, up_to, room);
            let whole = places.len() < room;
            room -= places.len();
            let reached = places.last().map_or(up_to, |(counter, _)| *counter);
            for (_, key) in places {
                match key {
                    Key::Name(path) => self.forget_name(&path),
                    Key::Body(id) => self.forget_body(id),
                }
            }
            if !whole {
                self.membership.sweeping.push_front((actor, reached, up_to));
            } else {
                let swept = Dot { actor, counter: up_to };
                self.membership.roster.swept.advance(swept);
            }
        }
    }

    /// A tombstone that was passed by, since something lay there still, can go
    /// now.
    pub(super) fn sweep_again(&mut self, row: &NameRow) {
        if is_forgettable(row) {
            self.sweep_place_again(row.stamp);
        }
    }

    /// The same of a body that lost its last name, or took another place in the
    /// logs, behind what was gone through.
    pub(super) fn sweep_body_again(&mut self, row: &BodyRow) {
        if row.bound.is_empty() && row.disk.is_none() {
            self.sweep_place_again(row.stamp);
        }
    }

    fn sweep_place_again(&mut self, stamp: Dot) {
        let Dot { actor, counter } = stamp;
        if self.membership.roster.swept.contains(stamp) {
            self.membership.sweeping.push_back((actor, counter - 1, counter));
        }
    }

    fn forget_name(&mut self, path: &RelPath) {
        let Some(row) = self.store.name(path) else { return };
        if is_forgettable(&row) && !self.unchecked.contains(&Key::Name(path.clone())) {
            self.store.remove_name(path);
            self.retries.remove(&super::settle::Spot::Path(path.clone()));
        }
        let siblings = row.binding.losers().chain([row.binding.winner()]);
        let spoken_of = siblings.flat_map(|sibling| {
            let replaced = sibling.value.replaced().map(|replaced| replaced.body);
            replaced.into_iter().chain(sibling.value.body().map(|(body, _)| body))
        });
        spoken_of.for_each(|id| self.forget_body(id));
    }

    /// Forgets a body that nothing here speaks of.
    fn forget_body(&mut self, id: BodyId) {
        let Some(row) = self.store.body(id) else { return };
        let is_buried = |grave: &RelPath| {
            let name = self.store.name(grave);
            name.is_some_and(|name| match &name.binding.winner().value {
                Binding::Gone { was, .. } => was.body == id,
                Binding::Bound { .. } => false,
            })
        };
        let is_settled = self.membership.roster.floor.contains(row.stamp);
        let is_spoken_of = !row.bound.is_empty()
            || row.disk.is_some()
            || row.grave.as_ref().is_some_and(is_buried)
            || self.orphans.contains_key(&id)
            || self.unchecked.contains(&Key::Body(id));
        if is_settled && !is_spoken_of {
            self.store.remove_body(id);
            self.pending_bodies.remove(&id);
            self.retries.remove(&super::settle::Spot::Body(id));
        }
    }

    /// Asks a peer that has told all it has for bodies that were forgotten
    /// here and are bound to a name again.
    pub(super) fn ask_for_bodies(&mut self, from: NodeId) {
        let wanted: Vec<BodyId> = self.orphans.keys().copied().take(BODIES_ASKED_MAX).collect();
        if wanted.is_empty() || self.membership.me.is_none() {
            return;
        }
        if !self.ask_for(from, wanted) {
            self.orphaned = true;
        }
    }

    /// False where it is to answer too much already.
    fn ask_for(&mut self, from: NodeId, wanted: Vec<BodyId>) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return true };
        if peer.asked_for.len() >= ASKED_FOR_MAX {
            return false;
        }
        peer.asked_for.push_back(wanted.clone());
        self.send(from, Message::WantBodies(wanted));
        true
    }

    /// Who asked for bodies while this node itself was asking for them may ask
    /// again: nothing else would bring it what others have brought here since.
    pub(super) fn invite_questions(&mut self) {
        if !std::mem::take(&mut self.adopted) {
            return;
        }
        let vain = self.peers.iter().filter(|(_, peer)| peer.asks_in_vain).map(|(id, _)| *id);
        for peer in vain.collect::<Vec<_>>() {
            let is_sent = self.ask_for(peer, Vec::new());
            self.adopted |= !is_sent;
            if let Some(peer) = self.peers.get_mut(&peer).filter(|_| is_sent) {
                peer.asks_in_vain = false;
            }
        }
    }

    /// This node may itself have bound a name to one: the loser of a conflict
    /// whose winner nobody holds. Whoever has the file remembers it.
    pub(super) fn ask_all_for_bodies(&mut self) {
        if !self.orphaned || !self.mid_series.is_empty() {
            return;
        }
        self.orphaned = false;
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.ask_for_bodies(peer));
    }

    pub(super) fn handle_want_bodies(&mut self, from: NodeId, wanted: &[BodyId]) {
        let known = |id: &BodyId| Some(self.store.body(*id)?.record(*id));
        let bodies: Vec<BodyRecord> = wanted.iter().filter_map(known).collect();
        let is_vain = bodies.len() < wanted.len();
        // Also without any: it may be that nobody knows them.
        self.send(from, Message::Bodies(bodies));
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.asks_in_vain |= is_vain;
        }
        if wanted.is_empty() {
            self.ask_for_bodies(from);
        }
    }

    pub(super) fn handle_bodies(&mut self, from: NodeId, bodies: Vec<BodyRecord>) {
        for record in bodies {
            if self.orphans.contains_key(&record.id) {
                self.merge_body(record);
            }
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let asked = peer.asked_for.pop_front().unwrap_or_default();
        peer.unknown.retain(|id| self.orphans.contains_key(id));
        peer.unknown.extend(asked.into_iter().filter(|id| self.orphans.contains_key(id)));
    }

    /// A name that leads to a body of which no member remembers anything, as the
    /// loser of a conflict that was laid aside long ago, leads nowhere.
    pub(super) fn check_orphans(&mut self, now: Now) {
        let is_idle = self.orphans.is_empty() || !self.mid_series.is_empty() || !self.surveyed;
        if is_idle || !self.has_all_members() {
            return;
        }
        let is_unknown = |id: &BodyId| self.peers.values().all(|peer| peer.unknown.contains(id));
        let unknown: Vec<BodyId> = self.orphans.keys().copied().filter(is_unknown).collect();
        for id in unknown {
            for path in self.orphans.remove(&id).unwrap_or_default() {
                self.give_up(now, &path, id, VersionVector::new());
            }
        }
    }
}

/// A tombstone that the disk shows already.
fn is_forgettable(row: &NameRow) -> bool {
    row.wanted().is_none() && row.on_disk().is_none()
}
