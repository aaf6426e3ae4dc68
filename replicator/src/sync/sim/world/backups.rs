//! Backups of a node, and what comes of putting one back.
//!
//! What the node's own rooms notice of it at a start (`node/provenance.rs`) is
//! done here as they do it: an older index writes as another actor, an older
//! folder makes the index begin anew. Of both together, put back where they
//! were, only the peers know.

use std::collections::BTreeSet;

use super::forgetting::contents_known;
use super::{Event, World, new_core};
use crate::hash::Digest;
use crate::id::Actor;
use crate::path::RelPath;
use crate::sync::sim::disk::Disk;
use crate::sync::sim::ledger::Ledger;
use crate::sync::sim::plan::Plan;
use crate::sync::store::{MemoryStore, Store};
use crate::sync::version::Dot;

/// How soon it is tried again, where a backup cannot be put back yet.
const AGAIN_MS: u64 = 10;

/// For how long a node that was restored may reach nobody, and what its users
/// do meanwhile.
const ALONE_MS_MAX: u64 = 600;
const ALONE_OPERATIONS_MAX: u64 = 5;

/// What comes from the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sync::sim) enum Backup {
    /// The state directory: the folder is newer than the index.
    State,
    /// The folder alone.
    Folder,
    /// Copies of both: other files than those that were there.
    Copies,
    /// The disk with both, as a snapshot of a machine holds it.
    Machine,
}

impl Backup {
    pub(in crate::sync::sim) const ALL: [Self; 4] =
        [Self::State, Self::Folder, Self::Copies, Self::Machine];
}

pub(super) struct Saved {
    store: MemoryStore,
    disk: Disk,
    actor: Actor,
    lives: Vec<Actor>,
    next: u64,
}

impl Plan {
    /// The node that a backup is made of.
    pub(in crate::sync::sim) fn restored_node(&self) -> usize {
        (self.seed / 12) as usize % self.nodes
    }
}

impl World {
    /// A backup is made in a round of this length, and put back in it or later.
    pub(super) fn plan_backup(&mut self, span: u64) {
        let at = self.plan.restored_node();
        let made = self.random.below(span / 2);
        self.at(made, Event::Backup(at));
        if self.random.below(2) == 0 {
            let put_back = made + 100 + self.random.below(span / 2);
            self.at(put_back, Event::Restore(at));
        }
    }

    pub(in crate::sync::sim) fn has_backup(&self) -> bool {
        self.saved.is_some()
    }

    /// Ends a node as it should end, and copies what it has.
    pub(in crate::sync::sim) fn back_up(&mut self, at: usize) {
        if !self.nodes[at].running {
            return;
        }
        self.trace(|| format!("{at}: IS BACKED UP"));
        self.end(at, true);
        let node = &self.nodes[at];
        self.saved = Some(Saved {
            store: node.core.store().clone(),
            disk: node.disk.clone(),
            actor: node.actor,
            lives: node.lives.clone(),
            next: node.core.next_counter(),
        });
        let back = self.random.below(100);
        self.at_from_now(back, Event::Start(at));
    }

    /// Puts a backup back, if there is one.
    pub(in crate::sync::sim) fn restore(&mut self, at: usize) {
        let Some(backup) = self.plan.backup.filter(|_| self.has_backup()) else { return };
        if backup == Backup::Machine && !self.all_know_as_much_of(at) {
            return self.at_from_now(AGAIN_MS, Event::Restore(at));
        }
        self.put_back(at, backup);
        if self.random.below(2) == 0 {
            self.alone = Some(at);
            for _ in 0..self.random.below(ALONE_OPERATIONS_MAX) {
                let when = self.random.below(ALONE_MS_MAX);
                self.at_from_now(when, Event::OperationOf(at));
            }
            if self.random.below(2) == 0 {
                let when = self.random.below(ALONE_MS_MAX);
                self.at_from_now(when, Event::Restart(at));
            }
            self.at_from_now(ALONE_MS_MAX, Event::Reach);
        }
        let back = self.random.below(200);
        self.at_from_now(back, Event::Start(at));
    }

    pub(in crate::sync::sim) fn put_back(&mut self, at: usize, backup: Backup) {
        let Some(saved) = self.saved.take() else { return };
        self.trace(|| format!("{at}: IS RESTORED, {backup:?}"));
        if self.nodes[at].running {
            self.end(at, true);
        }
        if backup != Backup::State {
            self.overwrite(at, saved.disk);
        }
        let (fresh, plan) = (self.next_actor(), self.plan);
        let node = &mut self.nodes[at];
        (node.actor, node.lives) = match backup {
            Backup::Machine => (saved.actor, saved.lives),
            Backup::Folder => (fresh, Vec::new()),
            // Opened and not closed, an index draws an actor.
            Backup::State | Backup::Copies => (fresh, [saved.lives, vec![saved.actor]].concat()),
        };
        let next = if backup == Backup::Machine { saved.next } else { 1 };
        // What its index does not know is new to it: of a file that has another
        // name elsewhere there are two then.
        let known = match backup {
            Backup::Folder => Vec::new(),
            _ => contents_known(&saved.store),
        };
        let lying = node.disk.contents_within(&RelPath::root()).into_iter();
        let unknown = lying.filter(|content| !known.contains(&Digest::of(content)));
        self.contents.forgotten.extend(unknown);
        self.forget_what_is_on_its_way(at);
        let node = &mut self.nodes[at];
        let store = if backup == Backup::Folder { MemoryStore::default() } else { saved.store };
        node.life += 1;
        node.core = new_core(plan, at, node.actor, next, store);
        node.core.remember_lives(node.lives.iter().copied());
        if backup == Backup::Copies {
            node.core.folder_is_copy();
        }
        node.snapshots.clear();
        self.set_timer(at);
        if backup == Backup::Machine {
            self.put_back = Some((at, Dot { actor: saved.actor, counter: saved.next }));
            self.forget_what_nobody_remembers();
        }
    }

    /// A machine that was put back counts on from before what it had written,
    /// which may have been heard by who forgot it in a crash, if by anybody.
    pub(super) fn forget_what_nobody_remembers(&mut self) {
        let Some((at, first)) = self.put_back else { return };
        let mut memories: Vec<Ledger> = Vec::new();
        for node in &self.nodes {
            let kept = node.snapshots.iter().map(|snapshot| &snapshot.store);
            memories.extend(kept.chain([node.core.store()]).map(Ledger::of));
        }
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        let have: Vec<_> = others.map(|(_, node)| node.core.store().have()).collect();
        let is_unheard_of = |dot: Dot| {
            let is_later = dot.actor == first.actor && dot.counter >= first.counter;
            is_later && !have.iter().any(|have| have.contains(dot))
        };
        self.ledger.forget(is_unheard_of, &memories);
    }

    /// What only this disk had is gone with it; others may have thrown it away.
    pub(super) fn overwrite(&mut self, at: usize, disk: Disk) {
        let held = |disk: &Disk| {
            let lying = disk.contents_within(&RelPath::root());
            lying.into_iter().chain(disk.kept.clone())
        };
        let rests = |disk: &Disk| held(disk).chain(disk.trash.clone());
        let others = self.nodes.iter().enumerate();
        let others = others.filter(|(other, node)| *other != at && !node.left);
        let mut there: BTreeSet<Vec<u8>> = others.flat_map(|(_, node)| held(&node.disk)).collect();
        there.extend(rests(&disk));
        let gone = rests(&self.nodes[at].disk).filter(|content| !there.contains(content));
        self.contents.dead.extend(gone);
        self.nodes[at].disk = disk;
        self.set_clock(at);
    }

    /// A node that wrote under numbers used before, and met somebody who had
    /// not heard of these, is beyond help: so all have heard, and its former
    /// self knows of no more than they do.
    fn all_know_as_much_of(&self, at: usize) -> bool {
        let Some(saved) = &self.saved else { return false };
        let known = |at: usize| self.nodes[at].core.store().have().get(saved.actor);
        let mut others = (0..self.nodes.len()).filter(|other| *other != at).map(known);
        let Some(first) = others.next() else { return true };
        others.all(|other| other == first) && known(at) <= first
    }

    /// The others know more of its log: it goes on as another actor.
    pub(super) fn go_on_anew(&mut self, at: usize) {
        self.trace(|| format!("{at}: GOES ON ANEW"));
        self.isolate(at);
        let (fresh, plan) = (self.next_actor(), self.plan);
        let node = &mut self.nodes[at];
        node.running = false;
        node.life += 1;
        node.lives.push(std::mem::replace(&mut node.actor, fresh));
        node.core = new_core(plan, at, fresh, 1, node.core.store().clone());
        node.core.remember_lives(node.lives.iter().copied());
        node.snapshots.clear();
        self.set_timer(at);
        self.at_from_now(5, Event::Start(at));
    }

    /// A node reaches nobody, until it is told otherwise.
    pub(in crate::sync::sim) fn set_alone(&mut self, at: Option<usize>) {
        self.alone = at;
        if at.is_none() {
            self.connect_all();
        }
    }
}
