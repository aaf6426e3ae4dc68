//! Clusters in virtual time: what the membership of a few dozen nodes does when
//! they meet, die, are cut off and return.

mod lives;
mod outage;
mod scale;
mod wired;
mod world;

use std::collections::BTreeSet;

use super::search::{LOST_DIALED_MAX, REMEMBERED_MAX};
use super::*;
use world::{IDLE_TIME, World, address, id};

#[test]
fn one_seed_is_enough_for_everybody_to_meet() {
    for count in [2, 3, 5, 16] {
        let mut world = World::with_seed_node(count);
        let took = world.until_all_see(1..=count);
        assert!(took < Duration::from_secs(5), "{count} nodes took {took:?}");
        world.run(Duration::from_secs(5));
        for n in 1..=count {
            assert_eq!(world.degree(n), usize::from(count) - 1, "a full mesh");
            assert_eq!(world.nodes[&id(n)].me().address, address(n), "learned from peers");
        }
    }
}

#[test]
fn a_large_cluster_meets_and_keeps_few_connections() {
    let mut world = World::with_seed_node(50);
    let took = world.until_all_see(1..=50);
    assert!(took < Duration::from_secs(60), "{took:?}");
    world.run(Duration::from_secs(60));
    for n in 1..=50 {
        let degree = world.degree(n);
        assert!((4..=24).contains(&degree), "node {n} has {degree} connections");
    }
    // Nobody is taken for dead for want of a direct connection.
    assert_eq!(world.views(), vec![49; 50]);
    let before = world.datagrams;
    world.run(Duration::from_secs(10));
    let rate = (world.datagrams - before) / (10 * 50);
    assert!(rate < 30, "{rate} datagrams a second and node");
}

#[test]
fn death_is_noticed_within_seconds_and_a_return_at_once() {
    for count in [3, 5, 16, 30] {
        let mut world = World::with_seed_node(count);
        world.until_all_see(1..=count);
        world.run(Duration::from_secs(20));
        world.kill(count);
        let took = world.until_all_see(1..count);
        assert!(took < Duration::from_secs(15), "{count} nodes took {took:?}");
        // It knows nobody: the others still dial it.
        world.start_node(count, &[]);
        let took = world.until_all_see(1..=count);
        assert!(took < Duration::from_secs(15), "{count} nodes took {took:?} to see it back");
    }
}

#[test]
fn the_seed_may_die_and_the_cluster_stays_whole() {
    let mut world = World::with_seed_node(5);
    world.until_all_see(1..=5);
    world.kill(1);
    world.until_all_see(2..=5);
    world.start_node(6, &[3]);
    world.until_all_see(2..=6);
}

#[test]
fn a_cut_heals_by_itself() {
    for count in [4, 24] {
        let mut world = World::with_seed_node(count);
        world.until_all_see(1..=count);
        world.run(Duration::from_secs(20));
        world.split_off(1..=count / 2);
        world.until_all_see(1..=count / 2);
        world.until_all_see(count / 2 + 1..=count);
        world.cut = None;
        let took = world.until_all_see(1..=count);
        assert!(took < Duration::from_secs(60), "{count} nodes took {took:?}");
    }
}

#[test]
fn who_leaves_says_so() {
    let mut world = World::with_seed_node(4);
    world.until_all_see(1..=4);
    world.nodes.get_mut(&id(4)).unwrap().leave(world.now);
    world.drain(id(4));
    world.run(Duration::from_millis(10));
    world.kill(4);
    let took = world.until_all_see(1..=3);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Of 300 members it reaches two, and what these say of others in passing are
/// a few at random.
#[test]
fn who_hears_of_many_reads_the_whole_list() {
    for (loss_percent, limit) in [(0, 4), (20, 12)] {
        let mut world = World::long_met(300);
        (3..=300).for_each(|n| world.kill(n));
        world.loss_percent = loss_percent;
        world.start_node(301, &[1]);
        // Some are found out to be gone meanwhile.
        let knows_most = |world: &World| world.members[&id(301)].len() > 270;
        world.until(Duration::from_secs(limit), knows_most);
    }
}

/// A list says who is gone, too: to those who take them for alive still.
#[test]
fn who_was_gone_before_is_nothing_to_one_that_joins() {
    let mut world = World::long_met(60);
    (31..=60).for_each(|n| world.kill(n));
    world.until_all_see(1..=30);
    world.run(Duration::from_secs(60));
    world.start_node(61, &[1]);
    world.until_all_see((1..=30).chain([61]));
    world.run(Duration::from_secs(10));
    let known = world.nodes[&id(61)].foca.iter_membership_state();
    assert_eq!(known.filter(|member| member.state() == foca::State::Down).count(), 0);
}

/// What a node alone believes is heard by nobody: who lives would come back when
/// it is its turn to probe that node, some time in five minutes.
#[test]
fn who_alone_takes_a_member_for_dead_finds_it_alive_in_a_list() {
    let mut world = World::long_met(300);
    world.run(Duration::from_secs(5));
    let cluster = world.nodes.get_mut(&id(1)).unwrap();
    let alive = Member { id: id(9), address: address(9), life: 1 };
    let dead = foca::Member::new(alive, 0, foca::State::Down);
    cluster.foca.apply_many([dead].into_iter(), false, &mut cluster.runtime).unwrap();
    (0..100).for_each(|_| cluster.roll.hear(world.now));
    cluster.settle(world.now);
    world.drain(id(1));
    assert!(!world.members[&id(1)].contains(&id(9)));
    world.until(Duration::from_secs(5), |world| world.members[&id(1)].contains(&id(9)));
}

/// Of many that die at once nobody is heard of late: who missed one of them
/// would find out when its turn comes to be probed, a second for each member.
#[test]
fn of_many_deaths_at_once_all_are_noticed_soon() {
    let mut world = World::long_met(120);
    (61..=120).for_each(|n| world.kill(n));
    let took = world.until_all_see(1..=60);
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn nonsense_changes_nothing() {
    let mut world = World::with_seed_node(3);
    world.until_all_see(1..=3);
    let mut seed = 1u64;
    for length in 0..1200 {
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        // Half of it reaches foca.
        if length % 2 == 0 && length >= 18 {
            bytes[..2].copy_from_slice(&[1, 3]);
            bytes[2..18].copy_from_slice(id(1).as_bytes());
        }
        world.nodes.get_mut(&id(1)).unwrap().handle_datagram(world.now, id(2), &bytes);
        world.drain(id(1));
    }
    world.run(Duration::from_secs(30));
    world.until_all_see(1..=3);
}

#[test]
fn an_idle_cluster_is_nearly_silent() {
    let mut world = World::with_seed_node(3);
    world.until_all_see(1..=3);
    world.run(Duration::from_secs(60));
    let before = world.datagrams;
    world.run(Duration::from_secs(10));
    // One probe and its answer a second and node, and an announcement at times.
    let sent = world.datagrams - before;
    assert!(sent <= 80, "{sent} datagrams in 10 s");
}

#[test]
fn a_given_address_is_kept_and_foreign_loopbacks_are_not_dialed() {
    let now = Instant::now();
    let me = Member { id: id(1), address: address(1), life: 1 };
    let mut cluster = Cluster::new(me.clone(), vec![], vec![], now, 1);
    cluster.handle_up(now, id(2), address(2), "198.51.100.7".parse().unwrap());
    assert_eq!(cluster.me(), &me);
    assert!(!cluster.can_dial("127.0.0.1".parse().unwrap()));
    assert!(cluster.can_dial("10.0.0.9".parse().unwrap()));
}

#[test]
fn a_bad_network_delays_and_kills_nobody() {
    let mut world = World::new();
    world.loss_percent = 20;
    (1..=8).for_each(|n| world.start_node(n, if n == 1 { &[] } else { &[1] }));
    world.until_all_see(1..=8);
    world.kill(8);
    let took = world.until_all_see(1..=7);
    assert!(took < Duration::from_secs(20), "{took:?}");
}
