//! What users did one after the other, each after its node had met the one
//! before, while the nodes did not reach each other.

use std::fs;
use std::path::Path;
use std::time::Duration;

use replicator_tests::relay::{Relay, Weather};
use replicator_tests::{Cluster, Node, SETTLE_LIMIT, poll, tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Until a node has looked at what its user did.
const MET_WITHIN: Duration = Duration::from_secs(10);

/// Does this, and waits until the node has met it: another file says so, which
/// comes behind.
fn act(node: &Node, marker: &str, what: impl FnOnce(&Node)) {
    what(node);
    fs::write(node.path(marker), marker).unwrap();
    poll::eventually(MET_WITHIN, "the node meets what its user did", || {
        let recent = node.status().unwrap().recent();
        recent.iter().any(|(_, what)| what.ends_with(marker))
    });
}

fn replace(node: &Node, name: &str, content: &str) {
    let beside = node.root().with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(&beside, node.path(name)).unwrap();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

#[test]
fn an_edit_stays_at_the_name_that_its_file_had_left() {
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, 404).unwrap();
    cluster.start();
    let orders = [["a", "b"], ["b", "a"]];
    for order in 0..orders.len() {
        let at = |name: &str| cluster[0].path(format!("{order}/{name}"));
        fs::create_dir(at("")).unwrap();
        fs::write(at("a"), "text").unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
    }
    cluster.assert_same();
    relay.set(Weather::DARK);
    for (order, names) in orders.iter().enumerate() {
        act(&cluster[0], &format!("edited-{order}"), |node| {
            fs::write(node.path(format!("{order}/a")), "changed").unwrap();
        });
        act(&cluster[0], &format!("replaced-{order}"), |node| {
            replace(node, &format!("{order}/b"), "another");
        });
        for name in names {
            act(&cluster[1], &format!("removed-{order}-{name}"), |node| {
                fs::remove_file(node.path(format!("{order}/{name}"))).unwrap();
            });
        }
    }
    relay.set(Weather::default());
    cluster.assert_same();
    for (order, node) in (0..orders.len()).flat_map(|order| [(order, 0), (order, 1)]) {
        let shows = ["a", "b"].map(|name| read(&cluster[node].path(format!("{order}/{name}"))));
        assert_eq!(shows, ["changed", "another"], "order {order} on node {node}");
    }
}

/// A third node hears of both at once: each name waits for another there.
#[test]
fn a_directory_takes_the_place_of_a_file_that_was_exchanged_with_another() {
    let mut cluster = Cluster::new(3);
    let relay = Relay::before(&mut cluster, 405).unwrap();
    cluster.start();
    fs::write(cluster[0].path("d"), "file").unwrap();
    fs::create_dir(cluster[0].path("e")).unwrap();
    fs::write(cluster[0].path("e/a"), "common").unwrap();
    cluster.assert_same();
    relay.set(Weather::DARK);
    act(&cluster[1], "exchanged", |node| {
        let (one, other) = (node.path("d"), node.path("e"));
        renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
    });
    act(&cluster[2], "made", |node| {
        fs::remove_file(node.path("d")).unwrap();
        fs::create_dir(node.path("d")).unwrap();
        fs::write(node.path("d/d"), "there").unwrap();
    });
    relay.set_between(1, 2, Weather::default());
    poll::eventually(SETTLE_LIMIT, "both show what the other does", || {
        let (one, other) = (cluster[1].root(), cluster[2].root());
        tree::differences(one, other).is_ok_and(|lines| lines.is_empty())
    });
    relay.set(Weather::default());
    cluster.assert_same();
    let shows = ["d/a", "d/d", "e"].map(|name| read(&cluster[0].path(name)));
    assert_eq!(shows, ["common", "there", "file"]);
}
