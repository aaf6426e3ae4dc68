//! A story: a few nodes whose users do what the test says and nothing else.
//!
//! The world below is the simulator's, without its troubles and with clocks
//! that are right. Delays are still drawn from a seed, since no outcome may
//! depend on them. Trees are written as people read them: `d/` for a
//! directory, `d/a=text` for a file, `b->a` for one more name of `a`,
//! `a=text:600` where the mode is not the usual one.

use std::time::Duration;

use super::check;
use super::disk::{Change, Disk};
use super::plan::Plan;
use super::world::World;
use crate::entry::Kind;
use crate::path::RelPath;

/// A file nobody touches: an empty folder may be a disaster.
const LASTING: &str = "lasting";

/// Between two changes of which one is later.
const LATER: Duration = Duration::from_secs(1);

const MODE: u32 = 0o644;

/// How finely a story looks at a series, and for how long.
const STEP: Duration = Duration::from_micros(500);
const SERIES_BEGUN_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Story {
    world: World,
}

/// What one user does at one node in one go.
pub(super) struct User<'a> {
    disk: &'a mut Disk,
    changes: Vec<Change>,
}

impl Story {
    /// Nodes that are connected and hold what a user made at this one.
    pub(super) fn begin(plan: Plan, at: usize, before: impl Fn(&mut User)) -> Self {
        let mut world = World::new(Plan { steady: true, ..plan });
        world.nodes.iter_mut().for_each(|node| node.skew = 0);
        let mut story = Self { world };
        story.act(at, |user| user.write(LASTING, "for ever"));
        story.act(at, before);
        (0..plan.nodes).for_each(|at| story.world.start(at));
        story.settle();
        story
    }

    /// A user does something, later than anybody did anything.
    pub(super) fn act(&mut self, at: usize, act: impl FnOnce(&mut User)) {
        self.world.run_for(LATER).expect("time goes by");
        self.act_now(at, act);
    }

    pub(super) fn act_now(&mut self, at: usize, act: impl FnOnce(&mut User)) {
        self.world.act(at, |disk, _| {
            let mut user = User { disk, changes: Vec::new() };
            act(&mut user);
            user.changes
        });
    }

    /// No node reaches another.
    pub(super) fn part(&mut self) {
        let count = self.world.nodes.len();
        for one in 0..count {
            (0..one).for_each(|other| self.world.disconnect(one, other));
        }
    }

    /// One begins to tell another, and dies before it has told all.
    pub(super) fn die_in_a_series(&mut self, one: usize, other: usize) {
        self.world.connect(one, other);
        for _ in 0..SERIES_BEGUN_WITHIN.as_micros() / STEP.as_micros() {
            self.world.run_for(STEP).expect("time goes by");
            if !self.world.nodes[other].core.mid_series.is_empty() {
                break;
            }
        }
        self.world.end(one, true);
    }

    /// These two reach each other, and all comes to rest.
    pub(super) fn join(&mut self, one: usize, other: usize) {
        self.world.connect(one, other);
        self.settle();
    }

    /// The same, but only for so long.
    pub(super) fn join_for(&mut self, one: usize, other: usize, time: Duration) {
        self.world.connect(one, other);
        self.world.run_for(time).expect("time goes by");
    }

    /// Ends a node as it should end; what happens then is not told to it.
    pub(super) fn stop(&mut self, at: usize) {
        self.world.end(at, true);
    }

    pub(super) fn start(&mut self, at: usize) {
        self.world.start(at);
        self.settle();
    }

    /// What a disk shows, to take or give it otherwise than users do.
    pub(super) fn disk(&mut self, at: usize) -> &mut Disk {
        &mut self.world.nodes[at].disk
    }

    /// Its machine went down, and its disk may show less than its index knows.
    pub(super) fn start_after_outage(&mut self, at: usize) {
        self.world.end(at, true);
        self.world.set_clock(at);
        let node = &mut self.world.nodes[at];
        node.core.disk_may_be_behind(node.disk.outage());
        self.start(at);
    }

    /// Its index is gone.
    pub(super) fn forget_all(&mut self, at: usize) {
        self.world.rejoin(at);
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        let settled = self.world.settle();
        settled.unwrap_or_else(|reason| panic!("{reason}\n{}", self.trace()));
    }

    /// Everything in the tree of a node, in order.
    pub(super) fn tree(&self, at: usize) -> String {
        let shown = self.world.nodes[at].disk.shown();
        let mut words = Vec::new();
        for (path, entry) in shown.iter().filter(|(path, _)| !path.is_root()) {
            let content = String::from_utf8_lossy(&entry.content);
            let mut word = match entry.kind {
                _ if entry.first_name != *path => format!("{path}->{}", entry.first_name),
                Kind::Directory => format!("{path}/"),
                Kind::Symlink => format!("{path}@{content}"),
                Kind::Fifo => format!("{path}|"),
                Kind::File => format!("{path}={content}"),
            };
            if entry.metadata.mode != MODE {
                word += &format!(":{:o}", entry.metadata.mode);
            }
            words.push(word);
        }
        words.retain(|word| !word.starts_with(LASTING));
        words.join(" ")
    }

    /// How many jobs a node has carried out since it began.
    pub(super) fn jobs(&self, at: usize) -> u64 {
        self.world.nodes[at].core.next_job
    }

    /// What lies in the conflict store of a node, sorted.
    pub(super) fn kept(&self, at: usize) -> Vec<String> {
        let disk = &self.world.nodes[at].disk;
        sorted(&[&disk.kept[..], &disk.kept_links].concat())
    }

    pub(super) fn trash(&self, at: usize) -> Vec<String> {
        sorted(&self.world.nodes[at].disk.trash)
    }

    /// The trees and indexes are the same, and nothing is left to do.
    pub(super) fn is_at_rest(&self) -> Result<(), String> {
        check::all_trees_are_equal(&self.world)?;
        check::all_indexes_are_equal(&self.world)?;
        check::nothing_is_left_over(&self.world)
    }

    /// Every node shows this tree, and all is at rest.
    pub(super) fn ends_as(&self, expected: &str, seed: u64) {
        for at in 0..self.world.nodes.len() {
            assert_eq!(self.tree(at), expected, "seed {seed}, node {at}");
        }
        self.is_at_rest().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }

    /// What changed at a node that only receives, with how.
    pub(super) fn own_changes(&self, at: usize) -> Vec<String> {
        let own = self.world.nodes[at].core.own_changes();
        own.map(|(path, what)| format!("{path}: {what}")).collect()
    }

    /// Undoes these changes.
    pub(super) fn revert(&mut self, at: usize) {
        self.world.revert(at);
        self.settle();
    }

    /// A node that only sent or received is started again as one that does both.
    pub(super) fn become_ordinary(&mut self, at: usize) {
        self.world.plan.one_way = None;
        self.stop(at);
        self.start(at);
    }

    pub(super) fn trace(&self) -> String {
        self.world.trace.join("\n")
    }
}

impl User<'_> {
    /// A new file, or other bytes in the one that is there.
    pub(super) fn write(&mut self, path: &str, content: &str) {
        self.did(path, |disk, path| disk.write(path, content.as_bytes(), &mut Default::default()));
    }

    /// Another file in the place of the one that is there.
    pub(super) fn replace(&mut self, path: &str, content: &str) {
        let content = content.as_bytes();
        self.did(path, |disk, path| disk.replace(path, content, &mut Default::default()));
    }

    pub(super) fn remove(&mut self, path: &str) {
        self.did(path, |disk, path| disk.remove_all(path, &mut Default::default()));
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let to = super::path(to);
        self.did(from, |disk, from| disk.rename(from, &to, &mut Default::default()));
    }

    pub(super) fn link(&mut self, from: &str, to: &str) {
        let to = super::path(to);
        self.did(from, |disk, from| disk.link(from, &to));
    }

    /// Both change places.
    pub(super) fn exchange(&mut self, one: &str, other: &str) {
        let other = super::path(other);
        self.did(one, |disk, one| disk.swap(one, &other));
    }

    pub(super) fn make_directory(&mut self, path: &str) {
        self.did(path, |disk, path| disk.make_entry(path, Kind::Directory, b""));
    }

    pub(super) fn make_symlink(&mut self, path: &str, target: &str) {
        let target = target.as_bytes();
        self.did(path, |disk, path| disk.make_entry(path, Kind::Symlink, target));
    }

    pub(super) fn chmod(&mut self, path: &str, mode: u32) {
        self.did(path, |disk, path| disk.chmod(path, mode));
    }

    /// A file is from a second earlier.
    pub(super) fn age(&mut self, path: &str) {
        self.did(path, |disk, path| disk.age(path, LATER.as_nanos() as i64));
    }

    fn did(&mut self, path: &str, change: impl FnOnce(&mut Disk, &RelPath) -> Vec<Change>) {
        let changes = change(self.disk, &super::path(path));
        assert!(!changes.is_empty(), "nobody can do this to {path}");
        self.changes.extend(changes);
    }
}

fn sorted(contents: &[Vec<u8>]) -> Vec<String> {
    let text = contents.iter().map(|content| String::from_utf8_lossy(content).into_owned());
    let mut texts: Vec<String> = text.collect();
    texts.sort();
    texts
}
