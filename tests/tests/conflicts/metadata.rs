//! The rows in which metadata change: never a conflict by themselves.

use super::row::{Row, Tree};

pub const ROWS: &[Row] = &[
    Row {
        name: "chmod and chmod",
        before: |at| at.write("file", "common"),
        here: |at| at.chmod("file", 0o600),
        there: |at| at.chmod("file", 0o640),
        tree: Tree::ByWhoIsLater("file=common:600", "file=common:640"),
        kept: None,
    },
    Row {
        name: "chmod and edit",
        before: |at| at.write("file", "common"),
        here: |at| at.chmod("file", 0o600),
        there: |at| at.write("file", "there"),
        tree: Tree::ByWhoIsLater("file=there:600", "file=there"),
        kept: None,
    },
    Row {
        name: "chmod and delete",
        before: |at| at.write("file", "common"),
        here: |at| at.chmod("file", 0o600),
        there: |at| at.remove("file"),
        tree: Tree::Always(""),
        kept: None,
    },
    Row {
        name: "chmod and rename",
        before: |at| at.write("file", "common"),
        here: |at| at.chmod("file", 0o600),
        there: |at| at.rename("file", "renamed"),
        tree: Tree::Always("renamed=common:600"),
        kept: None,
    },
    Row {
        name: "chmod and another file",
        before: |at| at.write("file", "common"),
        here: |at| at.chmod("file", 0o600),
        there: |at| at.replace("file", "there"),
        tree: Tree::Always("file=there"),
        kept: None,
    },
    Row {
        name: "create and same create of another mode",
        before: |_| (),
        here: |at| {
            at.write("file", "same");
            at.chmod("file", 0o600);
        },
        there: |at| {
            at.write("file", "same");
            at.chmod("file", 0o640);
        },
        tree: Tree::ByWhoIsLater("file=same:600", "file=same:640"),
        kept: None,
    },
];
