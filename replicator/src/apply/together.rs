//! Patches that follow one another in a run are carried out together: they
//! share a flush of their records and one of their bytes, as the files of a
//! job share one that are written beside their place.

use std::collections::HashSet;
use std::os::fd::AsFd;

use bytes::Bytes;

use super::in_place::{self, Halt, Plan};
use super::patch::Patch;
use super::worker::{Worker, refuse_private};
use super::{Error, Expect, Keep, Outcome, Step, conflicts, trash};
use crate::entry::Kind;
use crate::path::RelPath;
use crate::root::Access;

/// Patches carried out together. Each holds two files open, and the first
/// waits for the last before it is durable.
pub(super) const PATCHES_MAX: usize = 128;

/// Bytes of them, unless one alone has more: so much lies on the disk twice.
const BYTES_MAX: u64 = 4 << 20;

/// A step that writes in place.
pub(super) struct Due {
    pub path: RelPath,
    pub expect: Expect,
    pub patch: Patch,
    pub keep: Keep,
}

/// Such steps, of different files, in their order.
#[derive(Default)]
pub(super) struct Together {
    steps: Vec<Due>,
    inodes: HashSet<u64>,
    bytes: u64,
}

impl Together {
    /// Can this step be carried out with those? What comes after a patch of the
    /// same file builds on it, and any other step is one for itself.
    pub(super) fn takes(&self, step: &Step) -> bool {
        let Step::Patch { expect, writes, .. } = step else { return false };
        self.steps.is_empty()
            || (self.steps.len() < PATCHES_MAX
                && self.bytes + bytes_of(writes) <= BYTES_MAX
                && !self.inodes.contains(&expect.fingerprint.inode))
    }

    pub(super) fn push(&mut self, due: Due) {
        self.inodes.insert(due.expect.fingerprint.inode);
        self.bytes += bytes_of(&due.patch.writes);
        self.steps.push(due);
    }
}

fn bytes_of(writes: &[(u64, Bytes)]) -> u64 {
    writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

impl Worker {
    /// One outcome a step, in their order.
    pub(super) fn patch(&mut self, together: Together) -> Vec<Outcome> {
        let planned = together.steps.into_iter().map(|due| self.plan(due)).collect();
        let ended = in_place::carry_out(planned, &self.root, &mut self.patience);
        let outcome = |ended| match ended {
            Ok((found, after)) => {
                self.remember(&found, &after);
                Outcome::Done(Some(after))
            }
            Err(Halt::Raced) => Outcome::Raced,
            Err(Halt::Failed { error, begun }) => {
                self.unfinished |= begun;
                Outcome::Failed(error)
            }
        };
        ended.into_iter().map(outcome).collect()
    }

    /// Sees that the file is what was expected, and keeps it where that is to
    /// be.
    fn plan(&self, due: Due) -> Result<Plan, Halt> {
        let Due { path, expect, patch, keep } = due;
        refuse_private(&path)?;
        let found = self.root.stat(&path).map_err(Error::from)?.ok_or(Halt::Raced)?;
        if found.kind != Kind::File || !self.is_expected(&expect, &found) {
            return Err(Halt::Raced);
        }
        patch.check(&path)?;
        if keep != Keep::Discard {
            let opened = self.root.open_file(&path, Access::Read).map_err(Error::from)?;
            let file = opened.ok_or(Halt::Raced)?;
            match &keep {
                Keep::Conflict { label } => {
                    conflicts::keep_copy(&self.root, file.as_fd(), &path, &found, label)?;
                }
                _ => trash::keep_copy(&self.root, file.as_fd(), &path, &found)?,
            }
        }
        Ok(Plan { path, found, patch })
    }
}
