//! A file with hundreds of names, as in trees that share what did not change
//! between two backups.

use std::time::Duration;

use super::plan::Plan;
use super::story::{Story, User};

const NAMES: usize = 400;

/// What all of them may take. One for each would look at all the others every
/// time: 6,000 names took 16 s.
const JOBS_MAX: u64 = 20;

#[test]
fn a_file_gains_and_loses_many_names_in_few_jobs() {
    let names: Vec<String> = (0..NAMES).map(|number| format!("d/{number}")).collect();
    let mut story = Story::begin(Plan::peaceful(2), 0, |user| {
        user.write("a", "text");
        user.make_directory("d");
    });
    let link = |user: &mut User<'_>, name: &str| user.link("a", name);
    let remove = |user: &mut User<'_>, name: &str| user.remove(name);
    for change in [&link as &dyn Fn(&mut User<'_>, &str), &remove] {
        story.part();
        story.act(0, |user| names.iter().for_each(|name| change(user, name)));
        story.settle();
        let before = story.jobs(1);
        story.join(0, 1);
        assert_eq!(story.tree(1), story.tree(0));
        let jobs = story.jobs(1) - before;
        assert!(jobs <= JOBS_MAX, "{jobs} jobs");
    }
    assert_eq!(story.tree(1), "a=text d/");
    story.is_at_rest().unwrap();
}

/// All names at once: the last of them decides what becomes of the file.
#[test]
fn a_file_whose_names_all_go_rests_in_the_trash() {
    let mut story = Story::begin(Plan::peaceful(2), 0, |user| {
        user.write("a", "text");
        ["b", "c", "d"].iter().for_each(|name| user.link("a", name));
    });
    story.act(0, |user| ["a", "b", "c", "d"].iter().for_each(|name| user.remove(name)));
    story.settle();
    assert_eq!([story.tree(0), story.tree(1)], ["", ""]);
    assert_eq!(story.trash(1), ["text"]);
    assert!(story.kept(1).is_empty());
    story.is_at_rest().unwrap();
}

/// One of its names gets another mode, and is another file's before anybody
/// looked: at the other nothing was told.
#[test]
fn a_mode_set_at_a_name_that_another_file_takes_is_seen_at_the_other() {
    for seed in 0..24 {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| {
            user.write("a", "text");
            user.link("a", "b");
            user.write("c", "another");
        });
        story.act(0, |user| {
            user.chmod("a", 0o600);
            user.rename("c", "a");
        });
        story.settle();
        for at in 0..2 {
            assert_eq!(story.tree(at), "a=another b=text:600", "seed {seed}, node {at}");
        }
        story.is_at_rest().unwrap();
    }
}

/// One gives it names while the other takes its first away.
#[test]
fn names_come_while_the_one_they_were_made_from_goes() {
    let mut story = Story::begin(Plan::peaceful(2), 0, |user| user.write("a", "text"));
    story.part();
    story.act(0, |user| ["b", "c", "d"].iter().for_each(|name| user.link("a", name)));
    story.act(1, |user| user.remove("a"));
    story.join(0, 1);
    assert_eq!([story.tree(0), story.tree(1)], ["b=text c->b d->b", "b=text c->b d->b"]);
    story.is_at_rest().unwrap();
}

fn of_two_names(seed: u64) -> Story {
    Story::begin(Plan::peaceful(seed), 0, |user| {
        user.write("a", "text");
        user.link("a", "b");
    })
}

/// That another file took one of its names is no deletion of it: it had a name
/// left, which who deleted that did not know to lead to this.
#[test]
fn a_file_that_was_changed_stays_though_another_took_its_other_name() {
    let orders = [["b", "a"], ["a", "b"]];
    for (order, seed) in orders.into_iter().flat_map(|order| (0..24).map(move |seed| (order, seed)))
    {
        let mut story = of_two_names(seed);
        story.part();
        for name in order {
            story.act(1, |user| user.remove(name));
            story.settle();
        }
        story.act(0, |user| user.write("a", "changed"));
        story.settle();
        story.act(0, |user| user.replace("b", "another"));
        story.settle();
        story.join(0, 1);
        assert_eq!(
            [story.tree(0), story.tree(1)],
            ["a=changed b=another"; 2],
            "seed {seed}, {order:?}"
        );
        story.is_at_rest().unwrap();
    }
}

/// Who takes away one of its names leaves it the other, and another user takes
/// that away: what only one of them knew was not meant to go. Also where it comes
/// before anybody has looked where that name was.
#[test]
fn a_file_that_was_changed_stays_where_who_took_it_away_did_not_know() {
    for (seed, delay) in (0..8).flat_map(|seed| (0..60).map(move |delay| (seed, delay))) {
        let mut story = of_two_names(seed);
        story.act(0, |user| user.write("a", "changed"));
        story.join_for(0, 1, Duration::from_millis(delay));
        if !story.tree(1).starts_with("a=text") {
            continue;
        }
        story.act_now(0, |user| user.remove("a"));
        story.act_now(1, |user| user.remove("b"));
        story.settle();
        let trees = [story.tree(0), story.tree(1)];
        assert_eq!(trees, ["b=changed"; 2], "seed {seed}, {delay} ms");
        story.is_at_rest().unwrap();
    }
}

/// Who has one name of a file, and knows what others wrote to it, deletes it:
/// it stays deleted, though at that moment another takes the same name away, and
/// leaves it one for that change which was gone elsewhere by then.
#[test]
fn a_file_stays_deleted_though_a_name_of_it_comes_back_elsewhere() {
    let after = (0..9).flat_map(|wait| (0..10).map(move |delay| (wait * 3, delay)));
    let mut tried = 0;
    for (seed, (wait, delay)) in (0..4).flat_map(|seed| after.clone().map(move |at| (seed, at))) {
        let mut story = of_two_names(seed);
        story.part();
        story.act(0, |user| user.write("a", "changed"));
        story.settle();
        story.act(1, |user| user.remove("b"));
        story.settle();
        story.join_for(0, 1, Duration::from_millis(delay));
        if story.tree(0) != "a=changed b->a" {
            continue;
        }
        story.act_now(0, |user| user.remove("a"));
        story.join_for(0, 1, Duration::from_millis(wait));
        if story.tree(1) != "a=changed" {
            continue;
        }
        story.act_now(1, |user| user.remove("a"));
        story.settle();
        story.ends_as("", seed);
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
}

/// A user takes a directory away, and with it the other name of a file, of which
/// nothing is told; what is written to the file just then is at the name that
/// another node gives to another file.
#[test]
fn an_edit_whose_other_name_went_with_its_directory_is_kept() {
    for (seed, delay) in (0..100).flat_map(|seed| (0..40).map(move |delay| (seed, delay))) {
        let traced = true;
        let mut story = Story::begin(Plan { traced, ..Plan::peaceful(seed) }, 0, |user| {
            user.write("b", "before");
            user.make_directory("d");
            user.link("b", "d/linked");
        });
        story.act(1, |user| user.remove("d"));
        story.join_for(0, 1, Duration::from_millis(delay));
        story.act_now(1, |user| user.write("b", "edited"));
        story.act_now(0, |user| user.replace("b", "another"));
        story.settle();
        let kept = (0..2).any(|at| story.kept(at).contains(&"edited".to_owned()));
        let trace = || format!("seed {seed}, {delay} ms\n{}", story.trace());
        assert!(kept || story.tree(0).contains("=edited"), "{}", trace());
        story.is_at_rest().unwrap();
    }
}
