//! Whole clusters in one test, in virtual time, from a printed seed.
//!
//! Nodes are real cores over disks, links and clocks that exist only here.
//! Users write, rename and remove on a few names so that they meet, as in
//! "Mysteries of Dropbox" (Hughes et al., 2016); links break, groups are parted,
//! nodes crash and lose what was not durable, their machines, too, with what the
//! disk had not written out; nodes join late and leave, for good too; clocks are
//! up to a year off. Messages are lost with their connection, and
//! only those of different connections overtake each other: so it is with one
//! stream. Once there is peace all trees must be equal, and every content that no
//! user destroyed must be in the tree, in a conflict store or in a trash, and none
//! in the tree that one did; on the way what a core remembers and sends is
//! measured. `check.rs` has the list.
//!
//! A failure prints its plan. `REPLICATOR_SIM_SEED` replays one seed with its
//! trace, `REPLICATOR_SIM_RUNS` says up to which seed each scenario tries, and
//! `REPLICATOR_SIM_FIRST` from which on; ten thousand in all where it does not.

mod alone;
mod apart;
mod backups;
mod busy;
mod carried;
mod check;
mod claims;
mod compared;
mod contents;
mod copied;
mod deletions;
mod disk;
mod first;
mod held;
mod ledger;
mod losses;
mod many_names;
mod mappings;
mod moved_unseen;
mod numbers;
mod one_way;
mod outage;
mod outcomes;
mod plan;
pub(super) mod planted;
mod random;
mod renames;
mod replay;
mod restarts;
mod retention;
mod said;
mod same_places;
mod scale;
mod stories;
mod story;
mod tally;
mod unreadable;
mod users;
mod vanished;
mod world;

use std::cell::Cell;

use plan::Plan;
use planted::Bug;
use tally::Tally;
use world::World;

use crate::choice::Mode;
use crate::path::RelPath;

#[test]
fn two_nodes_that_stay_connected_end_the_same() {
    try_seeds(1300, Plan::peaceful);
}

#[test]
fn nodes_behind_partitions_end_the_same() {
    try_seeds(1600, Plan::partitioned).has(1600, 0, 2);
}

#[test]
fn nodes_that_hear_of_each_other_through_others_end_the_same() {
    try_seeds(1200, Plan::chained);
}

#[test]
fn nodes_that_crash_end_the_same() {
    try_seeds(1400, Plan::crashing).has(1400, 0, 2);
}

#[test]
fn machines_that_lose_their_power_end_the_same() {
    try_seeds(600, Plan::powerless).has(600, 0, 2);
}

#[test]
fn files_that_are_copied_over_end_the_same() {
    try_seeds(500, Plan::copying);
}

#[test]
fn nodes_that_only_receive_or_only_send_stay_apart() {
    try_seeds(800, Plan::one_way);
}

#[test]
fn what_is_deleted_everywhere_stays_deleted() {
    try_seeds(1400, Plan::deleting).has(1400, 0, 2);
}

#[test]
fn nodes_that_come_and_go_end_the_same() {
    try_seeds(500, Plan::coming);
}

#[test]
fn what_only_a_node_held_that_left_for_good_is_given_up() {
    try_seeds(300, Plan::leaving);
}

#[test]
fn what_only_a_node_held_that_is_silent_for_too_long_is_given_up() {
    try_seeds(200, |seed| Plan { unsaid: true, ..Plan::leaving(seed) });
}

#[test]
fn directories_that_are_moved_and_written_into_end_the_same() {
    try_seeds(600, Plan::moving);
}

#[test]
fn files_that_are_written_into_everywhere_at_once_end_the_same() {
    try_seeds(200, Plan::editing);
}

#[test]
fn users_in_a_hurry_end_the_same() {
    try_seeds(1600, Plan::hurried);
}

#[test]
fn whatever_befalls_them_nodes_end_the_same() {
    try_seeds(800, Plan::wild);
}

#[test]
fn nodes_that_come_with_nearly_equal_trees_end_the_same() {
    try_seeds(400, Plan::alike);
}

#[test]
fn nodes_that_are_restored_from_backups_end_the_same() {
    try_seeds(400, Plan::restored);
}

#[test]
fn equal_trees_meet_untouched() {
    try_some_worlds(100, |seed| {
        let one_way = match seed % 3 {
            0 => None,
            1 => Some((1, Mode::ReceiveOnly)),
            _ => Some((1, Mode::SendOnly)),
        };
        let plan = Plan { operations: 0, deletions: 0, copies: Some(0), ..Plan::alike(seed) };
        let mut world = World::new(Plan { crashes: false, one_way, ..plan });
        let result = world.run().and_then(|()| check::check(&world));
        let result = result.and_then(|()| check::nothing_was_touched(&world));
        (world, result)
    });
}

#[test]
fn up_to_fifty_nodes_end_the_same() {
    try_seeds(100, Plan::crowded);
}

#[test]
fn groups_that_part_and_meet_again_end_the_same() {
    try_seeds(400, Plan::split).has(400, 40, 2);
}

#[test]
fn crowds_that_part_and_meet_again_end_the_same() {
    try_seeds(12, Plan::split_crowd).has(12, 40, 2);
}

/// Seeds that failed once, each with what it found. What a seed leads to
/// changes with every message more or less; these are kept for what is left.
#[test]
fn seeds_that_failed_once_stay_well() {
    let plans = [
        // An edit that lost a conflict, and was then deleted, went to the trash.
        Plan::peaceful(2919),
        // A write to a file that nobody knew yet, told while it was read.
        Plan::peaceful(816),
        // A winner whose bytes its author destroyed while it was cut off.
        Plan::partitioned(1172),
        Plan::chained(1018),
        // What a deleted name was bound to was forgotten with the next file of
        // that name, and with it that an edit was unseen.
        Plan::partitioned(364),
        Plan::chained(608),
        // A directory was renamed, and another made in its place.
        Plan::partitioned(24348),
        // An author forgot in a crash what it had written.
        Plan::crashing(492),
        // A file in the place of a directory whose child had not come yet.
        Plan::crashing(981),
        // A write reported of a file whose inode number was another's before.
        Plan::crashing(4401),
        // A write to a file that just then became known as another node's.
        Plan::crashing(4839),
        Plan::crashing(8445),
        Plan::crashing(13687),
        // Never traced, and gone with the above.
        Plan::crashing(223),
        Plan::crashing(5958),
        // A renamed file was removed without being kept, since its former name
        // had not been looked at yet.
        Plan::deleting(509),
        // What a member says of itself, under a version used before.
        Plan::restored(470),
        Plan::restored(2103),
        // A node put back wrote so much that nobody knew more of its log.
        Plan::restored(123),
        Plan::restored(303),
        // What a directory that was moved took along, and could not go back.
        Plan::hurried(6942),
        // What came into a directory that was being removed, and left it again.
        Plan::hurried(33156),
        // A deleted file, changed elsewhere, whose other name another took.
        Plan::hurried(32194),
        // A write that counts as older than the one it knew of.
        Plan::hurried(33299),
        // Applied, and removed by a user before the index knew of it.
        Plan::hurried(8940),
        // A file of a later time to come, replaced while nobody looked.
        Plan::hurried(30359),
        // Flags changed while names were changed in a directory, and not told.
        Plan::hurried(45937),
        // The name of a renamed file was given up, and an older one shown there,
        // before its other node said that it holds it as it was renamed.
        Plan::hurried(53823),
        // Written to while its node was away, and moved with its directory
        // before a scan met it.
        Plan::alike(4357),
        // Taken in outline from one that forgot in a crash what it had told.
        Plan::alike(14604),
        Plan::alike(19712),
        // Seen at a name that was not known yet before its mode was changed at
        // the other.
        Plan::alike(17257),
        // Every node had made its own file another's that was renamed then, and
        // thought that nobody holds the one that was left at its name.
        Plan::alike(14419),
        // A file in the place of a directory, and what was in that thought to be
        // there still.
        Plan::alike(22070),
        // A file with two names: one was replaced by another file, the other
        // deleted elsewhere, without knowledge of an edit.
        Plan::copying(300393),
        // A node died while it told its log, and another series ended after that.
        Plan::alike(302834),
        // The same of a node that died itself then, and the other was put back.
        Plan::restored(423039),
        // A file was written anew at one of its names before anybody had looked
        // where a user took the other away.
        Plan::hurried(1694),
        // A directory was changed just before a job moved it, and a node died.
        Plan::moving(402468),
        // A directory in the place of a file that was exchanged with another.
        Plan::coming(403489),
        // Deleted while its node was down, and taken along with a directory that
        // another had renamed, before anybody looked.
        Plan::hurried(455708),
        // A forgotten file was bound again, and two nodes asked each other for it
        // before either had heard what it is.
        Plan::one_way(481790),
        // A file waited for the place of a directory, and that for one in a directory
        // in its own place.
        Plan::one_way(517671),
        // Its last name here was deleted while another node gave it one again.
        Plan::hurried(531383),
        // Written to and deleted, while another renamed it and wrote to it, earlier.
        Plan::hurried(679199),
        // Brought back for an edit, and its name given away in knowledge of that.
        Plan::split(5249),
        // The other name of a file that was written to went with its directory.
        Plan::alike(458397),
        // A name that was given up led to a file that nobody remembers.
        Plan { unsaid: true, ..Plan::leaving(10464) },
        // Taken from a directory before it was renamed, and renamed with it.
        Plan::wild(106488),
        Plan::wild(100314),
        // A deleted file that is lost came back at a start.
        Plan::leaving(101560),
        // What had replaced a file came back where an edit of that one was lost.
        Plan::hurried(114844),
        // A mode set at a name that another file took.
        Plan::alike(105601),
        // Flags of a directory that nobody knew yet.
        Plan::coming(103429),
        // One of two names taken away at a node that only receives.
        Plan::hurried(115203),
        // A link that came while the file was changed at its other name.
        Plan::one_way(111596),
        // A file that others have, too, in a directory that is nobody else's.
        Plan::one_way(112768),
        // Changed elsewhere at its other name after it had lost the one at which a
        // node that only sends shows it for ever.
        Plan::one_way(130046),
        // Removed while the directory around it was moved, and looked for where it
        // had been.
        Plan::one_way(136933),
        // Asked for ever for what one that only sends wrote, deleted and nobody had.
        Plan::one_way(149539),
        // A directory that waits for a place which itself waits.
        Plan::one_way(132320),
        // A further name that does.
        Plan::one_way(127787),
        // An edit that was lost, and before had kept the file from two deletions,
        // its own among them.
        Plan::wild(11935),
        // Deleted on a node that began anew before it had looked.
        Plan::coming(8448),
        // A file that others wrote to last, and that lay where another had come.
        Plan::one_way(125632),
        // A name that waits for one of a node's own, and is the first of a file's.
        Plan::one_way(123441),
        // Of a number that the disk gave back to an earlier file, nobody heard.
        Plan::powerless(853),
        // A file that the disk had lost gave its name to one that had another.
        Plan::powerless(3857),
        // Written to after the outage, and taken for what was left of it.
        Plan::powerless(851),
        // Its mode was set by another before anybody had read what was left of it.
        Plan::powerless(5125),
        // It woke for ever, a hundred times a second, with nothing to do.
        Plan::alike(2617),
    ];
    for plan in plans {
        run(plan).1.unwrap_or_else(|reason| panic!("{plan:?}\n    {reason}"));
    }
}

/// The simulator finds each bug that is planted, and soon. Where it is said how
/// many seeds to try, they are counted that find it.
#[test]
fn planted_bugs_are_found() {
    const SEEDS: u64 = 200;
    for bug in planted::ALL {
        let plan = match bug {
            Bug::IgnoreRollback => Plan::restored,
            // It takes writes over writes that were merged just before.
            Bug::DropVectorEntry => Plan::editing,
            _ => Plan::deleting,
        };
        let is_well = |bug, seed| attempt(Plan { bug, ..plan(seed) }).is_ok();
        let finds = |seed: &u64| !is_well(Some(bug), *seed) && is_well(None, *seed);
        let found = (0..SEEDS).find(finds);
        println!("{bug:?}: found by seed {found:?}");
        assert!(found.is_some(), "{SEEDS} seeds do not find {bug:?}");
        if let Some(runs) = number("REPLICATOR_SIM_RUNS") {
            println!("{bug:?}: found by {} of {runs}", (0..runs).filter(finds).count());
        }
    }
}

fn path(path: &str) -> RelPath {
    RelPath::parse(path.as_bytes()).expect("a path")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn try_seeds(runs: u64, plan: impl Fn(u64) -> Plan) -> Tally {
    try_some_worlds(runs, |seed| run(plan(seed)))
}

fn try_some_worlds(runs: u64, run: impl Fn(u64) -> (World, Result<(), String>)) -> Tally {
    let tally = Cell::new(Tally::default());
    if let Some(seed) = number("REPLICATOR_SIM_SEED") {
        let (world, result) = run(seed);
        world.trace.iter().for_each(|line| println!("{line}"));
        result.unwrap();
        return tally.get();
    }
    let runs = number("REPLICATOR_SIM_RUNS").unwrap_or(runs);
    let first = number("REPLICATOR_SIM_FIRST").unwrap_or(0);
    let mut failures = Vec::new();
    let mut seeds = Vec::new();
    for seed in first..runs {
        let run = std::panic::AssertUnwindSafe(|| {
            let (world, result) = run(seed);
            tally.set(tally.get().with(&world));
            result.map_err(|reason| format!("{:?}\n    {reason}", world.plan))
        });
        let result = std::panic::catch_unwind(run);
        let result = result.unwrap_or_else(|_| Err(format!("seed {seed}: it panics")));
        seeds.extend(result.is_err().then_some(seed));
        failures.extend(result.err());
    }
    let count = failures.len();
    failures.truncate(12);
    assert!(count == 0, "seeds {seeds:?} fail, {count} up to {runs}:\n{}", failures.join("\n"));
    tally.get()
}

/// Runs a plan; a panic is a failure like others.
fn attempt(plan: Plan) -> Result<(), String> {
    let result = std::panic::catch_unwind(|| run(plan).1);
    result.unwrap_or_else(|_| Err("it panics".into()))
}

fn run(plan: Plan) -> (World, Result<(), String>) {
    planted::plant(plan.bug);
    let mut world = World::new(plan);
    let result = world.run().and_then(|()| check::check(&world));
    planted::plant(None);
    (world, result)
}
