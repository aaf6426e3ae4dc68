//! The rows in which directories change, or which lie in one that does.

use super::row::{Row, Tree};

pub const ROWS: &[Row] = &[
    Row {
        name: "rename and rename of a directory",
        before: |at| {
            at.make_directory("d");
            at.write("d/a", "a");
        },
        here: |at| at.rename("d", "h"),
        there: |at| at.rename("d", "t"),
        tree: Tree::Always("h/ h/a=a t/ t/a->h/a"),
        kept: None,
    },
    Row {
        name: "file and directory of one name",
        before: |_| (),
        here: |at| at.write("name", "here"),
        there: |at| {
            at.make_directory("name");
            at.write("name/inside", "there");
        },
        tree: Tree::Always("name/ name/inside=there"),
        kept: Some("here"),
    },
    Row {
        name: "directory deleted and child created",
        before: |at| {
            at.make_directory("d");
            at.write("d/old", "old");
        },
        here: |at| at.remove("d"),
        there: |at| at.write("d/new", "there"),
        tree: Tree::Always("d/ d/new=there"),
        kept: None,
    },
    Row {
        name: "directories moved into each other",
        before: |at| {
            at.make_directory("a");
            at.write("a/x", "x");
            at.make_directory("b");
            at.write("b/y", "y");
        },
        here: |at| at.rename("a", "b/a"),
        there: |at| at.rename("b", "a/b"),
        tree: Tree::Always("a/ a/b/ a/b/y=y b/ b/a/ b/a/x=x"),
        kept: None,
    },
    Row {
        name: "three directories moved into each other",
        before: |at| {
            for (directory, file) in [("a", "a/x"), ("b", "b/y"), ("c", "c/z")] {
                at.make_directory(directory);
                at.write(file, directory);
            }
        },
        here: |at| at.rename("a", "b/a"),
        there: |at| {
            at.rename("b", "c/b");
            at.rename("c", "a/c");
        },
        tree: Tree::Always("a/ a/c/ a/c/b/ a/c/b/y=b a/c/z=c b/ b/a/ b/a/x=a"),
        kept: None,
    },
    Row {
        name: "rename and delete of a directory",
        before: |at| {
            at.make_directory("d");
            at.write("d/a", "a");
        },
        here: |at| at.rename("d", "e"),
        there: |at| at.remove("d"),
        tree: Tree::Always("e/ e/a=a"),
        kept: None,
    },
    Row {
        name: "file moved into a directory that is deleted",
        before: |at| {
            at.make_directory("d");
            at.write("d/old", "old");
            at.write("f", "moved");
        },
        here: |at| at.rename("f", "d/f"),
        there: |at| at.remove("d"),
        tree: Tree::Always("d/ d/f=moved"),
        kept: None,
    },
    Row {
        name: "directory created and another renamed onto its name",
        before: |at| {
            at.make_directory("d");
            at.write("d/a", "a");
        },
        here: |at| {
            at.make_directory("e");
            at.write("e/b", "here");
        },
        there: |at| at.rename("d", "e"),
        tree: Tree::Always("e/ e/a=a e/b=here"),
        kept: None,
    },
    Row {
        name: "edit and rename of its directory",
        before: |at| {
            at.make_directory("d");
            at.write("d/a", "a");
        },
        here: |at| at.write("d/a", "here"),
        there: |at| at.rename("d", "t"),
        tree: Tree::Always("t/ t/a=here"),
        kept: None,
    },
    Row {
        name: "child created and rename of its directory",
        before: |at| {
            at.make_directory("d");
            at.write("d/old", "old");
        },
        here: |at| at.write("d/new", "here"),
        there: |at| at.rename("d", "t"),
        tree: Tree::Always("d/ d/new=here t/ t/old=old"),
        kept: None,
    },
    Row {
        name: "edit and directory in its place",
        before: |at| at.write("name", "common"),
        here: |at| at.write("name", "here"),
        there: |at| {
            at.remove("name");
            at.make_directory("name");
            at.write("name/inside", "there");
        },
        tree: Tree::Always("name/ name/inside=there"),
        kept: Some("here"),
    },
    Row {
        name: "directories created with one name",
        before: |_| (),
        here: |at| {
            at.make_directory("d");
            at.write("d/h", "here");
        },
        there: |at| {
            at.make_directory("d");
            at.write("d/t", "there");
        },
        tree: Tree::Always("d/ d/h=here d/t=there"),
        kept: None,
    },
    Row {
        name: "directory deleted and file in it edited",
        before: |at| {
            at.make_directory("d");
            at.write("d/a", "a");
            at.write("d/b", "b");
        },
        here: |at| at.remove("d"),
        there: |at| at.write("d/a", "there"),
        tree: Tree::Always("d/ d/a=there"),
        kept: None,
    },
    Row {
        name: "renames of directories onto one name",
        before: |at| {
            at.make_directory("h");
            at.write("h/x", "here");
            at.make_directory("t");
            at.write("t/y", "there");
        },
        here: |at| at.rename("h", "d"),
        there: |at| at.rename("t", "d"),
        tree: Tree::Always("d/ d/x=here d/y=there"),
        kept: None,
    },
];
