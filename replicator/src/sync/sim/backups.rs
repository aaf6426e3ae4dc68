//! A machine whose disk is put back to what it was, and what it writes before
//! anybody tells it.

use std::time::Duration;

use super::check::nothing_differs_or_is_lost as check;
use super::path;
use super::plan::Plan;
use super::world::{Backup, World};

/// The order of looks and messages is left to the seed.
const SEEDS: u64 = 24;

fn write(world: &mut World, at: usize, name: &str) {
    world.contents.written.insert(name.into());
    world.act(at, |disk, dead| disk.write(&path(name), name.as_bytes(), dead));
}

/// Less than a round of members takes.
const SOON: Duration = Duration::from_millis(500);

/// A node that was backed up, wrote more that all know, and was put back; it
/// reaches nobody yet.
fn rolled_back(seed: u64) -> World {
    let backup = Some(Backup::Machine);
    // Nothing is large, so that all is fetched soon.
    let plan = Plan::peaceful(3 * seed);
    let durable_after = Some(SOON / 5);
    let mut world = World::new(Plan { nodes: 3, members: true, backup, durable_after, ..plan });
    write(&mut world, 0, "lasting");
    (0..3).for_each(|at| world.start(at));
    world.settle().expect("they meet");
    write(&mut world, 1, "before");
    world.settle().expect("all know it");
    world.back_up(1);
    world.run_for(SOON).expect("it starts again");
    write(&mut world, 1, "since");
    world.run_for(SOON).expect("all know it");
    world.put_back(1, Backup::Machine);
    world.set_alone(Some(1));
    world.start(1);
    world.run_for(SOON).expect("it meets its folder");
    world
}

fn meets_the_others(mut world: World, began_anew: bool, seed: u64) {
    world.set_alone(None);
    world.make_peace().unwrap();
    let trace = world.trace.join("\n");
    check(&world).unwrap_or_else(|reason| panic!("seed {seed}: {reason}\n{trace}"));
    let shown = world.nodes[1].disk.shown();
    assert!(shown.contains_key(&path("since")), "seed {seed}: what was written since is not back");
    assert_eq!(world.nodes[1].rejoined > 0, began_anew, "seed {seed}");
}

#[test]
fn a_machine_that_was_put_back_goes_on() {
    for seed in 0..SEEDS {
        meets_the_others(rolled_back(seed), false, seed);
    }
}

#[test]
fn a_machine_that_was_put_back_and_wrote_begins_anew() {
    for seed in 0..SEEDS {
        let mut world = rolled_back(seed);
        write(&mut world, 1, "alone");
        world.run_for(SOON).expect("it is logged");
        meets_the_others(world, true, seed);
    }
}

/// More than it had written before, so that nobody knows of more.
#[test]
fn a_machine_that_was_put_back_and_wrote_much_begins_anew() {
    for seed in 0..SEEDS {
        let mut world = rolled_back(seed);
        for number in 0..4 {
            write(&mut world, 1, &format!("alone {number}"));
            world.run_for(SOON).expect("it is logged");
        }
        meets_the_others(world, true, seed);
    }
}

/// Well or badly: as another actor it would not see that others know more of
/// its log.
#[test]
fn a_machine_that_was_put_back_wrote_and_started_again_begins_anew() {
    for (seed, is_clean) in (0..SEEDS).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut world = rolled_back(seed);
        write(&mut world, 1, "alone");
        world.run_for(SOON).expect("it is logged");
        world.end(1, is_clean);
        world.start(1);
        world.run_for(SOON).expect("it meets its folder");
        meets_the_others(world, true, seed);
    }
}
