//! No tax: what does not change costs nothing, on whatever level it is watched.

use std::time::{Duration, Instant};

use replicator_tests::{Cluster, FileSystem, Node, Volume, levels, machine, sample};

/// Long enough for keep-alives and status files to show.
const WINDOW: Duration = Duration::from_secs(4);

/// Of one core; keep-alives and the status file take a tenth of this.
const SHARE_MAX: f64 = 0.01;

/// Quiet windows in a row: what comes back every few seconds spoils one of
/// them.
const QUIET_WINDOWS: usize = 2;

/// Work that a merge leaves behind may take a moment; an idle one may not go
/// on for ever.
const WINDOWS_MAX: usize = 6;

#[test]
fn a_cluster_in_sync_uses_no_processor_with_ebpf() {
    at_level("ebpf");
}

#[test]
fn a_cluster_in_sync_uses_no_processor_with_fanotify() {
    at_level("fanotify");
}

#[test]
fn a_cluster_in_sync_uses_no_processor_with_inotify() {
    at_level("inotify");
}

fn at_level(level: &str) {
    // A capture hears of every name on its file system, so that the thousands
    // of files of the story beside this one would be heard here. Who may mount
    // nothing has inotify only, which hears of its own folders.
    let volume = Volume::new(FileSystem::Ext4).ok();
    let mut cluster = Cluster::new(2).with_options(&["--capture", level]);
    if let Some(volume) = &volume {
        cluster = cluster.with_roots_in(volume.path());
    }
    if let Some(lack) = levels::lacks(cluster[0].root(), level) {
        return machine::skip(lack);
    }
    sample::site(cluster[0].root()).unwrap();
    cluster.start();
    cluster.assert_same();

    let (mut windows, mut quiet) = (Vec::new(), 0);
    while quiet < QUIET_WINDOWS {
        assert!(windows.len() < WINDOWS_MAX, "shares of one core over {WINDOW:?}: {windows:?}");
        let shares = busy_shares(cluster.nodes());
        let is_quiet = shares.iter().all(|&share| share < SHARE_MAX);
        quiet = if is_quiet { quiet + 1 } else { 0 };
        windows.push(shares);
    }
}

/// What share of one core each node used during one window.
fn busy_shares(nodes: &[Node]) -> Vec<f64> {
    let used = || nodes.iter().map(|node| node.cpu_seconds().unwrap()).collect::<Vec<_>>();
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(WINDOW);
    let elapsed = start.elapsed().as_secs_f64();
    used().iter().zip(before).map(|(after, before)| (after - before) / elapsed).collect()
}
