//! No tax: what does not change costs nothing.

use std::time::{Duration, Instant};

use replicator_tests::{Cluster, Node, poll, sample};

/// Long enough for keep-alives and status files to show.
const WINDOW: Duration = Duration::from_secs(4);

/// Of one core; keep-alives and the status file take a tenth of this.
const SHARE_MAX: f64 = 0.01;

#[test]
fn a_cluster_in_sync_uses_no_processor() {
    let mut cluster = Cluster::new(2);
    sample::site(cluster[0].root()).unwrap();
    cluster.start();
    cluster.assert_same();

    let mut shares = Vec::new();
    // Work that a merge leaves behind may take a moment; an idle one may not
    // go on for ever.
    let quiet = poll::until(Duration::from_secs(16), || {
        shares = busy_shares(cluster.nodes());
        shares.iter().all(|&share| share < SHARE_MAX)
    });
    assert!(quiet, "shares of one core over {WINDOW:?}: {shares:?}");
}

/// What share of one core each node used during one window.
fn busy_shares(nodes: &[Node]) -> Vec<f64> {
    let used = || nodes.iter().map(|node| node.cpu_seconds().unwrap()).collect::<Vec<_>>();
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(WINDOW);
    let elapsed = start.elapsed().as_secs_f64();
    used().iter().zip(before).map(|(after, before)| (after - before) / elapsed).collect()
}
