//! Jobs of a core, done to a disk.

use std::collections::BTreeSet;

use super::{Event, World, node_of};
use crate::choice::Mode;
use crate::hash::Digest;
use crate::id::BodyId;
use crate::sync::effect::{Action, Job, Outcome, Source, What};
use crate::sync::sim::planted::Bug;
use crate::sync::sim::said::{ended, said};
use crate::sync::step::Weight;

impl World {
    pub(super) fn carry(&mut self, at: usize, life: u32, job: Job) {
        let fetched: Vec<Result<Option<Vec<u8>>, ()>> =
            job.actions.iter().map(|action| self.fetch(at, action)).collect();
        for (action, _) in job.actions.iter().zip(&fetched).filter(|(_, got)| got.is_err()) {
            self.was_in_vain(at, action);
        }
        let mut outcomes = Vec::new();
        self.nodes[at].disk.begin_job();
        self.set_clock(at);
        if self.plan.mode(at) == Mode::SendOnly {
            self.ledger.wrong.get_or_insert(format!("node {at} only sends, and changes its disk"));
        }
        for (action, fetched) in job.actions.iter().zip(fetched) {
            let lay = self.nodes[at].disk.contents_within(&action.path);
            let outcome = match fetched {
                Ok(fetched) => self.nodes[at].disk.apply(action, fetched),
                Err(()) => Outcome::NotHeld,
            };
            self.trace(|| format!("{at}: {} -> {}", said(action), ended(&outcome)));
            outcomes.push(outcome);
            if self.plan.bug == Some(Bug::BringBack) && matches!(action.what, What::Remove { .. }) {
                lay.first().into_iter().for_each(|content| self.bring_back(at, action, content));
            }
        }
        self.applied_at = self.now;
        self.nodes[at].is_changed = true;
        self.after(at, 4, Event::Applied(at, life, job.id, outcomes));
    }

    /// A planted bug: what was removed is there once more.
    fn bring_back(&mut self, at: usize, action: &Action, content: &[u8]) {
        let disk = &mut self.nodes[at].disk;
        let changes = disk.write(&action.path, content, &mut BTreeSet::new());
        self.report(at, changes);
    }

    /// Does it bring what takes long?
    pub(super) fn is_huge(&self, at: usize, job: &Job) -> bool {
        job.actions.iter().any(|action| self.weighs_most(at, action))
    }

    fn weighs_most(&self, at: usize, action: &Action) -> bool {
        Weight::of(&action.what, &self.plan.options(at)) == Weight::Huge
    }

    /// A job is asked to end. It hears of that soon, or only when it is done.
    pub(super) fn give_way(&mut self, at: usize, life: u32, asked: u64) {
        let is_asked = |event: &Event| {
            matches!(event, Event::Job(node, its, job)
                if (*node, *its, job.id) == (at, life, asked))
        };
        let found = self.events.iter().find(|(_, event)| is_asked(event)).map(|(due, _)| *due);
        if self.random.below(4) == 0 {
            return;
        }
        let Some(Event::Job(_, _, job)) = found.and_then(|due| self.events.remove(&due)) else {
            return;
        };
        self.trace(|| format!("{at}: job {asked} gives way"));
        let outcomes = job.actions.iter().map(|action| match self.weighs_most(at, action) {
            true => Outcome::GaveWay,
            false => Outcome::Raced,
        });
        let outcomes = outcomes.collect();
        self.after(at, 4, Event::Applied(at, life, asked, outcomes));
    }

    /// Gets an action's bytes from the peer it names.
    pub(super) fn fetch(&self, at: usize, action: &Action) -> Result<Option<Vec<u8>>, ()> {
        let (source, digest) = match &action.what {
            What::Write { source, digest, .. } => (source, *digest),
            What::Update(update) => (&update.source, update.to),
            _ => return Ok(None),
        };
        let peers = match source {
            Source::Peers(peers) => peers,
            Source::Copy { from, expect } => {
                let bytes = self.nodes[at].disk.read(from, expect).ok_or(())?;
                return (Digest::of(bytes) == digest).then(|| Some(bytes.to_vec())).ok_or(());
            }
            Source::Inline { .. } => return Ok(None),
        };
        let peer = node_of(peers[0]);
        if !self.links.contains_key(&(at, peer)) {
            return Err(());
        }
        self.held(peer, (action.body, digest)).map(|bytes| Some(bytes.to_vec())).ok_or(())
    }

    fn held(&self, at: usize, (body, digest): (BodyId, Digest)) -> Option<&[u8]> {
        let node = &self.nodes[at];
        let located = node.core.locate(body, digest)?;
        let bytes = node.disk.read(&located.path, &located.fingerprint)?;
        (Digest::of(bytes) == digest).then_some(bytes)
    }

    /// A peer that was asked for an action's bytes may not know where they are.
    fn was_in_vain(&mut self, at: usize, action: &Action) {
        let Some((Source::Peers(peers), _)) = action.what.brings() else { return };
        let (peer, digest) = (node_of(peers[0]), action.digest());
        if let Some(digest) = digest.filter(|_| self.links.contains_key(&(at, peer))) {
            let life = self.nodes[peer].life;
            self.with(peer, life, |core, now| core.asked_in_vain(now, action.body, digest));
        }
    }

    /// Asks a peer whether it holds something.
    pub(super) fn ask(&mut self, at: usize, life: u32, peer: usize, version: (BodyId, Digest)) {
        if self.links.contains_key(&(at, peer)) {
            let holds = self.held(peer, version).is_some();
            self.after(at, 6, Event::Answered(at, life, peer, version, holds));
        }
    }
}
