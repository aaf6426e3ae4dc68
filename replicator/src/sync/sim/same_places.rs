//! Others make what a node that only receives has made for itself, too, at the
//! same places.

use super::plan::Plan;
use super::story::{Story, User};
use crate::choice::Mode;

/// The order of looks and messages is left to the seed.
const SEEDS: u64 = 48;

fn met(seed: u64, before: impl Fn(&mut User)) -> Story {
    let plan = Plan { one_way: Some((1, Mode::ReceiveOnly)), ..Plan::peaceful(seed) };
    Story::begin(plan, 0, before)
}

fn met_and_parted(seed: u64, before: impl Fn(&mut User)) -> Story {
    let mut story = met(seed, before);
    story.part();
    story
}

/// After both have met and what is told of as its own is undone, nothing differs.
fn ends_the_same(mut story: Story, seed: u64, expected: &str) {
    story.join(0, 1);
    if story.own_changes(1).is_empty() {
        assert_eq!(story.tree(1), story.tree(0), "seed {seed}: it differs, and nobody is told");
    }
    story.revert(1);
    assert!(story.own_changes(1).is_empty(), "seed {seed}");
    story.ends_as(expected, seed);
}

/// A file was given another name here, and there as well, and is changed there:
/// here the name was taken for one of the file that was about to be replaced.
#[test]
fn a_name_that_is_met_while_its_file_is_changed_at_another() {
    for seed in 0..SEEDS {
        let mut story = met_and_parted(seed, |user| user.write("a", "before"));
        story.act(1, |user| user.link("a", "b"));
        story.settle();
        story.act(0, |user| {
            user.link("a", "b");
            user.write("a", "after");
        });
        story.settle();
        ends_the_same(story, seed, "a=after b->a");
    }
}

/// A name of a file is taken away here, or changed: the file is changed there, and
/// was not at its other name.
#[test]
fn a_file_of_which_a_name_went_is_changed_at_the_other() {
    for (seed, is_renamed) in (0..SEEDS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut story = met(seed, |user| {
            user.write("a", "before");
            user.link("a", "b");
        });
        story.act(1, |user| if is_renamed { user.rename("a", "c") } else { user.remove("a") });
        story.settle();
        story.act(0, |user| user.write("b", "after"));
        story.settle();
        let tree = story.tree(1);
        assert!(tree.starts_with("b=after"), "seed {seed}, {is_renamed}: {tree}");
        ends_the_same(story, seed, "a=after b->a");
    }
}

/// A directory was made here, and there another was renamed to its place; in
/// both is the same file. That was taken for the one of the others, so that the
/// directory around it could not go.
#[test]
fn the_same_file_in_a_directory_of_its_own() {
    for seed in 0..SEEDS {
        let mut story = met_and_parted(seed, |user| user.make_directory("d"));
        story.act(1, |user| {
            user.make_directory("e");
            user.write("e/f", "same");
        });
        story.settle();
        story.act(0, |user| {
            user.rename("d", "e");
            user.write("e/f", "same");
        });
        story.settle();
        ends_the_same(story, seed, "e/ e/f=same");
    }
}
