//! Scans: everything beneath a path is listed and compared with the index.
//!
//! What a scan meets is looked at where it is not as known; what it misses has
//! gone, or has moved, and the brake has a say in that. Events go on meanwhile:
//! what came to lie in a place that a scan had passed is not missing, but may
//! have come and gone before it passed. And what this node moves meanwhile may
//! be listed where it is no more, or nowhere: what a scan was to read of it is
//! read where it lies now.

use std::collections::{HashMap, HashSet};

use super::core::Core;
use super::effect::{Effect, Listed, Now};
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::{Kind, Timestamp};
use crate::id::BodyId;
use crate::path::RelPath;

/// A scan that is under way.
#[derive(Debug)]
pub(super) struct Scanning {
    beneath: RelPath,
    /// Each with its inode.
    met: HashMap<RelPath, u64>,
    /// What came to lie here in its time, and whether it lay elsewhere before.
    came: HashMap<RelPath, bool>,
    /// The inodes that it met at a place where they were not known to lie: what
    /// it misses of them where they lay was moved.
    moved: HashSet<u64>,
    since: Option<Timestamp>,
    before: Option<Before>,
    /// It was asked for once more, perhaps because of what it has passed by.
    again: Option<Again>,
    /// An event told of the directory: what is missing went with another one.
    told: bool,
}

/// What the scan of this place that has just ended did by itself. Were all of it
/// asked of the next one, too, each in a row of losses would have everything
/// read that changed since the first.
#[derive(Debug)]
struct Before {
    since: Timestamp,
    /// The inodes it met; others it passed by, as a directory was moved then.
    met: HashSet<u64>,
}

/// What the next scan of a place is for.
#[derive(Debug, Default)]
struct Again {
    since: Option<Timestamp>,
    /// Mappings may have stored what nobody was told of.
    sync: bool,
}

impl<S: Store> Core<S> {
    /// Everything at and beneath this path is to be compared with the index.
    pub fn scan(&mut self, beneath: RelPath) {
        self.begin_scan(beneath, None, false, false);
    }

    /// The same, where written ranges may have gone untold: a file may look
    /// as the index knows it, because a later write of it was told, and hold
    /// other bytes. Every file changed at this time or later is read whole.
    /// Mappings that were stored through untold go on to do so, unless their
    /// pages are written back.
    pub fn scan_since(&mut self, beneath: RelPath, since: Option<Timestamp>) {
        self.begin_scan(beneath, since, false, true);
    }

    /// The same, of a directory that a look found to be another one than was
    /// known, or to be moved. Of removals in one that is gone, or that has
    /// moved meanwhile, no event tells but the one that led here. One that came
    /// from elsewhere may hold files that are mapped.
    pub(super) fn scan_found(&mut self, beneath: RelPath, told: bool, came: bool) {
        self.begin_scan(beneath, None, told && self.surveyed, came);
    }

    fn begin_scan(&mut self, beneath: RelPath, since: Option<Timestamp>, told: bool, mapped: bool) {
        let sync = mapped && self.options.ranges_told;
        if let Some(scan) = self.scans.iter_mut().find(|scan| beneath == scan.beneath) {
            // One that was asked for and has not begun will meet all.
            let asked = self.effects.iter_mut().find_map(|effect| match effect {
                Effect::Scan { beneath: at, sync } if *at == beneath => Some(sync),
                _ => None,
            });
            scan.told |= told;
            scan.since = scan.since.into_iter().chain(since).min();
            match asked {
                Some(asked) => *asked |= sync,
                None => {
                    let again = scan.again.get_or_insert_default();
                    again.since = again.since.into_iter().chain(since).min();
                    again.sync |= sync;
                }
            }
            return;
        }
        self.scans.push(Scanning {
            beneath: beneath.clone(),
            met: HashMap::new(),
            came: HashMap::new(),
            moved: HashSet::new(),
            since,
            before: None,
            again: None,
            told,
        });
        self.effects.push_back(Effect::Scan { beneath, sync });
    }

    /// Is a directory being scanned that was moved or found?
    pub(super) fn is_scanning_beneath_root(&self) -> bool {
        self.scans.iter().any(|scan| !scan.beneath.is_root())
    }

    /// Is all of the folder being scanned?
    pub(super) fn is_scanning_all(&self) -> bool {
        self.scans.iter().any(|scan| scan.beneath.is_root())
    }

    /// Is a directory in which this lay being scanned because an event told of
    /// it?
    pub(super) fn is_scanned_as_told(&self, path: &RelPath) -> bool {
        self.scans.iter().any(|scan| scan.told && path.is_within(&scan.beneath))
    }

    /// An entry has come to lie here: a scan that passed its place before
    /// must not take it for missing.
    pub(super) fn scans_meet(&mut self, path: &RelPath, id: BodyId) {
        if self.scans.is_empty() {
            return;
        }
        let row = self.store.body(id);
        let names = row.as_ref().and_then(|row| row.disk.as_ref()).map(|disk| &disk.names);
        let is_moved = names.is_some_and(|names| names.iter().any(|name| name != path));
        for scan in self.scans.iter_mut().filter(|scan| path.is_within(&scan.beneath)) {
            *scan.came.entry(path.clone()).or_default() |= is_moved;
        }
    }

    /// The scan of this place meets an inode that was known to lie elsewhere.
    pub(super) fn scan_meets_moved(&mut self, beneath: &RelPath, inode: u64) {
        let scan = self.scans.iter_mut().find(|scan| scan.beneath == *beneath);
        scan.into_iter().for_each(|scan| _ = scan.moved.insert(inode));
    }

    /// May a file have changed before this life began, without anybody knowing?
    /// Until the first scan has met it, what is told of it is not all.
    pub(super) fn is_unmet(&self, path: &RelPath) -> bool {
        let first = self.scans.iter().find(|scan| !self.surveyed && scan.beneath.is_root());
        first.is_some_and(|scan| !scan.met.contains_key(path))
    }

    /// What a scan met.
    pub fn handle_listed(&mut self, now: Now, beneath: &RelPath, listed: Vec<Listed>) {
        for entry in listed {
            let mut dirt = Dirt::compare();
            let (mut since, mut has_come) = (None, false);
            if let Some(scan) = self.scans.iter_mut().find(|scan| scan.beneath == *beneath) {
                let inode = entry.fingerprint.inode;
                scan.met.insert(entry.path.clone(), inode);
                since = scan.reads_since(inode);
                has_come = scan.came.contains_key(&entry.path);
                dirt.told = scan.told;
            }
            let known = self.lying_at(&entry.path);
            let same = known.as_ref().is_some_and(|lying| {
                lying.kind() == entry.kind && lying.disk().fingerprint == entry.fingerprint
            });
            let is_late = since.is_some_and(|since| entry.fingerprint.ctime >= since);
            // Another look may come first, of what is told now, and make it
            // look as known.
            let is_whole = entry.kind == Kind::File && (is_late || !same && known.is_some());
            if is_whole {
                dirt.merge(&Dirt::whole());
            }
            if !same {
                if !has_come {
                    self.note_restored(&entry);
                }
                self.met_elsewhere(beneath, &entry);
                self.read_where_it_went(now, beneath, &entry, is_late);
            }
            if self.is_listing_to_verify(beneath) {
                self.mark_to_verify(&entry.path, &mut dirt);
            }
            if !same || dirt.whole || dirt.check {
                self.settle.look(now.monotonic, Spot::Path(entry.path), dirt);
            }
        }
        self.turn(now);
    }

    /// A scan is over: what the index holds and it did not meet has gone, or
    /// is about to be looked at anyway.
    pub fn handle_scanned(&mut self, now: Now, beneath: &RelPath) {
        let Some(at) = self.scans.iter().position(|scan| scan.beneath == *beneath) else {
            return;
        };
        let mut scan = self.scans.swap_remove(at);
        let again = scan.again.take();
        let is_last = again.is_none();
        if let Some(Again { since, sync }) = again {
            self.begin_scan(beneath.clone(), since, scan.told, sync);
            if let (Some(since), Some(next)) = (scan.reads_unmet_since(), self.scans.last_mut()) {
                next.before = Some(Before { since, met: scan.met.values().copied().collect() });
            }
        }
        self.settle.look(now.monotonic, Spot::Path(beneath.clone()), Dirt::compare());
        let mut held = 0;
        let (mut missing, mut moved, mut unmet) = (Vec::new(), Vec::new(), Vec::new());
        self.for_each_within(beneath, |core, path, row| {
            let Some((body, _)) = row.on_disk().filter(|_| path != *beneath) else { return };
            held += 1;
            if scan.met.contains_key(&path) {
                return;
            }
            let list = match scan.came.contains_key(&path) {
                true => &mut unmet,
                false if core.is_one_of(body, &scan.moved) => &mut moved,
                false => &mut missing,
            };
            list.push(path);
        });
        self.missed(now, beneath, held, missing, scan.told);
        moved.into_iter().for_each(|path| self.missed_what_moved(now, beneath, path, scan.told));
        self.look_at_unmet(now, &scan, unmet);
        if beneath.is_root() && is_last {
            self.has_listed_to_verify();
        }
        self.turn(now);
    }

    /// Is the inode of this body one of these?
    fn is_one_of(&self, body: BodyId, inodes: &HashSet<u64>) -> bool {
        let lies = || Some(self.store.body(body)?.disk.as_ref()?.fingerprint.inode);
        !inodes.is_empty() && lies().is_some_and(|inode| inodes.contains(&inode))
    }

    /// A listing met a file that has another name here since: it was moved after
    /// that, and nothing would be found of it where it was.
    fn read_where_it_went(&mut self, now: Now, beneath: &RelPath, entry: &Listed, is_late: bool) {
        let Some(scan) = self.scans.iter().find(|scan| scan.beneath == *beneath) else { return };
        let body = self.store.body_of_inode(entry.fingerprint.inode);
        let lying = body.and_then(|id| self.lying_as(Some((id, entry.kind))));
        let Some(lying) = lying.filter(|_| entry.kind == Kind::File) else { return };
        let disk = lying.disk();
        let is_it = disk.fingerprint.is_inode(&entry.fingerprint);
        let went = disk.names.iter().any(|name| scan.came.get(name) == Some(&true));
        let is_read = !is_late && disk.fingerprint.same_bytes(&entry.fingerprint);
        if is_it && went && !is_read && !disk.names.contains(&entry.path) {
            let dirt = Dirt { entry: false, ..Dirt::whole() };
            self.settle.look(now.monotonic, Spot::Body(lying.id), dirt);
        }
    }

    /// Something came to lie where the scan had passed. An event tells what is
    /// done to it there, but what was done before this life, or lost, the scan
    /// was to find.
    fn look_at_unmet(&mut self, now: Now, scan: &Scanning, unmet: Vec<RelPath>) {
        let finds_all = !self.surveyed || scan.since.is_some();
        let is_needed = finds_all && !unmet.is_empty();
        let met = is_needed.then(|| scan.met.values().copied().collect::<HashSet<u64>>());
        for path in unmet {
            let dirt = match &met {
                Some(met) => self.unread_of(scan, met, &path),
                None => Dirt::entry(),
            };
            self.settle.look(now.monotonic, Spot::Path(path), dirt);
        }
    }

    fn unread_of(&self, scan: &Scanning, met: &HashSet<u64>, path: &RelPath) -> Dirt {
        let lying = self.lying_at(path).filter(|lying| lying.kind() == Kind::File);
        let moved = lying.filter(|_| scan.came.get(path) == Some(&true));
        let is_late = moved.is_some_and(|moved| {
            let lies = moved.disk().fingerprint;
            let since = scan.reads_since(lies.inode).filter(|_| !met.contains(&lies.inode));
            since.is_some_and(|since| lies.ctime >= since)
        });
        if is_late { Dirt::whole() } else { Dirt::compare() }
    }
}

impl Scanning {
    /// Since when what was changed in this inode is read.
    fn reads_since(&self, inode: u64) -> Option<Timestamp> {
        let was_met = self.before.as_ref().is_some_and(|before| before.met.contains(&inode));
        if was_met { self.since } else { self.reads_unmet_since() }
    }

    /// The same of what the one before passed by, if there was one.
    fn reads_unmet_since(&self) -> Option<Timestamp> {
        self.before.iter().map(|before| before.since).chain(self.since).min()
    }
}
