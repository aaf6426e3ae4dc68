//! What a first meeting costs, and a reconnect, where the trees are large:
//! cores over folders that are nothing but lists.
//!
//! `cargo test -p replicator --lib sync::sim::first -- --nocapture` prints the
//! bytes; `REPLICATOR_SIM_FILES=100000` takes larger trees.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::path;
use super::plan::Plan;
use super::random::Random;
use crate::entry::{Fingerprint, Kind, Metadata, Stat, Timestamp};
use crate::hash::{Digest, Leaves};
use crate::id::{Actor, NodeId};
use crate::limits::MEETING_MIN;
use crate::path::RelPath;
use crate::range::RangeSet;
use crate::sync::core::{Core, Options};
use crate::sync::effect::{Action, Effect, Found, Listed, Now, Outcome, Sight, Sighted, What};
use crate::sync::message::Message;
use crate::sync::store::{MemoryStore, Store};

/// Files of each tree where nothing else is asked for.
const FILES: u64 = 4_000;

/// Files in one directory.
const FILES_EACH: u64 = 100;

/// What a first meeting of trees with ten differences may cost, both ways,
/// for a hundred files and for each difference: a record of one file has some
/// 300 bytes, and there are two.
const HUNDRED_FILES_BYTES_MAX: u64 = 100;
const DIFFERENCE_BYTES_MAX: u64 = 3_000;

/// How much less that is than all records.
const SAVED_MIN: u64 = 20;

/// What a reconnect with ten changes may cost, both ways.
const RECONNECT_BYTES_MAX: u64 = 10_000;

/// Looks that one thread carries out before it tells of them.
const LOOKS_TOGETHER: usize = 64;

struct Side {
    core: Core<MemoryStore>,
    tree: BTreeMap<RelPath, (Stat, Vec<u8>)>,
    inodes: u64,
    bytes: u64,
    messages: u64,
    /// Messages that tell something in outline.
    offers: u64,
    /// What was done to the disk.
    actions: u64,
}

struct Several {
    sides: Vec<Side>,
    random: Random,
    now: Duration,
}

#[test]
fn nearly_equal_trees_meet_in_little_traffic() {
    let files = super::number("REPLICATOR_SIM_FILES").unwrap_or(FILES);
    let (mut pair, bytes) = meet(2, files, MEETING_MIN);
    let actions: u64 = pair.sides.iter().map(|side| side.actions).sum();
    assert!(actions < 100, "{actions} changes to disks for ten differences");
    assert!(bytes < bytes_max(files), "{bytes} bytes");
    pair.disconnect();
    for at in 0..10 {
        pair.write(0, at * 7, "changed while they were apart");
    }
    pair.rest();
    let again = pair.cost(Several::connect);
    println!("they meet again after 10 changes: {again} bytes");
    pair.check(files);
    assert!(again < RECONNECT_BYTES_MAX, "{again} bytes");
    let (_, records) = meet(2, files.min(FILES), u64::MAX);
    assert!(
        bytes * SAVED_MIN < records * files.div_ceil(FILES),
        "{bytes} bytes, {records} without"
    );
}

#[test]
fn three_nearly_equal_trees_meet_in_little_traffic() {
    let files = super::number("REPLICATOR_SIM_FILES").unwrap_or(FILES / 2);
    let (_, bytes) = meet(3, files, MEETING_MIN);
    let links = 3;
    assert!(bytes < links * bytes_max(files), "{bytes} bytes");
}

/// What it holds came from this node.
#[test]
fn a_peer_with_next_to_nothing_of_its_own_is_told_nothing_in_outline() {
    let mut pair = Several::new(2, FILES, MEETING_MIN);
    pair.sides[1].tree.retain(|path, _| *path == RelPath::root());
    pair.sides[1].core.scan(RelPath::root());
    pair.rest();
    pair.connect();
    for at in 0..FILES / 4 {
        let now = pair.clock();
        pair.sides[0].core.path_changed(now, file(at));
    }
    pair.rest();
    assert!(pair.sides[1].tree.len() as u64 > FILES / 4, "the first part has come");
    pair.disconnect();
    pair.sides[0].core.scan(RelPath::root());
    pair.rest();
    pair.connect();
    pair.rest();
    assert_eq!(pair.sides[0].tree.len(), pair.sides[1].tree.len());
    assert_eq!(pair.sides[0].offers + pair.sides[1].offers, 0);
}

fn bytes_max(files: u64) -> u64 {
    files / 100 * HUNDRED_FILES_BYTES_MAX + 10 * DIFFERENCE_BYTES_MAX
}

/// Nodes with so many files and ten differences, and what it cost to meet.
fn meet(nodes: u64, files: u64, meeting_min: u64) -> (Several, u64) {
    let mut several = Several::new(nodes, files, meeting_min);
    several.differ(files);
    several.start();
    let began = Instant::now();
    let bytes = several.cost(Several::connect);
    let took = began.elapsed();
    println!("{nodes} times {files} files with 10 differences: {bytes} bytes, {took:?} of work");
    several.check(files);
    (several, bytes)
}

fn node(at: usize) -> NodeId {
    NodeId::from_bytes([at as u8; 16])
}

fn file(at: u64) -> RelPath {
    path(&format!("{:04}/file {:02}.jpeg", at / FILES_EACH, at % FILES_EACH))
}

impl Several {
    fn new(nodes: u64, files: u64, meeting_min: u64) -> Self {
        let options = Options { meeting_min, ..Plan::peaceful(0).options(0) };
        let side = |at| Side {
            core: Core::new(options, Actor(0x5eed_5eed_5eed_5eed + at), 1, MemoryStore::default()),
            tree: BTreeMap::new(),
            inodes: 1000 * at,
            bytes: 0,
            messages: 0,
            offers: 0,
            actions: 0,
        };
        let sides = (0..nodes).map(side).collect();
        let mut several = Self { sides, random: Random::new(7), now: Duration::from_secs(1) };
        for side in 0..several.sides.len() {
            several.put(side, RelPath::root(), Kind::Directory, "", 5);
            for at in 0..files {
                if at % FILES_EACH == 0 {
                    let directory = file(at).parent().expect("it is in one");
                    several.put(side, directory, Kind::Directory, "", 6);
                }
                several.put(side, file(at), Kind::File, &format!("content {at}"), 7 + at as i64);
            }
        }
        several
    }

    fn put(&mut self, side: usize, path: RelPath, kind: Kind, content: &str, seconds: i64) {
        let side = &mut self.sides[side];
        side.inodes += 1;
        let mtime = Timestamp { seconds, nanos: 500 };
        let size = content.len() as u64;
        let birth = Timestamp { seconds: side.inodes as i64, nanos: 0 };
        let inode = side.inodes;
        let fingerprint = Fingerprint { inode, size, mtime, ctime: birth, birth };
        let metadata = Metadata { mode: 0o644, uid: 33, gid: 33, mtime, ..Metadata::default() };
        let stat = Stat { kind, fingerprint, links: 1, metadata };
        side.tree.insert(path, (stat, content.as_bytes().to_vec()));
    }

    /// Ten differences: contents, missing, added, metadata alone.
    fn differ(&mut self, files: u64) {
        for at in 0..3 {
            self.put(0, file(files / 4 * at + 55), Kind::File, "another content", 9_000_000);
            self.put(1, path(&format!("0007/fresh {at}")), Kind::File, "added", 9_000_000);
        }
        self.sides[1].tree.remove(&file(31));
        self.sides[0].tree.remove(&file(files - 31));
        for (side, at) in [(0, 77), (1, files - 77)] {
            let entry = self.sides[side].tree.get_mut(&file(at)).expect("it is there");
            entry.0.metadata.mode = 0o600;
        }
    }

    fn write(&mut self, side: usize, at: u64, content: &str) {
        self.put(side, file(at), Kind::File, content, 10_000_000);
        let now = self.clock();
        self.sides[side].core.path_changed(now, file(at));
    }

    fn start(&mut self) {
        self.sides.iter_mut().for_each(|side| side.core.scan(RelPath::root()));
        self.rest();
    }

    fn connect(&mut self) {
        self.for_each_link(|core, now, other| core.handle_connected(now, other));
    }

    fn disconnect(&mut self) {
        self.for_each_link(|core, now, other| core.handle_disconnected(now, other));
    }

    fn for_each_link(&mut self, change: impl Fn(&mut Core<MemoryStore>, Now, NodeId)) {
        let now = self.clock();
        let count = self.sides.len();
        for (at, other) in (0..count * count).map(|link| (link / count, link % count)) {
            if at != other {
                change(&mut self.sides[at].core, now, node(other));
            }
        }
    }

    /// Bytes that it costs, both ways.
    fn cost(&mut self, what: impl FnOnce(&mut Self)) -> u64 {
        self.sides.iter_mut().for_each(|side| (side.bytes, side.messages) = (0, 0));
        what(self);
        self.rest();
        for (at, side) in self.sides.iter().enumerate() {
            println!("  side {at} says {} bytes in {} messages", side.bytes, side.messages);
        }
        self.sides.iter().map(|side| side.bytes).sum()
    }

    /// All is equal and nothing left to do.
    fn check(&self, files: u64) {
        let names = |side: &Side| {
            let names = side.core.store().names_within(&RelPath::root(), None, usize::MAX);
            names.into_iter().map(|(path, row)| (path, row.binding.clone())).collect::<Vec<_>>()
        };
        let (one, others) = self.sides.split_first().expect("there are some");
        // With the folders, the root and what was added.
        assert_eq!(one.tree.len() as u64, files + files.div_ceil(FILES_EACH) + 1 + 3);
        assert_eq!(one.core.store().have().len(), self.sides.len());
        assert_eq!(one.core.unfinished(), 0);
        for other in others {
            assert_eq!(other.core.unfinished(), 0);
            assert_eq!(one.core.store().have(), other.core.store().have());
            assert!(names(one) == names(other), "the indexes are equal");
            assert_eq!(one.tree.len(), other.tree.len());
            for ((here, one), (path, other)) in one.tree.iter().zip(&other.tree) {
                let same = here == path && one.1 == other.1 && one.0.metadata == other.0.metadata;
                assert!(same, "{path}");
            }
        }
    }

    fn clock(&self) -> Now {
        Now { monotonic: self.now, wall: 1_700_000_000_000_000_000 + self.now.as_nanos() as i64 }
    }

    /// Until nobody wants anything any more.
    fn rest(&mut self) {
        loop {
            let mut is_idle = true;
            for at in 0..self.sides.len() {
                while let Some(effect) = self.sides[at].core.poll_effect() {
                    is_idle = false;
                    self.carry_out(at, effect);
                }
            }
            let due = self.sides.iter().filter_map(|side| side.core.next_timeout()).min();
            match due {
                Some(due) => self.now = self.now.max(due) + Duration::from_micros(100),
                None if is_idle => return,
                None => continue,
            }
            let now = self.clock();
            self.sides.iter_mut().for_each(|side| side.core.handle_timeout(now));
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let now = self.clock();
        match effect {
            Effect::Look(looks) => {
                // Threads end in any order.
                let mut parts: Vec<_> = looks.chunks(LOOKS_TOGETHER).collect();
                while !parts.is_empty() {
                    let part = parts.remove(self.random.below(4.min(parts.len() as u64)) as usize);
                    let side = &mut self.sides[at];
                    let sights = part.iter().map(|look| side.sight(&look.path)).collect();
                    side.core.handle_sights(now, sights);
                }
            }
            Effect::Scan { beneath, .. } => {
                let side = &mut self.sides[at];
                let listed = side.tree.iter().skip(1).map(|(path, (stat, _))| Listed {
                    path: path.clone(),
                    kind: stat.kind,
                    fingerprint: stat.fingerprint,
                });
                side.core.handle_listed(now, &beneath, listed.collect());
                side.core.handle_scanned(now, &beneath);
            }
            Effect::Listen => self.sides[at].core.handle_heard(now),
            Effect::Send { peer, message } => {
                let frame = message.encode();
                self.sides[at].bytes += frame.len() as u64;
                self.sides[at].messages += 1;
                self.sides[at].offers += u64::from(matches!(message, Message::Offer(_)));
                if message.counts() {
                    self.sides[at].core.handle_sent(now, peer);
                }
                let message = Message::decode(&frame).expect("an honest node sent it");
                let to = (0..self.sides.len()).find(|at| node(*at) == peer).expect("it is one");
                self.sides[to].core.handle_message(now, node(at), message);
            }
            Effect::Apply(job) => {
                let outcomes = job.actions.iter().map(|action| self.apply(at, action)).collect();
                self.sides[at].core.handle_applied(now, job.id, outcomes);
            }
            _ => panic!("nobody is a member here: {effect:?}"),
        }
    }

    fn apply(&mut self, at: usize, action: &Action) -> Outcome {
        let wanted = match &action.what {
            What::Write { digest, .. } => Some(*digest),
            What::Update(update) => Some(update.to),
            _ => None,
        };
        let mut there = self.sides.iter().filter_map(|side| side.tree.get(&action.path));
        let content = wanted.and_then(|digest| there.find(|one| Digest::of(&one.1) == digest));
        let content = content.map(|(_, content)| content.clone());
        let side = &mut self.sides[at];
        side.actions += 1;
        let former = side.tree.get(&action.path).map(|(stat, _)| stat.clone());
        let (content, metadata) = match &action.what {
            What::Write { metadata, .. } => (content.expect("somebody has it"), metadata.clone()),
            What::Update(update) => (content.expect("somebody has it"), update.metadata.clone()),
            What::MakeDirectory { metadata } => (Vec::new(), metadata.clone()),
            What::SetMetadata { metadata, .. } => {
                (side.tree[&action.path].1.clone(), metadata.clone())
            }
            What::Touch { .. } => return Outcome::Done(former.map(Box::new), None),
            what => panic!("no difference asks for this: {what:?}"),
        };
        side.inodes += 1;
        let inode = former.map_or(side.inodes, |stat| stat.fingerprint.inode);
        let birth = Timestamp { seconds: inode as i64, nanos: 0 };
        let mtime = metadata.mtime;
        let size = content.len() as u64;
        let fingerprint = Fingerprint { inode, size, mtime, ctime: birth, birth };
        let stat = Stat { kind: action.kind, fingerprint, links: 1, metadata };
        side.tree.insert(action.path.clone(), (stat.clone(), content));
        Outcome::Done(Some(Box::new(stat)), None)
    }
}

impl Side {
    fn sight(&self, path: &RelPath) -> Sight {
        let found = match self.tree.get(path) {
            None => Found::Nothing,
            Some((stat, _)) if stat.kind == Kind::Directory => {
                Found::Entry(stat.clone(), Sighted::Directory)
            }
            Some((stat, content)) => {
                let sighted = Sighted::File {
                    leaves: Leaves::of(content),
                    changed: RangeSet::new(),
                    bytes: None,
                    holes: RangeSet::new(),
                    stable: true,
                };
                Found::Entry(stat.clone(), sighted)
            }
        };
        Sight { path: path.clone(), found }
    }
}
