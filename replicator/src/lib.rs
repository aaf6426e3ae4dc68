//! Replicator keeps a folder the same on every server of a cluster, live.
//!
//! ```text
//!  application writes
//!    | kernel: ranges per inode (eBPF), names (fanotify)
//!  capture ──> sync core (pure) ──> transport ══ QUIC ══> transport ──> sync core ──> apply
//!                |      ^                                                |      |        |
//!                v      | read, hash                                     v      v        v
//!              index  engine (io_uring)                                index       engine (io_uring)
//! ```
//!
//! Each room is one module; `ARCHITECTURE.md` is the map. Only the node knows
//! all rooms, and arrows point one way.

mod address;
mod apply;
mod capture;
mod choice;
pub mod cli;
mod cluster;
mod config;
mod engine;
mod entry;
mod hash;
mod id;
mod index;
mod limits;
mod look;
mod node;
mod path;
mod range;
mod root;
mod status;
mod sync;
mod transport;
mod writes;
