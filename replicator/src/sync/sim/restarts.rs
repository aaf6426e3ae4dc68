//! What users did just before a node died: nothing tells of it but the disk.

use std::time::Duration;

use super::plan::Plan;
use super::story::{Story, User};

/// Its time alone tells that a directory was changed, and it has another place
/// by then.
#[test]
fn a_directory_that_was_changed_and_then_moved_shows_it_after_a_death() {
    for (seed, delay) in (0..4).flat_map(|seed| (0..20).map(move |delay| (seed, delay))) {
        (0..20).for_each(|later| change_and_die(seed, delay, later));
    }
}

/// In milliseconds: how long another node has told that it renames the directory
/// when it is changed, and how long it is at its new place when its node dies.
fn change_and_die(seed: u64, delay: u64, later: u64) {
    let durable_after = Some(Duration::ZERO);
    let plan = Plan { crashes: true, durable_after, ..Plan::peaceful(seed) };
    let mut story = Story::begin(plan, 0, |user| {
        user.make_directory("d");
        user.write("d/a", "text");
    });
    story.act(1, |user| user.rename("d", "b"));
    story.join_for(0, 1, Duration::from_millis(delay));
    if story.tree(0).starts_with("d/") {
        story.act_now(0, |user| user.make_directory("d/d"));
    }
    for _ in 0..20 {
        if story.tree(0).starts_with("b/") {
            break;
        }
        story.join_for(0, 1, Duration::from_millis(1));
    }
    story.join_for(0, 1, Duration::from_millis(later));
    story.stop(0);
    story.start(0);
    story.join(0, 1);
    let rests = story.is_at_rest();
    rests.unwrap_or_else(|wrong| panic!("seed {seed}, {delay} and {later} ms: {wrong}"));
}

/// It was not there yet for who renamed its directory: it goes along only to come
/// back to its place. What its user does with it on that way is done to it there.
#[test]
fn what_goes_along_with_a_directory_by_mistake_can_be_taken_on_the_way() {
    let delays = (0..20).flat_map(|seed| (0..30).map(move |delay| (seed, delay)));
    for (seed, delay) in delays {
        take_along(seed, delay, "deleted", "e/ e/old=old", |user, place| user.remove(place));
        let moved = "e/ e/old=old moved=new";
        take_along(seed, delay, "moved", moved, |user, place| user.rename(place, "moved"));
        let saved = "d/new=newer e/ e/old=old";
        take_along(seed, delay, "saved", saved, |user, place| user.replace(place, "newer"));
    }
    for seed in 0..100 {
        take_before_the_start(seed, "e/ e/old=old", |user| user.remove("d/new"));
        take_before_the_start(seed, "d/new=newer e/ e/old=old", |user| {
            user.replace("d/new", "newer")
        });
    }
}

fn take_before_the_start(seed: u64, expected: &str, take: impl FnOnce(&mut User)) {
    let mut story = created_where_another_renames(seed);
    story.stop(1);
    story.act(1, take);
    story.start(1);
    is_all_there(&story, &format!("seed {seed}, before the start"), expected);
}

/// A user does something to the file so many milliseconds after the nodes met.
fn take_along(
    seed: u64,
    delay: u64,
    what: &str,
    expected: &str,
    take: impl FnOnce(&mut User, &str),
) {
    let mut story = created_where_another_renames(seed);
    story.join_for(0, 1, Duration::from_millis(delay));
    let tree = story.tree(1);
    let place = ["d/new", "e/new"].into_iter().find(|place| tree.contains(&format!("{place}=")));
    story.act_now(1, |user| take(user, place.expect("it is somewhere")));
    story.settle();
    is_all_there(&story, &format!("seed {seed}, {what} after {delay} ms"), expected);
}

/// One node renames `d` to `e`, in which another made a file meanwhile.
fn created_where_another_renames(seed: u64) -> Story {
    let traced = true;
    let mut story = Story::begin(Plan { traced, ..Plan::peaceful(seed) }, 0, |user| {
        user.make_directory("d");
        user.write("d/old", "old");
    });
    story.part();
    story.act(1, |user| user.write("d/new", "new"));
    story.act(0, |user| user.rename("d", "e"));
    story.settle();
    story
}

/// The directory may have been made for the file before that was gone.
fn is_all_there(story: &Story, story_of: &str, expected: &str) {
    for at in 0..2 {
        let tree = story.tree(at);
        let tree = tree.trim_start_matches("d/ ");
        assert_eq!(tree, expected, "{story_of}, node {at}\n{}", story.trace());
    }
    story.is_at_rest().unwrap_or_else(|wrong| panic!("{story_of}: {wrong}"));
}
