//! The contents users made, and what became of them: which may be nowhere, and
//! which may be in no tree.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub written: BTreeSet<Vec<u8>>,
    /// Of these, what was written on a node that only receives.
    pub own: BTreeSet<Vec<u8>>,
    /// And what lay on several nodes before any of them met another.
    pub handed_out: BTreeSet<Vec<u8>>,
    /// Destroyed by a user who saw them.
    pub dead: BTreeSet<Vec<u8>>,
    /// Given another name.
    pub moved: BTreeSet<Vec<u8>>,
    /// Of both, those of the second round. Who gives another name keeps from
    /// a deletion elsewhere.
    pub dead_lately: BTreeSet<Vec<u8>>,
    pub moved_lately: BTreeSet<Vec<u8>>,
    /// Lay on a disk whose index forgot them, in a crash or to begin anew: what
    /// is new there may have been deleted elsewhere, or here before the crash.
    /// And what was destroyed where nobody may have heard of it.
    pub forgotten: BTreeSet<Vec<u8>>,
    /// Written over by a user whose clock is behind, or who set back the time of
    /// the file: a start that finds the older file takes it for a backup's, and
    /// shows the later one.
    pub outdated: BTreeSet<Vec<u8>>,
    /// What each content was written over, in the same file.
    over: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first content of the file of each that was written over another.
    first: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Lay in several files: who destroys one of them leaves the others.
    pub copied: BTreeSet<Vec<u8>>,
    /// Lost a name to a user of a node that was about to take all others away.
    pub unnamed: BTreeSet<Vec<u8>>,
}

impl Contents {
    pub fn note_write_over(&mut self, content: &[u8], former: &Vec<u8>) {
        let first = self.first_of(former).clone();
        self.first.insert(content.to_vec(), first);
        self.over.insert(content.to_vec(), former.clone());
    }

    /// It, and what was written over in the same file before it.
    pub fn with_earlier(&self, content: &Vec<u8>) -> Vec<Vec<u8>> {
        let earlier = std::iter::successors(Some(content), |content| self.over.get(*content));
        earlier.take(self.written.len() + 1).cloned().collect()
    }

    /// The first content of its file.
    pub fn first_of<'a>(&'a self, content: &'a Vec<u8>) -> &'a Vec<u8> {
        self.first.get(content).unwrap_or(content)
    }

    /// What users destroyed while no user gave its file another name, nor made
    /// another file of it, and no index forgot it: it is in no tree. An edit
    /// follows its file, whose name another may have changed where an earlier or
    /// another content lay in it.
    pub fn gone(&self) -> BTreeSet<&Vec<u8>> {
        let files = |contents: &BTreeSet<Vec<u8>>| -> BTreeSet<Vec<u8>> {
            let all = contents.iter().chain(&self.copied);
            all.map(|content| self.first_of(content).clone()).collect()
        };
        let (moved, moved_lately) = (files(&self.moved), files(&self.moved_lately));
        // Who had not met the others keeps its copy.
        let ever = self.dead.iter().filter(|content| {
            !moved.contains(self.first_of(content)) && !self.handed_out.contains(*content)
        });
        let lately = self.dead_lately.iter();
        let lately = lately.filter(|content| !moved_lately.contains(self.first_of(content)));
        let gone = ever.chain(lately).filter(|content| {
            !self.forgotten.contains(*content) && !self.outdated.contains(*content)
        });
        gone.collect()
    }
}
