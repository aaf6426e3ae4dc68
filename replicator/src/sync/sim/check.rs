//! What must hold once all has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use super::apart;
use super::disk::Shown;
use super::world::World;
use crate::choice::Mode;
use crate::entry::{Flags, Kind};
use crate::hash::Digest;
use crate::limits::{BULK_JOBS_MAX, JOB_ACTIONS_MAX, JOBS_MAX, LOOKS_MAX};
use crate::path::RelPath;
use crate::sync::core::Core;
use crate::sync::store::{MemoryStore, Store};

/// Messages that an operation, a connection or a start may cost each
/// connection of each node, at the most: twice what was ever seen.
const MESSAGES_PER_CAUSE_MAX: u64 = 40;

/// What may wait in all lists of a core together: so much for what it has no
/// row of yet, and so much for each row.
const LISTED_MAX: usize = 40;
const LISTED_PER_ROW_MAX: usize = 2;

pub(super) fn check(world: &World) -> Result<(), String> {
    if let Some(wrong) = &world.ledger.wrong {
        return Err(wrong.clone());
    }
    nothing_differs_or_is_lost(world)?;
    nothing_is_resurrected(world)?;
    nothing_is_left_over(world)?;
    messages_are_bounded(world)
}

pub(super) fn nothing_differs_or_is_lost(world: &World) -> Result<(), String> {
    all_trees_are_equal(world)?;
    all_indexes_are_equal(world)?;
    no_content_is_lost(world)?;
    nobody_lost_what_it_had(world)?;
    nothing_of_its_own_is_told(world)
}

fn shown(world: &World, at: usize) -> BTreeMap<RelPath, Shown> {
    world.nodes[at].disk.shown()
}

fn bearing(world: &World, at: usize, flags: Flags) -> BTreeMap<RelPath, Shown> {
    let mut shown = shown(world, at);
    let borne = shown.values_mut().map(|entry| &mut entry.metadata.flags);
    borne.for_each(|borne| *borne = borne.among(flags));
    shown
}

/// Those that do both come first.
fn staying(world: &World) -> Vec<usize> {
    let mut staying: Vec<usize> =
        (0..world.nodes.len()).filter(|at| world.nodes[*at].running).collect();
    staying.sort_by_key(|at| world.plan.mode(*at) != Mode::Both);
    staying
}

pub(super) fn all_trees_are_equal(world: &World) -> Result<(), String> {
    let staying = staying(world);
    for &at in &staying[1..] {
        // What both can give an entry.
        let flags = world.plan.flags(staying[0]).among(world.plan.flags(at));
        let (first, tree) = (bearing(world, staying[0], flags), bearing(world, at, flags));
        let names: BTreeSet<_> = first.keys().chain(tree.keys()).collect();
        for name in names {
            let (one, here) = (first.get(name), tree.get(name));
            if one != here && !apart::may_differ(world, at, name, one, here) {
                return Err(format!("{name}: node {} has {one:?}, node {at} {here:?}", staying[0]));
            }
        }
    }
    Ok(())
}

pub(super) fn all_indexes_are_equal(world: &World) -> Result<(), String> {
    let staying = staying(world);
    let first = world.nodes[staying[0]].core.store();
    let names = |store: &MemoryStore, but: &BTreeSet<RelPath>| {
        let names = store.names_within(&RelPath::root(), None, usize::MAX);
        let names = names.into_iter().filter(|(path, _)| !but.contains(path));
        names.map(|(path, row)| (path, row.binding.clone())).collect::<Vec<_>>()
    };
    for &at in &staying[1..] {
        let store = world.nodes[at].core.store();
        let waiting = apart::deletions_that_wait(world, at);
        let (one, other) = (names(first, &waiting), names(store, &waiting));
        if one != other {
            let at_both = |path: &RelPath| {
                [first, store].map(|store| store.name(path).map(|row| row.binding.clone()))
            };
            let mut all = one.iter().chain(&other).map(|(path, _)| (path, at_both(path)));
            let differing = all.find(|(_, [one, other])| one != other);
            return Err(format!(
                "the indexes of node {} and {at} differ: {differing:?}",
                staying[0]
            ));
        }
        if first.have() != store.have() {
            let (one, other) = (first.have(), store.have());
            return Err(format!("node {} holds {one:?}, node {at} {other:?}", staying[0]));
        }
    }
    Ok(())
}

/// Every content that no user destroyed is in the tree or kept somewhere, and
/// in a conflict store unless somebody may have known of it.
fn no_content_is_lost(world: &World) -> Result<(), String> {
    let root = RelPath::root();
    let mut kept: BTreeSet<&[u8]> = BTreeSet::new();
    let mut trash = kept.clone();
    let mut lying = world.nodes[staying(world)[0]].disk.contents_within(&root);
    for (at, node) in world.nodes.iter().enumerate() {
        kept.extend(node.disk.kept.iter().map(Vec::as_slice));
        trash.extend(node.disk.trash.iter().map(Vec::as_slice));
        // Who has not joined yet has a folder of its own, who left with what
        // it had told of has it still, and one-way folders differ.
        let is_apart = node.awaited
            || (world.plan.leaves && node.left)
            || world.plan.mode(at) == Mode::SendOnly
            || node.core.own_changes().next().is_some();
        lying.extend(node.disk.contents_within(&root).into_iter().filter(|_| is_apart));
    }
    kept.extend(lying.iter().map(Vec::as_slice));
    let contents = &world.contents;
    for content in contents.written.iter().filter(|content| !contents.dead.contains(*content)) {
        let name = String::from_utf8_lossy(content);
        if kept.contains(content.as_slice()) {
            continue;
        }
        if !trash.contains(content.as_slice()) {
            return Err(format!("content {name} is lost"));
        }
        // A user who resolves a conflict has seen of it what came that far. Who
        // takes one of two names away leaves it the other, unless that is about to
        // go, or another user does the same there, who knows what it contains, too.
        // What is nobody else's was reverted.
        let unlinks = world.nodes.iter().filter(|node| node.disk.unlinked.contains(content));
        let has_lost = world.ledger.losers.contains(&Digest::of(content));
        let is_named_anew = contents.moved.contains(content) || contents.own.contains(content);
        let is_let_go = contents.unnamed.contains(content) || unlinks.count() > 1;
        if !has_lost && !is_named_anew && !is_let_go {
            return Err(format!("content {name} is in the trash, which nobody threw away"));
        }
    }
    Ok(())
}

/// Every content that no user destroyed, and that ever lay on a node, is
/// still there: a loser is kept by the nodes that had it.
fn nobody_lost_what_it_had(world: &World) -> Result<(), String> {
    for (at, node) in world.nodes.iter().enumerate() {
        let lying = node.disk.contents_within(&RelPath::root());
        let rests = lying.iter().chain(&node.disk.kept).chain(&node.disk.trash);
        let still: BTreeSet<&Vec<u8>> = rests.chain(&world.contents.dead).collect();
        if let Some(lost) = node.disk.had.iter().find(|content| !still.contains(content)) {
            let name = String::from_utf8_lossy(lost);
            return Err(format!("content {name} lay on node {at} and is nowhere there"));
        }
    }
    Ok(())
}

/// What was written on a node that only receives never lay on another.
fn nothing_of_its_own_is_told(world: &World) -> Result<(), String> {
    let own = &world.contents.own;
    for (at, node) in world.nodes.iter().enumerate() {
        let told = node.disk.had.iter().find(|content| own.contains(*content));
        if let Some(told) = told.filter(|_| world.plan.mode(at) != Mode::ReceiveOnly) {
            let name = String::from_utf8_lossy(told);
            return Err(format!("content {name} was to stay apart and came to node {at}"));
        }
    }
    Ok(())
}

/// Copies of one folder that met are what they were.
pub(super) fn nothing_was_touched(world: &World) -> Result<(), String> {
    let copied = super::users::copied(world.plan.in_place).shown();
    for (at, node) in world.nodes.iter().enumerate() {
        let tree = node.disk.shown();
        if let Some((path, entry)) = tree.iter().find(|(path, one)| copied.get(*path) != Some(*one))
        {
            return Err(format!("node {at} made {entry:?} of {path}"));
        }
        if tree.len() != copied.len() || !node.disk.kept.is_empty() || !node.disk.trash.is_empty() {
            return Err(format!("node {at} put something away"));
        }
    }
    Ok(())
}

/// What is gone for good is in no tree.
fn nothing_is_resurrected(world: &World) -> Result<(), String> {
    // Deletions that were held came back because a user said so.
    if world.has_restored {
        return Ok(());
    }
    let gone = world.contents.gone();
    for (path, entry) in shown(world, staying(world)[0]) {
        if entry.kind == Kind::File && gone.contains(&entry.content) {
            let content = String::from_utf8_lossy(&entry.content).into_owned();
            return Err(format!("deleted content {content} came back at {path}"));
        }
    }
    Ok(())
}

/// What a core remembers grows with the rows it has and not with what ever
/// happened.
pub(super) fn memory_is_bounded(core: &Core<MemoryStore>, actors: u64) -> Result<(), String> {
    let (rows, store) = (core.store().rows(), core.store());
    let listed: usize = left_over(core).into_iter().map(|(_, count)| count).sum();
    let steps = core.jobs.values().map(|job| job.len()).max().unwrap_or(0);
    let bounds = [
        ("places in logs", store.places(), rows),
        ("actors", store.have().len(), actors as usize),
        ("things in lists", listed, LISTED_MAX + LISTED_PER_ROW_MAX * rows),
        ("looks", core.looks.len(), LOOKS_MAX),
        ("jobs", core.jobs.len(), JOBS_MAX + BULK_JOBS_MAX),
        ("steps in a job", steps, JOB_ACTIONS_MAX),
    ];
    match bounds.into_iter().find(|(_, count, most)| count > most) {
        Some((what, count, most)) => Err(format!("{count} {what}, beyond {most}")),
        None => Ok(()),
    }
}

/// At rest a core remembers rows, and nothing else that grows.
pub(super) fn nothing_is_left_over(world: &World) -> Result<(), String> {
    for at in staying(world) {
        let left = match apart::waits(world, at) {
            false => left_over(&world.nodes[at].core),
            true => apart::left_over(left_over(&world.nodes[at].core)),
        };
        if !left.is_empty() {
            return Err(format!("node {at} at rest still has {left:?}"));
        }
    }
    Ok(())
}

fn left_over(core: &Core<MemoryStore>) -> Vec<(&'static str, usize)> {
    let lists = [
        ("changes to look at", core.settle.len()),
        ("looks", core.looks.len()),
        ("reports of writes", core.told.len()),
        ("files that do not fall quiet", core.unsettled.len()),
        ("halves of copies", core.copying.len()),
        ("outages", usize::from(core.behind.is_some())),
        ("scans", usize::from(core.progress().scanning)),
        ("pending names", core.pending_names.len()),
        ("pending bodies", core.pending_bodies.len()),
        ("orphans", core.orphans.len()),
        ("unchecked keys", core.unchecked.len()),
        ("names to give up", core.giving_up.len()),
        ("retries", core.retries.len()),
        ("peers in a series", core.mid_series.len()),
        ("jobs", core.jobs.len()),
        ("effects", core.effects.len()),
        ("what is doubted", core.doubts.len()),
        ("entries that could not be read", core.unread.len()),
        ("held deletions", core.brake.len()),
        ("stretches of logs", core.membership.sweeping.len()),
        ("questions to capture", usize::from(core.listening)),
        ("locks", usize::from(!core.locks.is_idle())),
    ];
    lists.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn messages_are_bounded(world: &World) -> Result<(), String> {
    let causes = world.operations_done + world.connections as u64 + world.starts;
    let most = causes * world.directed_links() * MESSAGES_PER_CAUSE_MAX;
    match world.ledger.messages > most {
        true => Err(format!("{} messages for {causes} causes", world.ledger.messages)),
        false => Ok(()),
    }
}
