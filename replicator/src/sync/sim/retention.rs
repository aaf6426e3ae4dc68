//! Members that forget what was deleted, and members that come back late.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::{
    all_indexes_are_equal, all_trees_are_equal, nothing_differs_or_is_lost as check,
};
use super::disk::Disk;
use super::plan::{Plan, RETENTION, Shape};
use super::try_some_worlds;
use super::world::World;
use crate::limits::RECORDS_MAX;
use crate::path::RelPath;
use crate::sync::store::{MemoryStore, Store};

/// Seeds tried where nothing else is asked for: these runs are long.
const RUNS: u64 = 40;
const RING_RUNS: u64 = 12;

/// What a crash loses at most, where nodes rely on what others said they
/// hold.
const LOST_MAX: Duration = Duration::from_millis(100);

#[test]
fn in_peace_every_tombstone_is_forgotten() {
    try_some_worlds(RUNS, |seed| {
        let mut world = World::new(Plan {
            nodes: 2 + (seed % 4) as usize,
            operations: 40,
            partitions: true,
            crashes: seed.is_multiple_of(2),
            shape: if seed.is_multiple_of(3) { Shape::Chain } else { Shape::Mesh },
            members: true,
            durable_after: Some(LOST_MAX),
            records_max: RECORDS_MAX,
            ..Plan::peaceful(seed)
        });
        let result = world.run().and_then(|()| check(&world)).and_then(|()| nothing_rests(&world));
        (world, result)
    });
}

#[test]
fn what_was_deleted_stays_deleted_for_who_was_away_within_the_retention() {
    try_some_worlds(RUNS, |seed| {
        let mut world = converging(seed);
        let result = settled(&mut world).and_then(|()| away_within(&mut world, seed));
        (world, result)
    });
}

#[test]
fn who_was_away_for_longer_begins_anew_and_deletes_nothing() {
    try_some_worlds(RUNS, comes_back);
}

fn comes_back(seed: u64) -> (World, Result<(), String>) {
    let mut world = converging(seed);
    let result = settled(&mut world).and_then(|()| away_beyond(&mut world, seed, false));
    (world, result)
}

/// Who joins at that moment holds nothing of the cluster's yet, and must not
/// be the way in.
#[test]
fn who_was_away_for_longer_does_not_get_in_through_who_joins() {
    try_some_worlds(RUNS, comes_back_beside_who_joins);
}

fn comes_back_beside_who_joins(seed: u64) -> (World, Result<(), String>) {
    let mut world = World::new(Plan { records_max: 1, ..converging(seed).plan });
    let result = settled(&mut world).and_then(|()| away_beyond(&mut world, seed, true));
    (world, result)
}

#[test]
fn seeds_that_failed_once_stay_well() {
    let seeds = [
        // A series that began while a peer refused it was closed when that
        // listened again.
        3799,
        // Who joined heard only after it was greeted whom it had to refuse, and
        // passed on to it how far logs are held.
        7887, 8820,
        // A row got another's place in the logs, behind what was gone through.
        14863,
    ];
    seeds.into_iter().for_each(|seed| comes_back_beside_who_joins(seed).1.unwrap());
    comes_back(5437).1.unwrap();
}

/// The node that is away is waited for as long as the most patient member
/// wants, which may be itself.
#[test]
fn who_waits_for_a_shorter_time_forgets_no_earlier_than_others() {
    try_some_worlds(RUNS, |seed| {
        let plan = Plan { impatient: true, ..converging(seed).plan };
        let mut world = World::new(plan);
        let result = settled(&mut world).and_then(|()| away_within(&mut world, seed));
        (world, result)
    });
}

/// Where no node is connected with all, they hear of members through others.
#[test]
fn members_of_a_ring_forget_and_wait_as_all_do() {
    try_some_worlds(RING_RUNS, |seed| {
        let nodes = 12 + (seed * 5 % 13) as usize;
        let plan = Plan { nodes, shape: Shape::Ring, ..converging(seed).plan };
        let mut world = World::new(plan);
        let result = settled(&mut world).and_then(|()| nothing_rests(&world));
        let result = result.and_then(|()| match seed % 2 {
            0 => away_within(&mut world, seed / 2),
            _ => away_beyond(&mut world, seed / 2, false),
        });
        (world, result)
    });
}

fn converging(seed: u64) -> World {
    let nodes = 3 + (seed % 3) as usize;
    World::new(Plan {
        nodes,
        operations: 30,
        partitions: true,
        members: true,
        durable_after: Some(LOST_MAX),
        records_max: RECORDS_MAX,
        ..Plan::peaceful(seed)
    })
}

fn settled(world: &mut World) -> Result<(), String> {
    world.run().and_then(|()| check(world))
}

fn files(world: &World, at: usize) -> Vec<RelPath> {
    world.nodes[at].disk.shown().into_keys().filter(|path| !path.is_root()).collect()
}

/// One node is away while another deletes; the rest of the cluster forgets
/// nothing before it is back.
fn away_within(world: &mut World, seed: u64) -> Result<(), String> {
    let nodes = world.nodes.len();
    let (gone, deleter) = ((seed % nodes as u64) as usize, ((seed + 1) % nodes as u64) as usize);
    world.stop(gone);
    let doomed: Vec<RelPath> =
        files(world, deleter).into_iter().step_by(1 + (seed % 3) as usize).collect();
    doomed.iter().for_each(|path| world.remove(deleter, path));
    world.run_for(RETENTION * (1 + (seed % 8) as u32) / 10)?;
    let left: BTreeSet<RelPath> = files(world, deleter).into_iter().collect();
    world.start(gone);
    world.make_peace()?;
    check(world)?;
    nothing_rests(world)?;
    if world.nodes.iter().any(|node| node.rejoined > 0) {
        return Err("a node began anew though it was away for less".into());
    }
    let now: BTreeSet<RelPath> = files(world, gone).into_iter().collect();
    match now == left {
        true => Ok(()),
        false => Err(format!("{now:?} instead of {left:?}")),
    }
}

/// A node is away for longer than the retention while it and the others
/// delete: what either still has, all have in the end. Another may join when
/// it comes back.
fn away_beyond(world: &mut World, seed: u64, joins: bool) -> Result<(), String> {
    let nodes = world.nodes.len();
    let (gone, deleter) = ((seed % nodes as u64) as usize, ((seed + 1) % nodes as u64) as usize);
    world.stop(gone);
    let there: Vec<RelPath> = files(world, deleter);
    for (number, path) in there.iter().enumerate() {
        match number % 3 {
            0 => world.remove(deleter, path),
            1 => world.remove(gone, path),
            _ => {}
        }
    }
    world.run_for(RETENTION * 3)?;
    let mut expected: BTreeSet<RelPath> = files(world, deleter).into_iter().collect();
    let forgotten = expected.len() < there.len();
    expected.extend(files(world, gone));
    if joins {
        let disk = Disk::new(1000 * (nodes as u64 + 1), world.plan.in_place);
        let fresh = world.add(MemoryStore::default(), disk, 0);
        world.start(fresh);
    }
    world.start(gone);
    world.make_peace()?;
    all_trees_are_equal(world)?;
    all_indexes_are_equal(world)?;
    nothing_rests(world)?;
    if forgotten && world.nodes[gone].rejoined == 0 {
        return Err("it did not begin anew".into());
    }
    let now: BTreeSet<RelPath> = files(world, 0).into_iter().collect();
    match !forgotten || now == expected {
        true => Ok(()),
        false => Err(format!("{now:?} instead of {expected:?}")),
    }
}

/// No name without an entry and no body without a name is left anywhere.
fn nothing_rests(world: &World) -> Result<(), String> {
    for (at, node) in world.nodes.iter().enumerate() {
        let store = node.core.store();
        let names = store.names_within(&RelPath::root(), None, usize::MAX);
        if let Some((path, _)) = names.iter().find(|(_, row)| row.wanted().is_none()) {
            return Err(format!("node {at} remembers the tombstone of {path}"));
        }
        let bound: BTreeSet<_> =
            names.iter().filter_map(|(_, row)| Some(row.wanted()?.0)).collect();
        let resting: Vec<_> = store.bodies().filter(|id| !bound.contains(id)).collect();
        if !resting.is_empty() {
            return Err(format!("node {at} remembers {resting:?} without a name"));
        }
        if node.core.members_due() > Some(Duration::ZERO) {
            return Err(format!("node {at} does not come to rest"));
        }
    }
    Ok(())
}
