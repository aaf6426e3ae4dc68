//! Who else belongs to the cluster: saying what this node holds, hearing what
//! others hold, and telling those that were away for too long.
//!
//! The first message on a connection says how far its sender holds each log
//! and from where on it may have forgotten tombstones (its floor). A node
//! that holds part of a log below that floor may show what was deleted and
//! will never be told: nothing is taken from it until it holds more, or has
//! begun anew. A node that shares no log with what this one holds or lies
//! below its floor holds nothing that was ever deleted; it is new and welcome.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::effect::{Effect, Now};
use super::message::Message;
use super::news::News;
use super::roster::{MemberNews, MemberRecord, Roster};
#[cfg(test)]
use super::sim::planted::{Bug, is_planted};
use super::store::Store;
use super::version::{Dot, VersionVector};
use crate::id::{Actor, NodeId};

/// Rounds in one retention: in each, every member says what it holds and
/// forgets what all hold.
const ROUNDS: u32 = 8;

/// A round takes no longer, however long the retention is.
const ROUND_MAX: Duration = Duration::from_secs(3600);

/// How long a node that was refused waits to learn from others what it
/// lacks, before it begins anew.
const BEHIND_WAIT: Duration = Duration::from_secs(3);

/// What a core must know of its own node to be a member.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub node: NodeId,
    pub name: String,
    /// For how long a silent member is to be waited for.
    pub retention: Duration,
}

/// The members as one core knows them. Without an introduction it keeps
/// nothing and tells nothing.
#[derive(Debug, Default)]
pub(super) struct Membership {
    pub me: Option<Introduction>,
    pub roster: Roster,
    pub news: News,
    last_round: Option<Duration>,
    /// Stretches of logs still to be gone through: actor, after, up to.
    pub sweeping: VecDeque<(Actor, u64, u64)>,
    /// Peers of which nothing is taken.
    refused: BTreeSet<NodeId>,
    /// This node lacks part of what is below this floor, since then.
    behind: Option<(VersionVector, Duration)>,
    ended: bool,
    /// Somebody was met in this life, and found to know no more of this node's
    /// log than it does.
    has_met: bool,
    /// The first change that nobody can have been told of.
    unmet: Option<Dot>,
}

impl Membership {
    pub fn refuses(&self, peer: NodeId) -> bool {
        self.refused.contains(&peer)
    }

    /// Does this node lack what others may have forgotten?
    #[cfg(test)]
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// This node.
    pub fn me(&self) -> Option<NodeId> {
        self.me.as_ref().map(|me| me.node)
    }

    /// Time between two rounds.
    pub fn period(&self) -> Duration {
        let mine = self.me.as_ref().map(|me| me.retention).unwrap_or_default();
        let retention = self.roster.retention().max(mine);
        (retention / ROUNDS).clamp(Duration::from_millis(50), ROUND_MAX)
    }
}

impl<S: Store> Core<S> {
    /// Makes the node a member. To be called before anybody is connected.
    pub fn introduce(&mut self, me: Introduction) {
        self.membership.roster = self.store.roster().unwrap_or_default();
        for member in self.membership.roster.members().filter(|member| member.record.retired) {
            self.effects.push_back(Effect::Forget(member.record.node));
        }
        self.membership.unmet = self.store.unmet();
        self.membership.me = Some(me);
    }

    /// Who is known, for the status.
    pub fn roster(&self) -> &Roster {
        &self.membership.roster
    }

    /// Is there anybody else who may hold what this node held?
    pub fn has_other_members(&self) -> bool {
        let Some(me) = self.membership.me() else { return false };
        let mut others = self.membership.roster.members().map(|member| &member.record);
        others.any(|record| record.node != me && !record.retired)
    }

    /// This member, or this node itself, leaves for good. False where it is
    /// not known.
    pub fn retire(&mut self, node: NodeId) -> bool {
        self.say_what_is_held();
        if !self.membership.roster.retire(node) {
            return false;
        }
        self.store.put_roster(self.membership.roster.clone());
        self.membership.news.tell(node, None);
        // Who retires itself ends now.
        self.tell_all_news();
        if self.membership.me() != Some(node) {
            self.membership.refused.insert(node);
            self.effects.push_back(Effect::Forget(node));
        }
        true
    }

    /// The first words on a connection.
    pub(super) fn meet(&mut self, peer: NodeId) {
        if self.membership.me.is_none() {
            return;
        }
        self.say_what_is_held();
        let Some(mine) = self.my_record().cloned() else { return };
        let (floor, have) = (self.membership.roster.floor.clone(), (*mine.have).clone());
        self.send(peer, Message::Meet { floor, have, mine: mine.news(&mine.have) });
        let Membership { roster, news, .. } = &mut self.membership;
        let others = roster.members().map(|member| member.record.node);
        news.met(peer, mine.have, others.filter(|node| *node != mine.node));
        self.tell_news_to(peer);
    }

    pub(super) fn handle_meet(
        &mut self,
        from: NodeId,
        floor: VersionVector,
        (known, theirs): (VersionVector, MemberNews),
    ) {
        if self.membership.me.is_none() || theirs.node != from {
            return;
        }
        let theirs = theirs.record(&Arc::new(known));
        self.membership.news.was_met(from, Arc::clone(&theirs.have));
        let have = self.store.have();
        if let Some(effect) = self.is_rolled_back(&theirs.have) {
            self.end(effect);
            return;
        }
        let share = shares(&theirs.have, &have);
        self.hear_of(from, vec![theirs.clone()]);
        if self.membership.roster.is_retired(from) {
            self.membership.refused.insert(from);
            return;
        }
        // Who joins has a floor before it holds anything of the logs below it.
        let floor_here = &self.membership.roster.floor;
        let is_stranger = !share && !shares(&theirs.have, floor_here);
        if !is_stranger && !theirs.have.covers(floor_here) {
            self.refuse(from);
            return;
        }
        if self.membership.refused.remove(&from)
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.greeted = false;
        }
        // Where this node lacks something itself, it is about to be told.
        if (!share || have.covers(&floor)) && !self.membership.roster.floor.covers(&floor) {
            self.membership.roster.floor.join(&floor);
            self.store.put_roster(self.membership.roster.clone());
            self.judge_again(from, &theirs.have);
        }
    }

    /// What to do where somebody holds more of this node's log than it ever
    /// wrote, or told, as far as it knows: its state is from a backup. What it
    /// wrote since under the same numbers would be taken for what they hold.
    fn is_rolled_back(&self, known: &VersionVector) -> Option<Effect> {
        #[cfg(test)]
        if is_planted(Bug::IgnoreRollback) {
            return None;
        }
        let told_by_none = self.membership.unmet.is_some_and(|unmet| known.contains(unmet));
        let is_more = known.get(self.actor) >= self.next_counter();
        match told_by_none || (is_more && self.has_written()) {
            true => Some(Effect::Rejoin),
            false => is_more.then_some(Effect::NewActor),
        }
    }

    /// The same, as others heard this node itself say it. What it said since
    /// the change that nobody was told of may have been heard, too.
    fn is_echo_rolled_back(&self, echo: &MemberRecord) -> Option<Effect> {
        let said = self.my_record().map_or(0, |mine| mine.version);
        let is_former = echo.version > said || echo.have.get(self.actor) >= self.next_counter();
        self.is_rolled_back(&echo.have).filter(|_| is_former)
    }

    /// This change is told to nobody before somebody was met, be it in a later
    /// life.
    pub(super) fn note_unmet(&mut self, dot: Dot) {
        let Membership { me, has_met, unmet, .. } = &mut self.membership;
        if me.is_some() && !*has_met && unmet.is_none() {
            *unmet = Some(dot);
            self.store.put_unmet(*unmet);
        }
    }

    /// A peer that was met is about to be told what this node wrote.
    pub(super) fn has_met(&mut self) {
        if self.membership.ended {
            return;
        }
        self.membership.has_met = true;
        if self.membership.unmet.take().is_some() {
            self.store.put_unmet(None);
        }
    }

    /// The floor has risen by what one peer said: the others are measured by
    /// it too.
    fn judge_again(&mut self, but: NodeId, known: &VersionVector) {
        let floor = self.membership.roster.floor.clone();
        let ids: Vec<NodeId> = self.peers.keys().copied().filter(|id| *id != but).collect();
        for id in ids {
            let Some(member) = self.membership.roster.get(id) else { continue };
            let have = &member.record.have;
            if self.membership.refuses(id) || !shares(have, known) || have.covers(&floor) {
                continue;
            }
            // What it has told in an unfinished series may be what was
            // deleted.
            if self.mid_series.remove(&id) {
                self.begin_anew();
            }
            self.refuse(id);
        }
    }

    fn refuse(&mut self, peer: NodeId) {
        self.membership.refused.insert(peer);
        // How far logs are held here may leave out what others have forgotten.
        if let Some(state) = self.peers.get_mut(&peer) {
            state.tell_nothing();
        }
        let floor = self.membership.roster.floor.clone();
        self.send(peer, Message::Refused { floor });
    }

    /// A peer takes nothing from this node: it may show what was deleted.
    pub(super) fn handle_refused(&mut self, now: Now, from: NodeId, floor: VersionVector) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.was_refused_by();
        if self.store.have().covers(&floor) {
            self.meet_again(from);
            return;
        }
        match &mut self.membership.behind {
            Some((known, _)) => known.join(&floor),
            None => self.membership.behind = Some((floor, now.monotonic)),
        }
    }

    fn meet_again(&mut self, peer: NodeId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            (state.greeted, state.refuses) = (false, false);
            self.meet(peer);
        }
    }

    pub(super) fn handle_members(&mut self, from: NodeId, news: Vec<MemberNews>) {
        let records = self.membership.news.records(from, news);
        self.hear_of(from, records);
    }

    fn hear_of(&mut self, from: NodeId, records: Vec<MemberRecord>) {
        let Some(me) = self.membership.me() else { return };
        let mine = self.my_record().map(|mine| Arc::clone(&mine.have)).unwrap_or_default();
        let (mut has_news, mut is_urgent) = (false, false);
        for mut record in records {
            let node = record.node;
            // One copy of what all hold is enough.
            if record.have == mine {
                record.have = Arc::clone(&mine);
            }
            if node == me && !record.retired {
                if let Some(effect) = self.is_echo_rolled_back(&record) {
                    self.end(effect);
                    return;
                }
                // An echo; one from a former state of this node must not
                // outlive what it says now.
                self.outrun(&record);
                continue;
            }
            let was_retired = self.membership.roster.is_retired(node);
            let is_new = self.membership.roster.accept(&record);
            let known = self.membership.roster.get(node).map(|member| &member.record);
            let is_it = |known: &MemberRecord| {
                (known.version, known.retired) == (record.version, record.retired)
            };
            if known.is_some_and(is_it) {
                self.membership.news.is_known(from, node);
            }
            if !is_new {
                continue;
            }
            if self.membership.roster.is_retired(node) && !was_retired {
                is_urgent = true;
                if node == me {
                    self.end(Effect::Retired);
                } else {
                    self.membership.refused.insert(node);
                    self.effects.push_back(Effect::Forget(node));
                }
            }
            self.membership.news.tell(node, Some(from));
            has_news = true;
        }
        if has_news {
            self.store.put_roster(self.membership.roster.clone());
        }
        if is_urgent {
            self.tell_all_news();
        }
    }

    fn outrun(&mut self, echo: &MemberRecord) {
        let Some(mine) = self.my_record() else { return };
        // Of two that say different things under one version, others would
        // keep the one that they heard first.
        let is_other = echo.version == mine.version && echo.have != mine.have;
        if echo.version > mine.version || is_other {
            let version = echo.version + 1;
            let record = MemberRecord { version, have: Arc::default(), ..echo.clone() };
            self.membership.roster.accept(&record);
            self.say_what_is_held();
        }
    }

    /// Time goes on for the members.
    pub(super) fn members_turn(&mut self, now: Now) {
        if self.membership.me.is_none() {
            return;
        }
        let last = *self.membership.last_round.get_or_insert(now.monotonic);
        if let Some((floor, since)) = self.membership.behind.clone() {
            if self.store.have().covers(&floor) {
                self.membership.behind = None;
                // Whose refusal is still on its way is met again when it is here:
                // else what it misses until then might be closed.
                let refusing = self.peers.iter().filter(|(_, peer)| peer.refuses);
                let ids: Vec<NodeId> = refusing.map(|(id, _)| *id).collect();
                ids.into_iter().for_each(|id| self.meet_again(id));
            } else if now.monotonic >= since + BEHIND_WAIT {
                self.begin_anew();
            }
        }
        self.sweep();
        if self.has_a_round_to_make() {
            let (period, passed) = (self.membership.period(), now.monotonic - last);
            if passed >= period {
                self.membership.last_round = Some(now.monotonic);
                self.round(passed.min(period));
            }
        }
        self.tell_news(now.monotonic);
    }

    pub(super) fn members_due(&self) -> Option<Duration> {
        self.membership.me.as_ref()?;
        if !self.membership.sweeping.is_empty() {
            return Some(Duration::ZERO);
        }
        let behind = self.membership.behind.as_ref().map(|(_, since)| *since + BEHIND_WAIT);
        let last = self.membership.last_round.unwrap_or_default();
        let round = self.has_a_round_to_make().then(|| last + self.membership.period());
        [behind, round, self.news_due()].into_iter().flatten().min()
    }

    /// An idle cluster says nothing: rounds end when all have said that they
    /// hold everything, and all of it was gone through.
    fn has_a_round_to_make(&self) -> bool {
        let have = self.store.have();
        self.my_record().is_none_or(|mine| *mine.have != have)
            || self.membership.roster.floor != have
            || (self.membership.sweeping.is_empty() && self.membership.roster.swept != have)
    }

    fn round(&mut self, time: Duration) {
        let have = self.store.have();
        let heard = |id: NodeId| self.peers.contains_key(&id) && !self.membership.refuses(id);
        let mut roster = self.membership.roster.clone();
        roster.pass(time, &have, heard);
        self.membership.roster = roster;
        self.say_what_is_held();
        let roster = &mut self.membership.roster;
        // What all held a round ago and hold still: by now nobody who was
        // told of it on the way is unheard of.
        let held = roster.held_by_all();
        roster.floor.join(&roster.candidate.meet(&held));
        roster.candidate = held;
        self.begin_sweep();
        self.store.put_roster(self.membership.roster.clone());
    }

    /// Brings this node's own record up to date and tells it.
    fn say_what_is_held(&mut self) {
        let Some(me) = &self.membership.me else { return };
        let have = self.store.have();
        let former = self.my_record();
        let is_told = |former: &MemberRecord| {
            *former.have == have && former.name == me.name && former.retention == me.retention
        };
        if former.is_some_and(is_told) {
            return;
        }
        let version = former.map_or(1, |former| former.version + 1);
        let Introduction { node, name, retention } = me.clone();
        let have = Arc::new(have);
        let record = MemberRecord { node, version, name, retention, retired: false, have };
        self.membership.roster.accept(&record);
        self.store.put_roster(self.membership.roster.clone());
        self.membership.news.tell(node, None);
    }

    fn my_record(&self) -> Option<&MemberRecord> {
        let me = self.membership.me()?;
        self.membership.roster.get(me).map(|member| &member.record)
    }

    fn begin_anew(&mut self) {
        self.end(Effect::Rejoin);
    }

    /// The last thing this core asks for.
    fn end(&mut self, effect: Effect) {
        if !std::mem::replace(&mut self.membership.ended, true) {
            self.effects.push_back(effect);
        }
    }
}

/// Do both hold a part of one log?
fn shares(one: &VersionVector, other: &VersionVector) -> bool {
    one.iter().any(|dot| other.get(dot.actor) > 0)
}
