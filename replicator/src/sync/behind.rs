//! A disk that lost its last moments.
//!
//! A machine that loses power loses what its disk had not written out: files
//! are shorter, older or gone that this node had read, and told of. Found at
//! the start, that is nobody's change. What the index remembers stands: it
//! comes back from the peers, and if nobody has it, what is left stands in.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::core::Core;
use super::effect::Now;
use super::read::Read;
use super::record::BodyRow;
use super::settle::{Dirt, Spot};
use super::step::Step;
use super::store::Store;
use super::tree::{Lying, held};
use crate::entry::{Fingerprint, Kind, Stat, Timestamp};
use crate::id::BodyId;
use crate::path::RelPath;

/// The last moments of a machine that went down while its node ran.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outage {
    /// What was changed at this time or later may not have been written out, or
    /// not all of it.
    pub since: Timestamp,
    /// When the machine was up again.
    pub until: Timestamp,
}

/// What is not known yet of a folder after it.
#[derive(Debug)]
pub(super) struct Behind {
    outage: Outage,
    /// What was not looked at yet when all else had been: a large file, or one
    /// that is written to all the time.
    unseen: HashSet<RelPath>,
}

impl Outage {
    /// The machine went down once more before all was known of the first time.
    pub fn and(self, other: Self) -> Self {
        Self { since: self.since.min(other.since), until: self.until.max(other.until) }
    }

    /// Were the bytes of this file written last when the machine went down? A later
    /// change may have been one of its name or its mode.
    fn may_cut_short(&self, stat: &Stat) -> bool {
        let Fingerprint { mtime, ctime, .. } = stat.fingerprint;
        let is_later = ctime >= self.until;
        stat.kind == Kind::File && (self.covers(ctime) || (is_later && self.covers(mtime)))
    }

    fn covers(&self, time: Timestamp) -> bool {
        self.since <= time && time < self.until
    }
}

impl<S: Store> Core<S> {
    /// The last life ended with its machine.
    pub fn disk_may_be_behind(&mut self, outage: Outage) {
        self.behind = Some(Behind { outage, unseen: HashSet::new() });
    }

    /// The outage of which not all is known yet: another start is to be told of it.
    pub fn outage(&self) -> Option<Outage> {
        Some(self.behind.as_ref()?.outage)
    }

    /// While what lies here is looked at for the first time.
    fn outage_at(&self, path: &RelPath) -> Option<Outage> {
        let behind = self.behind.as_ref()?;
        (!self.surveyed || behind.unseen.contains(path)).then_some(behind.outage)
    }

    /// The folder has been looked at once, but for what is looked at yet.
    pub(super) fn outage_is_over(&mut self) {
        let Some(behind) = self.behind.take() else { return };
        let mut unseen: HashSet<RelPath> = self.looks.keys().cloned().collect();
        unseen.extend(self.settle.spots().filter_map(|spot| self.place_of(spot)));
        self.behind = (!unseen.is_empty()).then_some(Behind { unseen, ..behind });
    }

    /// Is nothing more to be read at a place where a look found such an entry?
    pub(super) fn is_seen(&self, path: &RelPath, kind: Kind) -> bool {
        if kind != Kind::File || self.behind.is_none() {
            return true;
        }
        let body = self.lying_at(path).map(|lying| Spot::Body(lying.id));
        let mut spots = [Spot::Path(path.clone())].into_iter().chain(body);
        !spots.any(|spot| self.settle.holds(&spot))
    }

    /// What lies at this place was read as a whole, or needs not be.
    pub(super) fn outage_is_over_at(&mut self, path: &RelPath) {
        let Some(behind) = self.behind.as_mut().filter(|_| self.surveyed) else { return };
        behind.unseen.remove(path);
        self.behind.take_if(|behind| behind.unseen.is_empty());
    }

    /// Would this change what nobody has looked at yet? It need not be what the
    /// index says, though it looks so: only some of its bytes may be.
    pub(super) fn meets_unseen(&self, step: &Step) -> bool {
        let Some(behind) = &self.behind else { return false };
        let is_unseen = |path: &RelPath| !self.surveyed || behind.unseen.contains(path);
        let is_named_so = |id: &BodyId| {
            let row = self.store.body(*id);
            let disk = row.as_ref().and_then(|row| row.disk.as_ref());
            disk.is_some_and(|disk| disk.names.iter().any(is_unseen))
        };
        is_unseen(&step.action.path) || step.bodies.iter().any(is_named_so)
    }

    /// Nothing is to be looked at any more.
    pub(super) fn all_is_seen(&mut self) {
        self.behind.take_if(|_| self.surveyed);
    }

    /// Is the file that was found at the start older than what is known to
    /// have lain there, be it another one? No time of a change goes back, but
    /// by what a disk forgot.
    pub(super) fn is_behind(
        &self,
        path: &RelPath,
        known: &Lying,
        kind: Kind,
        found: &Fingerprint,
    ) -> bool {
        let lay = known.disk().fingerprint;
        let is_unwritten = |outage: Outage| outage.covers(lay.ctime) && found.ctime <= lay.ctime;
        kind == Kind::File && self.outage_at(path).is_some_and(is_unwritten)
    }

    /// Was something found in the place of a file, or the file changed, where
    /// nobody can say upon what? Its bytes may have been written in part, or
    /// whoever changed it since did not see what the disk had lost.
    pub(super) fn is_in_doubt(
        &self,
        path: &RelPath,
        stat: &Stat,
        lay: impl FnOnce() -> Option<Lying>,
    ) -> bool {
        let outage = self.outage_at(path).filter(|_| self.has_other_members());
        outage.is_some_and(|outage| {
            let Some(lay) = lay().filter(|lay| lay.kind() == Kind::File) else { return false };
            let Fingerprint { ctime, .. } = lay.disk().fingerprint;
            // One that was made then may be broken, whenever it was written to.
            let is_made_then = outage.covers(stat.fingerprint.birth);
            outage.covers(ctime) || is_made_then || outage.may_cut_short(stat)
        })
    }

    /// When what was found was written. What may have been written in part
    /// only, when the machine went down, is no reason to give up what anybody
    /// else has: it counts as older than all that is.
    pub(super) fn when_written(&self, path: &RelPath, stat: &Stat) -> i64 {
        match self.outage_at(path).is_some_and(|outage| outage.may_cut_short(stat)) {
            true => 0,
            false => stat.metadata.mtime.as_nanos(),
        }
    }

    /// Takes what the disk never got from what a scan missed: it counts as
    /// never having lain here.
    pub(super) fn bring_back_unwritten(&mut self, gone: Vec<RelPath>) -> Vec<RelPath> {
        let (unwritten, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|path| {
            let lay = || Some(self.lying_at(path)?.disk().fingerprint.ctime);
            self.outage_at(path).is_some_and(|outage| lay().is_some_and(|at| outage.covers(at)))
        });
        for path in unwritten.iter().rev() {
            self.bring_back(path);
            self.progress.brought_back += 1;
        }
        gone
    }

    /// A file lies in an inode whose number was given anew to a later one, and the
    /// disk has lost that: what is told of the number is of this one again.
    pub(super) fn give_back_inode(&mut self, now: Now, path: &RelPath, stat: &Stat) {
        let found = stat.fingerprint;
        let owner = self.outage_at(path).and_then(|_| self.store.body_of_inode(found.inode));
        let lying = owner.and_then(|id| Lying::of(id, self.store.body(id)?));
        let Some(later) = lying.filter(|lying| lying.disk().fingerprint.birth > found.birth) else {
            return;
        };
        self.edit_body(later.id, |row| {
            let disk = row.disk.iter_mut();
            disk.for_each(|disk| disk.fingerprint.inode = 0);
        });
        self.settle.look(now.monotonic, Spot::Body(later.id), Dirt::compare());
    }

    /// What was seen of a body of which the disk is behind. What is changed on
    /// top of that is changed in no knowledge of what the disk lost.
    pub(super) fn lies_behind(
        &mut self,
        now: Now,
        path: &RelPath,
        known: &Lying,
        stat: &Stat,
        read: Option<Read>,
    ) {
        let mut row = BodyRow::clone(known.row());
        let (content, metadata) = (row.content.winner(), row.metadata.winner());
        let seen_of_content = row.content.context().before(content.dot);
        let seen_of_metadata = row.metadata.context().before(metadata.dot);
        if let Some(disk) = &mut row.disk {
            disk.fingerprint = stat.fingerprint;
            disk.metadata = held(&row.metadata, stat.metadata.clone(), seen_of_metadata);
            if let Some(read) = read {
                disk.content = held(&row.content, read.content, seen_of_content);
                self.put_leaves(known.id, read.leaves);
            }
        }
        if row.disk != known.row().disk {
            self.progress.brought_back += 1;
            self.progress.note(now.wall, "lost by the disk here", path);
            self.put_body(known.id, row);
        }
    }
}
