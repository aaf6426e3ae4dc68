//! Nodes of one cluster that are unlike.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use replicator_tests::{Cluster, Node, SETTLE_LIMIT, machine, poll};

const DAY: Duration = Duration::from_secs(86_400);

const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn reads(node: &Node, name: &str) -> String {
    fs::read_to_string(node.path(name)).unwrap_or_default()
}

/// Where Debian puts what shows a program another time.
fn faketime() -> PathBuf {
    let folder = format!("/usr/lib/{}-linux-gnu/faketime", std::env::consts::ARCH);
    Path::new(&folder).join("libfaketimeMT.so.1")
}

/// Words before a daemon that has this clock. What times out and what is
/// told of files stays right.
fn with_clock(off: &str) -> Vec<OsString> {
    let library = format!("LD_PRELOAD={}", faketime().display());
    let (off, monotonic) = (format!("FAKETIME={off}"), "FAKETIME_DONT_FAKE_MONOTONIC=1".into());
    let words = ["env".into(), library, off, monotonic, "NO_FAKE_STAT=1".into()];
    words.map(OsString::from).into()
}

/// Writes as a machine with this clock would.
fn write_at(path: &Path, content: &str, clock: SystemTime) {
    fs::write(path, content).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(clock).unwrap();
}

#[test]
fn clocks_that_are_off_by_a_year() {
    if !faketime().exists() {
        return machine::skip("faketime is not installed");
    }
    let mut cluster = Cluster::new(3);
    let now = SystemTime::now();
    // Right, a year ahead, a year behind.
    let clocks = [now, now + YEAR, now - YEAR];
    cluster[1].settings.prefix = with_clock("+365d");
    cluster[2].settings.prefix = with_clock("-365d");
    cluster.start();
    let told = cluster[1].status().unwrap().number("/taken_ms") / 1000;
    let real = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(told > (real + YEAR - DAY).as_secs(), "the clock of b is not off");

    // Everything is replicated.
    for (node, clock) in cluster.nodes().iter().zip(clocks) {
        for name in ["edited", "deleted", "kept"] {
            write_at(&node.path(format!("{name}-of-{}", node.name())), name, clock);
        }
    }
    cluster.assert_same();
    // What came later is what counts, whatever the clocks say.
    for (author, other) in [(0, 2), (1, 2), (1, 0), (2, 1)] {
        let name = |what: &str| format!("{what}-of-{}", cluster[author].name());
        let content = format!("by {other}");
        write_at(&cluster[other].path(name("edited")), &content, clocks[other]);
        let _ = fs::remove_file(cluster[other].path(name("deleted")));
        cluster.assert_same();
        assert_eq!(reads(&cluster[author], &name("edited")), content);
        assert!(!cluster[author].path(name("deleted")).exists());
    }

    // Between changes made at the same time the wrong clock decides, and the
    // other side is kept.
    cluster[1].stop().unwrap();
    write_at(&cluster[0].path("kept-of-a"), "later in truth", clocks[0]);
    write_at(&cluster[1].path("kept-of-a"), "earlier in truth", clocks[1]);
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(reads(&cluster[2], "kept-of-a"), "earlier in truth");
    let kept = cluster[0].conflicts().unwrap();
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}");

    // A clock that is set right does no harm either.
    cluster[1].stop().unwrap();
    cluster[1].settings.prefix.clear();
    fs::write(cluster[0].path("kept-of-b"), "meanwhile").unwrap();
    cluster[1].start().unwrap();
    fs::write(cluster[1].path("kept-of-c"), "afterwards").unwrap();
    cluster.assert_same();
    assert_eq!(reads(&cluster[1], "kept-of-b"), "meanwhile");
    assert_eq!(reads(&cluster[2], "kept-of-c"), "afterwards");
    assert!(!cluster[1].log().contains("away for longer"), "{}", cluster[1].log());
}

/// Each node follows its own options; what they hold is the same.
#[test]
fn nodes_with_other_options_hold_the_same() {
    let mut cluster = Cluster::new(4);
    let options: [&[&str]; 4] = [
        &["--capture", "auto", "--delay", "5ms", "--delete-brake", "10%"],
        &[
            "--capture",
            "inotify",
            "--engine",
            "threads",
            "--delay",
            "500ms",
            "--delete-brake",
            "off",
        ],
        &[
            "--capture",
            "inotify",
            "--in-place",
            "never",
            "--retention",
            "30d",
            "--trash-keep",
            "1h",
        ],
        &["--mode", "receive-only", "--retention", "1d", "--verify-interval", "1h"],
    ];
    for (node, options) in cluster.nodes_mut().iter_mut().zip(options) {
        node.settings.options = options.iter().map(Into::into).collect();
        fs::write(node.path(format!("of-{}", node.name())), "before they met").unwrap();
    }
    fs::rename(cluster[3].path("of-d"), cluster[2].path("of-d")).unwrap();
    cluster.start();
    cluster.assert_same();
    let modes = cluster.nodes().iter().map(|node| node.status().unwrap());
    let modes: Vec<_> = modes.map(|status| status.text("/folder/mode").to_owned()).collect();
    assert_eq!(modes, ["both", "both", "both", "receive-only"]);
    assert_eq!(cluster[1].status().unwrap().capture(), "inotify");

    let writers = &cluster.nodes()[..3];
    for (round, writer) in writers.iter().cycle().take(6).enumerate() {
        let content = format!("in round {round}");
        fs::write(writer.path("of-a"), &content).unwrap();
        fs::rename(writer.path("of-b"), writer.path("moved")).unwrap();
        fs::create_dir(writer.path(format!("in-{round}"))).unwrap();
        fs::write(writer.path(format!("in-{round}/file")), &content).unwrap();
        cluster.assert_same();
        fs::rename(writer.path("moved"), writer.path("of-b")).unwrap();
        fs::remove_dir_all(writer.path(format!("in-{round}"))).unwrap();
        cluster.assert_same();
        assert!(cluster.nodes().iter().all(|node| reads(node, "of-a") == content));
    }

    // What the one that receives changes is its own affair alone.
    fs::write(cluster[3].path("of-c"), "its own").unwrap();
    poll::eventually(SETTLE_LIMIT, "it is reported", || {
        cluster[3].status().unwrap().number("/folder/own_changes") == 1
    });
    for node in &cluster.nodes()[..3] {
        assert_eq!(reads(node, "of-c"), "before they met");
    }
}
