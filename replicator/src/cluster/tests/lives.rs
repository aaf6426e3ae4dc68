//! Nodes that start in an earlier life than the others know of them: their
//! clock was set back, and the life that they kept is gone or older, too.

use super::*;

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;

/// When all see the node again. It takes a few dozen round trips, and at
/// times a greeting more.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// What a node sends and is sent meanwhile, in so small a cluster.
const DATAGRAMS_MAX: u64 = 1500;

/// Alarms a node of a small cluster may wait for.
const ALARMS_MAX: usize = 32;

/// `count` nodes of which the last lives by a clock that is ahead by so much.
fn with_a_clock_ahead(count: u16, ahead_ms: u64) -> World {
    let mut world = World::with_seed_node(count - 1);
    world.start_node_in_life(count, &[1], Vec::new(), ahead_ms);
    world.until_all_see(1..=count);
    world.run(Duration::from_secs(20));
    world
}

/// The last node starts again, its clock set right, and is soon back.
fn returns_cheaply(world: &mut World, count: u16) {
    let (begin, before) = (world.now, world.datagrams);
    world.start_node_in_life(count, &[1], Vec::new(), 1);
    while !is_back(world, count) {
        world.run(Duration::from_millis(10));
        assert_cheap(world, begin, before, BACK_WITHIN);
    }
    // And stays.
    world.run(Duration::from_secs(20));
    assert!(is_back(world, count));
    assert_cheap(world, begin, before, Duration::from_secs(30));
}

/// All others see it in the life it lives, and it sees all of them.
fn is_back(world: &World, n: u16) -> bool {
    let me = world.nodes[&id(n)].me();
    (1..n).all(|other| world.nodes[&id(other)].members().contains(me))
        && world.members[&id(n)].len() == usize::from(n) - 1
}

fn assert_cheap(world: &World, begin: Instant, before: u64, limit: Duration) {
    let (took, sent) = (world.now - begin, world.datagrams - before);
    let alarms = world.nodes.values().map(|node| node.alarms.len()).max().unwrap_or(0);
    let cheap = took <= limit && sent <= DATAGRAMS_MAX && alarms <= ALARMS_MAX;
    assert!(cheap, "after {took:?}: {sent} datagrams, {alarms} alarms");
}

#[test]
fn a_clock_that_was_set_back_costs_a_few_round_trips() {
    for count in [2, 3, 8] {
        for ahead_ms in [1000, HOUR_MS, 10 * YEAR_MS] {
            // Before anybody missed it, and after they did.
            for missed in [false, true] {
                let mut world = with_a_clock_ahead(count, ahead_ms);
                world.kill(count);
                if missed {
                    world.until_all_see(1..count);
                }
                returns_cheaply(&mut world, count);
            }
        }
    }
}

/// Each time it is down it is to be forgotten after an hour: that is set once.
#[test]
fn a_member_that_comes_and_goes_for_an_hour_sets_no_alarm_each_time() {
    let mut world = World::with_seed_node(3);
    world.until_all_see(1..=3);
    for _ in 0..2 * ALARMS_MAX {
        world.kill(3);
        world.until_all_see(1..=2);
        world.start_node(3, &[1]);
        world.until_all_see(1..=3);
        for n in 1..=2 {
            let alarms = world.nodes[&id(n)].alarms.len();
            assert!(alarms <= ALARMS_MAX, "{alarms} alarms");
        }
    }
}
