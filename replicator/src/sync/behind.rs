//! A disk that lost its last moments.
//!
//! A machine that loses power loses what its disk had not written out: files
//! are shorter, older or gone that this node had read, and told of. Found at
//! the start, that is nobody's change. What the index remembers stands: it
//! comes back from the peers, and if nobody has it, what is left stands in.

use super::core::Core;
use super::effect::Now;
use super::read::Read;
use super::record::BodyRow;
use super::store::Store;
use super::tree::{Lying, held};
use crate::entry::{Fingerprint, Kind, Stat, Timestamp};
use crate::path::RelPath;

impl<S: Store> Core<S> {
    /// What was changed at this time or later may not have been written out
    /// when the last life ended with its machine.
    pub fn disk_may_be_behind(&mut self, since: Timestamp) {
        self.behind_since = Some(since);
    }

    /// Since when, while the folder is looked at for the first time.
    fn unwritten_since(&self) -> Option<Timestamp> {
        self.behind_since.filter(|_| !self.surveyed)
    }

    /// Is the file that was found at the start older than what is known to
    /// have lain there, be it another one? No time of a change goes back, but
    /// by what a disk forgot.
    pub(super) fn is_behind(&self, known: &Lying, kind: Kind, found: &Fingerprint) -> bool {
        let lay = known.disk().fingerprint;
        let is_unwritten = |since| lay.ctime >= since && found.ctime <= lay.ctime;
        kind == Kind::File && self.unwritten_since().is_some_and(is_unwritten)
    }

    /// When what was found was written. What may have been written in part
    /// only, when the machine went down, is no reason to give up what anybody
    /// else has: it counts as older than all that is.
    pub(super) fn when_written(&self, stat: &Stat) -> i64 {
        let since = self.unwritten_since().filter(|_| stat.kind == Kind::File);
        match since.is_some_and(|since| stat.fingerprint.ctime >= since) {
            true => 0,
            false => stat.metadata.mtime.as_nanos(),
        }
    }

    /// Takes what the disk never got from what a scan missed: it counts as
    /// never having lain here.
    pub(super) fn bring_back_unwritten(&mut self, gone: Vec<RelPath>) -> Vec<RelPath> {
        let Some(since) = self.unwritten_since() else { return gone };
        let (unwritten, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|path| {
            let lying = self.lying_at(path);
            lying.is_some_and(|lying| lying.disk().fingerprint.ctime >= since)
        });
        for path in unwritten.iter().rev() {
            self.bring_back(path);
            self.progress.brought_back += 1;
        }
        gone
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
