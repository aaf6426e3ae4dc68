//! Scans: everything beneath a path is listed and compared with the index.
//!
//! What a scan meets is looked at where it is not as known; what it misses has
//! gone, or has moved, and the brake has a say in that. Events go on meanwhile:
//! what came to lie in a place that a scan had passed is not missing, but may
//! have come and gone before it passed.

use std::collections::{HashMap, HashSet};

use super::core::Core;
use super::effect::{Effect, Listed, Now};
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::{Kind, Timestamp};
use crate::path::RelPath;

/// A scan that is under way.
#[derive(Debug)]
pub(super) struct Scanning {
    beneath: RelPath,
    /// Each with its inode.
    met: HashMap<RelPath, u64>,
    /// What came to lie here in its time.
    came: HashSet<RelPath>,
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
            came: HashSet::new(),
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
    pub(super) fn scans_meet(&mut self, path: &RelPath) {
        for scan in self.scans.iter_mut().filter(|scan| path.is_within(&scan.beneath)) {
            scan.came.insert(path.clone());
        }
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
            let mut since = None;
            if let Some(scan) = self.scans.iter_mut().find(|scan| scan.beneath == *beneath) {
                let inode = entry.fingerprint.inode;
                scan.met.insert(entry.path.clone(), inode);
                let before = scan.before.as_ref().filter(|before| !before.met.contains(&inode));
                since = before.map(|before| before.since).into_iter().chain(scan.since).min();
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
                self.note_restored(&entry);
                self.met_elsewhere(&entry);
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
        let scan = self.scans.swap_remove(at);
        let is_last = scan.again.is_none();
        if let Some(Again { since, sync }) = scan.again {
            self.begin_scan(beneath.clone(), since, scan.told, sync);
            let before = scan.before.map(|before| before.since).into_iter().chain(scan.since);
            if let (Some(since), Some(next)) = (before.min(), self.scans.last_mut()) {
                next.before = Some(Before { since, met: scan.met.values().copied().collect() });
            }
        }
        self.settle.look(now.monotonic, Spot::Path(beneath.clone()), Dirt::compare());
        let (mut held, mut missing, mut unmet) = (0, Vec::new(), Vec::new());
        self.for_each_within(beneath, |_, path, row| {
            if row.on_disk().is_some() && path != *beneath {
                held += 1;
                if !scan.met.contains_key(&path) {
                    let came = scan.came.contains(&path);
                    if came { &mut unmet } else { &mut missing }.push(path);
                }
            }
        });
        self.missed(now, beneath, held, missing, scan.told);
        for path in unmet {
            self.settle.look(now.monotonic, Spot::Path(path), Dirt::entry());
        }
        if beneath.is_root() && is_last {
            self.has_listed_to_verify();
        }
        self.turn(now);
    }
}
