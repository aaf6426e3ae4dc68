//! Outages longer than the protocol remembers who was there.

use super::*;

/// Longer than a member that is down is dialed at every moment.
const LONG: Duration = Duration::from_secs(61 * 60);

/// When the parts of a cluster have found each other again.
const HEALED_WITHIN: Duration = Duration::from_secs(120);

/// Two parts no longer reach each other, and know it.
fn part(
    world: &mut World,
    one: impl Iterator<Item = u16> + Clone,
    other: impl Iterator<Item = u16> + Clone,
) {
    world.split_off(one.clone());
    world.until_all_see(one);
    world.until_all_see(other);
}

fn heals(world: &mut World, alive: impl Iterator<Item = u16> + Clone) {
    world.cut = None;
    let took = world.until_all_see(alive);
    assert!(took <= HEALED_WITHIN, "{took:?}");
}

#[test]
fn two_large_halves_meet_again() {
    let mut world = World::with_seed_node(34);
    world.until_all_see(1..=34);
    part(&mut world, 1..=17, 18..=34);
    world.run(LONG);
    heals(&mut world, 1..=34);
}

#[test]
fn halves_meet_again_though_the_seed_of_all_is_dead() {
    let mut world = World::with_seed_node(5);
    world.until_all_see(1..=5);
    world.kill(1);
    world.until_all_see(2..=5);
    part(&mut world, 2..=3, 4..=5);
    world.run(2 * LONG);
    heals(&mut world, 2..=5);
}

#[test]
fn two_environments_meet_again_though_who_joined_them_is_dead() {
    let mut world = World::new();
    // The third node alone knows an address of the other side.
    for (n, seeds) in [(1, &[][..]), (2, &[1]), (3, &[1, 4]), (4, &[]), (5, &[4])] {
        world.start_node(n, seeds);
    }
    world.until_all_see(1..=5);
    world.kill(3);
    world.until_all_see([1, 2, 4, 5].into_iter());
    part(&mut world, 1..=2, 4..=5);
    world.run(2 * LONG);
    heals(&mut world, [1, 2, 4, 5].into_iter());
}

/// Started again in a part of the cluster, a node knows the other part still.
#[test]
fn who_was_lost_is_found_by_nodes_that_started_again() {
    let mut world = World::with_seed_node(5);
    world.until_all_see(1..=5);
    world.kill(1);
    world.until_all_see(2..=5);
    world.split_off(2..=3);
    world.until_all_see(2..=3);
    world.run(LONG);
    for n in 2..=3 {
        let remembered = world.nodes[&id(n)].remembered();
        world.kill(n);
        world.run(IDLE_TIME);
        world.start_node_that_knew(n, &[], remembered);
    }
    world.until_all_see(2..=3);
    world.run(LONG);
    heals(&mut world, 2..=5);
}

#[test]
fn the_lost_are_looked_for_slowly_and_few_at_once() {
    let mut world = World::with_seed_node(40);
    world.until_all_see(1..=40);
    (4..=40).for_each(|n| world.kill(n));
    world.until_all_see(1..=3);
    world.run(LONG);
    let mut dialed = BTreeSet::new();
    for _ in 0..600 {
        world.run(Duration::from_secs(1));
        let now: Vec<_> = world.nodes[&id(1)].dialing.iter().cloned().collect();
        assert!(now.len() <= 2 + LOST_DIALED_MAX, "{} addresses at once", now.len());
        dialed.extend(now);
    }
    assert_eq!(dialed.len(), 39, "each of them has its turn");
}

#[test]
fn the_retired_are_not_looked_for() {
    let mut world = World::with_seed_node(3);
    world.until_all_see(1..=3);
    world.kill(3);
    world.until_all_see(1..=2);
    world.run(LONG);
    world.nodes.get_mut(&id(1)).unwrap().retire(world.now, id(3));
    let gone = Address::from(address(3));
    assert!(!world.nodes[&id(1)].remembered().iter().any(|member| member.id == id(3)));
    for _ in 0..300 {
        world.run(Duration::from_secs(1));
        assert!(!world.nodes[&id(1)].dialing.contains(&gone));
    }
}

#[test]
fn the_longest_lost_make_room() {
    let me = Member { id: id(1), address: address(1), life: 1 };
    let many = (0..2 * REMEMBERED_MAX as u32).map(|n| {
        let address = SocketAddr::from(((n + 1).to_be_bytes(), 7400));
        Member { id: NodeId::of_public_key(&n.to_be_bytes()), address, life: 1 }
    });
    let many: Vec<_> = many.collect();
    let cluster = Cluster::new(me, vec![], many.clone(), Instant::now(), 1);
    assert_eq!(cluster.remembered(), many[REMEMBERED_MAX..]);
}
