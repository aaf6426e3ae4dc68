//! Nodes change the same thing at once: one winner everywhere, nothing lost,
//! everything listed.

mod directories;
mod files;
mod metadata;
mod place;
mod row;
mod scene;
mod steps;
mod store;

use std::fs;

use replicator_tests::relay::{Relay, Weather};
use replicator_tests::{Cluster, FileSystem, Volume};

use scene::{Scene, await_equal};

#[test]
fn what_changed_beside_a_stopped_node_and_is_restored() {
    let mut scene = Scene::begin(Cluster::running(2));
    scene.cluster[1].stop().unwrap();
    scene.act();
    scene.cluster[1].start().unwrap();
    scene.cluster.assert_same();
    scene.assert_outcomes(&[0, 1]);
    scene.assert_restores();
}

#[test]
fn what_changed_on_two_file_systems_that_did_not_hear_of_each_other() {
    let Some(xfs) = Volume::or_skip(FileSystem::Xfs) else { return };
    let Some(btrfs) = Volume::or_skip(FileSystem::Btrfs) else { return };
    let mut cluster = Cluster::new(2);
    for (node, volume) in cluster.nodes_mut().iter_mut().zip([&xfs, &btrfs]) {
        node.settings.root = volume.path().join("root");
        fs::create_dir(&node.settings.root).unwrap();
    }
    let relay = Relay::before(&mut cluster, 401).unwrap();
    cluster.start();
    let scene = Scene::begin(cluster);
    relay.set(Weather::DARK);
    scene.act();
    scene.await_own_changes();
    relay.set(Weather::default());
    scene.cluster.assert_same();
    scene.assert_outcomes(&[0, 1]);
}

/// It meets the one, and then the other: those two never meet.
#[test]
fn what_changed_on_two_is_carried_by_a_third() {
    let mut cluster = Cluster::new(3);
    let relay = Relay::before(&mut cluster, 402).unwrap();
    cluster.start();
    let scene = Scene::begin(cluster);
    relay.set(Weather::DARK);
    scene.act();
    scene.await_own_changes();
    let are_equal =
        |one: usize, other: usize| await_equal(&scene.cluster[one], &scene.cluster[other]);
    relay.set_between(0, 2, Weather::default());
    are_equal(0, 2);
    relay.set_between(1, 2, Weather::default());
    are_equal(1, 2);
    are_equal(0, 2);
    relay.set(Weather::default());
    scene.cluster.assert_same();
    scene.assert_outcomes(&[0, 1, 0]);
}

/// Neither has looked at all of it, or told of any.
#[test]
fn what_changed_on_two_that_were_killed_then() {
    let mut cluster = Cluster::new(2);
    let relay = Relay::before(&mut cluster, 403).unwrap();
    cluster.start();
    let mut scene = Scene::begin(cluster);
    relay.set(Weather::DARK);
    scene.act();
    scene.cluster.nodes_mut().iter_mut().for_each(|node| node.kill9().unwrap());
    relay.set(Weather::default());
    scene.cluster.start();
    scene.cluster.assert_same();
    scene.assert_outcomes(&[0, 1]);
}
