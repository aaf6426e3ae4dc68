//! What seeds have found, told once more without chance where it can be.

use std::time::Duration;

use super::check::nothing_differs_or_is_lost as check;
use super::disk::Change;
use super::path;
use super::plan::Plan;
use super::story::{Story, User};
use super::world::World;
use crate::entry::{Flags, Kind};

/// The order of looks and messages is left to the seed.
const SEEDS: u64 = 24;

/// After which a change has come to all.
const MILLISECONDS_MAX: u64 = 100;

const SECOND: i64 = 1_000_000_000;

pub(super) fn content(world: &World, at: usize, name: &str) -> Option<String> {
    let shown = world.nodes[at].disk.shown();
    shown.get(&path(name)).map(|entry| String::from_utf8_lossy(&entry.content).into_owned())
}

pub(super) fn write(world: &mut World, at: usize, name: &str, content: &str) {
    world.contents.written.insert(content.into());
    world.act(at, |disk, dead| disk.write(&path(name), content.as_bytes(), dead));
}

pub(super) fn begin(world: &mut World, nodes: std::ops::Range<usize>) {
    nodes.for_each(|at| world.start(at));
    world.settle().expect("it comes to rest");
}

/// Goes on in steps of a tenth of a millisecond, for so long at the most.
pub(super) fn run_until(world: &mut World, holds: impl Fn(&World) -> bool) {
    for _ in 0..10 * MILLISECONDS_MAX {
        if holds(world) {
            return;
        }
        world.run_for(Duration::from_micros(100)).expect("it goes on");
    }
}

/// The clock of who edits the winner of a conflict is behind the loser's, who
/// joins later compares the two: the loser, which lies in a conflict store and
/// nowhere else, was shown and then given up, and the edit with it.
#[test]
fn an_edit_by_a_slow_clock_keeps_the_winner_of_a_conflict() {
    for seed in 0..SEEDS {
        let mut world = World::new(Plan { nodes: 4, ..Plan::peaceful(seed) });
        for (node, skew) in [10, 5, 0, 0].into_iter().enumerate() {
            world.nodes[node].skew = skew * SECOND;
        }
        write(&mut world, 0, "f", "winner");
        write(&mut world, 1, "f", "loser");
        begin(&mut world, 0..3);
        assert_eq!(content(&world, 2, "f").as_deref(), Some("winner"));
        write(&mut world, 2, "f", "edited");
        world.settle().expect("it comes to rest");
        begin(&mut world, 3..4);
        check(&world).unwrap();
        assert_eq!(content(&world, 3, "f").as_deref(), Some("edited"), "seed {seed}");
    }
}

/// A file is replaced, and who did it goes for good before its bytes came
/// anywhere: the others keep what they show.
#[test]
fn the_older_file_stays_where_the_newer_went_with_its_node() {
    let mut kept = 0;
    for seed in 0..SEEDS {
        let plan = Plan { nodes: 3, traced: true, ..Plan::leaving(2 * seed + 1) };
        let mut world = World::new(plan);
        write(&mut world, 0, "f", "older");
        begin(&mut world, 0..3);
        world.contents.written.insert(b"newer".into());
        world.act(2, |disk, dead| disk.replace(&path("f"), b"newer", dead));
        let is_told = |world: &World| world.nodes[0].core.progress().names_pending > 0;
        for _ in 0..MILLISECONDS_MAX {
            if !is_told(&world) {
                world.run_for(Duration::from_millis(1)).expect("it goes on");
            }
        }
        world.leave(2);
        world.make_peace().unwrap();
        check(&world).unwrap();
        let shown = content(&world, 0, "f");
        assert!(matches!(shown.as_deref(), Some("older" | "newer")), "seed {seed}: {shown:?}");
        let is_given_up = world.trace.iter().any(|line| line.contains("nobody holds it: f"));
        kept += u64::from(is_given_up && shown.as_deref() == Some("older"));
    }
    assert!(kept > 0, "its bytes always come in time");
}

/// A file is renamed onto another here, and edited and deleted there.
pub(super) fn renamed_and_edited(plan: Plan) -> Story {
    let mut story = Story::begin(plan, 0, |user| {
        user.write("f", "renamed");
        user.write("g", "replaced");
    });
    story.part();
    story.act(1, |user| user.rename("f", "g"));
    story.act(0, |user| user.write("f", "edited"));
    story.act(0, |user| user.remove("f"));
    story.settle();
    story
}

/// The edit is lost, and who renamed it has it as it was. That is to be shown,
/// and not what it replaced.
#[test]
fn a_renamed_file_stays_where_its_edit_is_lost() {
    let mut stayed = 0;
    for seed in 0..SEEDS {
        let mut story = renamed_and_edited(Plan::peaceful(seed));
        story.join(0, 1);
        // Where its bytes rode along with what was told of it, it is not lost.
        let tree = story.tree(0);
        assert!(["g=renamed", "g=edited"].contains(&&*tree), "seed {seed}: {tree}");
        assert_eq!(story.tree(1), tree, "seed {seed}");
        stayed += usize::from(tree == "g=renamed");
        story.is_at_rest().unwrap();
    }
    assert!(stayed > 0, "the edit always comes in time");
}

/// A directory was renamed elsewhere, and a file in it is written to while its
/// node is away, which knows of both when it begins: it may move the directory
/// before it has met the file, or while it is told what lies where.
#[test]
fn a_file_written_while_its_node_was_away_is_read_where_it_was_moved_to() {
    for seed in 0..4 * SEEDS {
        let plan = Plan { durable_after: Some(Duration::ZERO), ..Plan::peaceful(seed) };
        let mut world = World::new(plan);
        world.act(0, |disk, _| disk.make_entry(&path("d"), Kind::Directory, b""));
        write(&mut world, 0, "d/f", "before");
        begin(&mut world, 0..2);
        world.act(1, |disk, dead| disk.rename(&path("d"), &path("e"), dead));
        let has_heard = |world: &World| world.nodes[0].core.progress().names_pending > 0;
        run_until(&mut world, has_heard);
        assert!(has_heard(&world), "seed {seed}: it never hears of it");
        world.end(0, true);
        let place = if world.nodes[0].disk.kind(&path("e")).is_some() { "e/f" } else { "d/f" };
        // Of the same size, so that no look at its metadata tells.
        write(&mut world, 0, place, "behind");
        begin(&mut world, 0..1);
        check(&world).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
        for at in 0..2 {
            assert_eq!(content(&world, at, "e/f"), Some("behind".into()), "seed {seed}, {at}");
        }
    }
}

/// A file was edited here and deleted there, and much else was done there. Its
/// node ends when it has heard of the deletion and not of all the rest, and
/// comes back before the other: the edit is to stay.
#[test]
fn an_edit_stays_where_its_node_ends_while_it_hears_of_its_deletion() {
    for seed in 0..SEEDS {
        let plan = Plan { records_max: 1, ..Plan::peaceful(seed) };
        let mut world = World::new(plan);
        write(&mut world, 0, "lasting", "lasting");
        write(&mut world, 0, "f", "shared");
        begin(&mut world, 0..2);
        world.disconnect(0, 1);
        write(&mut world, 1, "f", "edited");
        world.act(0, |disk, dead| disk.remove_all(&path("f"), dead));
        for number in 0..20 {
            world.settle().unwrap();
            write(&mut world, 0, &format!("more-{number}"), &format!("more {number}"));
        }
        world.settle().unwrap();
        world.connect(0, 1);
        let has_heard = |world: &World| world.nodes[1].core.progress().names_pending > 0;
        run_until(&mut world, has_heard);
        assert!(has_heard(&world), "seed {seed}: it never hears of it");
        world.end(1, true);
        world.end(0, true);
        begin(&mut world, 1..2);
        assert_eq!(content(&world, 1, "f"), Some("edited".into()), "seed {seed}");
        begin(&mut world, 0..1);
        check(&world).unwrap();
        for at in 0..2 {
            assert_eq!(content(&world, at, "f"), Some("edited".into()), "seed {seed}, node {at}");
        }
    }
}

/// A file and a directory take each other's places: what lay in the directory
/// was thought to be there still.
#[test]
fn a_file_and_a_directory_change_places() {
    for seed in 0..SEEDS {
        let mut world = World::new(Plan::peaceful(seed));
        world.act(0, |disk, _| disk.make_entry(&path("d"), Kind::Directory, b""));
        write(&mut world, 0, "d/a", "inside");
        write(&mut world, 0, "f", "file");
        begin(&mut world, 0..2);
        world.act(0, |disk, _| disk.swap(&path("d"), &path("f")));
        world.settle().unwrap();
        check(&world).unwrap();
        let found = ["f/a", "d"].map(|name| content(&world, 1, name));
        assert_eq!(found, [Some("inside".into()), Some("file".into())], "seed {seed}");
    }
}

/// A directory is filled and renamed before anybody looked, and capture tells
/// of one entry where it was and of another where it went: the directory was
/// met for the sake of the second, and when its move was told, it was no news.
/// So with one that comes from outside of the folder, full.
#[test]
fn a_directory_that_is_met_before_its_move_is_told() {
    for (seed, is_moved) in (0..SEEDS).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut world = World::new(Plan::peaceful(seed));
        write(&mut world, 0, "a", "a");
        begin(&mut world, 0..2);
        let mut moved = vec![Change::Came(path("e"))];
        world.contents.written.insert(b"deep".into());
        world.act(0, |disk, dead| {
            let mut told = disk.make_entry(&path("d"), Kind::Directory, b"");
            told.extend(disk.make_entry(&path("d/d"), Kind::Directory, b""));
            told.extend(disk.write(&path("d/d/f"), b"deep", dead));
            if is_moved { told } else { Vec::new() }
        });
        world.run_for(Duration::from_millis(1)).expect("it goes on");
        world.act(0, |disk, dead| {
            let renamed = disk.rename(&path("d"), &path("e"), dead);
            if is_moved {
                moved = renamed;
            }
            disk.link(&path("e/d/f"), &path("e/linked"))
        });
        world.run_for(Duration::from_millis(MILLISECONDS_MAX)).expect("it goes on");
        world.act(0, |_, _| moved);
        world.settle().unwrap();
        check(&world).unwrap_or_else(|reason| panic!("seed {seed}, {is_moved}: {reason}"));
        let found = ["e/d/f", "e/linked"].map(|name| content(&world, 1, name));
        assert_eq!(found, [Some("deep".into()), Some("deep".into())], "seed {seed}");
    }
}

/// A directory gives way to a file that was in it, moved out or linked from
/// elsewhere: the file waited for its place, and the directory for the file.
#[test]
fn a_file_takes_the_place_of_the_directory_it_was_in() {
    for (seed, is_linked) in (0..SEEDS).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut world = World::new(Plan { steady: true, ..Plan::peaceful(seed) });
        world.contents.written.insert(b"inside".into());
        let [directory, inside, other] = ["e", "e/in", "other"].map(path);
        world.act(0, |disk, dead| {
            disk.make_entry(&directory, Kind::Directory, b"");
            disk.write(&inside, b"inside", dead);
            if is_linked { disk.link(&inside, &other) } else { Vec::new() }
        });
        begin(&mut world, 0..2);
        world.act(0, |disk, dead| {
            let mut told = Vec::new();
            if !is_linked {
                told.extend(disk.rename(&inside, &other, dead));
            }
            told.extend(disk.remove_all(&directory, dead));
            told.extend(match is_linked {
                true => disk.link(&other, &directory),
                false => disk.rename(&other, &directory, dead),
            });
            told
        });
        world.settle().unwrap();
        check(&world).unwrap_or_else(|reason| panic!("seed {seed}, {is_linked}: {reason}"));
        assert_eq!(content(&world, 1, "e"), Some("inside".into()), "seed {seed}, {is_linked}");
    }
}

/// A file of a copied folder is renamed before its node meets the others: to
/// the cluster it is another file than the one they have at the former name,
/// so both are in the tree, and who deletes one of them keeps the other.
#[test]
fn a_copy_renamed_before_it_met_the_others_is_a_file_of_its_own() {
    for seed in 0..SEEDS {
        let plan = Plan { meeting_min: 1, stretch_rows: 4, ..Plan::peaceful(seed) };
        let mut world = World::new(plan);
        world.hand_out_copies(0);
        begin(&mut world, 0..1);
        world.act(0, |disk, dead| disk.rename(&path("a"), &path("renamed"), dead));
        world.settle().unwrap();
        begin(&mut world, 1..2);
        let shown =
            |world: &World| [0, 1].map(|at| ["a", "renamed"].map(|name| content(world, at, name)));
        let copy = || Some("copied a".to_owned());
        assert_eq!(shown(&world), [[copy(), copy()], [copy(), copy()]], "seed {seed}");
        let (deleted, left) = match seed % 2 {
            0 => ("a", [None, copy()]),
            _ => ("renamed", [copy(), None]),
        };
        world.act(seed as usize / 2 % 2, |disk, dead| disk.remove_all(&path(deleted), dead));
        world.settle().unwrap();
        check(&world).unwrap();
        assert_eq!(shown(&world), [left.clone(), left], "seed {seed}");
    }
}

/// Of a file with two names one gets another mode and goes before anybody looks:
/// at the other nothing was told.
#[test]
fn a_mode_set_at_a_name_that_goes_is_seen_at_the_other() {
    for seed in 0..SEEDS {
        let mut world = World::new(Plan::peaceful(seed));
        write(&mut world, 0, "f", "with two names");
        world.act(0, |disk, _| disk.link(&path("f"), &path("g")));
        begin(&mut world, 0..2);
        world.act(0, |disk, _| disk.chmod(&path("f"), 0o600));
        world.act(0, |disk, dead| disk.remove_all(&path("f"), dead));
        world.settle().unwrap();
        check(&world).unwrap();
    }
}

/// A directory gets flags while its node meets it: what is told of its inode is
/// nobody's yet, and the look that is under way came too early.
#[test]
fn flags_of_a_directory_that_is_being_met_are_seen() {
    for (seed, wait) in (0..SEEDS).flat_map(|seed| (0..8).map(move |wait| (seed, wait))) {
        let mut world = World::new(Plan::peaceful(seed));
        world.act(0, |disk, _| disk.make_entry(&path("d"), Kind::Directory, b""));
        begin(&mut world, 1..2);
        world.start(0);
        run_until(&mut world, |world| world.nodes[0].core.looks.contains_key(&path("d")));
        world.run_for(Duration::from_micros(400 * wait)).expect("it goes on");
        world.act(0, |disk, _| disk.chattr(&path("d"), Flags::NODUMP));
        world.settle().unwrap();
        check(&world).unwrap_or_else(|reason| panic!("seed {seed}, {wait}: {reason}"));
    }
}

/// One file was written on two nodes, the later one was shown to a third that
/// had the earlier one, and then written over. Who comes late shows the earlier
/// one and never hears of what it lost against.
fn written_over(tell: impl Fn(&mut User), before: impl Fn(&mut User), left: &str) {
    for seed in 0..SEEDS {
        let mut story = Story::begin(Plan { nodes: 3, ..Plan::peaceful(seed) }, 0, &before);
        story.part();
        story.act(1, |user| user.write("f", "loser"));
        story.act(2, |user| user.write("f", "winner"));
        story.join(0, 1);
        story.part();
        story.join(1, 2);
        assert_eq!(story.kept(1), ["loser"]);
        story.part();
        story.act(2, &tell);
        story.join(0, 2);
        story.join(0, 1);
        story.join(1, 2);
        for at in 0..3 {
            assert_eq!(story.tree(at), left, "seed {seed}, node {at}");
        }
        assert_eq!([story.kept(0), story.kept(1)], [["loser"], ["loser"]], "seed {seed}");
        assert!(story.kept(2).is_empty());
        story.is_at_rest().unwrap();
    }
}

#[test]
fn the_loser_of_a_conflict_whose_winner_was_deleted_unheard_of_is_kept() {
    written_over(|user| user.remove("f"), |_| {}, "");
    written_over(|user| user.rename("f", "g"), |_| {}, "g=winner");
}

#[test]
fn the_loser_of_a_conflict_whose_winner_was_replaced_unheard_of_is_kept() {
    written_over(|user| user.replace("f", "newer"), |_| {}, "f=newer");
}

#[test]
fn the_loser_of_a_conflict_whose_winner_was_edited_unheard_of_is_kept() {
    let shared = |user: &mut User| user.write("f", "shared");
    written_over(|user| user.write("f", "newer"), shared, "f=newer");
    // A file that is written where it lies.
    let linked = |user: &mut User| {
        shared(user);
        user.link("f", "g");
    };
    written_over(|user| user.write("f", "newer"), linked, "f=newer g->f");
}

/// Two files came to one name, and the one that was changed last was bound
/// again; meanwhile somebody who knew nothing of that deleted just that one.
#[test]
fn a_file_that_was_bound_again_by_no_user_stays_deleted() {
    for seed in 0..SEEDS {
        let plan = Plan { nodes: 3, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |_| {});
        story.part();
        story.act(0, |user| user.write("f", "old"));
        story.join(0, 1);
        story.act(2, |user| user.write("f", "other"));
        story.act(0, |user| user.write("f", "edited"));
        story.settle();
        story.part();
        story.act(1, |user| user.remove("f"));
        story.join(0, 2);
        assert_eq!([story.tree(0), story.tree(2)], ["f=edited", "f=edited"]);
        story.join(0, 1);
        story.join(1, 2);
        for at in 0..3 {
            assert_eq!(story.tree(at), "", "seed {seed}, node {at}");
        }
        assert_eq!([story.trash(0), story.kept(2)], [["edited"], ["other"]]);
        story.is_at_rest().unwrap();
    }
}

/// Who dies in the middle of its first words has told the others different
/// parts of them.
#[test]
fn what_was_told_in_part_by_one_that_died_comes_to_all() {
    let mut parts = 0;
    for seed in 0..SEEDS {
        let plan = Plan { nodes: 3, records_max: 3, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |_: &mut User| {});
        story.part();
        for at in 0..12 {
            story.act_now(2, |user| user.make_directory(&format!("directory-{at}")));
        }
        story.settle();
        story.die_in_a_series(2, 0);
        story.settle();
        let here = story.tree(0).split_whitespace().count();
        parts += usize::from(here > 0 && here < 12);
        story.join(0, 1);
        assert_eq!(story.tree(0), story.tree(1), "seed {seed}");
        assert_eq!(story.tree(1).split_whitespace().count(), here);
        story.start(2);
        story.join(0, 2);
        story.join(1, 2);
        assert_eq!(story.tree(1).split_whitespace().count(), 12, "seed {seed}");
        story.is_at_rest().unwrap();
    }
    assert!(parts > 0, "no series was cut off");
}
