//! A row of the table in `ARCHITECTURE.md`: what both had, what each changes,
//! and what that leads to.

use super::place::Place;
use super::{directories, files, metadata};

pub struct Row {
    /// As it stands in the table, as a name of a folder.
    pub name: &'static str,
    pub before: fn(&Place),
    pub here: fn(&Place),
    pub there: fn(&Place),
    /// What all show in the end, and whose content is kept: in both, `{later}`
    /// and `{earlier}` stand for the side that acted later or earlier.
    pub tree: Tree,
    pub kept: Option<&'static str>,
}

pub enum Tree {
    Always(&'static str),
    /// Where `here` is later, and where `there` is.
    ByWhoIsLater(&'static str, &'static str),
}

/// Who does what in a row: each is met on all four at once, in a folder of its
/// own.
#[derive(Clone, Copy)]
pub struct Course {
    pub row: &'static Row,
    /// The node that is `here`.
    pub here: usize,
    pub here_is_later: bool,
}

impl Course {
    pub fn all() -> impl Iterator<Item = Self> {
        let rows = files::ROWS.iter().chain(metadata::ROWS).chain(directories::ROWS);
        rows.flat_map(|row| {
            let sides = [(0, false), (0, true), (1, false), (1, true)];
            sides.map(|(here, here_is_later)| Self { row, here, here_is_later })
        })
    }

    /// Where it happens, beneath the root.
    pub fn folder(&self) -> String {
        let pace = if self.here_is_later { "later" } else { "earlier" };
        format!("{}/here {pace} on {}", self.row.name, self.here)
    }

    /// Which node acts first or last, and what it does.
    pub fn act(&self, is_later: bool) -> (usize, fn(&Place)) {
        match self.here_is_later == is_later {
            true => (self.here, self.row.here),
            false => (1 - self.here, self.row.there),
        }
    }

    pub fn tree(&self) -> String {
        match self.row.tree {
            Tree::Always(tree) => self.fill(tree),
            Tree::ByWhoIsLater(here, there) => {
                self.fill(if self.here_is_later { here } else { there })
            }
        }
    }

    /// The content that a node keeps whose user acted on this side, or that
    /// met this side first.
    pub fn kept(&self, by: usize) -> Option<String> {
        let side = if by == self.here { "here" } else { "there" };
        self.row.kept.map(|kept| self.fill(kept)).filter(|kept| kept.starts_with(side))
    }

    fn fill(&self, text: &str) -> String {
        let (later, earlier) = match self.here_is_later {
            true => ("here", "there"),
            false => ("there", "here"),
        };
        text.replace("{later}", later).replace("{earlier}", earlier)
    }
}
