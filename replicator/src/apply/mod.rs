//! Making remote changes real here.
//!
//! The room takes [`Step`]s, carries them out strictly in order on one thread
//! of its own and answers each with an [`Outcome`]. It never decides who wins:
//! it only refuses to replace or remove anything that is not what the caller
//! expected, so a local change that arrives in the same moment survives.
//!
//! Whatever is killed, and when: a name of the tree holds a complete old or a
//! complete new entry. New entries are made in `.replicator/tmp`, files
//! without a name where that can be; displaced ones rest in the trash or the
//! conflict store, and a file written in place has a redo record until its
//! bytes are durable.

mod agreed;
mod applier;
mod beside;
mod bound;
pub mod conflicts;
mod content;
mod durable;
mod error;
mod in_place;
mod lease;
mod metadata;
mod moment;
mod names;
mod patch;
mod place;
mod redo;
mod sealed;
mod settled;
mod staged;
mod step;
mod together;
pub mod trash;
mod worker;

pub use agreed::Agreed;
pub use applier::Applier;
pub use content::punch;
pub use durable::flush_all;
pub use error::Error;
pub use redo::Recovered;
pub use staged::{Staged, check_room, flush};
pub use step::{Expect, Keep, Outcome, Over, Step};

#[cfg(test)]
mod tests;
