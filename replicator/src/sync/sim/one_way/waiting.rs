//! What waits for what, where a node only sends or only receives.

use super::{each, fill_directory};
use crate::choice::Mode;
use crate::sync::sim::plan::Plan;
use crate::sync::sim::stories::renamed_and_edited;

/// What waits for one of these changes has others wait for it.
#[test]
fn a_place_waits_for_one_that_waits() {
    each(Mode::ReceiveOnly, |story| {
        fill_directory(story);
        story.act(1, |user| user.write("e", "own"));
        story.settle();
        story.act(0, |user| user.rename("b", "e"));
        story.act(0, |user| user.rename("d", "b"));
        story.settle();
        assert_eq!(story.tree(0), "a=a b/ b/x=x e=b");
        assert_eq!(story.tree(1), "a=a b=b d/ d/x=x e=own");
        story.is_at_rest().unwrap();
        story.revert(1);
        assert_eq!(story.tree(1), story.tree(0));
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_further_name_waits_for_a_place_that_waits() {
    each(Mode::ReceiveOnly, |story| {
        story.act(1, |user| user.write("c", "own"));
        story.settle();
        story.act(0, |user| user.rename("a", "c"));
        story.act(0, |user| user.link("b", "a"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["a=b b->a c=a", "a=a b=b c=own"]);
        story.is_at_rest().unwrap();
        story.revert(1);
        assert_eq!(story.tree(1), story.tree(0));
        story.is_at_rest().unwrap();
    });
}

#[test]
fn a_directory_that_others_delete_waits_for_what_waits_in_it() {
    each(Mode::ReceiveOnly, |story| {
        fill_directory(story);
        story.act(1, |user| user.write("e", "own"));
        story.settle();
        story.act(0, |user| {
            user.rename("d/x", "e");
            user.remove("d");
        });
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["a=a b=b e=x", "a=a b=b d/ d/x=x e=own"]);
        story.is_at_rest().unwrap();
        story.revert(1);
        assert_eq!(story.tree(1), story.tree(0));
        story.is_at_rest().unwrap();
    });
}

/// It wrote what the others ask it for, and deleted it before they had it: since it
/// fetches nothing, only their asking tells it that nobody holds it.
#[test]
fn one_that_sends_gives_up_what_it_deleted_before_anybody_had_it() {
    let mut given_up = 0;
    for seed in 0..24 {
        let one_way = Some((0, Mode::SendOnly));
        let plan = Plan { nodes: 2 + (seed % 2) as usize, one_way, ..Plan::peaceful(seed) };
        let mut story = renamed_and_edited(plan);
        story.join(0, 1);
        story.join(0, plan.nodes - 1);
        // Where its bytes rode along with what was told of it, it is not lost.
        let tree = story.tree(1);
        assert!(["g=renamed", "g=edited"].contains(&&*tree), "seed {seed}: {tree}");
        assert_eq!(story.tree(plan.nodes - 1), tree, "seed {seed}");
        given_up += usize::from(tree == "g=renamed");
        story.is_at_rest().unwrap();
    }
    assert!(given_up > 0, "the edit always comes in time");
}
