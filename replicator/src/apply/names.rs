//! Entries that are here already get other names, more of them, or none.
//!
//! A name that led elsewhere than it was looked at is put back: who made that
//! change is not undone.

use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, RenameFlags};
use rustix::io::Errno;

use super::bound::Lifted;
use super::place::Made;
use super::settled::{is_same, names_inode, settled};
use super::trash::Resting;
use super::worker::{Worker, no_parent};
use super::{Error, Expect, Keep, Outcome, Over};
use crate::entry::{Flags, Kind};
use crate::path::RelPath;

impl Worker {
    pub(super) fn rename(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        expect: &Expect,
    ) -> Result<Outcome, Error> {
        let Some((dir, name)) = self.parent_of(from)? else {
            return Ok(Outcome::Raced);
        };
        let (to_dir, to_name) = self.parent_of(to)?.ok_or_else(|| no_parent(to))?;
        let Some((held, found)) = self.look(from)? else {
            return Ok(Outcome::Raced);
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced);
        }
        let lifted = Lifted::lift(&self.root, &[from, to], &held, &found)?;
        match fs::renameat_with(&dir, name, &to_dir, to_name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Outcome::Raced),
            Err(Errno::NOENT) => return Ok(Outcome::Raced),
            Err(errno) => return Err(Error::entry(from, "rename", errno)),
        }
        if !names_inode(to_dir.as_fd(), to_name, found.fingerprint.inode) {
            // Something else took the old name since the look: it goes back,
            // unless a third one is there by now.
            let back = RenameFlags::NOREPLACE;
            if fs::renameat_with(&to_dir, to_name, &dir, name, back).is_err() {
                tracing::warn!(%from, %to, "a raced rename could not be undone");
            }
            return Ok(Outcome::Raced);
        }
        drop(lifted);
        let after = settled(found.clone(), held.as_fd());
        self.remember(&found, &after);
        Ok(Outcome::Done(Some(after)))
    }

    pub(super) fn exchange(
        &mut self,
        (a, expect_a): (&RelPath, &Expect),
        (b, expect_b): (&RelPath, &Expect),
    ) -> Result<Outcome, Error> {
        let (Some((dir_a, name_a)), Some((dir_b, name_b))) =
            (self.parent_of(a)?, self.parent_of(b)?)
        else {
            return Ok(Outcome::Raced);
        };
        let mut looked = Vec::with_capacity(2);
        for (path, expect) in [(a, expect_a), (b, expect_b)] {
            match self.look(path)? {
                Some((held, found)) if self.is_expected(expect, &found) => {
                    looked.push((held, found));
                }
                _ => return Ok(Outcome::Raced),
            }
        }
        let mut lifted = Vec::new();
        for (held, found) in &looked {
            lifted.extend(Lifted::lift(&self.root, &[a, b], held, found)?);
        }
        let swap = || fs::renameat_with(&dir_a, name_a, &dir_b, name_b, RenameFlags::EXCHANGE);
        match swap() {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Outcome::Raced),
            Err(errno) => return Err(Error::entry(a, "exchange", errno)),
        }
        let [(_, was_a), (_, was_b)] = &looked[..] else {
            return Ok(Outcome::Raced);
        };
        let right = names_inode(dir_a.as_fd(), name_a, was_b.fingerprint.inode)
            && names_inode(dir_b.as_fd(), name_b, was_a.fingerprint.inode);
        if !right {
            if swap().is_err() {
                tracing::warn!(%a, %b, "a raced exchange could not be undone");
            }
            return Ok(Outcome::Raced);
        }
        for ((held, found), path) in looked.iter().zip([b, a]) {
            self.give_back_mtime(path, found, held.as_fd());
        }
        drop(lifted);
        let mut last = None;
        for (held, found) in looked {
            let after = settled(found.clone(), held.as_fd());
            self.remember(&found, &after);
            last = Some(after);
        }
        // What was at `b` is what is at `a`.
        Ok(Outcome::Done(last))
    }

    pub(super) fn link(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        expect: &Expect,
        over: Option<&Over>,
    ) -> Result<Outcome, Error> {
        if self.parent_of(from)?.is_none() {
            return Ok(Outcome::Raced);
        }
        let Some((held, found)) = self.look(from)? else {
            return Ok(Outcome::Raced);
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced);
        }
        let lifted = Lifted::lift(&self.root, &[from, to], &held, &found)?;
        let (handle, stat) = (held.clone(), found.clone());
        let made = Made { beside: None, handle, stat, binding: Flags::NONE };
        let outcome = self.put(to, made, over);
        drop(lifted);
        // Even a link that was taken back has moved the ctime.
        let after = settled(found.clone(), held.as_fd());
        self.remember(&found, &after);
        match outcome {
            Ok(Outcome::Done(Some(_))) => Ok(Outcome::Done(Some(after))),
            // By then its last name was gone.
            Err(_) if after.links == 0 => Ok(Outcome::Raced),
            other => other,
        }
    }

    pub(super) fn remove(
        &mut self,
        path: &RelPath,
        expect: &Expect,
        keep: &Keep,
    ) -> Result<Outcome, Error> {
        let Some((dir, name)) = self.parent_of(path)? else {
            return Ok(Outcome::Raced);
        };
        let Some((held, found)) = self.look(path)? else {
            return Ok(Outcome::Raced);
        };
        if !self.is_expected(expect, &found) {
            return Ok(Outcome::Raced);
        }
        let lifted = Lifted::lift(&self.root, &[path], &held, &found)?;
        if found.kind == Kind::Directory {
            return match fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => {
                    lifted.into_iter().for_each(Lifted::let_go);
                    Ok(Outcome::Done(None))
                }
                Err(Errno::NOENT) => Ok(Outcome::Raced),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(Outcome::Raced),
                Err(errno) => Err(Error::entry(path, "remove", errno)),
            };
        }
        let resting = Resting::reserve(&self.root, path)?;
        let trash = self.root.trash();
        let taken = resting.name.as_slice();
        if let Err(errno) = fs::renameat_with(&dir, name, trash, taken, RenameFlags::NOREPLACE) {
            resting.forget(&self.root);
            return match errno {
                Errno::NOENT => Ok(Outcome::Raced),
                errno => Err(Error::entry(path, "remove", errno)),
            };
        }
        let out = self.displaced(&resting);
        if !out.is_some_and(|out| is_same(&found, &out)) {
            let back = fs::renameat_with(trash, taken, &dir, name, RenameFlags::NOREPLACE);
            match back {
                Ok(()) => resting.forget(&self.root),
                // A new entry has the name by now.
                Err(_) => self.lay_to_rest(path, resting, (held, found, lifted), keep),
            }
            return Ok(Outcome::Raced);
        }
        let (others, before) = (found.links > 1, found.clone());
        self.lay_to_rest(path, resting, (held.clone(), found, lifted), keep);
        let rest = others.then(|| settled(before, held.as_fd()));
        Ok(Outcome::Done(rest.filter(|stat| stat.links > 0)))
    }
}
