//! The steps of the next jobs, while they are put together: those that need no
//! bytes, those that are soon done, and those that bring large files, which
//! have jobs of their own so that nothing else waits for them.

use super::super::step::{Step, Weight};
use crate::limits::{JOB_ACTIONS_MAX, JOB_BYTES_MAX};

/// Steps for the jobs that are being put together.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Those that need no bytes.
    pub structure: Vec<Step>,
    pub contents: Vec<Step>,
    content_bytes: u64,
    pub bulk: Vec<Step>,
    bulk_bytes: u64,
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.structure.is_empty() && self.contents.is_empty() && self.bulk.is_empty()
    }

    pub fn is_full(&self) -> bool {
        let most = self.structure.len().max(self.contents.len()).max(self.bulk.len());
        most >= JOB_ACTIONS_MAX
    }

    pub fn brings_huge(&self) -> bool {
        self.bulk.iter().any(|step| step.weight == Weight::Huge)
    }

    /// A job brings a limited number of bytes, unless it is for one file.
    pub fn has_room(&self, step: &Step) -> bool {
        let bytes = match step.weight {
            Weight::Light => self.content_bytes,
            Weight::Bulk | Weight::Huge => self.bulk_bytes,
        };
        bytes == 0 || step.bytes() == 0 || bytes + step.bytes() <= JOB_BYTES_MAX
    }

    pub fn push(&mut self, step: Step) {
        let (steps, bytes) = match step.weight {
            Weight::Bulk | Weight::Huge => (&mut self.bulk, &mut self.bulk_bytes),
            Weight::Light if step.needs_bytes() => (&mut self.contents, &mut self.content_bytes),
            Weight::Light => (&mut self.structure, &mut 0),
        };
        *bytes += step.bytes();
        steps.push(step);
    }
}
