//! Random runs with a node that only receives or only sends: how they end, and
//! in what it may differ from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::check;
use super::disk::Shown;
use super::world::{Node, World};
use crate::choice::Mode;
use crate::path::RelPath;
use crate::sync::core::Core;
use crate::sync::record::{BodyRow, NameRow};
use crate::sync::store::{MemoryStore, Store};

impl World {
    /// After all did what they do: what one that only receives changes is
    /// nothing to the others, and is undone; one that only sends becomes one
    /// that does both.
    pub(super) fn end_one_way(&mut self, at: usize, mode: Mode) -> Result<(), String> {
        check::check(self)?;
        let (before, lives) = (self.trees_of_others(at), self.lives_of_others(at));
        self.round(self.plan.deletions, true)?;
        check::check(self)?;
        if mode == Mode::ReceiveOnly {
            // One that crashed may tell anew what it had applied and forgot.
            let same_lives = self.lives_of_others(at) == lives;
            if same_lives && self.trees_of_others(at) != before {
                return Err(format!("what changed on node {at} changed other trees"));
            }
            // A crash would forget that it was asked for.
            self.plan.crashes = false;
            self.revert(at);
            self.settle()?;
            let left = self.nodes[at].core.own_changes().next();
            return left.map_or(Ok(()), |left| Err(format!("{left:?} could not be reverted")));
        }
        self.plan.one_way = None;
        self.end(at, true);
        self.start(at);
        self.settle()
    }

    fn trees_of_others(&self, at: usize) -> Vec<BTreeMap<RelPath, Shown>> {
        self.others(at).map(|other| other.disk.shown()).collect()
    }

    fn lives_of_others(&self, at: usize) -> Vec<u32> {
        self.others(at).map(|other| other.life).collect()
    }

    fn others(&self, at: usize) -> impl Iterator<Item = &Node> {
        let others = self.nodes.iter().enumerate();
        others.filter(move |(other, _)| *other != at).map(|(_, node)| node)
    }

    /// Who writes once more what won over the others' has resolved that, though
    /// nobody may have been told of it.
    pub(super) fn note_losers(&mut self, at: usize) {
        let store = self.nodes[at].core.store();
        for body in store.bodies().filter_map(|id| store.body(id)) {
            self.ledger.note_losers(&body.content);
        }
    }

    /// A user undoes what changed at a node that only receives.
    pub(super) fn revert(&mut self, at: usize) {
        self.trace(|| format!("{at}: USER reverts"));
        let life = self.nodes[at].life;
        self.with(at, life, |core, now| {
            core.revert(now);
        });
    }
}

/// Does something wait at a node for what changed there?
pub(super) fn waits(world: &World, at: usize) -> bool {
    match world.plan.mode(at) {
        Mode::Both => false,
        Mode::SendOnly => true,
        Mode::ReceiveOnly => world.nodes[at].core.own_changes().next().is_some(),
    }
}

/// Deletions that others may have forgotten by now, and that are remembered
/// where one waits for what changed there: nothing else says that what still
/// lies on that disk is to go.
pub(super) fn deletions_that_wait(world: &World, at: usize) -> BTreeSet<RelPath> {
    if !waits(world, at) {
        return BTreeSet::new();
    }
    let names = world.nodes[at].core.store().names_within(&RelPath::root(), None, usize::MAX);
    let waits = |row: &NameRow| row.wanted().is_none() && row.on_disk().is_some();
    names.into_iter().filter(|(_, row)| waits(row)).map(|(path, _)| path).collect()
}

/// What is left over beside what waits.
pub(super) fn left_over(left: Vec<(&'static str, usize)>) -> Vec<(&'static str, usize)> {
    let waits = |what: &str| what.starts_with("pending") || what == "retries";
    left.into_iter().filter(|(what, _)| !waits(what)).collect()
}

/// May a node have something else at a path than those that do both? Where it
/// only receives, because of a change that it tells of: of this entry, of one
/// above or below it, or of the file that is to come here.
pub(super) fn may_differ(
    world: &World,
    at: usize,
    path: &RelPath,
    there: Option<&Shown>,
    here: Option<&Shown>,
) -> bool {
    let core = &world.nodes[at].core;
    match world.plan.mode(at) {
        Mode::Both => return false,
        Mode::SendOnly => return true,
        Mode::ReceiveOnly => {}
    }
    // A file has a name here, or has lost one, of which that holds.
    let renamed = |(there, here): (&Shown, &Shown)| {
        let alike = Shown { first_name: there.first_name.clone(), ..here.clone() };
        let names = [&there.first_name, &here.first_name];
        alike == *there && names.into_iter().any(|name| waits_at(core, name))
    };
    waits_at(core, path) || there.zip(here).is_some_and(renamed)
}

/// Is a change told of at this path, or does what is to come here wait for one?
fn waits_at(core: &Core<MemoryStore>, path: &RelPath) -> bool {
    let own: Vec<&RelPath> = core.own_changes().map(|(own, _)| own).collect();
    if own.contains(&path) {
        return true;
    }
    // What is to come into a directory waits for it, which may wait itself.
    let places = std::iter::successors(Some(path.clone()), RelPath::parent);
    let rows = places.filter(|at| !at.is_root()).filter_map(|at| core.store().name(&at));
    let bodies = rows.flat_map(|row| [row.wanted(), row.on_disk()]).flatten();
    let bodies = bodies.filter_map(|(id, _)| core.store().body(id));
    let names = |body: Arc<BodyRow>| {
        let lies = body.disk.iter().flat_map(|disk| disk.names.clone());
        lies.chain(body.bound.clone()).collect::<Vec<_>>()
    };
    let related: Vec<RelPath> = bodies.flat_map(names).chain([path.clone()]).collect();
    let is_related =
        |own: &RelPath| related.iter().any(|path| own.is_within(path) || path.is_within(own));
    core.pending_names.contains(path) && own.into_iter().any(is_related)
}
