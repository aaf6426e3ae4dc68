//! The rows in which files change.

use super::{Row, SEEDS};
use crate::sync::sim::plan::Plan;
use crate::sync::sim::story::{Story, User};

fn of_two_names(user: &mut User) {
    user.write("file", "common");
    user.link("file", "other");
}

#[test]
fn edit_and_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.write("file", "there"),
    };
    row.leads_to("file={later}", &["{earlier}"]);
}

#[test]
fn edit_and_same_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "same"),
        there: |user| user.write("file", "same"),
    };
    row.leads_to("file=same", &[]);
}

#[test]
fn edit_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.remove("file"),
    };
    row.leads_to("file=here", &[]);
}

#[test]
fn edit_and_delete_of_a_later_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| {
            user.write("file", "there");
            user.remove("file");
        },
    };
    row.leads_to("file=here", &[]);
}

#[test]
fn edit_and_exchange() {
    let row = Row {
        before: |user| {
            user.write("file", "common");
            user.write("other", "other");
        },
        here: |user| user.write("file", "here"),
        there: |user| user.exchange("file", "other"),
    };
    row.leads_to("file=other other=here", &[]);
}

#[test]
fn edit_and_further_name() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.link("file", "more"),
    };
    row.leads_to("file=here more->file", &[]);
}

#[test]
fn edit_and_symlink_in_its_place() {
    let row = Row {
        before: |user| user.write("name", "common"),
        here: |user| user.write("name", "here"),
        there: |user| {
            user.remove("name");
            user.make_symlink("name", "there");
        },
    };
    row.leads_to("name@there", &["here"]);
}

#[test]
fn edit_and_rename() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.rename("file", "renamed"),
    };
    row.leads_to("renamed=here", &[]);
}

#[test]
fn removal_of_a_name_and_removal_of_the_other() {
    let row = Row {
        before: of_two_names,
        here: |user| user.remove("file"),
        there: |user| user.remove("other"),
    };
    row.leads_to("", &[]);
}

#[test]
fn edit_and_replacement_of_a_name_and_removal_of_both() {
    let row = Row {
        before: of_two_names,
        here: |user| {
            user.write("file", "here");
            user.replace("other", "another");
        },
        there: |user| {
            user.remove("file");
            user.remove("other");
        },
    };
    row.leads_to("file=here other=another", &[]);
}

#[test]
fn edit_in_place_and_replacement() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.write("file", "here"),
        there: |user| user.replace("file", "there"),
    };
    row.leads_to("file=there", &["here"]);
}

#[test]
fn replacement_and_replacement() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.replace("file", "here"),
        there: |user| user.replace("file", "there"),
    };
    row.leads_to("file={later}", &["{earlier}"]);
}

#[test]
fn chmod_and_edit() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.chmod("file", 0o600),
        there: |user| user.write("file", "there"),
    };
    row.leads_to_either(["file=there:600", "file=there"], &[]);
}

#[test]
fn chmod_and_chmod() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.chmod("file", 0o600),
        there: |user| user.chmod("file", 0o640),
    };
    row.leads_to_either(["file=common:600", "file=common:640"], &[]);
}

#[test]
fn chmod_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.chmod("file", 0o600),
        there: |user| user.remove("file"),
    };
    row.leads_to("", &[]);
}

#[test]
fn rename_and_rename_of_a_file() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.rename("file", "h"),
        there: |user| user.rename("file", "t"),
    };
    row.leads_to("h=common t->h", &[]);
}

#[test]
fn create_and_same_create() {
    let row = Row {
        before: |_| (),
        here: |user| {
            user.write("file", "same");
            user.chmod("file", 0o600);
        },
        there: |user| {
            user.write("file", "same");
            user.chmod("file", 0o640);
        },
    };
    row.leads_to_either(["file=same:600", "file=same:640"], &[]);
}

#[test]
fn create_and_other_create() {
    let row = Row {
        before: |_| (),
        here: |user| user.write("file", "here"),
        there: |user| user.write("file", "there"),
    };
    row.leads_to("file={later}", &["{earlier}"]);
}

#[test]
fn file_and_symlink_of_one_name() {
    let row = Row {
        before: |_| (),
        here: |user| user.write("name", "here"),
        there: |user| user.make_symlink("name", "there"),
    };
    row.leads_to_either(["name=here", "name@there"], &["{earlier}"]);
}

#[test]
fn symlinks_of_one_name() {
    let row = Row {
        before: |_| (),
        here: |user| user.make_symlink("name", "here"),
        there: |user| user.make_symlink("name", "there"),
    };
    row.leads_to("name@{later}", &["{earlier}"]);
}

#[test]
fn renames_onto_one_name() {
    let row = Row {
        before: |user| {
            user.write("a", "here");
            user.write("b", "there");
        },
        here: |user| user.rename("a", "name"),
        there: |user| user.rename("b", "name"),
    };
    row.leads_to("name=there", &["here"]);
}

#[test]
fn exchanges_that_clash() {
    let row = Row {
        before: |user| {
            user.write("a", "common");
            user.write("b", "here");
            user.write("c", "there");
        },
        here: |user| user.exchange("a", "b"),
        there: |user| user.exchange("a", "c"),
    };
    row.leads_to("a=there b=common c->b", &["here"]);
}

#[test]
fn delete_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.remove("file"),
        there: |user| user.remove("file"),
    };
    row.leads_to("", &[]);
}

#[test]
fn rename_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.rename("file", "renamed"),
        there: |user| user.remove("file"),
    };
    row.leads_to("renamed=common", &[]);
}

#[test]
fn further_name_and_delete() {
    let row = Row {
        before: |user| user.write("file", "common"),
        here: |user| user.link("file", "more"),
        there: |user| user.remove("file"),
    };
    row.leads_to("more=common", &[]);
}

#[test]
fn edit_and_rename_over_it() {
    let row = Row {
        before: |user| {
            user.write("file", "common");
            user.write("other", "other");
        },
        here: |user| user.write("file", "here"),
        there: |user| user.rename("other", "file"),
    };
    row.leads_to("file=other", &["here"]);
}

#[test]
fn rename_and_create_onto_one_name() {
    let row = Row {
        before: |user| user.write("file", "here"),
        here: |user| user.rename("file", "name"),
        there: |user| user.write("name", "there"),
    };
    row.leads_to("name=there", &["here"]);
}

/// Equal times are no rare thing where tools set them.
#[test]
fn edits_of_the_same_time() {
    for seed in 0..SEEDS {
        let mut story = Story::begin(Plan::peaceful(seed), 0, |user| user.write("file", "common"));
        story.part();
        story.act(0, |user| user.write("file", "lower"));
        story.act_now(1, |user| user.write("file", "higher"));
        story.settle();
        story.join(0, 1);
        for at in 0..2 {
            assert_eq!(story.tree(at), "file=higher", "{}", story.trace());
        }
        assert_eq!([story.kept(0), story.kept(1)], [vec!["lower".to_owned()], vec![]]);
    }
}

#[test]
fn three_edits() {
    for (seed, order) in
        (0..).zip([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    {
        let plan = Plan { nodes: 3, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| user.write("file", "common"));
        story.part();
        for at in order {
            story.act(at, |user| user.write("file", &format!("of {at}")));
            story.settle();
        }
        story.join(0, 1);
        story.join(1, 2);
        story.join(0, 2);
        for at in 0..3 {
            assert_eq!(story.tree(at), format!("file=of {}", order[2]), "{}", story.trace());
        }
        for loser in &order[..2] {
            let kept = format!("of {loser}");
            assert!(story.kept(*loser).contains(&kept), "{kept} is not kept");
        }
    }
}
