//! Contents that nobody holds any more.
//!
//! A change may be known everywhere before anybody fetched it, and its author
//! may destroy the bytes while it is cut off, or forget in a crash that it
//! wrote them. Only the node that wrote a content may say so, once every peer
//! it asked has answered that it does not hold it either: it puts
//! [`Content::Lost`] in its place, beside which any other content wins. Who
//! still holds any version writes that one anew; where nobody does, the
//! author gives up the names. It is never said of what another node wrote:
//! that node may be away with the only copy.

use super::core::Core;
use super::effect::Now;
use super::record::{Binding, BodyRow, Content, Key, NameRow, Replaced};
use super::settle::Spot;
use super::store::Store;
use super::tree::{held, held_at};
use crate::id::{Actor, BodyId, NodeId};
use crate::path::RelPath;

/// Times to ask before a content counts as lost: what is being changed or
/// fetched just now is not held for a moment.
const ASKS_MIN: u32 = 4;

impl<S: Store> Core<S> {
    /// Names this node's lives before this one: what they wrote is its own.
    pub fn remember_lives(&mut self, former: impl IntoIterator<Item = Actor>) {
        self.lives.extend(former);
    }

    /// A peer does not hold the content that this spot is to show.
    pub(super) fn refused(&mut self, now: Now, spot: &Spot, id: BodyId, by: NodeId) {
        let Some(retry) = self.retries.get_mut(spot) else {
            return;
        };
        retry.refused.insert(by);
        let all_asked = self.peers.keys().all(|peer| retry.refused.contains(peer));
        if retry.attempts < ASKS_MIN || !all_asked || self.peers.is_empty() || !self.surveyed {
            return;
        }
        let Some(mut row) = self.store.body(id) else {
            return;
        };
        let winner = row.content.winner().clone();
        let is_mine = self.lives.contains(&winner.dot.actor);
        let is_here = row.content_on_disk() == Some(&winner.value);
        if !is_mine || is_here || winner.value.is_lost() || row.bound.is_empty() {
            return;
        }
        let on_disk = row.content_on_disk().cloned();
        let seen = row.content_seen().clone();
        let dot = self.next_dot();
        row.content.replace(|one| one.dot == winner.dot, dot, winner.when, Content::Lost);
        row.stamp = dot;
        if let (Some(disk), Some(content)) = (&mut row.disk, on_disk) {
            disk.content = held(&row.content, content, seen);
        }
        self.stand_in(&mut row);
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
    /// is written anew.
    pub(super) fn stand_in(&mut self, row: &mut BodyRow) {
        if !row.content.winner().value.is_lost() || row.bound.is_empty() {
            return;
        }
        let (content, metadata) = (row.content_on_disk(), row.metadata_on_disk());
        let Some((content, metadata)) = content.cloned().zip(metadata) else {
            return;
        };
        let when = metadata.mtime.as_nanos();
        let dot = self.next_dot();
        let seen = row.content.context().clone();
        row.content.write(&seen, dot, when, content);
        row.stamp = dot;
        if let Some(disk) = &mut row.disk {
            disk.content = super::record::Held::Winner;
        }
    }

    /// Checks a name whose body may be lost. True where the name was given up.
    pub(super) fn gave_up(&mut self, now: Now, path: &RelPath, id: BodyId) -> bool {
        let Some(mut row) = self.store.body(id) else {
            return false;
        };
        let winner = row.content.winner();
        if !winner.value.is_lost() {
            return false;
        }
        if row.disk.is_some() {
            self.stand_in(&mut row);
            self.put_body(id, row);
            return false;
        }
        if !self.lives.contains(&winner.dot.actor) {
            return false;
        }
        self.give_up(now, path, id, &row);
        true
    }

    /// Takes the name away from a body of which nothing is left. What others
    /// bound it to concurrently stays; a version that turns up again brings
    /// the name back.
    fn give_up(&mut self, now: Now, path: &RelPath, id: BodyId, body: &BodyRow) {
        let Some(former) = self.store.name(path) else {
            return;
        };
        let was = Replaced { body: id, seen: body.content.context().clone() };
        let gone = Binding::Gone { was, kind: body.kind(), moved: false };
        let dot = self.next_dot();
        let mut binding = former.binding.clone();
        let is_bound = |binding: &Binding| binding.body().is_some_and(|(body, _)| body == id);
        binding.replace(|one| is_bound(&one.value), dot, now.wall, gone);
        let held = held_at(&former, &binding);
        self.put_name(path, Some(&former), NameRow { stamp: dot, binding, held });
        self.unchecked.insert(Key::Name(path.clone()));
    }
}
