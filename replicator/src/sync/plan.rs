//! From what the tree is to show and what the disk shows to the next steps
//! between them.
//!
//! Each pending name or body is looked at by itself and gives at most one
//! action, in a state from which any order of the others still leads to the
//! end: what cannot be done yet is blocked and met again. Steps that move
//! whole directories run alone. The steps at a name are `name.rs`, what becomes of
//! what lay there `keep.rs`, where bytes come from `source.rs`, and the jobs that
//! are being put together `gathered.rs`.

mod gathered;
mod keep;
mod name;
mod source;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use self::gathered::Gathered;
use super::core::Core;
use super::effect::{Action, Effect, Job, Keep, Now, Update, What};
use super::record::{Content, Disk, NameRow};
use super::settle::Spot;
use super::step::{Running, Step, Weight};
use super::store::Store;
use super::version::Dot;
use crate::choice::Mode;
use crate::entry::Kind;
use crate::id::{BodyId, NodeId};
use crate::limits::{BULK_JOBS_MAX, JOBS_MAX};
use crate::path::RelPath;

/// Pending names and bodies looked at in vain at once: blocked ones must not
/// make every turn as long as their list.
const LOOKED_AT_MAX: usize = 2048;

/// Then something else may happen first: a list of thousands that are blocked
/// takes a few hundredths of the time.
const PAUSE: Duration = Duration::from_millis(10);

/// So long no huge file begins after something was seen that waits for those
/// under way: that it still waits is seen again before.
const HUGE_HELD: Duration = Duration::from_millis(500);

/// So long a huge file comes before its job is asked to give way: it gets on,
/// though directories are moved all the time.
const GIVE_WAY_AFTER: Duration = Duration::from_secs(1);

/// So long, and for each of them, what brings bulk is not looked at again while
/// there is no room for it: a thousand of them take some milliseconds.
const ASIDE: Duration = Duration::from_secs(1);
const ASIDE_EACH: Duration = Duration::from_micros(100);

/// How far the look at what is pending came. It goes on from there, and around:
/// thousands that are blocked must not keep what follows from being done.
#[derive(Debug, Default)]
pub(super) struct Planning {
    last: Option<Spot>,
    /// Not looked at since something happened that may have unblocked it.
    left: usize,
    /// When to go on with what is left.
    pub(super) due: Option<Duration>,
    /// No huge file begins before that.
    huge_held_until: Option<Duration>,
    /// What had no room. Looked at again then: it may have become something
    /// else.
    aside: HashMap<Spot, Weight>,
    aside_until: Duration,
    /// Bodies of which the job that is being put together changes nothing but
    /// how many names they have. A file may have thousands: one job for each
    /// would look at all the others every time.
    counted: HashMap<BodyId, Counted>,
}

/// How one job changes the number of a file's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    More,
    /// By so many. One is left: what becomes of the last is decided by itself.
    Fewer(usize),
}

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

impl Planning {
    fn put_aside(&mut self, now: Now, spot: Spot, weight: Weight) {
        if self.aside.is_empty() {
            self.aside_until = now.monotonic + ASIDE;
        }
        if self.aside.insert(spot, weight).is_none() {
            self.aside_until += ASIDE_EACH;
        }
    }

    /// When to look again at what is held or set aside.
    fn waits_until(&self) -> Option<Duration> {
        let aside = (!self.aside.is_empty()).then_some(self.aside_until);
        self.huge_held_until.into_iter().chain(aside).min()
    }
}

/// For which bulk there is room.
#[derive(Clone, Copy, Debug)]
struct Room {
    bulk: bool,
    huge: bool,
}

impl Room {
    fn has(self, weight: Weight) -> bool {
        match weight {
            Weight::Light => true,
            Weight::Bulk => self.bulk,
            Weight::Huge => self.huge,
        }
    }
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
        let mut retries = std::mem::take(&mut self.retries);
        retries.retain(|spot, retry| {
            retry.waits &= retry.not_before > now.monotonic;
            self.is_pending(spot)
        });
        self.retries = retries;
        self.planning.left = self.pending() as usize;
        self.plan_on(now);
    }

    /// The same with what was not looked at since.
    pub(super) fn plan_on(&mut self, now: Now) {
        self.draining = false;
        self.planning.due = None;
        if self.winding_up {
            return;
        }
        if self.planning.waits_until().is_some_and(|until| until <= now.monotonic) {
            self.planning.huge_held_until.take_if(|until| *until <= now.monotonic);
            self.planning.aside.clear();
            self.planning.left = self.pending() as usize;
        }
        while self.quick_jobs() + 2 <= JOBS_MAX && !self.draining {
            let gathered = self.gather(now);
            if gathered.is_empty() {
                let is_left = self.planning.left > 0 && !self.draining;
                let go_on = is_left.then_some(now.monotonic + PAUSE);
                self.planning.due = go_on.into_iter().chain(self.planning.waits_until()).min();
                return;
            }
            self.start_job(now, gathered.structure);
            self.start_job(now, gathered.contents);
            self.start_job(now, gathered.bulk);
        }
    }

    fn is_pending(&self, spot: &Spot) -> bool {
        match spot {
            Spot::Path(path) => self.pending_names.contains(path),
            Spot::Body(id) => self.pending_bodies.contains(id),
        }
    }

    /// Jobs that nothing has to wait for for long.
    pub(super) fn quick_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.weight == Weight::Light).count()
    }

    /// Jobs for one file each, that may take hours.
    fn huge_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.weight == Weight::Huge).count()
    }

    /// The last place is left for what is not larger than other jobs are.
    fn room(&self) -> Room {
        let bulk = self.jobs.len() - self.quick_jobs() < BULK_JOBS_MAX;
        let is_free = bulk && self.huge_jobs() < BULK_JOBS_MAX - 1;
        Room { bulk, huge: is_free && self.planning.huge_held_until.is_none() }
    }

    /// The next steps.
    fn gather(&mut self, now: Now) -> Gathered {
        let mut gathered = Gathered::default();
        let mut in_vain = 0;
        self.planning.counted.clear();
        let room = self.room();
        while self.planning.left > 0 && in_vain < LOOKED_AT_MAX && !gathered.is_full() {
            let Some(spot) = self.next_pending() else {
                // What was left was settled meanwhile.
                self.planning.left = 0;
                break;
            };
            let aside = self.planning.aside.get(&spot);
            let waits = aside.is_some_and(|weight| !room.has(*weight));
            match if waits { Next::Blocked } else { self.next_at(now, &spot) } {
                Next::Settled => {
                    if !self.is_pending(&spot) {
                        self.retries.remove(&spot);
                    }
                    in_vain += 1;
                }
                Next::Blocked => in_vain += 1,
                Next::Act(step) if !room.has(step.weight) => {
                    self.planning.put_aside(now, spot.clone(), step.weight);
                    in_vain += 1;
                }
                Next::Act(step) => {
                    if !gathered.has_room(&step) {
                        break;
                    }
                    if let Some(counted) = self.counted_by(&step) {
                        self.planning.counted.insert(step.action.body, counted);
                    }
                    self.locks.lock(&step.action.path, &step.bodies);
                    step.other_path().iter().for_each(|path| self.locks.lock(path, &[]));
                    step.parents().into_iter().for_each(|parent| self.locks.share(parent));
                    gathered.push(*step);
                }
                Next::ActAlone(step) => {
                    if self.locks.is_idle() && self.jobs.is_empty() {
                        self.locks.lock_all();
                        self.planning.last = Some(spot);
                        gathered.push(*step);
                        return gathered;
                    }
                    if self.huge_jobs() == 0 && !gathered.brings_huge() {
                        // Let everything else run out first.
                        self.draining = true;
                        break;
                    }
                    // That takes a moment, in which all else goes on.
                    self.make_way(now, |_| true);
                    in_vain += 1;
                }
            }
            self.planning.left -= 1;
            self.planning.last = Some(spot);
        }
        gathered
    }

    /// Somebody is to look at this place and body now, and not in hours.
    pub(super) fn make_way_to(&mut self, now: Now, path: &RelPath, body: Option<BodyId>) {
        self.make_way(now, |step| {
            step.locks(path) || body.is_some_and(|id| step.bodies.contains(&id))
        });
    }

    /// Asks those huge jobs to end for now of which a step is in the way.
    fn make_way(&mut self, now: Now, is_in_the_way: impl Fn(&Step) -> bool) {
        for (id, job) in self.jobs.iter_mut().filter(|(_, job)| job.weight == Weight::Huge) {
            if !job.steps.iter().any(&is_in_the_way) {
                continue;
            }
            self.planning.huge_held_until = Some(now.monotonic + HUGE_HELD);
            if !job.gives_way && now.monotonic.saturating_sub(job.at) >= GIVE_WAY_AFTER {
                job.gives_way = true;
                self.effects.push_back(Effect::GiveWay { job: *id });
            }
        }
    }

    /// What the job that is being put together makes of the number of names
    /// with this step, if that is all that it changes of the body.
    fn counted_by(&self, step: &Step) -> Option<Counted> {
        let id = step.action.body;
        let is_left = |fewer: usize| {
            let body = self.store.body(id)?;
            (body.disk.as_ref()?.names.len() > fewer).then_some(Counted::Fewer(fewer))
        };
        match (&step.action.what, self.planning.counted.get(&id)) {
            (What::Link { over: None, .. }, None | Some(Counted::More)) => Some(Counted::More),
            (What::Remove { keep: Keep::Trash | Keep::Linked(_), .. }, counted) => match counted {
                None => is_left(1),
                Some(Counted::Fewer(so_far)) => is_left(so_far + 1),
                Some(Counted::More) => None,
            },
            _ => None,
        }
    }

    /// The pending entry that follows the one looked at last: names, then
    /// bodies, then names again.
    fn next_pending(&self) -> Option<Spot> {
        let name_after = |from| {
            let names = self.pending_names.range::<RelPath, _>((from, Bound::Unbounded));
            names.cloned().map(Spot::Path).next()
        };
        let body_after = |from| {
            let bodies = self.pending_bodies.range::<BodyId, _>((from, Bound::Unbounded));
            bodies.copied().map(Spot::Body).next()
        };
        let next = match &self.planning.last {
            None => None,
            Some(Spot::Path(path)) => {
                name_after(Bound::Excluded(path)).or_else(|| body_after(Bound::Unbounded))
            }
            Some(Spot::Body(id)) => body_after(Bound::Excluded(id)),
        };
        next.or_else(|| name_after(Bound::Unbounded)).or_else(|| body_after(Bound::Unbounded))
    }

    fn next_at(&mut self, now: Now, spot: &Spot) -> Next {
        if self.retries.get(spot).is_some_and(|retry| retry.not_before > now.monotonic) {
            return Next::Blocked;
        }
        let next = match spot {
            // Before anything is read: those under way come first here.
            Spot::Path(path) if !self.locks.is_free(path, &[]) => Next::Blocked,
            // What changed here stays until somebody reverts it.
            Spot::Path(path) if self.may_be_own(path) => Next::Blocked,
            Spot::Path(path) => self.plan_name(now, path),
            Spot::Body(id) => self.plan_body(*id),
        };
        match next {
            Next::Act(_) | Next::ActAlone(_) if self.options.mode == Mode::SendOnly => {
                Next::Blocked
            }
            Next::Act(step) | Next::ActAlone(step)
                if self.meets_own(&step) || self.meets_unseen(&step) =>
            {
                Next::Blocked
            }
            Next::Act(step) | Next::ActAlone(step)
                if self.is_to_wait_for_word(now, spot, &step) =>
            {
                Next::Blocked
            }
            next => next,
        }
    }

    /// Somebody may be writing to what this would change.
    fn is_to_wait_for_word(&mut self, now: Now, spot: &Spot, step: &Step) -> bool {
        let until = step.bodies.iter().filter_map(|id| self.touched.until(now.monotonic, *id));
        let Some(until) = until.max() else { return false };
        let retry = self.retries.entry(spot.clone()).or_default();
        (retry.not_before, retry.waits) = (until, true);
        true
    }

    pub(super) fn start_job(&mut self, now: Now, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        let id = self.next_job;
        self.next_job += 1;
        let mut actions: Vec<Action> = steps.iter().map(|step| step.action.clone()).collect();
        actions.extend(self.restore_parents(&steps));
        self.jobs.insert(id, Running::new(now.monotonic, steps, self.locks.is_alone()));
        self.effects.push_back(Effect::Apply(Job { id, actions }));
    }

    /// What changes in a directory changes its mtime; afterwards it is set
    /// back to what the directory's own record says.
    fn restore_parents(&self, steps: &[Step]) -> Vec<Action> {
        let parents: BTreeSet<RelPath> = steps.iter().flat_map(Step::parents).collect();
        let restore = |path: RelPath| {
            let lying = self.lying_at(&path).filter(|lying| lying.kind() == Kind::Directory)?;
            // What lies here, and not the winner: metadata that is still to
            // be applied has a step of its own.
            let mtime = lying.row().metadata_on_disk()?.mtime;
            let what = What::Touch { expect: lying.disk().fingerprint, mtime };
            Some(Action { path, body: lying.id, kind: Kind::Directory, what })
        };
        parents.into_iter().rev().filter_map(restore).collect()
    }

    fn plan_body(&mut self, id: BodyId) -> Next {
        let Some(body) = self.store.body(id).filter(|body| body.is_pending()) else {
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
        // One that was taken away here, and is nobody else's affair, says nothing
        // of the others.
        let places = || disk.names.iter().filter(place);
        let path = places().find(|at| !self.own.holds(at)).or_else(|| places().next());
        let Some(path) = path.cloned() else {
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
            // Who took one of its names away meanwhile did so of what lies here.
            if self.may_lack_names(disk) {
                return Next::Blocked;
            }
            let (Some(from), Content::File { size, digest }) = (
                body.content_on_disk().and_then(Content::digest),
                body.content.winner().value.clone(),
            ) else {
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

    /// Has it other names, of which something was told that nobody has looked at
    /// yet? They may be gone.
    fn may_lack_names(&self, disk: &Disk) -> bool {
        let is_looked_at = |path: &RelPath| {
            self.looks.contains_key(path) || self.settle.holds(&Spot::Path(path.clone()))
        };
        disk.names.len() > 1 && disk.names.iter().any(is_looked_at)
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
            weight: Weight::of(&what, &self.options),
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
}
