//! From what the tree is to show and what the disk shows to the next steps
//! between them.
//!
//! Each pending name or body is looked at by itself and gives at most one
//! action, in a state from which any order of the others still leads to the
//! end: what cannot be done yet is blocked and met again. Steps that move
//! whole directories run alone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::applied::{Running, Step};
use super::core::Core;
use super::effect::{Action, Effect, Job, Keep, Now, Over, Source, Update, What};
use super::local::digest_of;
use super::record::{Binding, BodyRow, Content, Disk, Held, NameRow};
use super::settle::Spot;
use super::store::Store;
use super::tree::{held, lacking};
use super::version::{Dot, VersionVector};
use crate::choice::Mode;
use crate::entry::Kind;
use crate::id::{BodyId, NodeId};
use crate::limits::{JOB_ACTIONS_MAX, JOB_BYTES_MAX, JOBS_MAX, SOURCES_MAX};
use crate::path::RelPath;
use crate::range::RangeSet;

/// Pending entries looked at in one turn: blocked ones must not make every
/// turn as long as their list.
const LOOKED_AT_MAX: usize = 8192;

/// When to try something again that failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Retry {
    pub attempts: u32,
    /// Peers that do not hold the content asked for, and how often they said
    /// so.
    pub refused: BTreeSet<NodeId>,
    pub refusals: u32,
    pub refused_content: Option<Dot>,
    pub not_before: Duration,
    /// The time above has not come yet. A due step that is blocked waits for
    /// an event, not for the clock.
    pub waits: bool,
}

/// What can be done about one pending name or body.
enum Next {
    /// Nothing: it was settled without touching the disk, or is not pending.
    Settled,
    /// Something else has to happen first.
    Blocked,
    Act(Box<Step>),
    /// Like `Act`, but moves a directory: nothing else may run beside it.
    ActAlone(Box<Step>),
}

impl<S: Store> Core<S> {
    /// Starts jobs as long as there is something to do and room.
    pub(super) fn plan(&mut self, now: Now) {
        self.draining = false;
        let (names, bodies) = (&self.pending_names, &self.pending_bodies);
        self.retries.retain(|spot, retry| {
            retry.waits &= retry.not_before > now.monotonic;
            match spot {
                Spot::Path(path) => names.contains(path),
                Spot::Body(id) => bodies.contains(id),
            }
        });
        if self.pending_names.is_empty() && self.pending_bodies.is_empty() {
            return;
        }
        while self.jobs.len() + 2 <= JOBS_MAX && !self.draining {
            let (structure, contents) = self.gather(now);
            if structure.is_empty() && contents.is_empty() {
                return;
            }
            self.start_job(now, structure);
            self.start_job(now, contents);
        }
    }

    /// The next steps, those that need no bytes apart from the others.
    fn gather(&mut self, now: Now) -> (Vec<Step>, Vec<Step>) {
        let names = self.pending_names.iter().take(LOOKED_AT_MAX).cloned().map(Spot::Path);
        let bodies = self.pending_bodies.iter().take(LOOKED_AT_MAX).copied().map(Spot::Body);
        let spots: Vec<Spot> = names.chain(bodies).collect();
        let (mut structure, mut contents) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for spot in spots {
            if structure.len() >= JOB_ACTIONS_MAX || contents.len() >= JOB_ACTIONS_MAX {
                break;
            }
            if self.retries.get(&spot).is_some_and(|retry| retry.not_before > now.monotonic) {
                continue;
            }
            let next = match &spot {
                // What changed here stays until somebody reverts it.
                Spot::Path(path) if self.may_be_own(path) => Next::Blocked,
                Spot::Path(path) => self.plan_name(now, path),
                Spot::Body(id) => self.plan_body(*id),
            };
            let next = match next {
                Next::Act(_) | Next::ActAlone(_) if self.options.mode == Mode::SendOnly => {
                    Next::Blocked
                }
                Next::Act(step) | Next::ActAlone(step) if self.meets_own(&step) => Next::Blocked,
                next => next,
            };
            match next {
                Next::Settled | Next::Blocked => {}
                Next::Act(step) => {
                    let size = step.bytes();
                    if size > 0 && bytes > 0 && bytes + size > JOB_BYTES_MAX {
                        break;
                    }
                    bytes += size;
                    self.locks.lock(&step.action.path, &step.bodies);
                    step.other_path().iter().for_each(|path| self.locks.lock(path, &[]));
                    step.parents().into_iter().for_each(|parent| self.locks.share(parent));
                    if step.needs_bytes() { &mut contents } else { &mut structure }.push(*step);
                }
                Next::ActAlone(step) => {
                    if self.locks.is_idle() && self.jobs.is_empty() {
                        self.locks.lock_all();
                        return (vec![*step], contents);
                    }
                    // Let everything else run out first.
                    self.draining = true;
                    break;
                }
            }
        }
        (structure, contents)
    }

    pub(super) fn start_job(&mut self, now: Now, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        let id = self.next_job;
        self.next_job += 1;
        let mut actions: Vec<Action> = steps.iter().map(|step| step.action.clone()).collect();
        actions.extend(self.restore_parents(&steps));
        self.jobs.insert(id, Running { at: now.monotonic, steps, alone: self.locks.is_alone() });
        self.effects.push_back(Effect::Apply(Job { id, actions }));
    }

    /// What changes in a directory changes its mtime; afterwards it is set
    /// back to what the directory's own record says.
    fn restore_parents(&self, steps: &[Step]) -> Vec<Action> {
        let parents: BTreeSet<RelPath> = steps.iter().flat_map(Step::parents).collect();
        let restore = |path: RelPath| {
            let (body, row, disk) = self.lying_at(&path)?;
            // What lies here, and not the winner: metadata that is still to
            // be applied has a step of its own.
            let mtime = row.metadata_on_disk()?.mtime;
            let what = What::Touch { expect: disk.fingerprint, mtime };
            (row.kind() == Kind::Directory).then_some(Action {
                path,
                body,
                kind: Kind::Directory,
                what,
            })
        };
        parents.into_iter().rev().filter_map(restore).collect()
    }

    fn plan_name(&mut self, now: Now, path: &RelPath) -> Next {
        let Some(name) = self.store.name(path) else {
            return Next::Settled;
        };
        if !name.is_pending() {
            self.pending_names.remove(path);
            return Next::Settled;
        }
        // Before the bodies are read: one may have thousands of names, all of
        // which wait for one another here.
        let bodies = [name.on_disk(), name.wanted()].into_iter().flatten().map(|(id, _)| id);
        if !self.locks.is_free(path, &bodies.collect::<Vec<BodyId>>()) {
            return Next::Blocked;
        }
        let lying = self.lying_as(name.on_disk());
        let Some((id, kind)) = name.wanted() else {
            return lying.map_or(Next::Blocked, |lying| self.plan_removal(path, &name, lying));
        };
        let Some(body) = self.store.body(id) else {
            return Next::Blocked;
        };
        if !self.parent_lies(path) {
            return Next::Blocked;
        }
        match kind {
            Kind::Directory if self.is_kept_elsewhere(path, id, &body) => {
                // In the middle of a series the other place may be about to
                // be given up.
                if !self.mid_series.is_empty() {
                    return Next::Blocked;
                }
                self.bind_fresh_directory(now, path, &body);
                self.plan_name(now, path)
            }
            Kind::Directory => self.plan_directory(now, path, &name, id, body, lying),
            _ => self.plan_entry(now, path, &name, id, body, lying),
        }
    }

    /// Does a directory lie at another place that it is to keep? No inode of
    /// a directory has two names: concurrent renames made two of one.
    fn is_kept_elsewhere(&self, path: &RelPath, id: BodyId, body: &BodyRow) -> bool {
        let is_kept = |at: &RelPath| {
            let row = self.store.name(at);
            at != path && row.and_then(|row| row.wanted()).is_some_and(|(body, _)| body == id)
        };
        body.disk.as_ref().is_some_and(|disk| disk.names.iter().any(is_kept))
    }

    pub(super) fn parent_lies(&self, path: &RelPath) -> bool {
        let Some(parent) = path.parent().filter(|parent| !parent.is_root()) else {
            return true;
        };
        let on_disk = self.store.name(&parent).and_then(|row| row.on_disk());
        on_disk.is_some_and(|(_, kind)| kind == Kind::Directory)
    }

    fn plan_removal(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        (id, body, disk): (BodyId, BodyRow, Disk),
    ) -> Next {
        if path.is_root() {
            return Next::Blocked;
        }
        let kind = body.kind();
        if kind == Kind::Directory {
            if self.is_to_move(&body, &disk)
                || self.any_below(path, |below| below.on_disk().is_some())
            {
                return Next::Blocked;
            }
        } else if self.is_awaited(&body, &disk) {
            // The name it is to have fetches it from here.
            return Next::Blocked;
        }
        let keep = self.keep(name, id, &body, &disk, None);
        if self.may_be_wanted(keep) {
            return Next::Blocked;
        }
        let what = What::Remove { expect: disk.fingerprint, keep };
        self.act(path, name, id, kind, what, vec![id])
    }

    /// Is a directory to go as a whole to a place where it does not lie yet?
    /// Where another directory lies already, the two become one instead: what
    /// is in it goes there by itself.
    fn is_to_move(&self, body: &BodyRow, disk: &Disk) -> bool {
        lacking(&body.bound, &disk.names).any(|bound| {
            let there = self.store.name(bound).and_then(|row| row.on_disk());
            there.is_none_or(|(_, kind)| kind != Kind::Directory)
        })
    }

    /// What loses a conflict may be the only copy of what a later record of a
    /// series under way brings back.
    fn may_be_wanted(&self, keep: Keep) -> bool {
        matches!(keep, Keep::Conflict(_)) && !self.mid_series.is_empty()
    }

    /// Is the body to have a name that it does not have on this disk yet, and
    /// that can be made?
    fn is_awaited(&self, body: &BodyRow, disk: &Disk) -> bool {
        lacking(&body.bound, &disk.names).any(|bound| {
            // Beneath a place that it has to leave first it comes anew, and in
            // the place of a directory that cannot go before it has left.
            let is_apart = |at: &RelPath| {
                !bound.is_within(at) && (!at.is_within(bound) || self.moves_away(bound))
            };
            disk.names.iter().all(is_apart)
                && (self.parent_lies(bound) || self.pending_names.contains(bound))
        })
    }

    /// Does what lies here go elsewhere with all that is in it?
    fn moves_away(&self, path: &RelPath) -> bool {
        self.lying_at(path).is_none_or(|(_, other, disk)| self.is_to_move(&other, &disk))
    }

    fn plan_directory(
        &mut self,
        now: Now,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        body: BodyRow,
        lying: Option<(BodyId, BodyRow, Disk)>,
    ) -> Next {
        // Where the directory lies now, if its place there is to be given up.
        let from = body.disk.as_ref().and_then(|disk| {
            let leaving = |at: &&RelPath| {
                let wanted = self.store.name(at).and_then(|row| row.wanted());
                wanted.map(|(body, _)| body) != Some(id) && !path.is_within(at)
            };
            Some((disk.names.iter().find(leaving)?.clone(), disk.fingerprint))
        });
        match (lying, from) {
            (None, Some((from, expect))) => {
                let what = What::Rename { from, expect };
                self.act_alone(path, name, id, Kind::Directory, what, vec![id])
            }
            (None, None) => {
                let metadata = body.metadata.winner().value.clone();
                let what = What::MakeDirectory { metadata };
                self.act(path, name, id, Kind::Directory, what, vec![id])
            }
            (Some((there, other, disk)), Some((from, expect)))
                if self.store.name(&from).and_then(|row| row.wanted()).map(|held| held.0)
                    == Some(there) =>
            {
                let (kind_here, expect_here) = (other.kind(), disk.fingerprint);
                let what = What::Exchange { with: from, expect, kind_here, expect_here };
                self.act_alone(path, name, id, Kind::Directory, what, vec![id, there])
            }
            (Some((_, other, disk)), _) if other.kind() == Kind::Directory => {
                // One that lies elsewhere is given up there first.
                if body.disk.is_some() || self.is_to_move(&other, &disk) {
                    return Next::Blocked;
                }
                self.take_over(now, path, id, body, &other, disk)
            }
            (Some((there, other, disk)), _) => {
                if self.is_awaited(&other, &disk) {
                    return Next::Blocked;
                }
                let keep = self.keep(name, there, &other, &disk, None);
                if self.may_be_wanted(keep) {
                    return Next::Blocked;
                }
                let what = What::Remove { expect: disk.fingerprint, keep };
                self.act(path, name, there, other.kind(), what, vec![id, there])
            }
        }
    }

    /// Plans for anything but a directory.
    fn plan_entry(
        &mut self,
        now: Now,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        body: BodyRow,
        lying: Option<(BodyId, BodyRow, Disk)>,
    ) -> Next {
        let kind = body.kind();
        let mut bodies = vec![id];
        let mut over = None;
        let mut awaited = false;
        if let Some((there, other, disk)) = &lying {
            bodies.push(*there);
            awaited = self.is_awaited(other, disk);
            if other.kind() == Kind::Directory {
                if self.is_to_move(other, disk)
                    || self.any_below(path, |below| below.on_disk().is_some())
                {
                    return Next::Blocked;
                }
                let what = What::Remove { expect: disk.fingerprint, keep: Keep::Discard };
                return self.act(path, name, *there, Kind::Directory, what, bodies);
            }
            let keep = self.keep(name, *there, other, disk, Some(&body));
            if self.may_be_wanted(keep) {
                return Next::Blocked;
            }
            over = Some(Over { kind: other.kind(), expect: disk.fingerprint, keep });
        }
        if let Some(disk) = &body.disk {
            return self.plan_known(path, name, (id, &body), disk, lying, over, awaited, bodies);
        }
        if let Some((_, other, disk)) = &lying {
            let same = other.content_on_disk() == Some(&body.content.winner().value);
            let leaving = |at: &RelPath| {
                let wanted = self.store.name(at).and_then(|row| row.wanted());
                wanted.map(|(wanted, _)| wanted) == Some(id)
            };
            if same && other.bound.is_empty() && disk.names.iter().all(leaving) {
                let disk = disk.clone();
                let other = other.clone();
                return self.take_over(now, path, id, body, &other, disk);
            }
        }
        if awaited {
            return Next::Blocked;
        }
        let metadata = body.metadata.winner().value.clone();
        let what = match body.content.winner().value.clone() {
            Content::Directory | Content::Lost => return Next::Blocked,
            Content::Symlink(target) => What::MakeSymlink { target, metadata, over },
            Content::Fifo => What::MakeFifo { metadata, over },
            Content::File { size, digest } => {
                let Some(source) = self.source(Spot::Path(path.clone()), id, &body, None) else {
                    return Next::Blocked;
                };
                What::Write { size, digest, metadata, over, source }
            }
        };
        self.act(path, name, id, kind, what, bodies)
    }

    /// The body lies on this disk already, under other names.
    #[expect(clippy::too_many_arguments, reason = "the parts of one decision, taken once")]
    fn plan_known(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        (id, body): (BodyId, &BodyRow),
        disk: &Disk,
        lying: Option<(BodyId, BodyRow, Disk)>,
        over: Option<Over>,
        awaited: bool,
        bodies: Vec<BodyId>,
    ) -> Next {
        let wanted =
            |at: &RelPath| self.store.name(at).and_then(|row| row.wanted()).map(|(body, _)| body);
        let leaving = lacking(&disk.names, &body.bound).next().cloned();
        let expect = disk.fingerprint;
        let what = match (leaving, lying) {
            (Some(from), None) if wanted(&from).is_none() => What::Rename { from, expect },
            (Some(from), Some((there, other, lying)))
                if awaited || wanted(&from) == Some(there) =>
            {
                What::Exchange {
                    with: from,
                    expect,
                    kind_here: other.kind(),
                    expect_here: lying.fingerprint,
                }
            }
            (Some(from), _) => What::Link { from, expect, over },
            (None, _) if awaited => return Next::Blocked,
            (None, _) => match disk.names.first() {
                Some(from) => What::Link { from: from.clone(), expect, over },
                None => return Next::Blocked,
            },
        };
        self.act(path, name, id, body.kind(), what, bodies)
    }

    /// What lies at this path is what the tree is to show, known under
    /// another body so far: nothing is done to the disk.
    fn take_over(
        &mut self,
        now: Now,
        path: &RelPath,
        id: BodyId,
        mut body: BodyRow,
        other: &BodyRow,
        disk: Disk,
    ) -> Next {
        let kind = body.kind();
        let there = self.store.body_of_inode(disk.fingerprint.inode);
        let names = disk.names.clone();
        if body.disk.is_none() {
            let metadata = other.metadata_on_disk().cloned();
            let metadata = metadata.map_or(Held::Winner, |metadata| {
                held(&body.metadata, metadata, VersionVector::new())
            });
            body.disk = Some(Disk {
                fingerprint: disk.fingerprint,
                names: Vec::new(),
                content: Held::Winner,
                metadata,
            });
            let leaves = there.and_then(|there| self.store.leaves(there));
            self.put_body(id, body);
            self.store.put_leaves(id, leaves);
            // A write to it that was not looked at yet is one to this body.
            if let Some(there) = there {
                self.settle.pass_on(now.monotonic, &Spot::Body(there), Spot::Body(id));
            }
        }
        let names = if kind == Kind::Directory { vec![path.clone()] } else { names };
        for name in names {
            self.set_on_disk(&name, Some((id, kind)), &VersionVector::new());
        }
        // Its metadata may be another: nobody else asks for a step now.
        self.plan_body(id)
    }

    fn plan_body(&mut self, id: BodyId) -> Next {
        let Some(body) = self.store.body(id).filter(BodyRow::is_pending) else {
            self.pending_bodies.remove(&id);
            return Next::Settled;
        };
        let Some(disk) = &body.disk else {
            return Next::Settled;
        };
        let place = |at: &&RelPath| {
            let row = self.store.name(at);
            row.is_some_and(|row| row.wanted() == row.on_disk())
        };
        let Some(path) = disk.names.iter().find(place).cloned() else {
            return Next::Blocked;
        };
        let Some(name) = self.store.name(&path) else {
            return Next::Blocked;
        };
        if !self.locks.is_free(&path, &[id]) {
            return Next::Blocked;
        }
        let metadata = body.metadata.winner().value.clone();
        let expect = disk.fingerprint;
        let what = if body.content_is_pending() {
            let (Some(from), Content::File { size, digest }) =
                (digest_of(body.content_on_disk()), body.content.winner().value.clone())
            else {
                return Next::Blocked;
            };
            let Some(source) = self.source(Spot::Body(id), id, &body, Some(from)) else {
                return Next::Blocked;
            };
            let loser = body.content_loser();
            What::Update(Update {
                expect,
                from,
                held: self.store.leaves(id),
                to: digest,
                size,
                metadata,
                source,
                linked: disk.names.len() > 1,
                keep: loser.map_or(Keep::Trash, |loser| Keep::Conflict(loser.dot.actor)),
                is_own: body.content_seen().is_empty(),
            })
        } else {
            What::SetMetadata { expect, metadata }
        };
        self.act(&path, &name, id, body.kind(), what, vec![id])
    }

    /// Where to get the content of a body's winner from.
    pub(super) fn source(
        &self,
        spot: Spot,
        id: BodyId,
        body: &BodyRow,
        from: Option<crate::hash::Digest>,
    ) -> Option<Source> {
        let winner = body.content.winner();
        if winner.value.size() == 0 {
            return Some(Source::Inline { writes: Vec::new(), holes: RangeSet::new() });
        }
        let to = digest_of(Some(&winner.value));
        if let Some(mut patch) = to.and_then(|to| self.patches.between(id, from, to)) {
            patch.truncate(winner.value.size());
            return Some(Source::Inline { writes: patch.writes, holes: patch.holes });
        }
        let attempts = self.retries.get(&spot).map_or(0, |retry| retry.attempts) as usize;
        if from.is_none()
            && attempts == 0
            && let Some((from, expect)) = self.same_content(id, digest_of(Some(&winner.value))?)
        {
            return Some(Source::Copy { from, expect });
        }
        self.fetch_from(winner.dot, attempts).map(Source::Peers)
    }

    /// Another file on this disk with this content.
    pub(super) fn same_content(
        &self,
        id: BodyId,
        digest: crate::hash::Digest,
    ) -> Option<(RelPath, crate::entry::Fingerprint)> {
        let other = self.store.body_of_content(digest).filter(|other| *other != id)?;
        let row = self.store.body(other)?;
        (digest_of(row.content_on_disk()) == Some(digest)).then_some(())?;
        let disk = row.disk?;
        Some((disk.names.into_iter().next()?, disk.fingerprint))
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

    fn act(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        kind: Kind,
        what: What,
        bodies: Vec<BodyId>,
    ) -> Next {
        let body = self.store.body(id);
        let step = Step {
            action: Action { path: path.clone(), body: id, kind, what },
            bodies,
            name_seen: name.binding.context().clone(),
            content: body
                .as_ref()
                .map(|row| (row.content.winner().value.clone(), row.content.context().clone())),
            metadata: body
                .as_ref()
                .map(|row| (row.metadata.winner().value.clone(), row.metadata.context().clone())),
        };
        if let Some(other) = step.other_path()
            && !self.locks.is_free(other, &[])
        {
            return Next::Blocked;
        }
        if !step.parents().iter().all(|parent| self.locks.may_share(parent)) {
            return Next::Blocked;
        }
        Next::Act(Box::new(step))
    }

    fn act_alone(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        kind: Kind,
        what: What,
        bodies: Vec<BodyId>,
    ) -> Next {
        match self.act(path, name, id, kind, what, bodies) {
            Next::Act(step) => Next::ActAlone(step),
            other => other,
        }
    }

    /// What becomes of a body that loses its place at a name.
    fn keep(
        &self,
        name: &NameRow,
        id: BodyId,
        body: &BodyRow,
        disk: &Disk,
        instead: Option<&BodyRow>,
    ) -> Keep {
        #[cfg(test)]
        if super::sim::planted::is_planted(super::sim::planted::Bug::KeepNothing) {
            return Keep::Discard;
        }
        let same =
            |instead: &BodyRow| body.content_on_disk() == Some(&instead.content.winner().value);
        if body.kind() == Kind::Directory || instead.is_some_and(same) {
            return Keep::Discard;
        }
        // The others may have gone without having been looked at yet: what is
        // laid to rest is the inode if this was its last name, else nothing.
        if disk.names.len() > 1 {
            return Keep::Trash;
        }
        if let Some(loser) = name.loser() {
            return Keep::Conflict(loser.dot.actor);
        }
        if let Some(loser) = body.content_loser() {
            return Keep::Conflict(loser.dot.actor);
        }
        let written = body.content.winner();
        let replaced = name.binding.values().filter_map(Binding::replaced);
        let was_seen = match replaced.filter(|replaced| replaced.body == id).count() {
            // Several others were here since. What this node wrote itself may
            // be unknown to who replaced it.
            0 => body.content_is_pending() || !self.lives.contains(&written.dot.actor),
            _ => name.binding.values().any(|binding| body.is_replaced_by(id, binding)),
        };
        // That nobody holds it was said of it before it was found here.
        let is_found = written.value.is_lost();
        if was_seen && !is_found { Keep::Trash } else { Keep::Conflict(written.dot.actor) }
    }
}
