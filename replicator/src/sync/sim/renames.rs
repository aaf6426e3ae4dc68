//! What is renamed stays what it is, whatever is looked at, told and written in
//! between: chains, exchanges by a third name, logs that are rotated while
//! somebody writes them.
//!
//! A user does one thing after the other, at moments drawn from a seed, and
//! capture tells of it as much later. So looks fall before, between and after
//! all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::nothing_differs_or_is_lost as check;
use super::disk::{Change, Disk};
use super::plan::Plan;
use super::story::Story;
use super::world::World;
use crate::entry::{Fingerprint, Kind};
use crate::id::BodyId;
use crate::limits::RECORDS_MAX;
use crate::path::RelPath;
use crate::sync::store::Store;

const SEEDS: u64 = 400;

/// Between two things that the user does.
const MICROSECONDS_MAX: u64 = 6_000;

/// Rotated logs that are kept beside the one that is written.
const KEPT: u64 = 3;

/// Two nodes with the same tree.
struct Pair {
    world: World,
    /// Which body each file of the first node was, and its inode on the second.
    known: BTreeMap<BodyId, (Fingerprint, Fingerprint)>,
    writes: u64,
}

impl Pair {
    fn begin(seed: u64, directories: &[&str], files: &[&str]) -> Self {
        // What a user does at once may be told in several messages.
        let records_max = if seed.is_multiple_of(2) { RECORDS_MAX } else { 1 + seed as usize % 3 };
        let (traced, in_place) = (true, true);
        let plan = Plan { traced, in_place, records_max, ..Plan::peaceful(seed) };
        let (world, known) = (World::new(plan), BTreeMap::new());
        let mut pair = Self { world, known, writes: 0 };
        for directory in directories {
            pair.act(|disk| disk.make_entry(&path(directory), Kind::Directory, b""));
        }
        files.iter().for_each(|file| pair.write(file));
        (0..2).for_each(|at| pair.world.start(at));
        pair.world.settle().expect("it comes to rest");
        pair.remember();
        pair
    }

    fn act(&mut self, act: impl FnOnce(&mut Disk) -> Vec<Change>) {
        let wait = Duration::from_micros(self.world.random.below(MICROSECONDS_MAX));
        self.world.run_for(wait).expect("it goes on");
        self.world.set_clock(0);
        let changes = act(&mut self.world.nodes[0].disk);
        self.world.trace(|| format!("0: USER {changes:?}"));
        self.world.report(0, changes);
    }

    fn write(&mut self, file: &str) {
        self.writes += 1;
        let content = format!("{}", self.writes).into_bytes();
        self.world.contents.written.insert(content.clone());
        let mut dead = Default::default();
        self.act(|disk| disk.write(&path(file), &content, &mut dead));
        self.world.contents.dead.extend(dead);
    }

    fn rename(&mut self, from: &str, to: &str) {
        let mut dead = Default::default();
        self.act(|disk| disk.rename(&path(from), &path(to), &mut dead));
        self.world.contents.dead.extend(dead);
    }

    fn remember(&mut self) {
        let disks = [0, 1].map(|at| &self.world.nodes[at].disk);
        let store = self.world.nodes[0].core.store();
        let known = disks[0].shown().into_keys().filter_map(|path| {
            let [here, there] = disks.map(|disk| disk.stat(&path).map(|stat| stat.fingerprint));
            let body = store.body_of_inode(here?.inode)?;
            Some((body, (here?, there?)))
        });
        self.known = known.collect();
        self.world.trace.clear();
    }

    /// All came to rest; every inode is still the body it was, and no body was
    /// made again.
    fn check(&mut self) -> Result<(), String> {
        self.world.settle()?;
        check(&self.world)?;
        let [here, there] = [0, 1].map(|at| &self.world.nodes[at].disk);
        let store = self.world.nodes[0].core.store();
        for path in here.shown().into_keys() {
            let is = here.stat(&path).expect("it is shown").fingerprint;
            let was = self.known.iter().find(|(_, (was, _))| was.is_inode(&is));
            let Some((body, (was, was_there))) = was else { continue };
            if store.body_of_inode(is.inode) != Some(*body) {
                return Err(format!("{path} is another body"));
            }
            let is_there = there.stat(&path).map(|stat| stat.fingerprint);
            let is_same = is_there.is_some_and(|is| was_there.is_inode(&is));
            if was.same_bytes(&is) && !is_same {
                return Err(format!("{path} was made again"));
            }
            let body = format!(" {body:?} ");
            let written = |line: &&String| line.contains(" Write ") && line.contains(&body);
            if let Some(line) = self.world.trace.iter().find(written) {
                return Err(format!("{path} was sent again: {line}"));
            }
        }
        self.remember();
        Ok(())
    }
}

/// Tells a story in many ways and shows the first that ends otherwise.
fn tell(directories: &[&str], files: &[&str], story: impl Fn(&mut Pair) -> Result<(), String>) {
    let mut wrong = Vec::new();
    for seed in 0..SEEDS {
        let mut pair = Pair::begin(seed, directories, files);
        if let Err(reason) = story(&mut pair) {
            wrong.push(seed);
            if wrong.len() == 1 {
                println!("seed {seed}: {reason}\n{}", pair.world.trace.join("\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {SEEDS} seeds: {wrong:?}", wrong.len());
}

fn path(name: &str) -> RelPath {
    RelPath::parse(name.as_bytes()).expect("a path")
}

#[test]
fn logs_that_are_rotated_and_written() {
    tell(&[], &["log", "log.1", "log.2", "log.3"], |pair| {
        let log = |number: u64| match number {
            0 => "log".to_owned(),
            number => format!("log.{number}"),
        };
        for _ in 0..2 {
            for number in (0..KEPT).rev() {
                pair.write("log");
                pair.rename(&log(number), &log(number + 1));
            }
            // Who writes the log learns of it a little later.
            ["log.1", "log", "log.1", "log"].iter().for_each(|file| pair.write(file));
            pair.check()?;
        }
        Ok(())
    });
}

#[test]
fn places_exchanged_by_a_third_name() {
    tell(&["d", "e"], &["a", "b", "d/f", "e/f"], |pair| {
        for (one, other) in [("a", "b"), ("d", "e"), ("d/f", "b")] {
            for (from, to) in [(one, "third"), (other, one), ("third", other)] {
                pair.rename(from, to);
            }
            pair.check()?;
        }
        Ok(())
    });
}

#[test]
fn chains_of_renames() {
    tell(&["d", "e"], &["a", "b", "d/f", "e/f"], |pair| {
        for (from, to) in [("a", "c"), ("c", "d/c"), ("d/c", "d/g"), ("d/g", "g"), ("g", "b")] {
            pair.write(from);
            pair.rename(from, to);
            pair.write(to);
        }
        pair.check()?;
        let chain = [("d", "c"), ("c/f", "c/h"), ("e/f", "f"), ("c", "e/c"), ("e/c/h", "h")];
        for (from, to) in chain {
            pair.rename(from, to);
        }
        pair.check()
    });
}

/// With directories in them, which have the same names in each.
#[test]
fn full_directories_move_on_in_a_circle() {
    let directories = ["a", "a/s", "a/t", "b", "b/s", "b/t", "c", "c/s", "c/t"];
    let files = ["a/f", "a/s/f", "a/t/f", "b/f", "b/s/f", "b/t/f", "c/f", "c/s/f", "c/t/f"];
    tell(&directories, &files, |pair| {
        for (from, to) in [("a", "d"), ("b", "a"), ("c", "b"), ("d", "c")] {
            pair.rename(from, to);
        }
        pair.check()
    });
}

/// A directory was removed, a file moved to its place, and another made where
/// that had been: what had been in the directory was thought to be there still.
#[test]
fn a_moved_file_takes_the_place_of_a_directory_and_leaves_its_own_to_another() {
    for seed in 0..SEEDS / 10 {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| {
            user.write("b", "moved");
            user.make_directory("e");
            user.write("e/in", "deleted");
        });
        // Each is told by itself: of what is in a directory that is gone, nothing.
        story.act(0, |user| user.remove("e"));
        story.act_now(0, |user| user.rename("b", "e"));
        story.act_now(0, |user| user.write("b", "made"));
        story.settle();
        story.ends_as("b=made e=moved", seed);
    }
}

/// A directory goes into one that takes the place of a file, which takes its
/// place: none of the three may wait for another for ever.
#[test]
fn a_file_and_a_directory_change_places_and_the_directory_goes_deeper() {
    for seed in 0..SEEDS / 10 {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| {
            user.write("a", "file");
            user.make_directory("b");
            user.write("b/in", "inside");
        });
        story.part();
        story.act(1, |user| {
            user.rename("a", "file");
            user.rename("b", "directory");
            user.rename("file", "b");
            user.make_directory("a");
            user.rename("directory", "a/d");
        });
        story.settle();
        story.join(0, 1);
        story.ends_as("a/ a/d/ a/d/in=inside b=file", seed);
    }
}

/// In the few lines that a status has for it, and not file by file.
#[test]
fn a_rename_is_told_to_people_as_one() {
    let mut story = Story::begin(Plan { traced: true, ..Plan::peaceful(1) }, 0, |user| {
        user.make_directory("d");
        ["d/1", "d/2", "d/3", "f"].iter().for_each(|file| user.write(file, file));
    });
    let before = story.trace().len();
    story.act(0, |user| user.rename("d", "e"));
    story.settle();
    story.act(0, |user| user.rename("f", "g"));
    story.settle();
    story.act(0, |user| user.link("g", "h"));
    story.settle();
    let trace = story.trace().split_off(before);
    let told = trace.lines().filter_map(|line| line.split_once(" 0: ")).map(|(_, what)| what);
    let told: Vec<&str> =
        told.filter(|what| what.contains(" here: ") || what.contains("away: ")).collect();
    assert_eq!(told, ["moved here: e", "moved here: g", "moved away: f", "linked here: h"]);
}
