//! Deletions that are to stay, whatever was moved, edited and lost beside them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::{nothing_differs_or_is_lost as check, nothing_is_left_over};
use super::path;
use super::plan::Plan;
use super::stories::{begin, content, run_until, write};
use super::story::Story;
use super::world::World;
use crate::sync::store::Store;

/// The order of looks and messages is left to the seed.
const SEEDS: u64 = 24;

/// In which all that is told is looked at.
const SOON: Duration = Duration::from_secs(1);

const HOUR: i64 = 3_600_000_000_000;

/// A file in a directory is deleted, another moved out of it, and then the
/// directory is renamed: who hears of all that at once may move the directory
/// first. What went along came back there, under the new name.
#[test]
fn what_was_taken_from_a_directory_before_it_was_renamed_does_not_go_along() {
    for (seed, to) in (0..SEEDS).flat_map(|seed| [(seed, "a"), (seed, "z")]) {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| {
            ["d", "d/in"].iter().for_each(|directory| user.make_directory(directory));
            for file in ["d/deleted", "d/in/deleted", "d/moved", "d/stays"] {
                user.write(file, file.trim_start_matches("d/"));
            }
        });
        story.part();
        story.act(1, |user| {
            ["d/deleted", "d/in"].iter().for_each(|path| user.remove(path));
            user.rename("d/moved", "moved");
        });
        story.settle();
        story.act(1, |user| user.rename("d", to));
        story.settle();
        story.join(0, 1);
        let (directory, moved) = (format!("{to}/ {to}/stays=stays"), "moved=moved");
        let expected = if to < "moved" { [&directory, moved] } else { [moved, &directory] };
        for at in 0..2 {
            assert_eq!(story.tree(at), expected.join(" "), "seed {seed}, node {at}");
        }
        assert_eq!(story.trash(0), ["deleted", "in/deleted"], "seed {seed}");
        assert!(story.kept(0).is_empty(), "seed {seed}");
        story.is_at_rest().unwrap();
    }
}

/// One writes to a file while another does so later, and deletes it: what the one
/// wrote is left, also where that was renamed, and not what was deleted.
#[test]
fn a_deleted_content_is_not_shown_for_the_sake_of_an_earlier_one() {
    for (seed, to) in (0..SEEDS).flat_map(|seed| [(seed, "a"), (seed, "b")]) {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| user.write("a", "text"));
        story.part();
        story.act(0, |user| user.write("a", "edited"));
        story.settle();
        if to != "a" {
            story.act(0, |user| user.rename("a", to));
            story.settle();
        }
        story.act(1, |user| user.write("a", "deleted"));
        story.settle();
        story.act(1, |user| user.remove("a"));
        story.settle();
        story.join(0, 1);
        story.ends_as(&format!("{to}=edited"), seed);
        assert_eq!([story.kept(0), story.kept(1)], [Vec::<String>::new(), Vec::new()]);
    }
}

/// An edit brings a file back that another deleted, and a third, who knew of the
/// edit, has given its name to another file: that is what it is.
#[test]
fn a_name_that_was_given_to_another_file_does_not_lead_back() {
    for seed in 0..SEEDS {
        let mut story = Story::begin(Plan { nodes: 3, ..Plan::peaceful(seed) }, 0, |user| {
            user.write("a", "text");
            user.write("b", "another");
        });
        story.part();
        story.act(0, |user| user.write("a", "edited"));
        story.join(0, 1);
        story.part();
        story.act(1, |user| user.rename("b", "a"));
        story.act(2, |user| user.remove("a"));
        story.settle();
        story.join(0, 2);
        assert_eq!(story.tree(2), "a=edited b=another", "seed {seed}");
        story.join(0, 1);
        story.join(1, 2);
        story.ends_as("a=another", seed);
    }
}

/// An edit kept a file from a deletion that did not know of it. Its node forgot
/// it in a crash, and its user deleted the file, too: then nobody holds it. What
/// it was written over was shown again, though two users had deleted that.
#[test]
fn deletions_count_where_the_edit_that_undid_them_is_lost() {
    let mut lost = 0;
    for seed in 0..10 * SEEDS {
        let mut world = World::new(Plan { nodes: 3, traced: true, ..Plan::peaceful(seed) });
        write(&mut world, 0, "lasting", "lasting");
        write(&mut world, 0, "f", "before");
        begin(&mut world, 0..3);
        write(&mut world, 0, "f", "edited");
        run_until(&mut world, |world| {
            [1, 2].iter().all(|at| !world.nodes[*at].core.pending_bodies.is_empty())
        });
        world.end(0, false);
        for at in [0, 2] {
            world.act(at, |disk, dead| disk.remove_all(&path("f"), dead));
        }
        world.run_for(SOON).expect("it goes on");
        begin(&mut world, 0..1);
        for at in 0..3 {
            let shown = content(&world, at, "f");
            assert_ne!(shown.as_deref(), Some("before"), "seed {seed}, node {at}");
        }
        super::check::all_trees_are_equal(&world).unwrap();
        super::check::all_indexes_are_equal(&world).unwrap();
        lost += usize::from(world.trace.iter().any(|line| line.contains("nobody holds it: f")));
    }
    assert!(lost > 0, "the edit always comes in time");
}

/// A file was edited here, replaced there and deleted elsewhere, and the one in
/// its place was deleted as well. The edit, which was kept apart, brought its
/// name back, and as nobody holds it where it was, the other file with it.
#[test]
fn a_file_stays_deleted_where_the_edit_of_the_one_before_it_is_lost() {
    for seed in 0..SEEDS {
        let plan = Plan { nodes: 3, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| user.write("f", "before"));
        story.part();
        story.act(2, |user| user.write("f", "edited"));
        story.act(1, |user| user.replace("f", "replaced"));
        story.join(1, 2);
        assert_eq!((story.tree(2), story.kept(2)), ("f=replaced".into(), vec!["edited".into()]));
        story.part();
        story.act(1, |user| user.remove("f"));
        story.act(0, |user| user.remove("f"));
        story.settle();
        story.join(0, 2);
        story.join(1, 2);
        story.join(0, 1);
        story.ends_as("", seed);
    }
}

/// A file was deleted here and renamed there, onto a name at which another was
/// made here, and who renamed it goes for good before its bytes came: at the new
/// name it is given up, and at the former one it was to come back with the next
/// start.
#[test]
fn a_deleted_file_stays_so_where_who_renamed_it_has_left_with_it() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (members, leaves, traced) = (true, true, true);
        let mut world = World::new(Plan { members, leaves, traced, ..Plan::peaceful(seed) });
        world.nodes.iter_mut().for_each(|node| node.skew = 0);
        write(&mut world, 0, "lasting", "lasting");
        write(&mut world, 1, "d", "renamed");
        begin(&mut world, 0..2);
        world.disconnect(0, 1);
        // Of both files at that name the other's is the later one.
        write(&mut world, 0, "e", "other");
        world.act(0, |disk, _| disk.age(&path("e"), HOUR));
        world.act(1, |disk, dead| disk.rename(&path("d"), &path("e"), dead));
        world.run_for(SOON).expect("it goes on");
        world.act(0, |disk, dead| disk.remove_all(&path("d"), dead));
        world.run_for(SOON).expect("it goes on");
        world.connect(0, 1);
        run_until(&mut world, |world| !world.nodes[0].core.pending_names.is_empty());
        world.leave(1);
        world.make_peace().unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
        check(&world).unwrap();
        let comes_back = world.trace.iter().any(|line| line.contains("kept, since it changed: d"));
        assert!(!comes_back && content(&world, 0, "d").is_none(), "seed {seed}");
        lost += usize::from(world.trace.iter().any(|line| line.contains("nobody holds it: e")));
    }
    assert!(lost > 0, "its bytes always come in time");
}

/// A file won a conflict long ago, and whoever holds it is gone for good: it is
/// given up, and its name leads to the loser, of which nobody remembers
/// anything. That name was pending for ever.
#[test]
fn a_name_that_leads_to_what_nobody_remembers_is_given_up() {
    for seed in 0..SEEDS {
        let (members, leaves) = (true, true);
        let mut world = World::new(Plan { members, leaves, ..Plan::peaceful(seed) });
        for (node, skew) in [0, HOUR].into_iter().enumerate() {
            world.nodes[node].skew = skew;
        }
        write(&mut world, 0, "lasting", "lasting");
        write(&mut world, 0, "f", "loser");
        write(&mut world, 1, "f", "winner");
        begin(&mut world, 0..2);
        assert_eq!(content(&world, 0, "f").as_deref(), Some("winner"), "seed {seed}");
        let store = world.nodes[0].core.store();
        let name = store.name(&path("f")).unwrap();
        let loser = name.binding.losers().find_map(|loser| loser.value.body()).unwrap();
        assert!(store.body(loser.0).is_none(), "seed {seed}: it is remembered");
        // Its machine goes down, and its disk with what was never written out.
        world.end(0, true);
        world.nodes[0].disk.remove_all(&path("f"), &mut BTreeSet::new());
        let node = &mut world.nodes[0];
        node.core.disk_may_be_behind(node.disk.outage());
        world.leave(1);
        world.make_peace().unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
        nothing_is_left_over(&world).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
        assert_eq!(content(&world, 0, "f"), None, "seed {seed}");
    }
}
