//! What users do: on few names, so that they meet.

use std::collections::BTreeSet;
use std::time::Duration;

use super::disk::{Change, Disk, Shown};
use super::path;
use super::plan::Plan;
use super::world::World;
use super::world::forgetting::content_at;
use crate::choice::Mode;
use crate::entry::{Flags, Kind};
use crate::hash::Digest;
use crate::limits::COPIED_BYTES_MIN;
use crate::path::RelPath;
use crate::sync::store::Store;

const PATHS: [&str; 12] =
    ["a", "b", "c", "d", "e", "d/a", "d/b", "d/d", "e/a", "e/d", "d/d/a", "e/d/a"];

/// Files of a folder that was copied, beside those above, and when that was.
const MORE: u64 = 12;
const COPIED_AT: i64 = 1_500_000_000_000_000_000;

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

/// Directories are moved while others write into them.
const MOVING: Habits =
    Habits { write: 34, replace: 40, remove: 44, rename: 78, mkdir: 94, symlink: 95, link: 98 };

/// Nothing but writes, and a mode now and then.
const EDITING: Habits =
    Habits { write: 96, replace: 96, remove: 96, rename: 96, mkdir: 96, symlink: 96, link: 96 };

/// Of a hundred wild operations, by where each kind ends.
const COPY: u64 = 40;
const EXCHANGE: u64 = 70;
const CHATTR: u64 = 80;

/// Every other content of a wild user is looked for on the own disk before it
/// is fetched.
const LONG_BYTES: usize = COPIED_BYTES_MIN as usize + 1;

/// Of so many things a user of a node that only receives does, one is to undo
/// them all.
const REVERT_ONE_IN: u64 = 6;

/// How far back a wild user sets the time of a file, in nanoseconds.
const BACK_MAX: u64 = 10_000_000_000;

/// What a user is about to do.
struct Deed<'a> {
    path: RelPath,
    other: RelPath,
    content: &'a [u8],
    /// Which of a hundred.
    what: u64,
    back: i64,
}

/// A folder of which nodes have copies.
pub(super) fn copied(in_place: bool) -> Disk {
    let (mut disk, mut nobody) = (Disk::new(1000, in_place), BTreeSet::new());
    disk.set_clock(COPIED_AT);
    for directory in ["d", "d/d", "e", "more"] {
        disk.make_entry(&path(directory), Kind::Directory, b"");
    }
    let more = (0..MORE).map(|at| format!("more/{at}"));
    for file in ["a", "b", "d/a", "d/b", "d/d/a"].map(String::from).into_iter().chain(more) {
        disk.write(&path(&file), format!("copied {file}").as_bytes(), &mut nobody);
    }
    disk.link(&path("more/1"), &path("more/linked"));
    disk.link(&path("d/b"), &path("e/linked"));
    disk.make_entry(&path("c"), Kind::Symlink, b"a");
    disk
}

impl World {
    pub(super) fn operate(&mut self, is_tidying: bool) {
        let any = self.random.below(self.nodes.len() as u64) as usize;
        let at = self.plan.one_way.filter(|_| is_tidying).map_or(any, |(only, _)| only);
        self.operate_at(at, is_tidying);
    }

    pub(super) fn operate_at(&mut self, at: usize, is_tidying: bool) {
        if self.nodes[at].left {
            return;
        }
        let only_receives = self.plan.mode(at) == Mode::ReceiveOnly;
        if only_receives && self.random.below(REVERT_ONE_IN) == 0 {
            return self.revert(at);
        }
        if self.plan.mode(at) == Mode::SendOnly {
            self.note_losers(at);
        }
        let (path, other) = (self.any_path(), self.any_path());
        self.set_clock(at);
        let mut content = format!("{}", self.contents.written.len() + 1).into_bytes();
        let what = self.random.below(100);
        let is_wild = self.plan.wild && self.random.below(4) == 0;
        let back = if is_wild { self.random.below(BACK_MAX) as i64 } else { 0 };
        if self.plan.wild && self.contents.written.len().is_multiple_of(2) {
            content.resize(LONG_BYTES, b'.');
        }
        let mut dead = BTreeSet::new();
        let is_renewal = self.plan.renewals && self.random.below(2) == 0;
        let disk = &mut self.nodes[at].disk;
        let mut moved = disk.contents_within(&path);
        let before = [&path, &other].map(|path| disk.stat(path));
        let unlinked = std::mem::take(&mut disk.unlinked);
        let deed = Deed { path, other, content: &content, what, back };
        let (name, changes) = match is_wild {
            _ if is_renewal => ("renew", disk.renew(&deed.path)),
            true => {
                moved.extend(disk.contents_within(&deed.other));
                wild(disk, &deed, &mut dead)
            }
            false => usual(disk, &deed, habits(&self.plan, is_tidying), &mut dead),
        };
        self.note_unnamed(at);
        self.nodes[at].disk.unlinked.extend(unlinked);
        if changes.is_empty() {
            return;
        }
        self.operations_done += 1;
        self.splits.note_change(at);
        let after = [&deed.path, &deed.other].map(|path| self.nodes[at].disk.stat(path));
        let mut pairs = before.into_iter().zip(after).filter_map(|(was, is)| was.zip(is));
        let is_older = pairs.any(|(was, is)| is.fingerprint.mtime < was.fingerprint.mtime);
        let is_named_elsewhere = name == "write" && self.is_named_elsewhere(at, &deed.path);
        let contents = &mut self.contents;
        if matches!(name, "write" | "replace") {
            contents.written.insert(content.clone());
            contents.copied.extend(is_named_elsewhere.then(|| content.clone()));
            contents.own.extend(only_receives.then(|| content.clone()));
        }
        self.nodes[at].disk.had.retain(|content| !dead.contains(content));
        if only_receives {
            // What it received lies elsewhere, and under the same name.
            dead.retain(|content| contents.own.contains(content));
            moved.clear();
        }
        if let ("write", Some(former)) = (name, dead.first()) {
            contents.note_write_over(&content, former);
        }
        if matches!(name, "copy" | "renew") {
            contents.copied.extend(moved.iter().cloned());
        }
        if matches!(name, "rename" | "link" | "copy" | "exchange") {
            contents.moved_lately.extend(moved.iter().filter(|_| is_tidying).cloned());
            contents.moved.extend(moved);
        }
        if is_tidying && self.plan.one_way.is_none() {
            contents.dead_lately.extend(dead.iter().cloned());
        }
        if is_older && self.plan.members {
            let lies = self.nodes[at].disk.contents_within(&deed.path);
            let earlier = lies.iter().flat_map(|content| contents.with_earlier(content));
            let earlier: Vec<_> = earlier.filter(|content| !lies.contains(content)).collect();
            // Also another file that the node knows at this place.
            let known = content_at(self.nodes[at].core.store(), &deed.path);
            let lay = contents.dead.iter().filter(|content| known == Some(Digest::of(content)));
            let lay: Vec<_> = lay.cloned().collect();
            contents.outdated.extend(earlier.into_iter().chain(lay).chain(dead.iter().cloned()));
        }
        if self.nodes[at].core.membership.is_behind() {
            // It is refused, and may begin anew: then this was never deleted.
            contents.forgotten.extend(dead.iter().cloned());
        }
        contents.dead.extend(dead);
        let Deed { path, other, .. } = deed;
        let content = String::from_utf8_lossy(&content);
        let with = match name {
            "write" | "replace" | "symlink" => content.trim_end_matches('.').to_owned(),
            _ => other.to_string(),
        };
        self.trace(|| format!("{at}: USER {name} {path} {with}"));
        self.report(at, changes);
    }

    /// Has the file at this place a name on other nodes that it has not here yet?
    fn is_named_elsewhere(&self, at: usize, path: &RelPath) -> bool {
        let node = &self.nodes[at];
        let lying = node.core.store().name(path).and_then(|row| row.on_disk());
        let body = lying.and_then(|(id, _)| node.core.store().body(id));
        let inode = |path: &RelPath| node.disk.stat(path).map(|stat| stat.fingerprint.inode);
        body.is_some_and(|body| body.bound.iter().any(|name| inode(name) != inode(path)))
    }

    /// What was unlinked just now, and has no name left that it is to keep.
    fn note_unnamed(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.disk.unlinked.is_empty() {
            return;
        }
        let is_to_go = |path: &RelPath| {
            let row = node.core.store().name(path);
            row.is_some_and(|row| row.is_pending())
        };
        let shown = node.disk.shown();
        let unnamed = node.disk.unlinked.iter().filter(|content| {
            let mut left = shown.iter().filter(|(_, one)| one.content == **content);
            left.all(|(path, _)| is_to_go(path))
        });
        let unnamed: Vec<Vec<u8>> = unnamed.cloned().collect();
        self.contents.unnamed.extend(unnamed);
    }

    /// Capture tells of it after a while, in the order of the changes.
    pub(super) fn report(&mut self, at: usize, changes: Vec<Change>) {
        if self.nodes[at].running {
            let delay = Duration::from_micros(self.random.below(5_000));
            let due = self.nodes[at].capture_at.max(self.now + delay);
            self.nodes[at].capture_at = due;
            self.queue(due, at, changes);
        }
    }

    /// Gives all nodes the same folder, to the mtime, with up to so many
    /// differences each: a tree that was copied before they ever met.
    pub(super) fn hand_out_copies(&mut self, differences: u64) {
        let disk = copied(self.plan.in_place);
        let contents = disk.contents_within(&RelPath::root());
        self.contents.handed_out.extend(contents.iter().cloned());
        self.contents.written.extend(contents);
        let is_linked = |(path, one): &(RelPath, Shown)| one.first_name != *path;
        let linked = disk.shown().into_iter().filter(is_linked);
        self.contents.moved.extend(linked.map(|(_, one)| one.content));
        for at in 0..self.nodes.len() {
            self.nodes[at].disk = disk.clone();
            self.set_clock(at);
            for _ in 0..self.random.below(differences + 1) {
                self.make_a_difference(at);
            }
            let disk = &mut self.nodes[at].disk;
            disk.had = disk.contents_within(&RelPath::root()).into_iter().collect();
        }
        let lying = self.nodes.iter().flat_map(|node| node.disk.contents_within(&RelPath::root()));
        let lying: BTreeSet<Vec<u8>> = lying.collect();
        let contents = &mut self.contents;
        contents.dead.extend(contents.written.difference(&lying).cloned());
    }

    /// A file that got another name, or lost one of two, before its node met
    /// the others is there another file than theirs of that name, with the
    /// same content: both are in the tree now.
    pub(super) fn note_copies(&mut self) {
        let shown = self.nodes[0].disk.shown();
        let is_file =
            |path: &RelPath, one: &Shown| one.kind == Kind::File && one.first_name == *path;
        let files = shown.into_iter().filter(|(path, one)| is_file(path, one));
        let mut once = BTreeSet::new();
        let twice =
            files.map(|(_, one)| one.content).filter(|content| !once.insert(content.clone()));
        let contents = &mut self.contents;
        contents.copied.extend(twice.filter(|content| contents.moved.contains(content)));
    }

    fn make_a_difference(&mut self, at: usize) {
        let (path, other, mut nobody) = (self.any_path(), self.any_path(), BTreeSet::new());
        let more = format!("more/{}", self.random.below(MORE + 4)).into_bytes();
        let more = RelPath::parse(&more).expect("a path");
        let path = if self.random.below(2) > 0 { more } else { path };
        let content = format!("{}", self.contents.written.len() + 1).into_bytes();
        let what = self.random.below(7);
        let disk = &mut self.nodes[at].disk;
        if matches!(what, 3 | 4) {
            self.contents.moved.extend(disk.contents_within(&path));
        }
        match what {
            0 => disk.write(&path, &content, &mut nobody),
            1 => disk.replace(&path, &content, &mut nobody),
            2 => disk.remove_all(&path, &mut nobody),
            3 => disk.rename(&path, &other, &mut nobody),
            4 => disk.link(&path, &other),
            5 => disk.make_entry(&path, Kind::Directory, b""),
            _ => disk.chmod(&path, 0o640),
        };
        if what < 2 {
            self.contents.written.insert(content);
        }
        self.trace(|| format!("{at}: DIFFERS by {what} at {path} {other}"));
    }

    fn any_path(&mut self) -> RelPath {
        let paths = if self.plan.editing { 2 } else { PATHS.len() };
        path(PATHS[self.random.below(paths as u64) as usize])
    }

    /// A user removes an entry, with everything in it.
    pub(super) fn remove(&mut self, at: usize, path: &RelPath) {
        self.trace(|| format!("{at}: USER remove {path}"));
        self.act(at, |disk, dead| disk.remove_all(path, dead));
    }
}

fn habits(plan: &Plan, is_tidying: bool) -> Habits {
    match plan {
        _ if is_tidying && plan.one_way.is_none() => TIDYING,
        Plan { moving: true, .. } => MOVING,
        Plan { editing: true, .. } => EDITING,
        _ => BUSY,
    }
}

fn usual(
    disk: &mut Disk,
    deed: &Deed,
    habits: Habits,
    dead: &mut BTreeSet<Vec<u8>>,
) -> (&'static str, Vec<Change>) {
    let Deed { path, other, content, what, .. } = deed;
    match *what {
        what if what < habits.write => ("write", disk.write(path, content, dead)),
        what if what < habits.replace => ("replace", disk.replace(path, content, dead)),
        what if what < habits.remove => ("remove", disk.remove_all(path, dead)),
        what if what < habits.rename => ("rename", disk.rename(path, other, dead)),
        what if what < habits.mkdir => ("mkdir", disk.make_entry(path, Kind::Directory, b"")),
        what if what < habits.symlink => ("symlink", disk.make_entry(path, Kind::Symlink, content)),
        what if what < habits.link => ("link", disk.link(path, other)),
        what => ("chmod", disk.chmod(path, 0o600 + (what as u32 % 8))),
    }
}

/// Most give one or two, some take all.
fn flags(what: u64) -> Flags {
    let each = [Flags::IMMUTABLE, Flags::APPEND, Flags::NODUMP];
    let given = each.into_iter().enumerate().filter(|(at, _)| what & (1 << at) != 0);
    given.fold(Flags::NONE, |flags, (_, flag)| flags.with(flag))
}

/// What fewer users do.
fn wild(disk: &mut Disk, deed: &Deed, dead: &mut BTreeSet<Vec<u8>>) -> (&'static str, Vec<Change>) {
    let Deed { path, other, .. } = deed;
    match deed.what {
        what if what < COPY => ("copy", disk.copy(path, other, dead)),
        what if what < EXCHANGE => ("exchange", disk.swap(path, other)),
        what if what < CHATTR => ("chattr", disk.chattr(path, flags(what))),
        _ => ("age", disk.age(path, deed.back)),
    }
}
