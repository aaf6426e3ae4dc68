//! What the core has done and has yet to do, for the status and for whoever
//! waits for it.
//!
//! Counts and short lists, kept as things happen: to tell them costs nothing
//! however large the folder is. Nothing is decided by them but where the brake
//! asks how much lies on the disk.

use std::collections::{BTreeSet, VecDeque};

use super::core::Core;
use super::record::Content;
use super::store::Store;
use crate::entry::Kind;
use crate::id::{BodyId, NodeId};
use crate::path::RelPath;

/// What the core has done and has yet to do, for the status.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub files: u64,
    pub directories: u64,
    /// Symbolic links and fifos.
    pub others: u64,
    pub names_pending: u64,
    pub bodies_pending: u64,
    /// Changes that have not been looked at yet.
    pub unsettled: u64,
    pub looking: u64,
    pub applying: u64,
    pub scanning: bool,
    /// Local changes written to the log.
    pub changes_made: u64,
    /// Remote changes applied.
    pub changes_applied: u64,
    /// Files that were replaced here by ones from before them.
    pub older_files: u64,
    /// Entries that the disk had lost with the machine's power.
    pub brought_back: u64,
    /// Entries that vanished unseen, too many to be believed until somebody
    /// confirms it.
    pub deletions_held: u64,
    /// What changed on a node that only receives.
    pub own_changes: u64,
    /// How often stores through mappings of unknown files were too many to be
    /// remembered, and everything changed since was read again.
    pub unmet_mappings: u64,
    /// What could not be read or applied, newest last.
    pub errors: VecDeque<(RelPath, String)>,
    /// What was done lately, newest last.
    pub recent: VecDeque<(i64, String, RelPath)>,
}

impl<S: Store> Core<S> {
    /// How much of what is known here is not done: 0 when this node has
    /// looked at every change it was told of and applied every record.
    pub fn unfinished(&self) -> u64 {
        let parts = [
            self.settle.len(),
            self.looks.len(),
            self.unread.len(),
            self.pending_names.len(),
            self.pending_bodies.len(),
            self.jobs.len(),
            self.scans.len(),
            self.brake.len(),
            self.own.len(),
        ];
        parts.iter().map(|part| *part as u64).sum()
    }

    /// What could not be read and will be tried again.
    pub fn unreadable(&self) -> u64 {
        self.unread.len() as u64
    }

    /// What other nodes changed and is not applied here yet.
    pub fn pending(&self) -> u64 {
        (self.pending_names.len() + self.pending_bodies.len()) as u64
    }

    /// The bytes of it: of the first `most` entries, where there are more.
    pub fn pending_bytes(&self, most: usize) -> u64 {
        let wanted = |path: &RelPath| self.store.name(path)?.wanted().map(|(body, _)| body);
        let named = self.pending_names.iter().take(most).filter_map(wanted);
        let bodies: BTreeSet<BodyId> =
            named.chain(self.pending_bodies.iter().take(most).copied()).collect();
        let bytes = |body: &BodyId| {
            let row = self.store.body(*body)?;
            let comes = row.disk.is_none() || row.content_is_pending();
            match row.content.winner().value {
                Content::File { size, .. } if comes => Some(size),
                _ => None,
            }
        };
        bodies.iter().take(most).filter_map(bytes).sum()
    }

    /// Some of it, by path.
    pub fn first_pending(&self, most: usize) -> Vec<String> {
        let bodies = self.pending_bodies.iter().take(most);
        let names =
            bodies.filter_map(|body| self.store.body(*body)?.disk.as_ref()?.names.first().cloned());
        let paths = self.pending_names.iter().take(most).cloned().chain(names);
        let paths: BTreeSet<RelPath> = paths.collect();
        paths.iter().take(most).map(ToString::to_string).collect()
    }

    pub fn progress(&self) -> Progress {
        Progress {
            names_pending: self.pending_names.len() as u64,
            bodies_pending: self.pending_bodies.len() as u64,
            unsettled: self.settle.len() as u64,
            looking: self.looks.len() as u64,
            applying: self.jobs.values().map(|job| job.len() as u64).sum(),
            scanning: !self.scans.is_empty(),
            deletions_held: self.brake.len() as u64,
            own_changes: self.own.len() as u64,
            unmet_mappings: self.mapped.overflows(),
            ..self.progress.clone()
        }
    }

    /// How many changes a peer is not known to hold.
    pub fn behind(&self, peer: NodeId) -> u64 {
        let Some(peer) = self.peers.get(&peer) else {
            return 0;
        };
        let have = self.store.have();
        have.iter().map(|dot| dot.counter.saturating_sub(peer.told(dot.actor))).sum()
    }
}

impl Progress {
    /// Lines kept of each list.
    const LINES_MAX: usize = 64;

    /// Everything that lies on the disk.
    pub(super) fn entries(&self) -> u64 {
        self.files + self.directories + self.others
    }

    pub(super) fn count(&mut self, kind: Kind) {
        *self.counter(kind) += 1;
    }

    pub(super) fn forget(&mut self, kind: Kind) {
        let counter = self.counter(kind);
        *counter = counter.saturating_sub(1);
    }

    pub(super) fn error(&mut self, path: &RelPath, reason: String) {
        self.errors.retain(|(earlier, _)| earlier != path);
        self.errors.push_back((path.clone(), reason));
        if self.errors.len() > Self::LINES_MAX {
            self.errors.pop_front();
        }
    }

    pub(super) fn no_error(&mut self, path: &RelPath) {
        if !self.errors.is_empty() {
            self.errors.retain(|(earlier, _)| earlier != path);
        }
    }

    pub(super) fn note(&mut self, wall: i64, what: &str, path: &RelPath) {
        self.recent.push_back((wall, what.to_owned(), path.clone()));
        if self.recent.len() > Self::LINES_MAX {
            self.recent.pop_front();
        }
    }

    fn counter(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::File => &mut self.files,
            Kind::Directory => &mut self.directories,
            Kind::Symlink | Kind::Fifo => &mut self.others,
        }
    }
}
