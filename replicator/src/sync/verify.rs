//! Reading everything again: what of the folder is not what the index says,
//! though nobody told of a change.
//!
//! A user may write meanwhile, and a look may meet a write before the event
//! that tells of it. So a difference is a suspicion that an event takes back,
//! and the answer is known once all has been read and then all that happened
//! before has been told. It never decides what becomes of a difference: that
//! is a change like any other.

use std::collections::{BTreeMap, HashSet};

use super::core::{Core, Looking};
use super::effect::{Found, Now, Sight, Sighted};
use super::record::Paths;
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::Timestamp;
use crate::id::BodyId;
use crate::limits::DIFFERING_MAX;
use crate::path::RelPath;

/// The verification under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct Verification {
    /// The folder is being listed for it.
    listing: bool,
    /// Listed and not looked at yet.
    unread: HashSet<RelPath>,
    files: u64,
    bytes: u64,
    /// At most [`DIFFERING_MAX`] of what differs, with how.
    differing: BTreeMap<RelPath, String>,
    /// What differs beyond that.
    unnamed: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Regular files, and their bytes.
    pub files: u64,
    pub bytes: u64,
    pub differing: Vec<(RelPath, String)>,
    /// Those not named included.
    pub differing_total: u64,
}

/// A look of a verification whose sight is being compared.
pub(super) struct Checking {
    changes_before: u64,
    told: bool,
    unreadable: Option<String>,
    /// Its bytes, of a regular file.
    read: Option<u64>,
    /// It is to be looked at once more before it counts as gone.
    waits: bool,
}

impl<S: Store> Core<S> {
    /// Reads every file again, as if any byte of it might have changed. What
    /// is missing is judged as after any scan.
    pub fn verify(&mut self) {
        self.verification = Verification { listing: true, ..Verification::default() };
        self.scan_since(RelPath::root(), Some(Timestamp::BEGINNING));
    }

    /// Has everything been read again? What was told too late to be known may
    /// still be among what differs.
    pub fn is_verified(&self) -> bool {
        !self.verification.listing && self.verification.unread.is_empty()
    }

    /// What was found. What was known to differ before is part of it.
    pub fn verified(&self) -> Verified {
        let verification = &self.verification;
        let own = self.own_changes().map(|(path, what)| (path, format!("{what}, not replicated")));
        let held = self.brake.held().map(|path| (path, "missing, its deletion is held".to_owned()));
        let known: Vec<_> = own.chain(held).collect();
        let found = verification.differing.len() as u64 + verification.unnamed;
        let differing_total = known.len() as u64 + found;
        let named = verification.differing.iter().map(|(path, how)| (path, how.clone()));
        let all = named.chain(known).take(DIFFERING_MAX);
        Verified {
            files: verification.files,
            bytes: verification.bytes,
            differing: all.map(|(path, how)| (path.clone(), how)).collect(),
            differing_total,
        }
    }

    /// The folder is being listed to be read again.
    pub(super) fn is_listing_to_verify(&self, beneath: &RelPath) -> bool {
        self.verification.listing && beneath.is_root()
    }

    /// This is to be looked at for the verification.
    pub(super) fn mark_to_verify(&mut self, path: &RelPath, dirt: &mut Dirt) {
        dirt.check = true;
        self.verification.unread.insert(path.clone());
    }

    pub(super) fn has_listed_to_verify(&mut self) {
        self.verification.listing = false;
    }

    /// An event told of a change here: that it differs is no wonder, here or
    /// at another name of the same body.
    pub(super) fn was_told(&mut self, path: &RelPath) {
        if !self.verification.differing.is_empty() {
            self.verification.differing.remove(path);
            self.no_wonder_at(&self.names_of_one_at(path));
        }
    }

    pub(super) fn was_told_of_body(&mut self, body: BodyId) {
        if !self.verification.differing.is_empty() {
            self.no_wonder_at(&self.names_on_disk(body));
        }
    }

    fn no_wonder_at(&mut self, names: &[RelPath]) {
        names.iter().for_each(|path| drop(self.verification.differing.remove(path)));
    }

    fn names_of_one_at(&self, path: &RelPath) -> Paths {
        let held = self.store.name(path).and_then(|row| row.on_disk());
        held.map(|(body, _)| self.names_on_disk(body)).unwrap_or_default()
    }

    fn names_on_disk(&self, body: BodyId) -> Paths {
        let row = self.store.body(body);
        row.and_then(|row| Some(row.disk.as_ref()?.names.clone())).unwrap_or_default()
    }

    /// Before a sight is compared with the index.
    pub(super) fn begin_check(&self, sight: &Sight, look: &Looking) -> Option<Checking> {
        look.dirt.check.then(|| {
            let told = |spot: &Spot| self.settle.holds(spot);
            let at_body = look.bodies.iter().any(|body| told(&Spot::Body(*body)));
            let names = self.names_of_one_at(&sight.path);
            let is_told = |path: &RelPath| self.looks.get(path).is_some_and(|look| look.dirt.told);
            let at_name = names.into_iter().any(|path| is_told(&path) || told(&Spot::Path(path)));
            Checking {
                changes_before: self.progress.changes_made,
                told: look.dirt.told || at_body || at_name || told(&Spot::Path(sight.path.clone())),
                unreadable: match &sight.found {
                    Found::Unreadable(reason) | Found::Excluded(reason) => Some(reason.clone()),
                    _ => None,
                },
                read: match &sight.found {
                    Found::Entry(_, Sighted::File { leaves, .. }) => Some(leaves.size()),
                    _ => None,
                },
                waits: matches!(sight.found, Found::Nothing) && self.may_be_moving(look),
            }
        })
    }

    /// After it was.
    pub(super) fn end_check(&mut self, now: Now, path: &RelPath, check: Checking) {
        // What somebody writes all the time may never be read in one piece.
        let waiting = self.settle.dirt(&Spot::Path(path.clone()));
        let again = waiting.is_some_and(|dirt| dirt.check) && !check.told;
        if check.waits || again {
            return;
        }
        if self.verification.unread.remove(path)
            && let Some(bytes) = check.read
        {
            self.verification.files += 1;
            self.verification.bytes += bytes;
        }
        let changed = self.progress.changes_made > check.changes_before && !check.told;
        let how = match check.unreadable {
            Some(reason) => reason,
            None if changed => {
                let last = self.progress.recent.back();
                let here = last.filter(|(wall, _, at)| *wall == now.wall && at == path);
                let what = here.map_or("its metadata changed here", |(_, what, _)| what);
                format!("{what}, and no event told of it")
            }
            None => return,
        };
        let differing = &mut self.verification.differing;
        match differing.len() < DIFFERING_MAX || differing.contains_key(path) {
            true => drop(differing.insert(path.clone(), how)),
            false => self.verification.unnamed += 1,
        }
    }
}
