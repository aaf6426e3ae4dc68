//! Nodes that only send or only receive, among others that do both.

use super::plan::{Plan, Shape};
use super::story::Story;
use crate::config::Mode;

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
fn what_one_that_sends_changes_arrives_and_it_takes_nothing() {
    each(Mode::SendOnly, |story| {
        story.act(1, |user| {
            user.write("a", "sent");
            user.write("c", "sent, too");
        });
        story.settle();
        story.act(0, |user| user.remove("b"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(2)], ["a=sent c=sent, too", "a=sent c=sent, too"]);
        assert_eq!(story.tree(1), "a=sent b=b c=sent, too");
    });
}

/// What it does not hold it has no bytes of, but what others say of a file
/// passes through it.
#[test]
fn one_that_sends_passes_on_what_needs_no_bytes() {
    each(Mode::SendOnly, |story| {
        story.act(0, |user| {
            user.rename("a", "moved");
            user.chmod("b", 0o600);
            user.make_directory("d");
        });
        story.settle();
        assert_eq!(story.tree(2), story.tree(0));
        assert_eq!([story.tree(2), story.tree(1)], ["b=b:600 d/ moved=a", "a=a b=b"]);
    });
}
