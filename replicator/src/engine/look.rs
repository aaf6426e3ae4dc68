//! What a look at an entry tells.
//!
//! Values alone: [`super::observe`] looks.

use super::Error;
use crate::entry::Stat;
use crate::hash::Leaves;
use crate::path::RelPath;
use crate::range::RangeSet;
use crate::writes::Writes;

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
