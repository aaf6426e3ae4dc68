//! What is asked of a look at an entry, and what it tells.
//!
//! Values alone: [`super::observe`] looks.

use super::Error;
use crate::entry::{Fingerprint, Kind, Stat};
use crate::hash::Leaves;
use crate::path::RelPath;
use crate::range::RangeSet;
use crate::writes::Writes;

/// Most bytes that an observation brings along of a file that is to bring all
/// that is read.
pub const READ_BYTES_MAX: u64 = 16 << 20;

/// What to look at, and how closely.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: RelPath,
    pub depth: Depth,
    /// Writes dirty pages out before reading, so that a later store through a
    /// mapping is captured anew.
    pub sync: bool,
    /// Bring along all that is read, up to [`READ_BYTES_MAX`], as it is, and
    /// tell every hole in it: it is written all the time.
    pub all_read: bool,
    /// What the index holds for this path.
    pub known: Option<Known>,
}

#[derive(Clone, Debug)]
pub struct Known {
    pub kind: Kind,
    pub fingerprint: Fingerprint,
    /// The hash list of a file. Without it every byte counts as changed.
    pub leaves: Option<Leaves>,
}

/// How closely to look. A file that is not known, or is another inode than
/// the known one, is read whole at any depth, save that a large one is not
/// read at `Changed` and `Metadata`: it may be one that was renamed, which
/// the caller can tell by its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The content is read if the fingerprint is not the known one.
    Changed,
    /// The content of the known inode is not read: capture tells its ranges.
    Metadata,
    /// These bytes changed, and none of the others.
    Ranges(RangeSet),
    /// Every byte is read.
    Whole,
}

/// What was seen.
#[derive(Debug)]
pub struct Observation {
    pub path: RelPath,
    /// `None`: nothing is there.
    pub result: Result<Option<Entry>, Error>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub stat: Stat,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    /// As known, or not asked for.
    NotRead,
    Directory,
    Fifo,
    /// Its target.
    Symlink(Vec<u8>),
    File(FileContent),
}

/// The bytes of one version of a file, of the size that its `Stat` tells.
#[derive(Clone, Debug)]
pub struct FileContent {
    pub leaves: Leaves,
    /// What may differ from the known version of the file, or all of it where
    /// none is known. A file that became shorter shows only in its size.
    pub changed: RangeSet,
    /// The changed bytes without the holes, in ascending order, if together
    /// they are no more than [`crate::limits::INLINE_BYTES_MAX`]; or all that was read.
    pub bytes: Option<Writes>,
    /// The holes among the changed bytes; or among all that was read.
    pub holes: RangeSet,
    /// The fingerprint was the same before and after. One long write may still
    /// have been under way, whose end capture will tell.
    pub stable: bool,
}
