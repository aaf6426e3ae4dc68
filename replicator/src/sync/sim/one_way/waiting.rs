//! What waits for what, where a node only sends or only receives.

use crate::choice::Mode;
use crate::sync::sim::plan::Plan;
use crate::sync::sim::story::Story;

/// It wrote what the others ask it for, and deleted it before they had it: since it
/// fetches nothing, only their asking tells it that nobody holds it.
#[test]
fn one_that_sends_gives_up_what_it_deleted_before_anybody_had_it() {
    let mut given_up = 0;
    for seed in 0..24 {
        let one_way = Some((0, Mode::SendOnly));
        let plan = Plan { nodes: 2 + (seed % 2) as usize, one_way, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| {
            user.write("f", "renamed");
            user.write("g", "replaced");
        });
        story.part();
        story.act(1, |user| user.rename("f", "g"));
        story.act(0, |user| user.write("f", "edited"));
        story.act(0, |user| user.remove("f"));
        story.settle();
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
