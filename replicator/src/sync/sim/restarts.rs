//! What users did just before a node died: nothing tells of it but the disk.

use std::time::Duration;

use super::plan::Plan;
use super::story::Story;

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
