//! What the outside may know of a node, and the ways to it: a text file, and
//! a socket that answers questions.
//!
//! The node fills a [`Snapshot`]; this room shows it. It measures nothing
//! itself and changes nothing in the folder, so that a broken display can
//! never harm a file.

pub mod clock;
pub mod control;
pub mod file;
mod place;
mod process;
mod snapshot;
mod text;

pub use place::{Error as PlaceError, NodeNote, StateDir};
pub use snapshot::{
    ActivityLine, CaptureFacts, EngineFacts, FolderFacts, IndexFacts, NodeFacts, PathError,
    PeerFacts, ProcessFacts, Rates, Snapshot, state,
};
pub use text::{human_bytes, human_duration, printable, render};
