//! The folder's handle. Every path is resolved beneath it.
//!
//! A [`Root`] holds the directory that was opened at start and never asks the
//! system for a path from `/` again, save to check that the directory is
//! still what the path names: whatever a peer sends, and whatever links a
//! local user plants, nothing outside the folder is read or written. This
//! room only looks; changing the tree is the business of `apply`.

mod error;
mod flags;
mod list;
mod look;
mod private;
mod resolve;
mod trial;
mod workshop;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags};

use crate::entry::{Flags, Glance, Kind, Stat};
use crate::path::RelPath;
use private::Private;

pub use error::Error;
pub(crate) use flags::set_flags;
pub(crate) use look::{is_replicated, proc_path};
pub use trial::Trial;
pub use workshop::Workshop;

/// One opened folder. Shared by all rooms that look at its tree.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    dir: OwnedFd,
    device: u64,
    inode: u64,
    private: Private,
    flags: Flags,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// One entry of a directory, as its listing tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: Vec<u8>,
    /// `None` where the file system does not say, and for sockets and
    /// devices: [`Root::stat`] tells.
    pub kind: Option<Kind>,
    pub inode: u64,
}

/// What the file system of a folder has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes this process may still write.
    pub free: u64,
    /// Bytes the file system has in all.
    pub total: u64,
    /// Entries that may still be made; `u64::MAX` where there is no limit.
    pub inodes: u64,
}

impl Root {
    /// Opens and checks the folder, prepares its private directory and keeps
    /// other daemons away from it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut root = Self::open_with(path, Private::prepare)?;
        root.private.lock(&root.path)?;
        root.flags = root.private.probe(&root.path)?;
        Ok(root)
    }

    /// Opens a folder that a daemon of this user has prepared, beside that
    /// daemon if it runs: for the commands that look at trash and conflicts.
    pub fn open_beside(path: &Path, daemon: u32) -> Result<Self, Error> {
        Self::open_with(path, |path, root| Private::existing(path, root, daemon))
    }

    fn open_with(
        path: &Path,
        private: impl FnOnce(&Path, BorrowedFd<'_>) -> Result<Private, Error>,
    ) -> Result<Self, Error> {
        let (path, dir) = open_folder(path)?;
        let (device, inode) =
            identity(dir.as_fd()).map_err(|errno| Error::opening(&path, errno.into()))?;
        let private = private(&path, dir.as_fd())?;
        Ok(Self { path, dir, device, inode, private, flags: Flags::NONE })
    }

    /// The canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub fn device(&self) -> u64 {
        self.device
    }

    /// The file flags that this process can give entries of the folder, and
    /// take from them. A look tells no others.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// The random id in the folder's marker file. An index keeps it: a folder
    /// with another marker is another folder, an empty mount point for
    /// example, and its emptiness is no deletion.
    pub fn marker(&self) -> &str {
        self.private.marker()
    }

    /// Is the directory at the path still the one that was opened, with its
    /// marker? A file system that became read-only is no reason to let go of
    /// it.
    pub fn check(&self) -> Result<(), Error> {
        let gone = |errno: rustix::io::Errno| Error::opening(&self.path, errno.into());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let now = fs::open(&self.path, flags, Mode::empty()).map_err(gone)?;
        if identity(now.as_fd()).map_err(gone)? != (self.device, self.inode) {
            return Err(Error::Replaced { path: self.path.clone() });
        }
        if private::read_marker(now.as_fd()).as_deref() != Some(self.marker()) {
            return Err(Error::MarkerGone { path: self.path.clone() });
        }
        Ok(())
    }

    /// A node begins only where it can apply something.
    pub fn check_writable(&self) -> Result<(), Error> {
        match self.is_read_only() {
            true => Err(Error::ReadOnly { path: self.path.clone() }),
            false => Ok(()),
        }
    }

    /// Has the file system become read-only, by somebody's hand or by a fault?
    pub fn is_read_only(&self) -> bool {
        is_read_only(self.dir())
    }

    /// The entry at a path, symbolic links not followed. `None`: nothing is
    /// there, or a parent is missing or no directory.
    pub fn stat(&self, path: &RelPath) -> Result<Option<Stat>, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        match self.resolve(path, flags)? {
            Some(handle) => look::stat(self, handle.as_fd(), look::Handle::Path, path),
            None => Ok(None),
        }
    }

    /// The entry behind a handle that was opened beneath this root.
    pub fn stat_fd(&self, fd: BorrowedFd<'_>) -> Result<Stat, Error> {
        look::stat_fd(self, fd)
    }

    /// The entry behind such a handle, without its attributes.
    pub fn glance_fd(&self, fd: BorrowedFd<'_>) -> Result<Glance, Error> {
        look::glance_fd(self, fd)
    }

    /// The entry of this name in a directory of the folder that is open, at
    /// `path`: it need not be resolved. `None`: nothing has this name.
    pub fn glance_at(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &RelPath,
    ) -> Result<Option<Glance>, Error> {
        look::glance_at(self, directory, name, path)
    }

    /// A regular file. `None`: nothing is there, or something else.
    pub fn open_file(&self, path: &RelPath, access: Access) -> Result<Option<OwnedFd>, Error> {
        resolve::open_file(self, path, access)
    }

    /// The target of a symbolic link. `None`: nothing is there, or something
    /// else.
    pub fn read_link(&self, path: &RelPath) -> Result<Option<Vec<u8>>, Error> {
        let Some(handle) = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)? else {
            return Ok(None);
        };
        match fs::readlinkat(&handle, c"", Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            // The handle names something that is no symbolic link.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::entry(path, "read the link", errno)),
        }
    }

    /// The entries of a directory sorted by name, without the private
    /// directory. `None`: nothing is there, or no directory.
    pub fn read_dir(&self, path: &RelPath) -> Result<Option<Vec<Listed>>, Error> {
        list::read_dir(self, path)
    }

    pub fn free_space(&self) -> Result<Space, Error> {
        let volume =
            fs::fstatvfs(&self.dir).map_err(|errno| Error::opening(&self.path, errno.into()))?;
        // File systems without an inode table report zero of zero.
        let inodes = if volume.f_files == 0 { u64::MAX } else { volume.f_favail };
        Ok(Space {
            free: volume.f_bavail.saturating_mul(volume.f_frsize),
            total: volume.f_blocks.saturating_mul(volume.f_frsize),
            inodes,
        })
    }

    /// An entry and a handle (`O_PATH`) that keeps naming it wherever it goes.
    pub(crate) fn look(&self, path: &RelPath) -> Result<Option<(OwnedFd, Stat)>, Error> {
        let Some(handle) = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW)? else {
            return Ok(None);
        };
        let stat = look::stat(self, handle.as_fd(), look::Handle::Path, path)?;
        Ok(stat.map(|stat| (handle, stat)))
    }

    /// Which flags keep this process from changing the entry behind a handle,
    /// of those that it can take off.
    pub(crate) fn binding_flags(&self, fd: BorrowedFd<'_>) -> Result<Flags, Error> {
        if !self.flags.is_binding() {
            return Ok(Flags::NONE);
        }
        flags::binding(fd).map_err(|errno| Error::Handle { source: errno.into() })
    }

    /// Where files are written before they are placed. Shared, because a
    /// file outlives the borrow of the root that made it.
    pub(crate) fn tmp(&self) -> &Arc<OwnedFd> {
        self.private.tmp()
    }

    /// Where displaced and deleted entries rest for a while.
    pub(crate) fn trash(&self) -> BorrowedFd<'_> {
        self.private.trash()
    }

    /// Where the losers of conflicts are kept.
    pub(crate) fn conflicts(&self) -> BorrowedFd<'_> {
        self.private.conflicts()
    }

    /// Where writes in place are recorded before they are made.
    pub(crate) fn redo(&self) -> BorrowedFd<'_> {
        self.private.redo()
    }

    /// Gives a file that was made in the private directory to whom that
    /// belongs.
    pub(crate) fn hand_over(&self, made: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
        self.private.hand_over(made)
    }

    /// Opens what a path names beneath the root. `None`: nothing is there, or
    /// a parent is missing or no directory.
    pub(crate) fn resolve(&self, path: &RelPath, flags: OFlags) -> Result<Option<OwnedFd>, Error> {
        resolve::resolve(self, path, flags)
    }
}

/// The canonical path of a folder, and its handle.
fn open_folder(path: &Path) -> Result<(PathBuf, OwnedFd), Error> {
    let path = path.canonicalize().map_err(|source| Error::opening(path, source))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = fs::open(&path, flags, Mode::empty())
        .map_err(|errno| Error::opening(&path, errno.into()))?;
    Ok((path, dir))
}

fn is_read_only(dir: BorrowedFd<'_>) -> bool {
    let volume = fs::fstatvfs(dir);
    volume.is_ok_and(|volume| volume.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Device and inode: who a directory is.
fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64), rustix::io::Errno> {
    let stat = fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok((fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

#[cfg(test)]
mod tests;
