//! What became of the steps: the index learns what lies on the disk now.

use std::sync::Arc;
use std::time::Duration;

use super::changes::write_name;
use super::core::Core;
use super::effect::{Action, Keep, Now, Outcome, What};
use super::record::{Binding, Content, Disk, Key, Paths, Replaced};
use super::settle::{Dirt, Spot};
use super::step::Step;
use super::store::Store;
use super::tree::held;
use super::version::VersionVector;
use crate::entry::{Kind, Metadata, Stat};
use crate::hash::Leaves;
use crate::id::BodyId;
use crate::path::RelPath;

/// Longest wait before something that failed is tried again.
const RETRY_MAX: Duration = Duration::from_secs(30);

impl<S: Store> Core<S> {
    /// How the actions of a job went, in their order.
    pub fn handle_applied(&mut self, now: Now, job: u64, outcomes: Vec<Outcome>) {
        let Some(running) = self.jobs.remove(&job) else {
            return;
        };
        let (at, alone) = (running.at, running.alone);
        if alone {
            self.locks.unlock_all();
        }
        let mut outcomes = outcomes.into_iter();
        for step in running.steps {
            self.locks.unlock(&step.action.path, &step.bodies);
            step.other_path().iter().for_each(|path| self.locks.unlock(path, &[]));
            if !alone {
                step.parents().iter().for_each(|parent| self.locks.unshare(parent));
            }
            let outcome = outcomes.next();
            self.step_ended(now, at, step, outcome.unwrap_or(Outcome::Raced));
        }
        // What is left are directories set back to their metadata.
        for outcome in outcomes {
            if let Outcome::Done(Some(stat), _) = outcome {
                self.directory_restored(now, &stat);
            }
        }
        self.turn(now);
    }

    fn step_ended(&mut self, now: Now, began: Duration, step: Step, outcome: Outcome) {
        let spot = step.spot();
        let (path, body) = (step.action.path.clone(), Some(step.action.body));
        match outcome {
            Outcome::Done(stat, leaves) => {
                self.retries.remove(&spot);
                self.progress.no_error(&path);
                self.progress.changes_applied += 1;
                if matches!(step.keep(), Some(Keep::Conflict(_))) {
                    self.progress.note(now.wall, "conflict, the other side kept apart", &path);
                }
                let inode = stat.as_ref().map(|stat| stat.fingerprint.inode);
                self.step_done(now, step, stat.map(|stat| *stat), leaves);
                // Somebody wrote to it before anyone here knew what it is.
                if inode.is_some_and(|inode| self.told.is_astray(inode, began, body)) {
                    self.settle.touch(now.monotonic, Spot::Path(path), Dirt::whole());
                }
            }
            Outcome::Raced => {
                for path in [Some(&path), step.other_path()].into_iter().flatten() {
                    self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::compare());
                }
                if let What::Link { from, .. } = &step.action.what {
                    self.settle.look(now.monotonic, Spot::Path(from.clone()), Dirt::compare());
                }
                self.retry(now, spot, Duration::from_millis(5));
            }
            Outcome::NotHeld | Outcome::Broken => {
                let is_refusal = matches!(outcome, Outcome::NotHeld);
                // If bytes that came along did not lead there, they are of no
                // use: the next try fetches.
                if let Some((Content::File { digest, .. }, _)) = &step.content {
                    self.patches.remove(step.action.body, *digest);
                }
                self.retry(now, spot.clone(), Duration::from_millis(20));
                if let Some(peer) = step.asked().filter(|_| is_refusal) {
                    self.refused(now, &spot, &step.action, peer);
                }
            }
            // It is still pending, and begins again where it is now.
            Outcome::GaveWay => {}
            Outcome::Failed(reason) => {
                self.progress.error(&path, reason);
                // Its directory may not be there any more.
                let place = path.parent().filter(|parent| !parent.is_root());
                place.into_iter().for_each(|parent| {
                    self.settle.look(now.monotonic, Spot::Path(parent), Dirt::compare());
                });
                self.retry(now, spot, Duration::from_millis(250));
            }
        }
    }

    fn retry(&mut self, now: Now, spot: Spot, unit: Duration) {
        let peers = self.peers.len().max(1) as u32;
        let retry = self.retries.entry(spot).or_default();
        // Each peer is asked once before the wait doubles.
        let rounds = if retry.refused.is_empty() { retry.attempts } else { retry.attempts / peers };
        let wait = unit.saturating_mul(1 << rounds.min(12)).min(RETRY_MAX);
        retry.attempts += 1;
        retry.not_before = now.monotonic + wait;
        retry.waits = true;
    }

    fn step_done(&mut self, now: Now, step: Step, stat: Option<Stat>, leaves: Option<Leaves>) {
        let Step { action, name_seen, content, metadata, .. } = step;
        let Action { path, body, kind, what } = action;
        let verb = match &what {
            What::Remove { .. } => "deleted",
            What::Rename { .. } | What::Exchange { .. } => "moved",
            What::Link { .. } => "linked",
            What::Update(_) => "changed",
            What::SetMetadata { .. } => "metadata changed",
            _ => "created",
        };
        self.progress.note(now.wall, verb, &path);
        match (what, stat) {
            (What::Remove { .. }, stat) => {
                // The other names of the inode: its ctime has moved.
                stat.iter().for_each(|stat| self.refresh(body, stat));
                self.bytes_stay_with(now, &path, body);
                self.set_on_disk(&path, None, &name_seen);
                self.look_beneath(now, &path, kind);
            }
            (What::Rename { from, .. }, Some(stat)) => {
                self.renamed(now, (&from, &path), (body, kind), &stat, &name_seen);
            }
            (What::Exchange { with, .. }, Some(stat)) => {
                self.exchanged(now, &with, &path, kind, &stat, &name_seen);
            }
            (What::Link { .. }, Some(stat)) => {
                self.refresh(body, &stat);
                self.set_on_disk(&path, Some((body, kind)), &name_seen);
            }
            (What::SetMetadata { .. }, Some(stat)) => {
                self.lies(body, &stat, None, metadata, None);
            }
            (What::Update(_), Some(stat)) => self.lies(body, &stat, content, metadata, leaves),
            (_, Some(stat)) => {
                self.lies(body, &stat, content, metadata, leaves);
                self.set_on_disk(&path, Some((body, kind)), &name_seen);
            }
            (_, None) => {
                self.settle.look(now.monotonic, Spot::Path(path), Dirt::compare());
            }
        }
    }

    /// What came into a directory after it was to be removed, and is gone again
    /// with it: of a place in a directory that is no more, nobody is told.
    fn look_beneath(&mut self, now: Now, removed: &RelPath, kind: Kind) {
        for (path, _) in self.subtree(removed, kind) {
            self.settle.look(now.monotonic, Spot::Path(path), Dirt::compare());
        }
    }

    /// A body lies on the disk in these versions.
    fn lies(
        &mut self,
        id: BodyId,
        stat: &Stat,
        content: Option<(Content, VersionVector)>,
        metadata: Option<(Metadata, VersionVector)>,
        leaves: Option<Leaves>,
    ) {
        let Some(row) = self.store.body(id) else {
            return;
        };
        let mut row = Arc::unwrap_or_clone(row);
        let fresh = row.disk.is_none();
        let mut disk = row.disk.take().unwrap_or(Disk {
            fingerprint: stat.fingerprint,
            names: Paths::new(),
            content: super::record::Held::Winner,
            metadata: super::record::Held::Winner,
        });
        disk.fingerprint = stat.fingerprint;
        if let Some((value, seen)) = content {
            disk.content = held(&row.content, value, seen);
            if leaves.is_some() || fresh {
                self.put_leaves(id, leaves.filter(|leaves| leaves.count() > 1));
            }
        }
        if let Some((asked, seen)) = metadata {
            disk.metadata = held(&row.metadata, shown(asked, stat), seen);
        }
        row.disk = Some(disk);
        self.put_body(id, row);
    }

    /// Only the fingerprint changed, by our own doing. Of a directory that somebody
    /// changed meanwhile the former one stays: the look that is to find that may
    /// come only after a restart, by a scan that compares it.
    fn refresh(&mut self, id: BodyId, stat: &Stat) {
        self.edit_body(id, |row| {
            let is_other = stat.kind == Kind::Directory
                && row.metadata_on_disk().is_some_and(|known| known.mtime != stat.metadata.mtime);
            if let Some(disk) = row.disk.as_mut().filter(|_| !is_other) {
                disk.fingerprint = stat.fingerprint;
            }
        });
    }

    fn renamed(
        &mut self,
        now: Now,
        (from, to): (&RelPath, &RelPath),
        (body, kind): (BodyId, Kind),
        stat: &Stat,
        seen: &VersionVector,
    ) {
        self.refresh(body, stat);
        self.own_exchanged(now, from, to);
        let moved = self.subtree(from, kind);
        moved.iter().for_each(|(path, (id, _))| self.bytes_stay_with(now, path, *id));
        self.replant(&moved, from, to, seen);
        self.set_on_disk(to, Some((body, kind)), seen);
        self.scan_moved(to, kind);
    }

    /// Bytes that are yet to be read at a place go where what lay there goes.
    fn bytes_stay_with(&mut self, now: Now, path: &RelPath, body: BodyId) {
        if let Some(dirt) = self.settle.dirt(&Spot::Path(path.clone()))
            && let Some(bytes) = dirt.of_bytes()
        {
            self.settle.look(now.monotonic, Spot::Body(body), bytes);
        }
    }

    /// What happened in a directory just before it was moved is reported, if
    /// at all, for places that are no more.
    fn scan_moved(&mut self, to: &RelPath, kind: Kind) {
        if kind == Kind::Directory {
            self.scan(to.clone());
        }
    }

    fn exchanged(
        &mut self,
        now: Now,
        with: &RelPath,
        path: &RelPath,
        kind: Kind,
        stat: &Stat,
        seen: &VersionVector,
    ) {
        self.own_exchanged(now, with, path);
        let there = self.subtree(with, kind);
        let here = self.subtree(path, kind);
        if let Some((id, _)) = there.first().map(|(_, held)| *held) {
            self.refresh(id, stat);
        }
        let bodies = there.iter().chain(&here);
        bodies.for_each(|(path, (id, _))| self.bytes_stay_with(now, path, *id));
        // Each body is named at its new place before it loses the old one.
        for (moved, from, to) in [(&there, with, path), (&here, path, with)] {
            for (old, held) in moved.iter() {
                let Some(new) = old.rebased(from, to) else {
                    continue;
                };
                self.ensure_name(&new, old, *held);
                self.edit_body(held.0, |row| {
                    if let Some(disk) = &mut row.disk {
                        super::tree::insert_path(&mut disk.names, &new);
                    }
                });
            }
        }
        let taken = |moved: &[(RelPath, (BodyId, Kind))], from: &RelPath, to: &RelPath| {
            let places =
                moved.iter().filter_map(|(old, held)| Some((old.rebased(from, to)?, *held)));
            places.collect::<Vec<_>>()
        };
        let (to_path, to_with) = (taken(&there, with, path), taken(&here, path, with));
        let vacated = there.iter().chain(&here).map(|(old, _)| old.clone());
        let vacated: Vec<RelPath> = vacated
            .filter(|old| !to_path.iter().chain(&to_with).any(|(new, _)| new == old))
            .collect();
        for (new, held) in to_path.iter().chain(&to_with) {
            self.set_on_disk(new, Some(*held), seen);
        }
        vacated.iter().rev().for_each(|old| self.set_on_disk(old, None, seen));
        for place in [path, with] {
            let kind = self.store.name(place).and_then(|row| row.on_disk()).map(|held| held.1);
            kind.into_iter().for_each(|kind| self.scan_moved(place, kind));
        }
        // The other side's ctime changed as well.
        self.settle.look(now.monotonic, Spot::Path(with.clone()), Dirt::compare());
    }

    /// What lies at a path and, for a directory, below it.
    fn subtree(&mut self, at: &RelPath, kind: Kind) -> Vec<(RelPath, (BodyId, Kind))> {
        if kind != Kind::Directory {
            let held = self.store.name(at).and_then(|row| row.on_disk());
            return held.map(|held| (at.clone(), held)).into_iter().collect();
        }
        let mut found = Vec::new();
        self.for_each_within(at, |_, path, row| {
            found.extend(row.on_disk().map(|held| (path, held)));
        });
        found
    }

    fn replant(
        &mut self,
        moved: &[(RelPath, (BodyId, Kind))],
        from: &RelPath,
        to: &RelPath,
        seen: &VersionVector,
    ) {
        for (old, held) in moved {
            if let Some(new) = old.rebased(from, to) {
                self.ensure_name(&new, old, *held);
                self.set_on_disk(&new, Some(*held), seen);
            }
        }
        for (old, _) in moved.iter().rev() {
            self.set_on_disk(old, None, seen);
        }
    }

    /// A moved directory brought an entry to a place no record speaks of. What
    /// is still wanted where it was goes back there: were it given a name here
    /// as well, directories moved into each other would gain names without
    /// end. What somebody took from there, before the directory was moved,
    /// goes as well. Of anything else the record is on its way, or a change
    /// here has to be told.
    fn ensure_name(&mut self, path: &RelPath, old: &RelPath, (body, kind): (BodyId, Kind)) {
        if self.store.name(path).is_some() {
            return;
        }
        let row = self.store.body(body);
        let when = row.as_ref().map_or(0, |row| row.content.winner().when);
        let old = self.store.name(old);
        let goes = old.is_some_and(|old| match &old.binding.winner().value {
            Binding::Bound { body: wanted, .. } => *wanted == body,
            // With the directory, for all that is known yet.
            Binding::Gone { was, .. } if was.moved && was.body == body => {
                row.is_some_and(|row| !row.bound.is_empty())
            }
            Binding::Gone { .. } => true,
        });
        if !goes {
            self.bind(path, body, kind, when);
            // Its directory may be one that goes back.
            self.unchecked.insert(Key::Name(path.clone()));
            return;
        }
        // No user took it from here: where it cannot go back, since another
        // took its place meanwhile, it is not what anybody threw away.
        let was = Replaced { body, seen: VersionVector::new(), moved: true };
        let binding = Binding::Gone { was, kind };
        let row = write_name(None, self.next_dot(), when, binding, Some((body, kind)));
        self.put_name(path, None, row);
    }

    /// Its time is what it was. What else somebody changed of it meanwhile has a
    /// look: by its times nobody would find it any more.
    fn directory_restored(&mut self, now: Now, stat: &Stat) {
        let Some(id) = self.store.body_of_inode(stat.fingerprint.inode) else {
            return;
        };
        let row = self.store.body(id);
        let known = row.as_ref().and_then(|row| row.metadata_on_disk().cloned());
        let same = known
            .is_none_or(|known| Metadata { mtime: stat.metadata.mtime, ..known } == stat.metadata);
        if !same {
            self.settle.look(now.monotonic, Spot::Body(id), Dirt::compare());
        }
        self.refresh(id, stat);
    }
}

/// What counts as the metadata on this disk after it was asked to show this:
/// an owner cannot be set without privilege, and must not be tried for ever,
/// nor become the record of other nodes.
fn shown(asked: Metadata, stat: &Stat) -> Metadata {
    if asked.mtime == stat.metadata.mtime || stat.kind == Kind::Directory {
        asked
    } else {
        stat.metadata.clone()
    }
}
