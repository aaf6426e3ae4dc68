//! What users did one after the other, each after its node had met the one
//! before, while the nodes did not reach each other.

use std::fs;
use std::path::Path;

use replicator_tests::relay::{Relay, Weather};
use replicator_tests::{Cluster, Node};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::scene::{await_equal, await_met};

/// Does this, and waits until the node has met it.
fn act(node: &Node, marker: &str, what: impl FnOnce(&Node)) {
    what(node);
    await_met(node, marker);
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
    await_equal(&cluster[1], &cluster[2]);
    relay.set(Weather::default());
    cluster.assert_same();
    let shows = ["d/a", "d/d", "e"].map(|name| read(&cluster[0].path(name)));
    assert_eq!(shows, ["common", "there", "file"]);
}
