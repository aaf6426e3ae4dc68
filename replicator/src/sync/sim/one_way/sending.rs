//! A node that only sends: it shows what it has, whatever others make of that.

use super::each;
use crate::choice::Mode;
use crate::sync::sim::plan::Plan;
use crate::sync::sim::story::Story;

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

/// Only the one that sends still has the directory; the others have forgotten
/// that there was one.
#[test]
fn a_file_in_a_directory_that_others_deleted_brings_it_back() {
    for seed in 0..8 {
        let one_way = Some((1, Mode::SendOnly));
        let plan = Plan { members: true, one_way, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 1, |user| user.make_directory("d"));
        story.act(0, |user| user.remove("d"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["", "d/"]);
        story.act(1, |user| user.write("d/x", "x"));
        story.settle();
        assert_eq!([story.tree(0), story.tree(1)], ["d/ d/x=x", "d/ d/x=x"]);
        story.is_at_rest().unwrap();
    }
}

/// What a node that only sends shows at a name stays there when another file
/// wins it. It spoke for that file again at its next start, since others had
/// changed it meanwhile at its other name.
#[test]
fn a_file_that_lost_its_name_is_not_shown_there_for_what_others_change_in_it() {
    for seed in 0..8 {
        let plan = Plan { one_way: Some((1, Mode::SendOnly)), ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 1, |_| {});
        story.part();
        story.act(1, |user| {
            user.write("a", "of 1");
            user.link("a", "b");
        });
        story.settle();
        story.act(0, |user| user.write("a", "of 0"));
        story.join(0, 1);
        assert_eq!([story.tree(0), story.tree(1)], ["a=of 0 b=of 1", "a=of 1 b->a"]);
        story.act(0, |user| user.write("b", "later"));
        story.settle();
        story.stop(1);
        story.start(1);
        assert_eq!([story.tree(0), story.tree(1)], ["a=of 0 b=later", "a=of 1 b->a"]);
        // Written to where it lies so, it is.
        story.act(1, |user| user.write("b", "last"));
        story.settle();
        assert_eq!(story.tree(0), "a=last b->a");
    }
}
