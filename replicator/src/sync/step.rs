//! One step of a job: what it does, with what was known when it was planned,
//! and how long it may take. And the jobs under way. No decisions here: `plan`
//! makes steps, `applied` takes their outcomes.

use std::time::Duration;

use super::core::Options;
use super::effect::{Action, Keep, Source, What};
use super::record::Content;
use super::settle::Spot;
use super::version::VersionVector;
use crate::entry::Metadata;
use crate::id::{BodyId, NodeId};
use crate::path::RelPath;

/// A job under way.
#[derive(Debug)]
pub(super) struct Running {
    pub at: Duration,
    pub steps: Vec<Step>,
    /// It holds the lock of everything, and none of single directories.
    pub alone: bool,
    /// That of its heaviest step.
    pub weight: Weight,
    /// It was asked to.
    pub gives_way: bool,
}

/// One action, with what was known when it was planned: what it brings about
/// reflects these changes and no later ones.
#[derive(Debug)]
pub(super) struct Step {
    pub action: Action,
    /// Locked until it is done.
    pub bodies: Vec<BodyId>,
    pub name_seen: VersionVector,
    pub content: Option<(Content, VersionVector)>,
    pub metadata: Option<(Metadata, VersionVector)>,
    pub weight: Weight,
}

/// How long a step may take for the bytes that it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// They pass through memory with those of others, or are here.
    Light,
    /// They do not pass through memory as a whole.
    Bulk,
    /// They are more than other jobs bring in all: seconds or hours.
    Huge,
}

impl Weight {
    pub fn of(what: &What, options: &Options) -> Self {
        let Some((source, size)) = what.brings() else { return Self::Light };
        match source {
            Source::Inline { .. } => Self::Light,
            _ if size <= options.bulk_above => Self::Light,
            _ if size <= options.huge_above => Self::Bulk,
            _ => Self::Huge,
        }
    }
}

impl Running {
    pub fn new(at: Duration, steps: Vec<Step>, alone: bool) -> Self {
        let weight = steps.iter().map(|step| step.weight).max().unwrap_or(Weight::Light);
        Self { at, steps, alone, weight, gives_way: false }
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }
}

impl Step {
    /// The second path it changes.
    pub fn other_path(&self) -> Option<&RelPath> {
        match &self.action.what {
            What::Rename { from, .. } | What::Exchange { with: from, .. } => Some(from),
            _ => None,
        }
    }

    pub fn needs_bytes(&self) -> bool {
        self.action.what.brings().is_some()
    }

    /// The peer that was asked for the bytes first.
    pub fn asked(&self) -> Option<NodeId> {
        match self.action.what.brings()?.0 {
            Source::Peers(peers) => peers.first().copied(),
            Source::Inline { .. } | Source::Copy { .. } => None,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.action.what.brings().map_or(0, |(_, size)| size)
    }

    /// The directories whose mtime it changes.
    pub fn parents(&self) -> Vec<RelPath> {
        if matches!(self.action.what, What::SetMetadata { .. } | What::Touch { .. }) {
            return Vec::new();
        }
        let other = self.other_path().and_then(|path| path.parent());
        self.action.path.parent().into_iter().chain(other).collect()
    }

    /// Does it keep others from looking at this place?
    pub fn locks(&self, path: &RelPath) -> bool {
        self.action.path == *path
            || self.other_path() == Some(path)
            || self.parents().contains(path)
    }

    pub fn spot(&self) -> Spot {
        match &self.action.what {
            What::Update(_) | What::SetMetadata { .. } => Spot::Body(self.action.body),
            _ => Spot::Path(self.action.path.clone()),
        }
    }

    pub fn keep(&self) -> Option<Keep> {
        match &self.action.what {
            What::MakeSymlink { over, .. }
            | What::MakeFifo { over, .. }
            | What::Write { over, .. }
            | What::Link { over, .. } => over.as_ref().map(|over| over.keep),
            What::Update(update) => Some(update.keep),
            What::Remove { keep, .. } => Some(*keep),
            _ => None,
        }
    }
}
