//! The rows in which files and symbolic links change.

use super::row::{Row, Tree};

pub const ROWS: &[Row] = &[
    Row {
        name: "edit and edit",
        before: |at| at.write("file", "common"),
        here: |at| at.write("file", "here"),
        there: |at| at.write("file", "there"),
        tree: Tree::Always("file={later}"),
        kept: Some("{earlier}"),
    },
    Row {
        name: "edit and same edit",
        before: |at| at.write("file", "common"),
        here: |at| at.write("file", "same"),
        there: |at| at.write("file", "same"),
        tree: Tree::Always("file=same"),
        kept: None,
    },
    Row {
        name: "edit and delete",
        before: |at| at.write("file", "common"),
        here: |at| at.write("file", "here"),
        there: |at| at.remove("file"),
        tree: Tree::Always("file=here"),
        kept: None,
    },
    Row {
        name: "delete and delete",
        before: |at| at.write("file", "common"),
        here: |at| at.remove("file"),
        there: |at| at.remove("file"),
        tree: Tree::Always(""),
        kept: None,
    },
    Row {
        name: "edit and rename",
        before: |at| at.write("file", "common"),
        here: |at| at.write("file", "here"),
        there: |at| at.rename("file", "renamed"),
        tree: Tree::Always("renamed=here"),
        kept: None,
    },
    Row {
        name: "edit in place and another file",
        before: |at| at.write("file", "common"),
        here: |at| at.write("file", "here"),
        there: |at| at.replace("file", "there"),
        tree: Tree::Always("file=there"),
        kept: Some("here"),
    },
    Row {
        name: "edit in place and rename over it",
        before: |at| {
            at.write("file", "common");
            at.write("other", "other");
        },
        here: |at| at.write("file", "here"),
        there: |at| at.rename("other", "file"),
        tree: Tree::Always("file=other"),
        kept: Some("here"),
    },
    Row {
        name: "another file and another file",
        before: |at| at.write("file", "common"),
        here: |at| at.replace("file", "here"),
        there: |at| at.replace("file", "there"),
        tree: Tree::Always("file={later}"),
        kept: Some("{earlier}"),
    },
    Row {
        name: "rename and delete",
        before: |at| at.write("file", "common"),
        here: |at| at.rename("file", "renamed"),
        there: |at| at.remove("file"),
        tree: Tree::Always("renamed=common"),
        kept: None,
    },
    Row {
        name: "rename and rename",
        before: |at| at.write("file", "common"),
        here: |at| at.rename("file", "h"),
        there: |at| at.rename("file", "t"),
        tree: Tree::Always("h=common t->h"),
        kept: None,
    },
    Row {
        name: "renames onto one name",
        before: |at| {
            at.write("a", "here");
            at.write("b", "there");
        },
        here: |at| at.rename("a", "name"),
        there: |at| at.rename("b", "name"),
        tree: Tree::Always("name=there"),
        kept: Some("here"),
    },
    Row {
        name: "rename and create onto one name",
        before: |at| at.write("file", "here"),
        here: |at| at.rename("file", "name"),
        there: |at| at.write("name", "there"),
        tree: Tree::Always("name=there"),
        kept: Some("here"),
    },
    Row {
        name: "exchange and exchange with a third",
        before: |at| {
            at.write("a", "common");
            at.write("b", "here");
            at.write("c", "there");
        },
        here: |at| at.exchange("a", "b"),
        there: |at| at.exchange("a", "c"),
        tree: Tree::Always("a=there b=common c->b"),
        kept: Some("here"),
    },
    Row {
        name: "exchange and edit",
        before: |at| {
            at.write("a", "common a");
            at.write("b", "common b");
        },
        here: |at| at.exchange("a", "b"),
        there: |at| at.write("a", "there"),
        tree: Tree::Always("a=common b b=there"),
        kept: None,
    },
    Row {
        name: "create and same create",
        before: |_| (),
        here: |at| at.write("file", "same"),
        there: |at| at.write("file", "same"),
        tree: Tree::Always("file=same"),
        kept: None,
    },
    Row {
        name: "create and other create",
        before: |_| (),
        here: |at| at.write("file", "here"),
        there: |at| at.write("file", "there"),
        tree: Tree::Always("file={later}"),
        kept: Some("{earlier}"),
    },
    Row {
        name: "symbolic link and file",
        before: |_| (),
        here: |at| at.symlink("name", "here"),
        there: |at| at.write("name", "there"),
        tree: Tree::ByWhoIsLater("name~>here", "name=there"),
        kept: Some("{earlier}"),
    },
    Row {
        name: "symbolic link and another",
        before: |_| (),
        here: |at| at.symlink("name", "here"),
        there: |at| at.symlink("name", "there"),
        tree: Tree::Always("name~>{later}"),
        kept: Some("{earlier}"),
    },
    Row {
        name: "edit and symbolic link in its place",
        before: |at| at.write("name", "common"),
        here: |at| at.write("name", "here"),
        there: |at| at.replace_by_symlink("name", "there"),
        tree: Tree::Always("name~>there"),
        kept: Some("here"),
    },
    Row {
        name: "hard link and edit",
        before: |at| at.write("file", "common"),
        here: |at| at.link("file", "link"),
        there: |at| at.write("file", "there"),
        tree: Tree::Always("file=there link->file"),
        kept: None,
    },
    Row {
        name: "hard link and delete",
        before: |at| at.write("file", "common"),
        here: |at| at.link("file", "link"),
        there: |at| at.remove("file"),
        tree: Tree::Always("link=common"),
        kept: None,
    },
    Row {
        name: "hard link and another file",
        before: |at| at.write("file", "common"),
        here: |at| at.link("file", "link"),
        there: |at| at.replace("file", "there"),
        tree: Tree::Always("file=there link=common"),
        kept: None,
    },
    Row {
        name: "one of two names removed and the other removed",
        before: |at| {
            at.write("file", "common");
            at.link("file", "link");
        },
        here: |at| at.remove("file"),
        there: |at| at.remove("link"),
        tree: Tree::Always(""),
        kept: None,
    },
];
