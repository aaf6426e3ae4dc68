//! Settings of a node, by what they change for its user.

use std::fs::{self, OpenOptions};
use std::net::Ipv6Addr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use replicator_tests::{Cluster, Node, machine, poll, random::Random};

const LARGE_BYTES: usize = 8 << 20;

const LIMIT: Duration = Duration::from_secs(15);

/// What a node asks for.
const NEEDED_FILES: u64 = 3840;

fn inode(node: &Node) -> u64 {
    fs::metadata(node.path("large")).unwrap().ino()
}

/// Writes a little into the large file of one node; the other has it soon.
fn edit(from: &Node, to: &Node, offset: u64) {
    let file = OpenOptions::new().write(true).open(from.path("large")).unwrap();
    file.write_all_at(b"edited", offset).unwrap();
    poll::eventually(LIMIT, "the edit arrives", || {
        let mut bytes = [0; 6];
        let file = fs::File::open(to.path("large")).unwrap();
        file.read_exact_at(&mut bytes, offset).is_ok() && bytes == *b"edited"
    });
}

#[test]
fn delays_places_and_intervals_are_kept() {
    let mut cluster = Cluster::new(2);
    let options = ["--in-place", "never", "--status-interval", "1s"];
    cluster[0].settings.options = options.map(Into::into).into();
    cluster[1].settings.options = ["--delay", "2s", "--max-delay", "4s"].map(Into::into).into();
    fs::write(cluster[0].path("large"), Random::new(1).bytes(LARGE_BYTES)).unwrap();
    cluster.start();
    cluster.assert_same();

    fs::write(cluster[1].path("slow"), "written at once, read later").unwrap();
    poll::holds_for(Duration::from_secs(1), "the file waits", || !cluster[0].path("slow").exists());
    poll::eventually(LIMIT, "it has been quiet", || cluster[0].path("slow").exists());
    poll::eventually(LIMIT, "one that is never quiet does not wait for ever", || {
        // More often than every `delay`.
        fs::write(cluster[1].path("busy"), "written again").unwrap();
        cluster[0].path("busy").exists()
    });

    let before = (inode(&cluster[0]), inode(&cluster[1]));
    edit(&cluster[1], &cluster[0], 1 << 20);
    assert_ne!(inode(&cluster[0]), before.0, "it was written in place");
    edit(&cluster[0], &cluster[1], 3 << 20);
    assert_eq!(inode(&cluster[1]), before.1, "it was not written in place");
    cluster.assert_same();

    let report = cluster[0].state().join("replicator.status");
    let written = || fs::metadata(&report).unwrap().modified().unwrap();
    // Twice within less than one interval of the default.
    for _ in 0..2 {
        let last = written();
        poll::eventually(Duration::from_secs(4), "the status is rewritten", || written() > last);
    }
}

#[test]
fn an_address_of_ipv6_serves_both_families() {
    let mut cluster = Cluster::strangers(3);
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return machine::skip("there is no IPv6 on the loopback");
    }
    if fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|only| only.trim() != "0") {
        return machine::skip("sockets of IPv6 take no IPv4 on this machine");
    }
    // The second has IPv4 alone, as the default has it.
    for number in [0, 2] {
        cluster[number].settings.host = Ipv6Addr::UNSPECIFIED.into();
    }
    let port = cluster[0].settings.port;
    cluster[1].settings.peers = vec![port];
    cluster[2].settings.options = vec!["--peer".into(), format!("[::1]:{port}").into()];
    cluster.start();
    fs::write(cluster[1].path("from IPv4"), "on all").unwrap();
    fs::write(cluster[2].path("from IPv6"), "on all").unwrap();
    poll::eventually(LIMIT, "all know all", || {
        cluster.nodes().iter().all(|node| node.status().unwrap().peers_connected() == 2)
    });
    cluster.assert_same();
    for node in cluster.nodes() {
        for name in ["from IPv4", "from IPv6"] {
            assert!(node.path(name).exists(), "{name} is not on {}", node.name());
        }
    }
    let (log, status) = (cluster[0].log(), cluster[0].status().unwrap());
    assert!(log.contains(&format!(" on [::]:{port}, ")), "{log}");
    assert!(status.json()["peers"].to_string().contains("[::1]:"), "{status}");
}

/// As a service manager starts it: few files at first, more where it asks.
#[test]
fn few_open_files_are_allowed_at_the_start() {
    let Some(prlimit) = machine::program("prlimit") else {
        return machine::skip("prlimit is not installed");
    };
    if getrlimit(Resource::Nofile).maximum.is_some_and(|most| most < NEEDED_FILES) {
        return machine::skip("no more open files are to be had by asking");
    }
    let mut cluster = Cluster::new(2);
    for node in cluster.nodes_mut() {
        node.settings.prefix = vec![prlimit.clone().into(), "--nofile=128:".into()];
    }
    for number in 0..4000 {
        fs::write(cluster[0].path(format!("{number}")), vec![7; 5000]).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    for node in cluster.nodes() {
        assert!(!node.log().contains("Too many open files"), "{}", node.log());
    }
}

#[test]
fn space_that_is_to_stay_free_stays_free() {
    let mut cluster = Cluster::new(2);
    cluster[1].settings.options = ["--min-free", "1000000GiB"].map(Into::into).into();
    cluster.start();
    fs::write(cluster[0].path("file"), vec![b'.'; 100_000]).unwrap();
    poll::eventually(LIMIT, "the status says what is missing", || {
        cluster[1].status().unwrap().json()["errors"].to_string().contains("min_free")
    });
    assert!(!cluster[1].path("file").exists());
    assert_eq!(cluster[0].wait(Duration::from_secs(1)).unwrap().code, 1);
    cluster[1].stop().unwrap();
    cluster[1].settings.options.clear();
    cluster[1].start().unwrap();
    cluster.assert_same();
}
