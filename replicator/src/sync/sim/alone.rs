//! A node that is alone with its disk: for stories of what one node sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::disk::{Change, Disk};
use super::plan::Plan;
use crate::hash::Digest;
use crate::id::Actor;
use crate::look::Look;
use crate::path::RelPath;
use crate::range::Range;
use crate::sync::core::Core;
use crate::sync::effect::{Effect, Found, Now, Sight, Sighted};
use crate::sync::record::Content;
use crate::sync::store::{MemoryStore, Store};

pub(super) struct Alone {
    pub core: Core<MemoryStore>,
    pub disk: Disk,
    pub now: Duration,
    /// Places that answer with an error.
    pub unreadable: BTreeSet<RelPath>,
    /// Files that change while they are looked at: before anything could be
    /// read, or while it was.
    pub changing: BTreeMap<RelPath, bool>,
}

impl Alone {
    pub(super) fn new() -> Self {
        let core = Core::new(Plan::peaceful(0).options(0), Actor(1), 1, MemoryStore::default());
        let disk = Disk::new(1000, true);
        Self {
            core,
            disk,
            now: Duration::ZERO,
            unreadable: BTreeSet::new(),
            changing: BTreeMap::new(),
        }
    }

    /// Says what capture would.
    pub(super) fn tell(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Name(path) => self.core.path_changed(self.clock(), path),
                Change::Moved(from, to) => self.core.path_moved(self.clock(), from, to),
                Change::Came(path) => self.core.path_came(self.clock(), path),
                Change::Data(inode) => {
                    let ranges = Range::new(0, 1 << 20).into_iter().collect();
                    self.core.bytes_changed(self.clock(), inode, Some(ranges), false);
                }
            }
        }
    }

    /// Looks where the core asks for it, until it has nothing left to do.
    pub(super) fn rest(&mut self) {
        for _ in 0..1000 {
            self.pass(Duration::from_millis(1));
            if self.core.unfinished() == 0 {
                return;
            }
        }
        panic!("it never comes to rest: {:?} {:?}", self.core.unread, self.core.settle);
    }

    /// A long time passes.
    pub(super) fn wait(&mut self, time: Duration) {
        let step = Duration::from_millis(20);
        for _ in 0..time.as_millis() / step.as_millis() {
            self.pass(step);
        }
    }

    /// Time passes, and what the core asks for is done.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_timeout(self.clock());
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Look(looks) => {
                let sights = looks.iter().map(|look| self.look(look)).collect();
                self.core.handle_sights(self.clock(), sights);
            }
            Effect::Scan { beneath, .. } => {
                let listed = self.disk.list(&beneath);
                self.core.handle_listed(self.clock(), &beneath, listed);
                self.core.handle_scanned(self.clock(), &beneath);
            }
            Effect::Listen => self.core.handle_heard(self.clock()),
            _ => {}
        }
    }

    /// What the core asks to be looked at, for a story that chooses the order.
    pub(super) fn looks(&mut self) -> Vec<Look> {
        let effects = std::iter::from_fn(|| self.core.poll_effect());
        let looks = effects.filter_map(|effect| match effect {
            Effect::Look(looks) => Some(looks),
            _ => None,
        });
        looks.flatten().collect()
    }

    fn look(&self, look: &Look) -> Sight {
        let mut sight = self.disk.look(look, true);
        if self.unreadable.contains(&look.path) {
            sight.found = Found::Unreadable("I/O error".into());
        }
        match (self.changing.get(&look.path), &mut sight.found) {
            (Some(true), found) => *found = Found::Unsettled,
            (Some(false), Found::Entry(_, Sighted::File { stable, .. })) => *stable = false,
            _ => {}
        }
        sight
    }

    /// What the index holds of a file.
    pub(super) fn indexed(&self, path: &RelPath) -> Option<Digest> {
        let (body, _) = self.core.store().name(path)?.on_disk()?;
        self.core.store().body(body)?.content_on_disk().and_then(Content::digest)
    }

    pub(super) fn number_of(&self, path: &RelPath) -> u64 {
        self.disk.stat(path).expect("it lies there").fingerprint.inode
    }

    pub(super) fn clock(&self) -> Now {
        Now { monotonic: self.now, wall: self.now.as_nanos() as i64 }
    }
}
