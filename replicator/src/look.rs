//! A look at an entry: what the core asks for, and the engine does.

use crate::entry::{Fingerprint, Kind};
use crate::hash::Leaves;
use crate::path::RelPath;
use crate::range::RangeSet;

/// What to look at, and how closely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub path: RelPath,
    pub depth: Depth,
    /// Write dirty pages back before reading: a mapping may store unseen
    /// until they are protected again.
    pub sync: bool,
    /// Wait for a write that is under way before anything is asked: the news of
    /// it may have come before its bytes and its size.
    pub wait: bool,
    /// It is written all the time: bring along all bytes that are read, up to
    /// [`BUSY_LOOK_BYTES_MAX`](crate::limits::BUSY_LOOK_BYTES_MAX), and every hole
    /// among them, so that what is told of them is what was hashed.
    pub busy: bool,
    /// What the index holds there.
    pub known: Option<Known>,
}

/// How much of a regular file to read. One that is not known, or is another
/// inode than the known one, is read whole at any depth, save that a large
/// one is not read at `Changed` and `Metadata`: it may be one that was
/// renamed, which its inode tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Depth {
    /// All of it if the fingerprint is not the known one.
    Changed,
    /// None of a known file: capture tells which of its bytes change.
    Metadata,
    /// The leaves these bytes lie in: they changed, and no others.
    Ranges(RangeSet),
    Whole,
}

/// What lay there when it was looked at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub kind: Kind,
    pub fingerprint: Fingerprint,
    /// `None` where the file has one leaf or none. Without it every byte of
    /// it counts as changed.
    pub leaves: Option<Leaves>,
}
