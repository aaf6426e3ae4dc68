//! The tests of single rooms again, on file systems they are not run on by
//! themselves: whoever touches the disk meets the ways of each.
//!
//! On XFS an ACL was taken for an attribute, and an exchanged directory got a
//! time of its own: both were found like this, and not by any story.

use std::process::Command;

use replicator_tests::{FileSystem, Volume, machine};

/// The rooms that touch the disk. Those of `capture` go to all file systems
/// by themselves.
const ROOMS: [&str; 3] = ["apply::", "engine::", "root::"];

fn on(kind: FileSystem) {
    let Some(tests) = std::env::var_os("REPLICATOR_ROOM_TESTS") else {
        machine::skip("REPLICATOR_ROOM_TESTS names no program, as `cargo xtask test` does");
        return;
    };
    let Some(volume) = Volume::or_skip(kind) else { return };
    let mut command = Command::new(tests);
    // What they skip they have said already.
    command.args(ROOMS).env("TMPDIR", volume.path()).env_remove("REPLICATOR_SKIPPED");
    let said = machine::run(&mut command).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(!said.contains("running 0 tests"), "{said}");
}

#[test]
fn rooms_on_ext4() {
    on(FileSystem::Ext4);
}

#[test]
fn rooms_on_xfs() {
    on(FileSystem::Xfs);
}

#[test]
fn rooms_on_btrfs() {
    on(FileSystem::Btrfs);
}

#[test]
fn rooms_on_tmpfs() {
    on(FileSystem::Tmpfs);
}
