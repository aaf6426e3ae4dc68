//! How nodes begin, end, crash, come back and leave, and who is cut off.

use std::collections::BTreeSet;

use super::forgetting::contents_known;
use super::{ALL_AT_ONCE_MAX, Event, World, new_core, node_id};
use crate::entry::Timestamp;
use crate::hash::Digest;
use crate::limits::{LAST_MOMENTS, UNREAD_MARGIN};
use crate::path::RelPath;
use crate::sync::Outage;
use crate::sync::effect::What;
use crate::sync::sim::planted::Bug;
use crate::sync::step::Step;
use crate::sync::store::{MemoryStore, Store};

impl World {
    /// A split, a crash, a cut, or nothing.
    pub(super) fn trouble(&mut self) {
        if self.is_split_next() {
            return self.split();
        }
        let count = self.nodes.len() as u64;
        let one = self.random.below(count) as usize;
        let other = self.random.below(count) as usize;
        match self.random.below(4) {
            0 if self.plan.crashes && self.nodes[one].running => self.crash(one),
            1 | 2 if self.plan.partitions && one != other => {
                self.disconnect(one, other);
                let back = 20 + self.random.below(1500);
                self.at_from_now(back, Event::Connect(one, other));
            }
            _ => {}
        }
    }

    /// Loses what was not durable, and now and then nothing: a clean end.
    pub(super) fn crash(&mut self, at: usize) {
        self.stop(at);
        let back = self.random.below(400);
        self.at_from_now(back, Event::Start(at));
    }

    /// Ends, well or badly, and stays away.
    pub(in crate::sync::sim) fn stop(&mut self, at: usize) {
        let is_clean = self.random.below(3) == 0;
        self.end(at, is_clean);
    }

    pub(in crate::sync::sim) fn end(&mut self, at: usize, is_clean: bool) {
        // It hears of nothing more, its own connections' end included.
        self.nodes[at].running = false;
        self.isolate(at);
        if let Some(durable) = self.plan.durable_after.map(|age| self.now.saturating_sub(age)) {
            let snapshots = &mut self.nodes[at].snapshots;
            let sure = snapshots.iter().rposition(|snapshot| snapshot.when <= durable);
            snapshots.drain(..sure.unwrap_or(0));
        }
        let back = self.random.below(self.nodes[at].snapshots.len().max(1) as u64) as usize;
        let (fresh, plan) = (self.next_actor(), self.plan);
        let core = &self.nodes[at].core;
        // Else it is not over yet, or ends as if it had been killed.
        let is_clean = is_clean && core.is_read() && core.is_wound_up();
        let written = self.nodes[at].snapshots.get(back).filter(|_| !is_clean);
        let written = written.map_or(self.now, |snapshot| snapshot.when);
        let unread =
            if is_clean { LAST_MOMENTS } else { plan.options(at).max_delay + UNREAD_MARGIN };
        let ago = i64::try_from((self.now + unread - written).as_nanos()).expect("some seconds");
        let unread = Timestamp::from_nanos(self.clock(at).wall - ago);
        let is_outage = !is_clean && plan.outages && self.random.below(2) == 0;
        let lost = is_outage.then(|| self.lose_power(at, back));
        let fallen_to = self.nodes[at].snapshots.get(back).filter(|_| !is_clean);
        let known = fallen_to.map_or(self.nodes[at].core.outage(), |one| one.outage);
        let outage = known.into_iter().chain(lost).reduce(Outage::and);
        let unwritten = outage.map(|outage| outage.since);
        let node = &mut self.nodes[at];
        node.life += 1;
        node.unread_since = unwritten.into_iter().chain([unread]).min();
        let unheard_of = node.core.jobs.values().flat_map(|job| &job.steps);
        let unheard_of: Vec<Digest> = unheard_of.filter_map(brought).collect();
        let store = match is_clean {
            true => node.core.store().clone(),
            false => node.snapshots.get(back).map(|one| one.store.clone()).unwrap_or_default(),
        };
        let forgets = node.snapshots.iter().skip(back).filter(|_| !is_clean);
        let later = forgets.map(|snapshot| &snapshot.store).chain([node.core.store()]);
        let knew = later.flat_map(contents_known).chain(unheard_of).collect();
        self.forget_what_it_knew(at, &store, &knew);
        if !is_clean {
            self.forget_where_it_was(at, &store);
        }
        let node = &mut self.nodes[at];
        let next = if is_clean {
            node.core.next_counter()
        } else if self.plan.bug == Some(Bug::ReuseCounter) {
            store.have().get(node.actor) + 1
        } else {
            node.lives.push(std::mem::replace(&mut node.actor, fresh));
            1
        };
        node.core = new_core(plan, at, node.actor, next, store);
        node.core.remember_lives(node.lives.iter().copied());
        outage.into_iter().for_each(|outage| node.core.disk_may_be_behind(outage));
        node.snapshots.clear();
        node.is_changed = true;
        self.forget_what_nobody_remembers();
        self.trace(|| format!("{at}: {}", if is_clean { "ENDS" } else { "CRASHES" }));
        self.set_timer(at);
    }

    /// Begins anew over what lies on its disk.
    pub(in crate::sync::sim) fn rejoin(&mut self, at: usize) {
        self.trace(|| format!("{at}: REJOINS"));
        self.isolate(at);
        let (fresh, plan) = (self.next_actor(), self.plan);
        let node = &mut self.nodes[at];
        let contents = &mut self.contents;
        contents.forgotten.extend(node.disk.contents_within(&RelPath::root()));
        // Nor did it look yet at what a user destroyed here since.
        let known: BTreeSet<Digest> = contents_known(node.core.store()).into_iter().collect();
        let unseen = contents.dead.iter().filter(|content| known.contains(&Digest::of(content)));
        contents.forgotten.extend(unseen.cloned());
        node.rejoined += 1;
        self.forget_what_is_on_its_way(at);
        let node = &mut self.nodes[at];
        node.lives.clear();
        node.running = false;
        node.life += 1;
        node.actor = fresh;
        node.core = new_core(plan, at, fresh, 1, MemoryStore::default());
        node.snapshots.clear();
        self.set_timer(at);
        self.at_from_now(5, Event::Start(at));
    }

    /// It ends and does not come back.
    pub(in crate::sync::sim) fn leave(&mut self, at: usize) {
        self.trace(|| format!("{at}: LEAVES"));
        self.isolate(at);
        self.forget_what_is_on_its_way(at);
        let node = &mut self.nodes[at];
        node.running = false;
        node.life += 1;
        node.left = true;
        self.set_timer(at);
    }

    /// A user tells some node that another is gone for good.
    pub(super) fn retire(&mut self, gone: usize) {
        let Some(by) = self.nodes.iter().position(|node| node.running) else { return };
        self.trace(|| format!("{by}: USER retires {gone}"));
        let life = self.nodes[by].life;
        self.with(by, life, |core, now| {
            if !core.roster().is_retired(node_id(gone)) {
                core.retire(node_id(gone));
                core.handle_timeout(now);
            }
        });
    }

    pub(in crate::sync::sim) fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.running || node.left || node.awaited {
            return;
        }
        node.running = true;
        self.excuse_what_was_removed_since(at);
        let node = &mut self.nodes[at];
        node.core.scan_since(RelPath::root(), node.unread_since);
        self.starts += 1;
        let actor = self.nodes[at].actor;
        self.trace(|| format!("{at}: STARTS as {actor:?}"));
        self.carry_out(at);
        // It would end all cuts.
        let is_alone = self.plan.splits || self.nodes.len() > ALL_AT_ONCE_MAX;
        if !is_alone {
            return self.connect_all();
        }
        (0..self.nodes.len()).for_each(|other| self.connect_soon(at, other));
    }
}

/// The content that a step brings.
fn brought(step: &Step) -> Option<Digest> {
    match &step.action.what {
        What::Write { digest, .. } => Some(*digest),
        What::Update(update) => Some(update.to),
        _ => None,
    }
}
