//! Meeting a peer whose tree is nearly the same: it is told what is equal in
//! outline, stretch by stretch, and only the rest as records.
//!
//! One side goes through its tree in the order of paths and offers stretches
//! of it, each as the outlines of its entries ([`super::outline`]). The other
//! makes the records again from what it shows itself; where the check says
//! that they are the very same, it merges them as if they had come as they
//! are. Where not, the stretch is offered once more in parts, down to a few
//! entries. These, tombstones, and what was logged meanwhile are left to the
//! series of records that follows, which passes over what was told in outline
//! and is closed as ever.
//!
//! So a meeting changes what a record costs, and nothing of what it does:
//! merging stays associative, commutative and idempotent, since the same
//! records are merged. How far a log is held stays true: it is claimed by the
//! series alone, and a place in a log counts as told only where the peer
//! answered that it took the row of this stamp, whose state is the state at
//! that stamp for ever. A peer that forgets in a crash what it took greets
//! anew, and so does everybody after a cut: nothing of a meeting outlives its
//! connection.
//!
//! Where both sides have much to tell, one goes first and the other waits
//! until it is done. Else both would merge the same rows to the same state,
//! each under a stamp of its own, and tell each other of all of it again.
//! The one with more behind it goes first, so that a newcomer merges what it
//! brings, once, and not everybody else. Which it is follows from the
//! greetings, so both agree; it need not be so for anything but the traffic.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::announce::Peer;
use super::core::Core;
use super::message::{Answer, Message, Offer, Stretch};
use super::outline::{Entry, Shapes, Shown};
use super::record::{BodyRow, NameRow};
use super::store::Store;
use super::version::{Dot, VersionVector};
use crate::id::{Actor, BodyId, NodeId};
use crate::limits::{
    OFFERS_OPEN_MAX, SENDS_IN_FLIGHT_MAX, STRETCH_READS_MAX, STRETCH_ROWS_MIN, STRETCHES_MAX,
};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};

/// Rows read from the index at once, where so many are wanted.
const CHUNK: usize = 256;
const CHUNK_MIN: usize = 16;

/// Times to go through the tree before a series is closed: while somebody
/// writes all the time there is always more to tell.
const PASSES_MAX: u32 = 4;

/// How one peer is met.
#[derive(Debug, Default)]
pub(super) struct Meeting {
    /// What each side greeted with: how many changes it holds, and as whom.
    mine: Option<(u64, Actor)>,
    theirs: Option<(u64, Actor)>,
    /// The peer goes first.
    waits: bool,
    pass: Option<Pass>,
    passes: u32,
    /// What was logged until the last pass began has been gone through.
    covered: VersionVector,
    /// Places of logs that it took in outline.
    told: Told,
    /// Most of what it was offered it took.
    is_alike: bool,
    offers: u64,
}

/// Going through the tree once.
#[derive(Debug)]
struct Pass {
    /// Up to this path, all was offered.
    after: Option<RelPath>,
    is_through: bool,
    /// Stretches that differ, to be offered in parts: from where to where. The
    /// last goes first, so there are never more than the parts of parts of
    /// what was open at once.
    differing: Vec<(Option<RelPath>, RelPath)>,
    /// Offers that have not been answered yet.
    open: BTreeMap<u64, Vec<Offered>>,
    rows: usize,
    taken: usize,
}

/// Entries from one path to another.
struct Passage {
    rows: Vec<(Shown, Arc<NameRow>, Arc<BodyRow>)>,
    /// The path up to which it was read; `None`: to its end.
    reached: Option<RelPath>,
}

#[derive(Debug)]
struct Offered {
    after: Option<RelPath>,
    up_to: RelPath,
    rows: usize,
    told: Told,
}

/// Places of logs.
#[derive(Debug, Default)]
struct Told(HashMap<Actor, RangeSet>);

impl Told {
    fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut dots: Vec<Dot> = entries.into_iter().flat_map(Entry::stamps).collect();
        dots.sort();
        let mut told = Self::default();
        for dot in dots {
            let place = Range { start: dot.counter, end: dot.counter.saturating_add(1) };
            told.0.entry(dot.actor).or_default().insert(place);
        }
        told
    }

    fn join(&mut self, other: &Told) {
        other.0.iter().for_each(|(actor, set)| self.0.entry(*actor).or_default().extend(set));
    }

    fn contains(&self, dot: Dot) -> bool {
        self.0.get(&dot.actor).is_some_and(|set| set.contains(dot.counter))
    }
}

impl Meeting {
    /// Was this row told in outline?
    pub fn has_told(&self, stamp: Dot) -> bool {
        self.told.contains(stamp)
    }

    /// A series was closed: it holds what was told.
    pub fn closed(&mut self) {
        self.passes = 0;
    }

    /// No log is left of which something was told in outline only.
    pub fn forget(&mut self) {
        self.told = Told::default();
    }

    /// The peer closed a series: it is this node's turn.
    pub fn heard_all(&mut self) {
        self.waits = false;
    }

    /// Begins anew, with the greetings that both sides have heard.
    fn restart(&mut self) {
        let (mine, theirs, offers) = (self.mine, self.theirs, self.offers);
        *self = Self { mine, theirs, offers, ..Self::default() };
    }
}

impl<S: Store> Core<S> {
    /// This node has greeted the peer with this.
    pub(super) fn has_greeted(&mut self, to: NodeId, have: &VersionVector) {
        let mine = Some((weight(have), self.actor));
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.meeting.mine = mine;
        self.agree_on_order(to);
    }

    /// The peer has greeted this node with this.
    pub(super) fn was_greeted(&mut self, by: NodeId, actor: Actor, have: &VersionVector) {
        let Some(peer) = self.peers.get_mut(&by) else { return };
        peer.meeting.theirs = Some((weight(have), actor));
        peer.meeting.restart();
        self.agree_on_order(by);
    }

    fn agree_on_order(&mut self, with: NodeId) {
        let have = self.store.have();
        let much = self.options.meeting_min;
        let Some(peer) = self.peers.get_mut(&with) else { return };
        let (Some(mine), Some(theirs)) = (peer.meeting.mine, peer.meeting.theirs) else { return };
        let has_much = beyond(&have, peer.said()) >= much && beyond(peer.said(), &have) >= much;
        peer.meeting.waits = mine < theirs && has_much;
    }

    /// Is nothing to be told to this peer yet? A stranger that has much of its
    /// own is met once this node knows what lies here, and perhaps in its turn.
    /// From one that was refused there is nothing to wait for.
    pub(super) fn holds_back(&self, id: NodeId, peer: &Peer) -> bool {
        let is_unknown_here = || {
            let have = self.store.have();
            let is_stranger = have.meet(peer.said()).is_empty();
            is_stranger && weight(peer.said()) >= self.options.meeting_min
        };
        let waits = peer.meeting.waits && !self.membership.refuses(id);
        waits || (!self.surveyed && is_unknown_here())
    }

    /// Tells a peer in outline what it is likely to show itself. True while
    /// that goes on.
    pub(super) fn tell_in_outline(&mut self, id: NodeId, peer: &mut Peer) -> bool {
        loop {
            if peer.meeting.pass.is_none() && !self.begin_pass(peer) {
                return false;
            }
            while peer.in_flight < SENDS_IN_FLIGHT_MAX
                && let Some(offer) = self.next_offer(&mut peer.meeting)
            {
                peer.in_flight += 1;
                self.send(id, Message::Offer(offer));
            }
            let Some(pass) = &peer.meeting.pass else { return false };
            if !pass.is_through || !pass.open.is_empty() || !pass.differing.is_empty() {
                return true;
            }
            peer.meeting.is_alike = pass.taken * 2 >= pass.rows;
            peer.meeting.pass = None;
        }
    }

    /// Goes through the tree where so much is to be told that this costs
    /// little beside it, to a peer that may show it.
    fn begin_pass(&mut self, peer: &mut Peer) -> bool {
        let may_show_it = peer.is_seeded() || peer.meeting.is_alike;
        if !may_show_it || peer.meeting.passes >= PASSES_MAX {
            return false;
        }
        let have = self.store.have();
        let mut known = peer.meeting.covered.clone();
        peer.sent().into_iter().for_each(|sent| known.join(sent));
        let lacks = beyond(&have, &known);
        let much = self.options.meeting_min;
        // What it was told by this node, it holds; what else it shows came
        // from elsewhere.
        let from_elsewhere = weight(peer.said()) - peer.told(self.actor);
        if from_elsewhere < much || lacks < much || lacks * 2 < self.progress.entries() {
            return false;
        }
        peer.opened();
        peer.meeting.covered = have;
        peer.meeting.passes += 1;
        peer.meeting.pass = Some(Pass {
            after: None,
            is_through: false,
            differing: Vec::new(),
            open: BTreeMap::new(),
            rows: 0,
            taken: 0,
        });
        true
    }

    /// The next stretch to be told, or one that differs in parts.
    fn next_offer(&mut self, meeting: &mut Meeting) -> Option<Offer> {
        let (most, mut reads) = (self.options.stretch_rows, STRETCH_READS_MAX);
        let pass = meeting.pass.as_mut().filter(|pass| pass.open.len() < OFFERS_OPEN_MAX)?;
        while let Some((after, up_to)) = pass.differing.pop() {
            let passage = self.passage(after.as_ref(), Some(&up_to), most, &mut reads);
            // All of it may have gone since, and more than goes into one
            // message may have come.
            let is_whole = passage.reached.is_none();
            pass.differing.extend(passage.reached.map(|reached| (Some(reached), up_to)));
            if !(passage.rows.is_empty() && is_whole) {
                return Some(self.offer(meeting, after, passage.rows, STRETCHES_MAX));
            }
        }
        if pass.is_through {
            return None;
        }
        let after = pass.after.clone();
        let passage = self.passage(after.as_ref(), None, most, &mut reads);
        pass.is_through = passage.reached.is_none();
        pass.after = passage.reached;
        pass.rows += passage.rows.len();
        if passage.rows.is_empty() && pass.is_through {
            return None;
        }
        // Among what was deleted there may be no entries: the message without
        // any has the next stretch wait for its turn.
        Some(self.offer(meeting, after, passage.rows, 1))
    }

    fn offer(
        &self,
        meeting: &mut Meeting,
        after: Option<RelPath>,
        rows: Vec<(Shown, Arc<NameRow>, Arc<BodyRow>)>,
        parts: usize,
    ) -> Offer {
        let each = rows.len().div_ceil(parts);
        let entry = |(shown, name, body): (Shown, Arc<NameRow>, Arc<BodyRow>)| {
            let entry = self.entry(&shown.path, &name, &body);
            (shown, entry)
        };
        let entries: Vec<(Shown, Entry)> = rows.into_iter().map(entry).collect();
        meeting.offers += 1;
        let mut offer = Offer { id: meeting.offers, after: after.clone(), ..Offer::default() };
        let (mut offered, mut after) = (Vec::new(), after);
        for part in entries.chunks(each.max(1)) {
            let up_to = part.last().map_or_else(RelPath::root, |(shown, _)| shown.path.clone());
            let (outlines, told) = offer.shapes.outline(part);
            let (told, rows) = (Told::of(told), part.len());
            offered.push(Offered { after, up_to: up_to.clone(), rows, told });
            offer.stretches.push(Stretch { up_to: up_to.clone(), outlines });
            after = Some(up_to);
        }
        if let Some(pass) = &mut meeting.pass {
            pass.open.insert(offer.id, offered);
        }
        offer
    }

    /// A peer tells in outline what it shows.
    pub(super) fn handle_offer(&mut self, from: NodeId, offer: &Offer) {
        if self.membership.refuses(from) {
            return;
        }
        self.mid_series.insert(from);
        let (mut after, mut reads) = (offer.after.as_ref(), STRETCH_READS_MAX);
        let mut answers = Vec::new();
        for stretch in &offer.stretches {
            answers.push(self.take(after, stretch, &offer.shapes, &mut reads));
            after = Some(&stretch.up_to);
        }
        self.send(from, Message::Answer { id: offer.id, answers });
    }

    fn take(
        &mut self,
        after: Option<&RelPath>,
        stretch: &Stretch,
        shapes: &Shapes,
        reads: &mut usize,
    ) -> Answer {
        let most = stretch.outlines.count().unwrap_or_default() + 1;
        let passage = self.passage(after, Some(&stretch.up_to), most, reads);
        let is_whole = passage.reached.is_none();
        let shown: Vec<Shown> = passage.rows.into_iter().map(|(shown, ..)| shown).collect();
        if shown.is_empty() && is_whole {
            return Answer::Nothing;
        }
        let Some(entries) = is_whole.then(|| shapes.entries(&stretch.outlines, &shown)).flatten()
        else {
            return Answer::Differs;
        };
        let held = self.store.have();
        let stamps = entries.iter().flat_map(Entry::stamps);
        stamps.for_each(|stamp| self.note_half_told(&held, stamp));
        for entry in entries {
            entry.bodies.into_iter().for_each(|body| self.merge_body(body));
            self.merge_name(entry.name);
        }
        Answer::Same
    }

    pub(super) fn handle_answer(&mut self, from: NodeId, id: u64, answers: &[Answer]) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let meeting = &mut peer.meeting;
        let Some(pass) = &mut meeting.pass else { return };
        let Some(offered) = pass.open.remove(&id) else { return };
        for (offered, answer) in offered.into_iter().zip(answers) {
            match answer {
                Answer::Same => {
                    meeting.told.join(&offered.told);
                    pass.taken += offered.rows;
                }
                Answer::Differs if offered.rows > STRETCH_ROWS_MIN => {
                    pass.differing.push((offered.after, offered.up_to));
                }
                Answer::Differs | Answer::Nothing => {}
            }
        }
    }

    /// What the tree shows from one path to another, with its rows: at most
    /// so many, found in so many reads.
    fn passage(
        &self,
        after: Option<&RelPath>,
        up_to: Option<&RelPath>,
        most: usize,
        reads: &mut usize,
    ) -> Passage {
        let mut rows = Vec::new();
        let mut reached = after.cloned();
        loop {
            let wanted = (most - rows.len()).clamp(CHUNK_MIN, CHUNK);
            let chunk = self.store.names_within(&RelPath::root(), reached.as_ref(), wanted);
            let is_last = chunk.len() < wanted;
            *reads = reads.saturating_sub(chunk.len());
            for (path, name) in chunk {
                if up_to.is_some_and(|up_to| path > *up_to) {
                    return Passage { rows, reached: None };
                }
                if rows.len() == most {
                    return Passage { rows, reached };
                }
                let body = name.wanted().and_then(|(id, _)| self.store.body(id));
                let shown = body.and_then(|body| Some((Shown::of(&path, &name, &body)?, body)));
                rows.extend(shown.map(|(shown, body)| (shown, name, body)));
                reached = Some(path);
            }
            if is_last {
                return Passage { rows, reached: None };
            }
            if rows.len() == most || *reads == 0 {
                return Passage { rows, reached };
            }
        }
    }

    fn entry(&self, path: &RelPath, name: &NameRow, body: &BodyRow) -> Entry {
        let shown = name.wanted().map(|(id, _)| id);
        let bound = name.binding.siblings().iter().filter_map(|one| one.value.body());
        let mut ids: Vec<BodyId> = bound.map(|(id, _)| id).collect();
        ids.sort();
        ids.dedup();
        let record = |id: BodyId| match Some(id) == shown {
            true => Some(body.record(id)),
            false => Some(self.store.body(id)?.record(id)),
        };
        Entry { name: name.record(path), bodies: ids.into_iter().filter_map(record).collect() }
    }
}

/// How many changes it speaks of.
fn weight(have: &VersionVector) -> u64 {
    have.iter().fold(0, |all, dot| dot.counter.saturating_add(all))
}

/// How many changes of one are not in the other.
fn beyond(one: &VersionVector, other: &VersionVector) -> u64 {
    let more = one.iter().map(|dot| dot.counter.saturating_sub(other.get(dot.actor)));
    more.fold(0, u64::saturating_add)
}
