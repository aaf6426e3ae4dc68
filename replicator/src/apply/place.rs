//! New entries come into their place, and what they displace goes where it
//! belongs: the trash, the conflict store, or nowhere.
//!
//! They are made complete before; nothing here writes bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, RenameFlags};
use rustix::io::Errno;

use super::beside::{self, Beside};
use super::bound::{Lifted, Note};
use super::settled::{is_same, settled};
use super::trash::Resting;
use super::worker::{Worker, no_parent, open_private};
use super::{Error, Keep, Outcome, Over, conflicts};
use crate::entry::{Flags, Kind, Stat};
use crate::path::RelPath;
use crate::root::{Access, set_flags};

/// A new entry beside its place, complete.
pub(super) struct Made {
    /// `None` where it has no name there.
    pub beside: Option<Beside>,
    pub handle: Arc<OwnedFd>,
    pub stat: Stat,
    /// What it is to bear once it has its place, which these would keep it
    /// from.
    pub binding: Flags,
}

impl Worker {
    /// From beside into its place.
    pub(super) fn put(
        &mut self,
        path: &RelPath,
        made: Made,
        over: Option<&Over>,
    ) -> Result<Outcome, Error> {
        let (dir, name) = self.parent_of(path)?.ok_or_else(|| no_parent(path))?;
        // Until it has its flags, a start would give it them.
        let _note = Note::of_new(&self.root, path, &made.stat, made.binding)?;
        let Some(over) = over else {
            return match beside::place(made.beside, made.handle.as_fd(), dir.as_fd(), name) {
                Ok(()) => {
                    Ok(Outcome::Done(Some(placed(path, made.stat, &made.handle, made.binding))))
                }
                Err(Errno::EXIST) => Ok(Outcome::Raced),
                Err(errno) => Err(Error::entry(path, "place", errno)),
            };
        };
        if matches!(over.keep, Keep::Conflict { .. }) && over.expect.kind == Kind::File {
            self.wait_for_writers(path, over)?;
        }
        let Some((held, found)) = self.look(path)? else {
            return Ok(Outcome::Raced);
        };
        if found.fingerprint.inode == made.stat.fingerprint.inode {
            // A link that is there already.
            drop(made.beside);
            return Ok(Outcome::Done(Some(settled(found, held.as_fd()))));
        }
        if !self.is_expected(&over.expect, &found) || !self.is_free_of_entries(path, &found)? {
            return Ok(Outcome::Raced);
        }
        self.swap(path, (dir.as_fd(), name), made, (held, found), &over.keep)
    }

    /// What loses may be half of what its writer makes of it, and no conflict when
    /// that is whole.
    fn wait_for_writers(&mut self, path: &RelPath, over: &Over) -> Result<(), Error> {
        let inode = over.expect.fingerprint.inode;
        if let Some(file) = self.root.open_file(path, Access::Read)? {
            self.patience.wait_for_writers(file.as_fd(), inode);
        }
        Ok(())
    }

    /// By way of the trash: whenever this process is killed, the displaced
    /// entry is in its place or has its name and time there.
    fn swap(
        &mut self,
        path: &RelPath,
        at: (BorrowedFd<'_>, &[u8]),
        made: Made,
        (held, found): (Arc<OwnedFd>, Stat),
        keep: &Keep,
    ) -> Result<Outcome, Error> {
        let lifted = Lifted::lift(&self.root, &[path], &held, &found)?;
        let resting = Resting::reserve(&self.root, path)?;
        let trash = self.root.trash();
        beside::place(made.beside, made.handle.as_fd(), trash, &resting.name)
            .map_err(|errno| Error::private("use the trash", errno))?;
        let swapped =
            fs::renameat_with(trash, resting.name.as_slice(), at.0, at.1, RenameFlags::EXCHANGE);
        if let Err(errno) = swapped {
            resting.discard(&self.root);
            return match errno {
                Errno::NOENT => Ok(Outcome::Raced),
                errno => Err(Error::entry(path, "replace", errno)),
            };
        }
        self.give_back_mtime(path, &made.stat, made.handle.as_fd());
        let stat = placed(path, made.stat, &made.handle, made.binding);
        self.lay_to_rest(path, resting, (held, found, lifted), keep);
        Ok(Outcome::Done(Some(stat)))
    }

    /// The displaced entry lies in the trash: is it what was expected, and
    /// where does it belong? The new entry is in place, so trouble here is
    /// logged and the bytes stay in the trash.
    pub(super) fn lay_to_rest(
        &mut self,
        path: &RelPath,
        resting: Resting,
        (held, found, lifted): (Arc<OwnedFd>, Stat, Option<Lifted>),
        keep: &Keep,
    ) {
        let out = self.displaced(&resting);
        let raced = !out.as_ref().is_some_and(|out| is_same(&found, out));
        let now = out.unwrap_or_else(|| found.clone());
        let trash = self.root.trash();
        let full_directory = now.kind == Kind::Directory && {
            let name = resting.name.as_slice();
            !raced && fs::unlinkat(trash, name, AtFlags::REMOVEDIR).is_err()
        };
        let label = match keep {
            _ if raced || full_directory => Some("changed here while a remote change arrived"),
            Keep::Conflict { label } if now.kind != Kind::Directory => Some(label.as_str()),
            Keep::Linked { label } if now.links <= 1 => Some(label.as_str()),
            _ => None,
        };
        if let Some(label) = label {
            let kept = conflicts::keep(&self.root, (trash, &resting.name), path, &now, label);
            match kept {
                Ok(id) => tracing::info!(%path, %id, label, "kept as a conflict"),
                Err(error) => tracing::error!(%path, %error, "a conflict stays in the trash"),
            }
            resting.forget(&self.root);
        } else if now.kind == Kind::Directory {
            resting.forget(&self.root);
        } else if *keep == Keep::Discard || now.links > 1 {
            resting.discard(&self.root);
        }
        // What rests bears no flags; what still is in the tree gets them back.
        if let Some(lifted) = lifted
            && now.links <= 1
            && now.fingerprint.is_inode(&found.fingerprint)
        {
            lifted.let_go();
        }
        if now.links > 1 {
            let after = settled(found.clone(), held.as_fd());
            self.remember(&found, &after);
        }
    }

    pub(super) fn displaced(&self, resting: &Resting) -> Option<Stat> {
        let handle = open_private(self.root.trash(), &resting.name).ok()?;
        self.root.stat_fd(handle.as_fd()).ok()
    }
}

/// A new entry has its place, and is given what would have kept it from there.
fn placed(path: &RelPath, mut stat: Stat, handle: &OwnedFd, binding: Flags) -> Stat {
    let flags = stat.metadata.flags.with(binding);
    if binding.is_binding() {
        match set_flags(handle.as_fd(), flags) {
            Ok(()) => stat.metadata.flags = flags,
            Err(errno) => tracing::warn!(%path, ?flags, "flags cannot be set: {errno}"),
        }
    }
    settled(stat, handle.as_fd())
}
