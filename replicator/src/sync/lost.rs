//! Contents that nobody holds any more.
//!
//! A change may be known everywhere before anybody fetched it, and its author
//! may destroy the bytes while it is cut off, forget in a crash that it wrote
//! them, or leave for good. Somebody then puts [`Content::Lost`] in its place,
//! beside which any other content wins. Who still holds any version writes
//! that one anew; where none of its peers does, which it knows once they have
//! heard of it, who said so gives up the names.
//!
//! Who may say so: the node that wrote the content, once every peer has
//! answered that it does not hold it either; and any node, once every member
//! there is has answered so, itself and those apart that have left for good or
//! are waited for no longer. As long as another member is away nobody speaks
//! for it: it may have the only copy.
//!
//! Who does not hold it is known by the fetches that failed. A node that only
//! sends fetches nothing: who asks it in vain for what it wrote makes it ask all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::effect::{Action, Effect, Now};
use super::plan::Retry;
use super::record::{Binding, BodyRow, Content, Key, NameRow, Replaced};
use super::register::Sibling;
use super::settle::Spot;
use super::store::Store;
use super::tree::{held, held_at};
use super::version::{Dot, VersionVector};
use crate::choice::Mode;
use crate::entry::Kind;
use crate::hash::Digest;
use crate::id::{Actor, BodyId, NodeId};
use crate::path::RelPath;

/// Times to ask before a content counts as lost: what is being changed or
/// fetched just now is not held for a moment.
const ASKS_MIN: u32 = 4;

/// The same for what another node wrote, of every member: it may be slow to
/// find again what it wrote.
const ASKS_OF_OTHERS_MIN: u32 = 8;

/// How long to wait before all are asked once more, doubled each time.
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// Names that wait to be given up, by the change that said that their content
/// is lost.
#[derive(Debug, Default)]
pub(super) struct GivingUp(BTreeMap<Actor, BTreeSet<(u64, RelPath)>>);

impl GivingUp {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    fn insert(&mut self, lost: Dot, path: RelPath) {
        self.0.entry(lost.actor).or_default().insert((lost.counter, path));
    }

    /// Takes those out that wait for no later change of this actor.
    fn take_heard(&mut self, actor: Actor, heard: u64) -> impl Iterator<Item = RelPath> {
        let mut names = self.0.remove(&actor).unwrap_or_default();
        let waiting: BTreeSet<_> = names.extract_if(.., |(counter, _)| *counter > heard).collect();
        if !waiting.is_empty() {
            self.0.insert(actor, waiting);
        }
        names.into_iter().map(|(_, path)| path)
    }
}

impl<S: Store> Core<S> {
    /// Names this node's lives before this one: what they wrote is its own.
    pub fn remember_lives(&mut self, former: impl IntoIterator<Item = Actor>) {
        self.lives.extend(former);
    }

    /// A peer does not hold the content that this spot was to show.
    pub(super) fn refused(&mut self, now: Now, spot: &Spot, action: &Action, by: NodeId) {
        let id = action.body;
        if !self.knows_what_it_holds(by) {
            return;
        }
        let Some((row, retry)) = self.store.body(id).zip(self.retries.get_mut(spot)) else {
            return;
        };
        // Another one is to be shown by now, of which this says nothing.
        let winner = row.content.winner();
        if winner.value.digest() != action.digest() {
            return;
        }
        if retry.refused_content != Some(winner.dot) {
            retry.refused_content = Some(winner.dot);
            retry.refused.clear();
            retry.refusals = 0;
        }
        retry.refused.insert(by);
        retry.refusals += 1;
        let (refusals, refused) = (retry.refusals, retry.refused.clone());
        if refusals < ASKS_MIN || !self.surveyed {
            return;
        }
        let all_peers = self.peers.keys().all(|peer| refused.contains(peer));
        let asked_enough = refusals / (self.peers.len() as u32).max(1) >= ASKS_OF_OTHERS_MIN;
        let is_mine = self.lives.contains(&row.content.winner().dot.actor);
        if all_peers && (is_mine || (asked_enough && self.has_all_members())) {
            self.give_up_content(now, id, row);
        }
    }

    /// A peer asked for this version in vain.
    pub fn asked_in_vain(&mut self, now: Now, body: BodyId, digest: Digest) {
        if self.options.mode != Mode::SendOnly {
            return;
        }
        let Some((spot, row)) = self.missed_of_mine(body, digest) else { return };
        let winner = row.content.winner();
        let retry = self.retries.entry(spot).or_default();
        if retry.refused_content != Some(winner.dot) {
            *retry = Retry { refused_content: Some(winner.dot), ..Retry::default() };
        }
        if retry.not_before > now.monotonic {
            return;
        }
        retry.not_before = now.monotonic + ASK_PAUSE * (1 << retry.attempts.min(ASKS_MIN));
        retry.attempts += 1;
        retry.refused.clear();
        let size = winner.value.size();
        let asked = self.peers.keys().map(|peer| Effect::Ask { peer: *peer, body, digest, size });
        self.effects.extend(asked);
    }

    /// What a peer said of a version that it was asked about.
    pub fn handle_answered(
        &mut self,
        now: Now,
        by: NodeId,
        (body, digest): (BodyId, Digest),
        holds: bool,
    ) {
        if !self.knows_what_it_holds(by) {
            return;
        }
        let Some((spot, row)) = self.missed_of_mine(body, digest) else { return };
        let Some(retry) = self.retries.get_mut(&spot) else { return };
        if holds {
            *retry = Retry::default();
            return;
        }
        retry.refused.insert(by);
        let all_peers = self.peers.keys().all(|peer| retry.refused.contains(peer));
        if all_peers && retry.attempts >= ASKS_MIN && self.surveyed {
            self.give_up_content(now, body, row);
            self.turn(now);
        }
    }

    /// One that has not met its own folder yet does not.
    fn knows_what_it_holds(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.actor.is_some())
    }

    /// A version that this node wrote, and that is to lie here and does not,
    /// with what waits for it.
    fn missed_of_mine(&self, id: BodyId, digest: Digest) -> Option<(Spot, Arc<BodyRow>)> {
        let row = self.store.body(id)?;
        let Sibling { dot, value, .. } = row.content.winner();
        let is_mine = value.digest() == Some(digest) && self.lives.contains(&dot.actor);
        let is_here = row.content_on_disk() == Some(value);
        if !is_mine || is_here || value.size() == 0 {
            return None;
        }
        let waits = |path: &&RelPath| self.pending_names.contains(*path);
        let spot = match self.pending_bodies.contains(&id) {
            true => Spot::Body(id),
            false => Spot::Path(row.bound.iter().find(waits)?.clone()),
        };
        Some((spot, row))
    }

    /// Who is left alone by members that left for good has nobody to ask.
    pub(super) fn check_lost(&mut self, now: Now) {
        let is_pending = !self.pending_names.is_empty() || !self.pending_bodies.is_empty();
        if !is_pending || !self.peers.is_empty() || !self.surveyed || !self.has_all_members() {
            return;
        }
        let names = self.pending_names.iter().cloned().map(Spot::Path);
        let spots: Vec<Spot> =
            names.chain(self.pending_bodies.iter().copied().map(Spot::Body)).collect();
        for spot in spots {
            let id = match &spot {
                Spot::Path(path) => self.store.name(path).and_then(|row| row.wanted()),
                Spot::Body(id) => Some((*id, Kind::File)),
            };
            let Some((id, row)) = id.and_then(|(id, _)| Some((id, self.store.body(id)?))) else {
                continue;
            };
            let source = match &spot {
                Spot::Path(path) => self.source_at(path, id, &row, self.lying_at(path).as_ref()),
                Spot::Body(_) => {
                    let from = row.content_on_disk().and_then(Content::digest);
                    self.source(spot, id, &row, from)
                }
            };
            if row.kind() == Kind::File && source.is_none() {
                self.give_up_content(now, id, row);
            }
        }
    }

    /// Is every member connected that is waited for?
    pub(super) fn has_all_members(&self) -> bool {
        let Some(me) = self.membership.me() else { return false };
        let mut others = self.membership.roster.waited_for().filter(|record| record.node != me);
        others.all(|record| self.peers.contains_key(&record.node))
    }

    /// Nobody holds the content of this body's winner.
    fn give_up_content(&mut self, now: Now, id: BodyId, row: Arc<BodyRow>) {
        let winner = row.content.winner().clone();
        let is_here = row.content_on_disk() == Some(&winner.value);
        if is_here || winner.value.is_lost() || row.bound.is_empty() {
            return;
        }
        let on_disk = row.content_on_disk().cloned();
        let seen = row.content_seen().clone();
        let mut row = Arc::unwrap_or_clone(row);
        let dot = self.next_dot();
        let is_it = |one: &Sibling<Content>| one.dot == winner.dot;
        // Who comes back with it has not replaced it.
        row.content.replace(is_it, |_| false, dot, winner.when, Content::Lost);
        row.stamp = dot;
        if let (Some(disk), Some(content)) = (&mut row.disk, on_disk) {
            disk.content = held(&row.content, content, seen);
        }
        self.stand_in(id, &mut row);
        let bound = row.bound.clone();
        self.put_body(id, row);
        self.retries.remove(&Spot::Body(id));
        for path in bound {
            self.retries.remove(&Spot::Path(path.clone()));
            self.progress.note(now.wall, "lost, nobody holds it", &path);
            self.unchecked.insert(Key::Name(path));
        }
    }

    /// Where the content is lost and another version lies here, that version
    /// is written anew, unless it was deleted and only what is lost kept it.
    pub(super) fn stand_in(&mut self, id: BodyId, row: &mut BodyRow) {
        if !row.content.winner().value.is_lost() || row.bound.is_empty() {
            return;
        }
        if self.lies_deleted(id, row) {
            return;
        }
        // Of what is nobody else's nothing is told.
        if row.content_seen().is_empty() {
            return;
        }
        // Nor of bytes that were written over here, where that is nobody else's.
        if row.disk.as_ref().is_none_or(|disk| self.place_of_bytes(disk).is_none()) {
            return;
        }
        let (content, metadata) = (row.content_on_disk(), row.metadata_on_disk());
        let Some((content, metadata)) = content.cloned().zip(metadata) else {
            return;
        };
        let when = metadata.mtime.as_nanos();
        let dot = self.next_dot();
        let seen = row.content.context().clone();
        let is_shown = |shown: &Content| *shown == content;
        row.content.write(&seen, is_shown, dot, when, content.clone());
        row.stamp = dot;
        if let Some(disk) = &mut row.disk {
            disk.content = super::record::Held::Winner;
        }
    }

    /// Did who deleted it, at each of its names, know of what lies here of it?
    fn lies_deleted(&self, id: BodyId, row: &BodyRow) -> bool {
        let deletes =
            |binding: &Binding| binding.deleted().is_some() && row.is_replaced_by(id, binding);
        let is_deleted = |name: Arc<NameRow>| name.binding.values().any(deletes);
        row.bound.iter().all(|path| self.store.name(path).is_some_and(is_deleted))
    }

    /// Looks once more at names of which all peers know by now that their content
    /// is lost.
    pub(super) fn give_up_heard(&mut self) {
        let actors: Vec<Actor> = self.giving_up.0.keys().copied().collect();
        for actor in actors {
            let heard = self.heard_by_all(actor);
            self.unchecked.extend(self.giving_up.take_heard(actor, heard).map(Key::Name));
        }
    }

    /// How far all peers hold this log. Without any, somebody has yet to hear of
    /// all of it, unless there is nobody.
    fn heard_by_all(&self, actor: Actor) -> u64 {
        let heard = self.peers.values().map(|peer| peer.told(actor)).min();
        heard.unwrap_or_else(|| if self.has_all_members() { u64::MAX } else { 0 })
    }

    /// May a peer still write a version anew that it holds, of what this node
    /// says is lost?
    pub(super) fn waits_to_give_up(&mut self, path: &RelPath, id: BodyId) -> bool {
        let Some(row) = self.store.body(id) else {
            return false;
        };
        if row.disk.is_some() && !self.lies_deleted(id, &row) {
            return false;
        }
        let Sibling { dot, value, .. } = row.content.winner();
        let is_mine = value.is_lost() && self.lives.contains(&dot.actor);
        let waits = is_mine && dot.counter > self.heard_by_all(dot.actor);
        if waits {
            self.giving_up.insert(*dot, path.clone());
        }
        waits
    }

    /// Checks a name whose body may be lost. True where the name was given up.
    pub(super) fn gave_up(&mut self, now: Now, path: &RelPath, id: BodyId) -> bool {
        let Some(row) = self.store.body(id) else {
            return false;
        };
        let winner = row.content.winner();
        if !winner.value.is_lost() {
            return false;
        }
        if row.disk.is_some() && !self.lies_deleted(id, &row) {
            let mut row = Arc::unwrap_or_clone(row);
            self.stand_in(id, &mut row);
            self.put_body(id, row);
            return false;
        }
        if !self.lives.contains(&winner.dot.actor) {
            return false;
        }
        self.give_up(now, path, id, row.content.context().clone());
        true
    }

    /// Takes the name away from a body of which nothing is left. What others
    /// bound it to concurrently stays; a version that turns up again brings
    /// the name back.
    pub(super) fn give_up(&mut self, now: Now, path: &RelPath, id: BodyId, seen: VersionVector) {
        let Some(former) = self.store.name(path) else {
            return;
        };
        let Some((_, kind)) = former.wanted().filter(|(body, _)| *body == id) else {
            return;
        };
        let gone = Binding::Gone { was: Replaced { body: id, seen, moved: false }, kind };
        let dot = self.next_dot();
        let mut binding = former.binding.clone();
        let is_bound = |binding: &Binding| binding.body().is_some_and(|(body, _)| body == id);
        binding.replace(|one| is_bound(&one.value), |_| true, dot, now.wall, gone);
        let held = held_at(&former, &binding);
        self.put_name(path, Some(&former), NameRow { stamp: dot, binding, held });
        self.unchecked.insert(Key::Name(path.clone()));
    }

    /// Where a name was given up with its content, and an older file lies here
    /// that nobody took away knowingly, that one is shown again.
    pub(super) fn fell_back(&mut self, now: Now, path: &RelPath, name: &NameRow) -> bool {
        let Some(was) = name.binding.winner().value.deleted() else {
            return false;
        };
        let given_up = self.store.body(was.body);
        if !given_up.is_some_and(|body| body.content.winner().value.is_lost()) {
            return false;
        }
        let Some(lying) = self.lying_at(path).filter(|lying| lying.id != was.body) else {
            return false;
        };
        let (id, body) = (lying.id, lying.row());
        let is_meant = body.lies_let_go(id, &name.binding);
        if is_meant || !body.bound.is_empty() || body.kind() == Kind::Directory {
            return false;
        }
        self.rebind(now, path, id, body.kind());
        true
    }
}
