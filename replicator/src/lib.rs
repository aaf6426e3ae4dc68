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

pub mod address;
pub mod apply;
pub mod capture;
pub mod choice;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod entry;
pub mod hash;
pub mod id;
pub mod index;
pub mod limits;
pub mod node;
pub mod path;
pub mod range;
pub mod root;
pub mod status;
pub mod sync;
pub mod transport;
pub mod writes;
