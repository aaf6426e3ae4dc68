//! What the daemon does to a disk: the steps of a job, checked like those of
//! `apply`.

use std::collections::BTreeSet;

use super::Disk;
use crate::entry::{Fingerprint, Kind, Metadata};
use crate::hash::{Digest, Leaves};
use crate::path::RelPath;
use crate::sync::effect::{Action, Keep, Outcome, Over, Update, What};

impl Disk {
    /// Begins a job: its steps know of each other's doings.
    pub(in crate::sync::sim) fn begin_job(&mut self) {
        self.lineage.clear();
    }

    /// Carries out one action. `fetched`: the whole content from a peer.
    pub(in crate::sync::sim) fn apply(
        &mut self,
        action: &Action,
        fetched: Option<Vec<u8>>,
    ) -> Outcome {
        let Action { path, kind, what, .. } = action;
        let needs_parent =
            !matches!(what, What::Remove { .. } | What::SetMetadata { .. } | What::Touch { .. });
        if needs_parent && !self.parent_lies(path) {
            return Outcome::Failed("there is no directory for it".into());
        }
        match what {
            What::MakeDirectory { metadata } => {
                self.put_new(path, Kind::Directory, Vec::new(), metadata, None)
            }
            What::MakeSymlink { target, metadata, over } => {
                self.put_new(path, Kind::Symlink, target.clone(), metadata, over.as_ref())
            }
            What::MakeFifo { metadata, over } => {
                self.put_new(path, Kind::Fifo, Vec::new(), metadata, over.as_ref())
            }
            What::Write { size, digest, metadata, over, source } => {
                let content = fetched.unwrap_or_else(|| overlaid(&[], *size, source));
                if Digest::of(&content) != *digest {
                    return Outcome::NotHeld;
                }
                self.put_new(path, Kind::File, content, metadata, over.as_ref())
            }
            What::Update(update) => self.update(path, update, fetched),
            What::Rename { from, expect } => {
                if !self.is(from, *kind, expect) || self.names.contains_key(path) {
                    return Outcome::Raced;
                }
                self.move_names(from, path);
                self.remember_now(path, expect);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
            What::Exchange { with, expect, kind_here, expect_here } => {
                if !self.is(with, *kind, expect) || !self.is(path, *kind_here, expect_here) {
                    return Outcome::Raced;
                }
                self.exchange(path, with);
                self.remember_now(path, expect);
                self.remember_now(with, expect_here);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
            What::Link { from, expect, over } => {
                if !self.is(from, *kind, expect) {
                    return Outcome::Raced;
                }
                let id = self.names[from];
                let outcome = self.put(path, id, over.as_ref());
                self.touch(id);
                self.remember_now(from, expect);
                match outcome {
                    Outcome::Done(..) => Outcome::Done(self.stat(path).map(Box::new), None),
                    other => other,
                }
            }
            What::Remove { expect, keep } => self.remove(path, *kind, expect, *keep),
            What::Touch { expect, mtime } => {
                if !self.is(path, *kind, expect) {
                    return Outcome::Raced;
                }
                let id = self.names[path];
                let metadata = match self.stat(path) {
                    Some(stat) => Metadata { mtime: *mtime, ..stat.metadata },
                    None => return Outcome::Raced,
                };
                self.touch(id);
                self.dress(id, &metadata);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
            What::SetMetadata { expect, metadata } => {
                if !self.is(path, *kind, expect) {
                    return Outcome::Raced;
                }
                let id = self.names[path];
                self.touch(id);
                self.dress(id, metadata);
                self.remember_now(path, expect);
                Outcome::Done(self.stat(path).map(Box::new), None)
            }
        }
    }

    fn update(&mut self, path: &RelPath, update: &Update, fetched: Option<Vec<u8>>) -> Outcome {
        if !self.is(path, Kind::File, &update.expect) {
            return Outcome::Raced;
        }
        let id = self.names[path];
        let old = self.inodes[&id].content.clone();
        let is_whole = fetched.is_some();
        let content = fetched.unwrap_or_else(|| overlaid(&old, update.size, &update.source));
        if Digest::of(&content) != update.to {
            return Outcome::NotHeld;
        }
        let leaves = Some(Leaves::of(&content));
        let is_conflict = matches!(update.keep, Keep::Conflict(_));
        let is_replaced = is_whole || is_conflict || update.is_own || !self.in_place;
        if !update.linked && is_replaced {
            let over = Over { kind: Kind::File, expect: update.expect, keep: update.keep };
            return self.put_new(path, Kind::File, content, &update.metadata, Some(&over));
        }
        match update.keep {
            Keep::Conflict(_) => self.kept.push(old),
            Keep::Trash if update.is_own => self.trash.push(old),
            _ => {}
        }
        self.touch(id);
        self.dress(id, &update.metadata);
        self.had.insert(content.clone());
        self.inodes.get_mut(&id).expect("a name leads to an inode").content = content;
        self.remember_now(path, &update.expect);
        Outcome::Done(self.stat(path).map(Box::new), leaves)
    }

    fn remove(&mut self, path: &RelPath, kind: Kind, expect: &Fingerprint, keep: Keep) -> Outcome {
        let full = self.within(path).nth(1).is_some();
        if !self.is(path, kind, expect) || full {
            return Outcome::Raced;
        }
        let id = self.names[path];
        self.lay_to_rest(path, keep);
        let other = self.names.iter().find(|(_, other)| **other == id);
        let other = other.map(|(other, _)| other.clone());
        if let Some(other) = &other {
            self.remember_now(other, expect);
        }
        Outcome::Done(other.and_then(|other| self.stat(&other)).map(Box::new), None)
    }

    fn put_new(
        &mut self,
        path: &RelPath,
        kind: Kind,
        content: Vec<u8>,
        metadata: &Metadata,
        over: Option<&Over>,
    ) -> Outcome {
        let leaves = (kind == Kind::File).then(|| Leaves::of(&content));
        let id = self.make(kind, content, Some(metadata.clone()));
        match self.put(path, id, over) {
            Outcome::Done(stat, _) => Outcome::Done(stat, leaves),
            other => {
                self.inodes.remove(&id);
                other
            }
        }
    }

    fn put(&mut self, path: &RelPath, id: u64, over: Option<&Over>) -> Outcome {
        match (self.names.get(path).copied(), over) {
            (None, None) => {}
            (Some(there), Some(_)) if there == id => {
                return Outcome::Done(self.stat(path).map(Box::new), None);
            }
            (Some(_), Some(over)) => {
                let full = self.within(path).nth(1).is_some();
                if full || !self.is(path, over.kind, &over.expect) {
                    return Outcome::Raced;
                }
                let there = self.names[path];
                self.lay_to_rest(path, over.keep);
                let other = self.names.iter().find(|(_, other)| **other == there);
                if let Some(other) = other.map(|(other, _)| other.clone()) {
                    self.remember_now(&other, &over.expect);
                }
            }
            _ => return Outcome::Raced,
        }
        self.set_name(path, id);
        Outcome::Done(self.stat(path).map(Box::new), None)
    }

    fn lay_to_rest(&mut self, path: &RelPath, keep: Keep) {
        let link = self.inode(path).filter(|inode| inode.kind == Kind::Symlink).cloned();
        if let (Some(link), Keep::Conflict(_)) = (link, keep) {
            self.kept_links.push(link.content);
        }
        let mut destroyed = BTreeSet::new();
        self.bury(path, &mut destroyed);
        match keep {
            Keep::Conflict(_) | Keep::Linked(_) => self.kept.extend(destroyed),
            Keep::Trash => self.trash.extend(destroyed),
            Keep::Discard => {}
        }
    }

    /// Is this what lies there, as far as the daemon can tell?
    fn is(&self, path: &RelPath, kind: Kind, expect: &Fingerprint) -> bool {
        let mut expect = *expect;
        while let Some((_, next)) = self.lineage.iter().find(|(before, _)| *before == expect) {
            expect = *next;
        }
        self.stat(path).is_some_and(|stat| {
            stat.kind == kind
                && match kind {
                    Kind::Directory => stat.fingerprint.is_inode(&expect),
                    _ => stat.fingerprint == expect,
                }
        })
    }

    fn remember_now(&mut self, path: &RelPath, before: &Fingerprint) {
        let mut before = *before;
        while let Some((_, next)) = self.lineage.iter().find(|(known, _)| *known == before) {
            before = *next;
        }
        let after = self.stat(path).map(|stat| stat.fingerprint);
        let after = after.filter(|after| after.inode == before.inode && after.ctime > before.ctime);
        self.lineage.extend(after.map(|after| (before, after)));
    }
}

/// A content of `size` bytes: the old one with the source's writes in it.
fn overlaid(old: &[u8], size: u64, source: &crate::sync::effect::Source) -> Vec<u8> {
    let mut content = old.to_vec();
    content.resize(size as usize, 0);
    if let crate::sync::effect::Source::Inline { writes, .. } = source {
        for (at, bytes) in writes {
            let start = (*at as usize).min(content.len());
            let end = (start + bytes.len()).min(content.len());
            content[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }
    content
}
