//! A node that comes back to one that holds as many files: what crosses is in
//! proportion to what changed meanwhile, and so is what is read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Node, Volume, sample, tree};

/// A listing of so many takes megabytes: a record has 280 bytes.
const FILES: u64 = 10_000;

/// Read again, they would be much more than the index is.
const FILE_BYTES: usize = 8192;

/// What ten changes, one of them the move of a hundred files, may add, both
/// ways, to what a connection takes on this machine.
const CHANGES_BYTES_MAX: u64 = 48 << 10;

/// A connection alone: most of it looks for the largest datagram that passes,
/// and the loopback takes those of 64 KiB.
const CONNECTION_BYTES_MAX: u64 = 256 << 10;

const MEET_LIMIT: Duration = Duration::from_secs(60);

fn many(node: &Node, number: u64) -> PathBuf {
    node.path("many").join(sample::small_file(number))
}

/// Starts the second node: what has crossed when both are the same, and what
/// it has read.
fn comes_back(cluster: &mut Cluster) -> (u64, u64) {
    cluster[1].start().unwrap();
    for node in cluster.nodes() {
        let waited = node.wait(MEET_LIMIT).unwrap();
        assert_eq!(waited.code, 0, "{waited:?}");
    }
    let traffic = cluster[1].status().unwrap().traffic();
    (traffic.sent + traffic.received, cluster[1].bytes_read().unwrap())
}

#[test]
fn ten_changes_among_many_files_cost_kilobytes_when_a_node_comes_back() {
    // Of their own: it is gone at once, with all that is in it.
    let Some(volume) = Volume::or_skip(FileSystem::Ext4) else { return };
    let mut cluster = Cluster::new(2).with_roots_in(volume.path());
    sample::small_files(&cluster[0].path("many"), FILES, FILE_BYTES).unwrap();
    sample::copy(cluster[0].root(), cluster[1].root()).unwrap();
    cluster.start();
    for node in cluster.nodes() {
        assert_eq!(node.wait(MEET_LIMIT).unwrap().code, 0);
    }
    cluster[1].stop().unwrap();
    let (unchanged, _) = comes_back(&mut cluster);
    assert!(unchanged < CONNECTION_BYTES_MAX, "{unchanged} bytes though nothing changed");

    cluster[1].stop().unwrap();
    let here = &cluster[0];
    for number in 0..4 {
        fs::write(many(here, 2000 * number), format!("edited {number}")).unwrap();
    }
    fs::write(here.path("new"), "new").unwrap();
    fs::create_dir(here.path("folder")).unwrap();
    fs::remove_file(many(here, 8001)).unwrap();
    fs::rename(many(here, 2345), here.path("renamed")).unwrap();
    fs::rename(many(here, 9999).parent().unwrap(), here.path("folder/moved")).unwrap();
    fs::set_permissions(many(here, 77), Permissions::from_mode(0o640)).unwrap();

    let (changed, read) = comes_back(&mut cluster);
    println!("{unchanged} bytes for nothing, {changed} for ten changes; {read} were read");
    let more = changed.saturating_sub(unchanged);
    assert!(more < CHANGES_BYTES_MAX, "{more} bytes for ten changes");
    assert!(read < FILES * FILE_BYTES as u64 / 2, "{read} bytes were read");
    cluster.assert_same();
    assert_eq!(tree::count(cluster[1].root()).unwrap().0, FILES);
}
