//! What users do: on few names, so that they meet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::{Event, World};
use crate::entry::Kind;
use crate::path::RelPath;

const PATHS: [&str; 12] =
    ["a", "b", "c", "d", "e", "d/a", "d/b", "d/d", "e/a", "e/d", "d/d/a", "e/d/a"];

/// Which of a hundred operations are of which kind, by where each kind ends.
#[derive(Clone, Copy)]
struct Habits {
    write: u64,
    replace: u64,
    remove: u64,
    rename: u64,
    mkdir: u64,
    symlink: u64,
    link: u64,
}

const BUSY: Habits =
    Habits { write: 30, replace: 40, remove: 52, rename: 70, mkdir: 86, symlink: 90, link: 94 };

const TIDYING: Habits =
    Habits { write: 18, replace: 26, remove: 72, rename: 80, mkdir: 84, symlink: 86, link: 88 };

/// The contents users made, and what they did to them.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub written: BTreeSet<Vec<u8>>,
    /// Destroyed by a user who saw them.
    pub dead: BTreeSet<Vec<u8>>,
    /// Given another name.
    pub moved: BTreeSet<Vec<u8>>,
    /// Of both, those of the second round. Who gives another name keeps from
    /// a deletion elsewhere.
    pub dead_lately: BTreeSet<Vec<u8>>,
    pub moved_lately: BTreeSet<Vec<u8>>,
    /// Lay on a disk whose index forgot them in a crash: what is new there may
    /// have been deleted elsewhere.
    pub forgotten: BTreeSet<Vec<u8>>,
    /// What each content was written over, in the same file.
    pub over: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Contents {
    /// Did a user give another name to the file of this content, be it where
    /// an earlier content still lay in it? An edit follows its file.
    pub fn is_moved_lately(&self, content: &Vec<u8>) -> bool {
        let earlier = std::iter::successors(Some(content), |content| self.over.get(*content));
        earlier.take(self.written.len() + 1).any(|content| self.moved_lately.contains(content))
    }
}

impl World {
    pub(super) fn operate(&mut self, is_tidying: bool) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        if self.nodes[at].left {
            return;
        }
        let (path, other) = (self.any_path(), self.any_path());
        self.set_clock(at);
        let content = format!("{}", self.contents.written.len() + 1).into_bytes();
        let what = self.random.below(100);
        let habits = if is_tidying { TIDYING } else { BUSY };
        let mut dead = BTreeSet::new();
        let moved = self.nodes[at].disk.contents_within(&path);
        let is_copy = self.plan.copies && self.random.below(2) == 0;
        let disk = &mut self.nodes[at].disk;
        let (name, changes) = if is_copy {
            ("copy", disk.copy(&path))
        } else if what < habits.write {
            ("write", disk.write(&path, &content, &mut dead))
        } else if what < habits.replace {
            ("replace", disk.replace(&path, &content, &mut dead))
        } else if what < habits.remove {
            ("remove", disk.remove_all(&path, &mut dead))
        } else if what < habits.rename {
            ("rename", disk.rename(&path, &other, &mut dead))
        } else if what < habits.mkdir {
            ("mkdir", disk.make_entry(&path, Kind::Directory, b""))
        } else if what < habits.symlink {
            ("symlink", disk.make_entry(&path, Kind::Symlink, &content))
        } else if what < habits.link {
            ("link", disk.link(&path, &other))
        } else {
            ("chmod", disk.chmod(&path, 0o600 + (what as u32 % 8)))
        };
        if changes.is_empty() {
            return;
        }
        self.operations_done += 1;
        let contents = &mut self.contents;
        if matches!(name, "write" | "replace") {
            contents.written.insert(content.clone());
        }
        if let ("write", Some(former)) = (name, dead.first()) {
            contents.over.insert(content.clone(), former.clone());
        }
        if matches!(name, "rename" | "link") {
            contents.moved_lately.extend(moved.iter().filter(|_| is_tidying).cloned());
            contents.moved.extend(moved);
        }
        if is_tidying {
            contents.dead_lately.extend(dead.iter().cloned());
        }
        contents.dead.extend(dead);
        let content = String::from_utf8_lossy(&content).into_owned();
        let other = if name == "rename" || name == "link" { other.to_string() } else { content };
        self.trace(|| format!("{at}: USER {name} {path} {other}"));
        if self.nodes[at].running {
            let delay = Duration::from_micros(self.random.below(5_000));
            let due = self.nodes[at].capture_at.max(self.now + delay);
            self.nodes[at].capture_at = due;
            let life = self.nodes[at].life;
            self.push(due, Event::Captured(at, life, changes));
        }
    }

    fn any_path(&mut self) -> RelPath {
        let at = self.random.below(PATHS.len() as u64) as usize;
        RelPath::parse(PATHS[at].as_bytes()).expect("a path")
    }

    /// A user removes an entry, with everything in it.
    pub(super) fn remove(&mut self, at: usize, path: &RelPath) {
        self.set_clock(at);
        let changes = self.nodes[at].disk.remove_all(path, &mut self.contents.dead);
        self.trace(|| format!("{at}: USER remove {path}"));
        if self.nodes[at].running && !changes.is_empty() {
            let life = self.nodes[at].life;
            self.push(self.now, Event::Captured(at, life, changes));
        }
    }
}
