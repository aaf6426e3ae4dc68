//! The harness of the end-to-end stories: real daemons on loopback, looked at
//! only from outside.
//!
//! The stories in `tests/`, the tour of `cargo xtask build-and-run --once` and
//! the benchmarks drive nodes through it. It knows the command line, the exit
//! codes and the status of `replicator`, and none of its code: a comparison
//! that shared the daemon's walk or hash would share its mistakes.

pub mod apt;
mod btrfs;
mod cluster;
mod command;
pub mod flags;
pub mod foreign;
pub mod ledger;
pub mod levels;
pub mod machine;
pub mod mapping;
pub mod nested;
pub mod network;
pub mod nobody;
mod node;
pub mod poll;
pub mod random;
pub mod relay;
pub mod sample;
mod status;
mod stopped;
pub mod tree;
mod volume;
pub mod withheld;
mod xfs;

pub use cluster::{Cluster, SETTLE_LIMIT, write_password};
pub use command::{
    Finished, binary, copy_program, end_with_this_thread, finish, replicator, use_binary,
};
pub use node::{Node, Settings, free_port};
pub use status::{PeerTraffic, Status};
pub use stopped::Stopped;
pub use volume::{FileSystem, Form, Volume, keep_mounts_to_this_thread};
