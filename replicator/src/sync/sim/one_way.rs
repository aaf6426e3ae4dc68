//! Nodes that only send or only receive, among others that do both.

mod sending;
mod waiting;

use std::time::Duration;

use super::plan::{Plan, Shape};
use super::story::Story;
use crate::choice::Mode;

/// Three nodes of which the middle one connects the others.
fn chain(seed: u64, middle: Mode) -> Story {
    let shape = Shape::Chain;
    let plan = Plan { nodes: 3, shape, one_way: Some((1, middle)), ..Plan::peaceful(seed) };
    // One that sends has to have it.
    let author = usize::from(middle == Mode::SendOnly);
    Story::begin(plan, author, |user| {
        user.write("a", "a");
        user.write("b", "b");
    })
}

fn each(mode: Mode, tell: impl Fn(&mut Story)) {
    for seed in 0..8 {
        let mut story = chain(seed, mode);
        tell(&mut story);
    }
}

/// All have a directory with a file in it.
fn fill_directory(story: &mut Story) {
    story.act(0, |user| {
        user.make_directory("d");
        user.write("d/x", "x");
    });
    story.settle();
}

#[test]
fn one_that_receives_passes_on_what_others_change() {
    each(Mode::ReceiveOnly, |story| {
        story.act(0, |user| user.write("a", "of 0"));
        story.settle();
        story.act(2, |user| {
            user.write("b", "of 2");
            user.rename("a", "moved");
        });
        story.settle();
        for at in 0..3 {
            assert_eq!(story.tree(at), "b=of 2 moved=of 0");
        }
        story.is_at_rest().unwrap();
    });
}

#[test]
fn one_that_receives_passes_on_nothing_of_its_own() {
    each(Mode::ReceiveOnly, |story| {
        story.act(1, |user| {
            user.write("a", "own");
            user.write("c", "own, too");
            user.chmod("b", 0o600);
        });
        story.settle();
        assert_eq!([story.tree(0), story.tree(2)], ["a=a b=b", "a=a b=b"]);
        assert_eq!(story.tree(1), "a=own b=b:600 c=own, too");
        let own = ["a: changed here", "b: metadata changed here", "c: added here"];
        assert_eq!(story.own_changes(1), own);

        story.revert(1);
        assert_eq!(story.tree(1), "a=a b=b");
        assert_eq!(story.trash(1), ["own", "own, too"]);
        assert!(story.kept(1).is_empty() && story.own_changes(1).is_empty());
        story.is_at_rest().unwrap();
    });
}

/// What cannot be done must not keep what follows from being done.
#[test]
fn one_that_receives_gets_what_comes_after_thousands_of_its_own() {
    let plan = Plan { nodes: 2, one_way: Some((1, Mode::ReceiveOnly)), ..Plan::peaceful(1) };
    let names: Vec<String> = (0..3_000).map(|number| format!("f{number}")).collect();
    let mut story = Story::begin(plan, 0, |user| {
        names.iter().for_each(|name| user.write(name, "x"));
    });
    story.act(1, |user| names.iter().for_each(|name| user.replace(name, "own")));
    story.settle();
    assert_eq!(story.own_changes(1).len(), names.len());
    story.act(0, |user| names.iter().for_each(|name| user.replace(name, "of 0")));
    story.settle();
    story.act(0, |user| user.write("z", "of 0"));
    story.settle();
    assert!(story.tree(1).ends_with(" z=of 0"));
}

#[test]
fn a_change_that_lost_against_one_of_its_own_place_is_reverted() {
    each(Mode::ReceiveOnly, |story| {
        story.part();
        story.act(1, |user| {
            user.write("a", "own");
            user.remove("b");
        });
        story.act(0, |user| {
            user.write("a", "of 0");
            user.write("b", "of 0, too");
        });
        story.settle();
        story.join(0, 1);
        assert_eq!(story.tree(1), "a=own");
        story.revert(1);
        story.join(1, 2);
        for at in 0..3 {
            assert_eq!(story.tree(at), "a=of 0 b=of 0, too");
            // Nobody else ever heard of it: it is no conflict.
            assert!(story.kept(at).is_empty());
        }
        assert_eq!(story.trash(1), ["own"]);
        assert!(story.own_changes(1).is_empty());
        story.is_at_rest().unwrap();
    });
}

#[test]
fn one_that_receives_and_lost_all_deletes_nothing() {
    each(Mode::ReceiveOnly, |story| {
        story.stop(1);
        story.act(1, |user| {
            ["a", "b", "lasting"].into_iter().for_each(|path| user.remove(path));
        });
        story.start(1);
        assert_eq!(story.own_changes(1).len(), 3);
        assert_eq!([story.tree(0), story.tree(1), story.tree(2)], ["a=a b=b", "", "a=a b=b"]);
        story.revert(1);
        assert_eq!(story.tree(1), "a=a b=b");
        story.is_at_rest().unwrap();
    });
}

#[test]
fn places_that_change_at_one_that_receives_change_nowhere_else() {
    each(Mode::ReceiveOnly, |story| {
        story.act(1, |user| user.exchange("a", "b"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["a=a b=b", "a=b b=a"]);
        assert_eq!(story.own_changes(1), ["a: replaced here", "b: replaced here"]);
        story.revert(1);
        assert_eq!(story.tree(1), "a=a b=b");
        story.is_at_rest().unwrap();
    });
}

#[test]
fn what_took_the_place_of_a_directory_is_told_with_all_that_was_in_it() {
    each(Mode::ReceiveOnly, |story| {
        fill_directory(story);
        story.act(1, |user| user.rename("d", "b-to-be"));
        story.act(1, |user| {
            user.rename("b", "d");
            user.rename("b-to-be", "b");
        });
        story.settle();
        assert_eq!(story.tree(1), "a=a b/ b/x=x d=b");
        let own = ["b: replaced here", "b/x: added here", "d: replaced here", "d/x: deleted here"];
        assert_eq!(story.own_changes(1), own);
        story.revert(1);
        assert_eq!(story.tree(1), "a=a b=b d/ d/x=x");
        story.is_at_rest().unwrap();
    });
}

#[test]
fn the_folder_of_one_that_met_nobody_is_no_change() {
    each(Mode::ReceiveOnly, |story| {
        [0, 2].into_iter().for_each(|at| story.stop(at));
        story.forget_all(1);
        let own = ["a: added here", "b: added here", "lasting: added here"];
        assert_eq!(story.own_changes(1), own);
        story.revert(1);
        assert_eq!(story.tree(1), "");
        [0, 2].into_iter().for_each(|at| story.start(at));
        assert_eq!(story.tree(1), "a=a b=b");
        story.is_at_rest().unwrap();
    });
}

/// What is gone again has left nothing, not even the time of its directory.
#[test]
fn what_came_and_went_at_one_that_receives_leaves_nothing() {
    each(Mode::ReceiveOnly, |story| {
        story.act(1, |user| user.write("c", "own"));
        story.settle();
        story.act(1, |user| user.remove("c"));
        story.settle();
        assert!(story.own_changes(1).is_empty());
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_change_of_a_file_with_two_names_is_told_of_both_and_kept() {
    each(Mode::ReceiveOnly, |story| {
        story.act(0, |user| user.link("a", "c"));
        story.settle();
        story.act(1, |user| user.write("c", "own"));
        story.settle();
        assert_eq!(story.own_changes(1), ["a: changed here", "c: changed here"]);
        // Found though the first of its names is gone.
        story.act(1, |user| user.remove("a"));
        story.settle();
        story.act(1, |user| user.write("c", "own, again"));
        story.settle();
        assert_eq!(story.own_changes(1), ["a: deleted here", "c: changed here"]);
        story.revert(1);
        assert_eq!([story.tree(1), story.tree(0)], ["a=a b=b c->a", "a=a b=b c->a"]);
        assert_eq!(story.trash(1), ["own, again"]);
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_directory_that_was_deleted_here_gets_nothing_until_it_is_back() {
    each(Mode::ReceiveOnly, |story| {
        story.act(0, |user| user.make_directory("d"));
        story.settle();
        story.act(1, |user| user.remove("d"));
        story.settle();
        story.act(2, |user| user.make_directory("d/d"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["a=a b=b d/ d/d/", "a=a b=b"]);
        assert_eq!(story.own_changes(1), ["d: deleted here"]);
        story.revert(1);
        assert_eq!(story.tree(1), "a=a b=b d/ d/d/");
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_directory_that_others_delete_stays_for_what_was_added_here() {
    each(Mode::ReceiveOnly, |story| {
        fill_directory(story);
        story.act(1, |user| user.write("d/own", "own"));
        story.settle();
        story.act(2, |user| user.remove("d"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["a=a b=b", "a=a b=b d/ d/own=own"]);
        assert_eq!(story.own_changes(1), ["d/own: added here"]);
        story.revert(1);
        assert_eq!(story.tree(1), "a=a b=b");
        assert_eq!(story.trash(1), ["own", "x"]);
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_directory_that_others_move_takes_along_what_changed_in_it() {
    each(Mode::ReceiveOnly, |story| {
        story.act(0, |user| {
            user.make_directory("d");
            ["d/x", "d/y"].into_iter().for_each(|path| user.write(path, "old"));
        });
        story.settle();
        story.act(1, |user| {
            user.write("d/own", "own");
            user.write("d/x", "own");
        });
        story.settle();
        story.act(2, |user| user.rename("d", "e"));
        story.act(2, |user| user.write("e/y", "new"));
        story.settle();
        assert_eq!(story.tree(0), "a=a b=b e/ e/x=old e/y=new");
        assert_eq!(story.tree(1), "a=a b=b e/ e/own=own e/x=own e/y=new");
        assert_eq!(story.own_changes(1), ["e/own: added here", "e/x: changed here"]);
        story.revert(1);
        assert_eq!(story.tree(1), story.tree(0));
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_file_that_others_rename_waits_where_it_changed_here() {
    each(Mode::ReceiveOnly, |story| {
        story.act(1, |user| user.write("a", "own"));
        story.settle();
        story.act(2, |user| {
            user.link("a", "c");
            user.rename("a", "d");
        });
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["b=b c=a d->c", "a=own b=b"]);
        story.revert(1);
        assert_eq!(story.tree(1), "b=b c=a d->c");
        assert_eq!(story.trash(1), ["own"]);
        story.is_at_rest().unwrap();
    });
}

/// As what changed at a node that was stopped: nobody else has to know that it
/// only received for a while.
#[test]
fn what_changed_at_one_that_received_is_told_once_it_does_both() {
    each(Mode::ReceiveOnly, |story| {
        fill_directory(story);
        story.act(0, |user| user.write("e", "e"));
        story.settle();
        story.act(1, |user| {
            user.write("a", "own");
            user.chmod("b", 0o600);
            user.write("c", "added");
            user.remove("d/x");
            user.rename("e", "moved");
        });
        story.settle();
        assert_eq!(story.own_changes(1).len(), 6, "{:?}", story.own_changes(1));
        story.become_ordinary(1);
        for at in 0..3 {
            assert_eq!(story.tree(at), "a=own b=b:600 c=added d/ moved=e");
            assert!(story.kept(at).is_empty(), "{:?}", story.kept(at));
        }
        assert!(story.own_changes(1).is_empty());
        story.is_at_rest().unwrap();
    });
}

#[test]
fn what_changed_at_one_that_received_and_elsewhere_is_a_conflict_once_it_does_both() {
    // Who is later wins.
    for (seed, own_is_later) in (0..8).flat_map(|seed| [(seed, true), (seed, false)]) {
        let one_way = Some((1, Mode::ReceiveOnly));
        let plan = Plan { nodes: 2, one_way, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| {
            user.write("a", "a");
            user.write("b", "b");
        });
        // Neither hears of the other's first.
        story.part();
        for at in if own_is_later { [0, 1] } else { [1, 0] } {
            story.act(at, |user| {
                user.write("a", &format!("of {at}"));
                user.write("c", &format!("new, of {at}"));
                match at {
                    0 => user.write("b", "edited"),
                    _ => user.remove("b"),
                }
            });
            story.settle();
        }
        story.join(0, 1);
        assert_eq!(story.tree(1), "a=of 1 c=new, of 1");
        assert_eq!(story.tree(0), "a=of 0 b=edited c=new, of 0");
        story.become_ordinary(1);
        let (winner, loser) = if own_is_later { (1, 0) } else { (0, 1) };
        for at in 0..2 {
            let shown = format!("a=of {winner} b=edited c=new, of {winner}");
            assert_eq!(story.tree(at), shown, "at {at}");
        }
        assert_eq!(story.kept(loser), [format!("new, of {loser}"), format!("of {loser}")]);
        assert!(story.kept(winner).is_empty() && story.own_changes(1).is_empty());
        story.is_at_rest().unwrap();
    }
}

#[test]
fn bytes_are_had_from_one_that_receives_and_changed_the_metadata() {
    each(Mode::ReceiveOnly, |story| {
        story.part();
        story.act(0, |user| user.write("c", "c"));
        story.join(0, 1);
        story.act(1, |user| user.age("c"));
        story.settle();
        assert_eq!(story.own_changes(1), ["c: metadata changed here"]);
        story.part();
        story.join(1, 2);
        assert_eq!(story.tree(2), "a=a b=b c=c");
    });
}

/// What is to go waits for what changed here, and the others have long
/// forgotten why.
#[test]
fn a_deletion_that_had_to_wait_is_forgotten_too() {
    for seed in 0..8 {
        let one_way = Some((1, Mode::ReceiveOnly));
        let plan = Plan { members: true, one_way, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| user.write("a", "a"));
        story.act(1, |user| user.write("a", "own"));
        story.settle();
        story.act(0, |user| user.remove("a"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["", "a=own"]);
        story.revert(1);
        assert_eq!([story.tree(0), story.tree(1)], ["", ""]);
        assert_eq!(story.trash(1), ["own"]);
        story.is_at_rest().unwrap();
    }
}

#[test]
fn what_is_written_under_a_name_of_ones_own_is_found_under_the_others() {
    for seed in 0..8 {
        let one_way = Some((1, Mode::ReceiveOnly));
        let plan = Plan { ranges_told: false, one_way, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| user.write("b", "b"));
        story.act(1, |user| user.link("b", "a"));
        story.settle();
        story.act(1, |user| user.write("a", "own"));
        story.settle();
        assert_eq!(story.own_changes(1), ["a: added here", "b: changed here"]);
        story.revert(1);
        assert_eq!(story.tree(1), "b=b");
        story.is_at_rest().unwrap();
    }
}

#[test]
fn another_directory_with_other_metadata_is_listed_once() {
    each(Mode::ReceiveOnly, |story| {
        story.act(0, |user| user.make_directory("d"));
        story.settle();
        story.act(1, |user| {
            user.remove("d");
            user.make_directory("d");
            user.chmod("d", 0o700);
        });
        story.settle();
        assert_eq!(story.own_changes(1), ["d: metadata changed here"]);
        story.revert(1);
        story.is_at_rest().unwrap();
    });
}

/// A user takes away what was added just when the directory around it is moved:
/// it was looked for where it had been, and told of for ever where it was not.
#[test]
fn what_was_added_and_goes_while_its_directory_is_moved_is_not_told_of() {
    for (seed, ms) in (0..4).flat_map(|seed| (0..24).map(move |ms| (seed, ms))) {
        let plan = Plan { one_way: Some((1, Mode::ReceiveOnly)), ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| user.make_directory("d"));
        story.act(1, |user| user.write("d/own", "own"));
        story.settle();
        story.part();
        story.act(0, |user| user.rename("d", "e"));
        story.settle();
        story.join_for(0, 1, Duration::from_millis(ms));
        let place = if story.tree(1).starts_with("d") { "d/own" } else { "e/own" };
        story.act_now(1, |user| user.remove(place));
        story.settle();
        let own = story.own_changes(1);
        assert!(own.is_empty(), "seed {seed}, after {ms} ms: {own:?}");
        assert_eq!([story.tree(0), story.tree(1)], ["e/", "e/"], "seed {seed}, after {ms} ms");
        story.is_at_rest().unwrap();
    }
}
