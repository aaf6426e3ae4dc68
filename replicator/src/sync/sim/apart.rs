//! Random runs with a node that only receives or only sends: how they end, and
//! in what it may differ from the others.

use std::collections::{BTreeMap, BTreeSet};

use super::check;
use super::disk::Shown;
use super::world::{Node, World};
use crate::choice::Mode;
use crate::entry::Kind;
use crate::path::RelPath;
use crate::sync::core::Core;
use crate::sync::record::NameRow;
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
/// only receives, because of a change that it tells of: of this entry, or of one
/// that this waits for.
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
    // A file has a name here, or lacks one: that is the lesser of the first.
    let renamed = |(there, here): (&Shown, &Shown)| {
        let alike = Shown { first_name: there.first_name.clone(), ..here.clone() };
        alike == *there && waits_at(core, (&there.first_name).min(&here.first_name))
    };
    waits_at(core, path) || there.zip(here).is_some_and(renamed)
}

/// Is a change told of at this path, or does it wait for one, itself or by way
/// of others that wait?
fn waits_at(core: &Core<MemoryStore>, path: &RelPath) -> bool {
    let own: Vec<&RelPath> = core.own_changes().map(|(own, _)| own).collect();
    let (mut met, mut left) = (BTreeSet::new(), vec![path.clone()]);
    while let Some(at) = left.pop() {
        if !core.pending_names.contains(&at) || !met.insert(at.clone()) {
            continue;
        }
        let places = awaited_at(core, &at);
        let is_met =
            |own: &RelPath| places.iter().any(|place| own.is_within(place) || place.is_within(own));
        if own.iter().any(|own| is_met(own)) {
            return true;
        }
        left.extend(places);
    }
    own.contains(&path)
}

/// The places for which the next step at one may wait, itself among them.
fn awaited_at(core: &Core<MemoryStore>, path: &RelPath) -> Vec<RelPath> {
    let store = core.store();
    let Some(row) = store.name(path) else { return vec![path.clone()] };
    // Where what is to come lies, and where what lies here is to go.
    let bodies = [row.wanted(), row.on_disk()].into_iter().flatten();
    let bodies = bodies.filter_map(|(id, _)| store.body(id));
    let names = bodies.flat_map(|body| {
        let lies = body.disk.iter().flat_map(|disk| disk.names.clone());
        lies.chain(body.bound.clone()).collect::<Vec<_>>()
    });
    let is_directory =
        |row: &NameRow| row.on_disk().is_some_and(|(_, kind)| kind == Kind::Directory);
    // The directories that it is to come into.
    let above = std::iter::successors(path.parent(), RelPath::parent);
    let lacks =
        |at: &RelPath| !at.is_root() && store.name(at).is_some_and(|row| !is_directory(&row));
    let above = above.filter(lacks);
    // And what has to leave it first.
    let goes = is_directory(&row) && row.is_pending();
    let below = core.pending_names.iter().filter(|below| goes && below.is_within(path));
    names.chain(above).chain(below.cloned()).chain([path.clone()]).collect()
}
