//! The rows in which directories change, or which lie in one that does.

use super::Row;
use crate::sync::sim::plan::Plan;
use crate::sync::sim::story::Story;

#[test]
fn rename_and_rename_of_a_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| user.rename("d", "h"),
        there: |user| user.rename("d", "t"),
    };
    row.leads_to("h/ h/a=a t/ t/a->h/a", &[]);
}

#[test]
fn file_and_directory_of_one_name() {
    let row = Row {
        before: |_| (),
        here: |user| user.write("name", "here"),
        there: |user| {
            user.make_directory("name");
            user.write("name/inside", "there");
        },
    };
    row.leads_to("name/ name/inside=there", &["here"]);
}

#[test]
fn directory_deleted_and_child_created() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/old", "old");
        },
        here: |user| user.remove("d"),
        there: |user| user.write("d/new", "there"),
    };
    row.leads_to("d/ d/new=there", &[]);
}

#[test]
fn directories_moved_into_each_other() {
    let row = Row {
        before: |user| {
            user.make_directory("a");
            user.write("a/x", "x");
            user.make_directory("b");
            user.write("b/y", "y");
        },
        here: |user| user.rename("a", "b/a"),
        there: |user| user.rename("b", "a/b"),
    };
    row.leads_to("a/ a/b/ a/b/y=y b/ b/a/ b/a/x=x", &[]);
}

/// Here one of three steps of a circle, there the other two.
#[test]
fn three_directories_moved_into_each_other() {
    let row = Row {
        before: |user| {
            for (directory, file) in [("a", "a/x"), ("b", "b/y"), ("c", "c/z")] {
                user.make_directory(directory);
                user.write(file, directory);
            }
        },
        here: |user| user.rename("a", "b/a"),
        there: |user| {
            user.rename("b", "c/b");
            user.rename("c", "a/c");
        },
    };
    row.leads_to("a/ a/c/ a/c/b/ a/c/b/y=b a/c/z=c b/ b/a/ b/a/x=a", &[]);
}

#[test]
fn rename_and_delete_of_a_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| user.rename("d", "e"),
        there: |user| user.remove("d"),
    };
    row.leads_to("e/ e/a=a", &[]);
}

#[test]
fn file_moved_into_a_directory_that_is_deleted() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/old", "old");
            user.write("f", "moved");
        },
        here: |user| user.rename("f", "d/f"),
        there: |user| user.remove("d"),
    };
    row.leads_to("d/ d/f=moved", &[]);
}

#[test]
fn directory_created_and_another_renamed_onto_its_name() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| {
            user.make_directory("e");
            user.write("e/b", "here");
        },
        there: |user| user.rename("d", "e"),
    };
    row.leads_to("e/ e/a=a e/b=here", &[]);
}

#[test]
fn edit_and_rename_of_its_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
        },
        here: |user| user.write("d/a", "here"),
        there: |user| user.rename("d", "t"),
    };
    row.leads_to("t/ t/a=here", &[]);
}

#[test]
fn child_created_and_rename_of_its_directory() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/old", "old");
        },
        here: |user| user.write("d/new", "here"),
        there: |user| user.rename("d", "t"),
    };
    row.leads_to("d/ d/new=here t/ t/old=old", &[]);
}

#[test]
fn edit_and_directory_in_its_place() {
    let row = Row {
        before: |user| user.write("name", "common"),
        here: |user| user.write("name", "here"),
        there: |user| {
            user.remove("name");
            user.make_directory("name");
            user.write("name/inside", "there");
        },
    };
    row.leads_to("name/ name/inside=there", &["here"]);
}

#[test]
fn directories_created_with_one_name() {
    let row = Row {
        before: |_| (),
        here: |user| {
            user.make_directory("d");
            user.write("d/h", "here");
        },
        there: |user| {
            user.make_directory("d");
            user.write("d/t", "there");
        },
    };
    row.leads_to("d/ d/h=here d/t=there", &[]);
}

#[test]
fn directory_deleted_and_file_in_it_edited() {
    let row = Row {
        before: |user| {
            user.make_directory("d");
            user.write("d/a", "a");
            user.write("d/b", "b");
        },
        here: |user| user.remove("d"),
        there: |user| user.write("d/a", "there"),
    };
    row.leads_to("d/ d/a=there", &[]);
}

#[test]
fn renames_of_directories_onto_one_name() {
    let row = Row {
        before: |user| {
            user.make_directory("h");
            user.write("h/x", "here");
            user.make_directory("t");
            user.write("t/y", "there");
        },
        here: |user| user.rename("h", "d"),
        there: |user| user.rename("t", "d"),
    };
    row.leads_to("d/ d/x=here d/y=there", &[]);
}

/// To a third one who hears of both at once each waits for another: the directory
/// that is new at its name for the file there to leave, that for the directory
/// at its new name, and that for what is in it, which is to have its place in
/// the first.
#[test]
fn exchange_of_a_file_and_a_directory_and_another_directory_for_the_file() {
    for seed in 0..24 {
        let plan = Plan { nodes: 3, ..Plan::peaceful(seed) };
        let mut story = Story::begin(plan, 0, |user| {
            user.write("d", "file");
            user.make_directory("e");
            user.write("e/a", "common");
        });
        story.part();
        story.act(1, |user| user.exchange("d", "e"));
        story.settle();
        story.act(2, |user| {
            user.remove("d");
            user.make_directory("d");
            user.write("d/d", "there");
        });
        story.settle();
        story.join(1, 2);
        story.join(0, 1);
        for at in 0..3 {
            let tree = story.tree(at);
            assert_eq!(tree, "d/ d/a=common d/d=there e=file", "seed {seed}, node {at}");
        }
        story.is_at_rest().unwrap();
    }
}
