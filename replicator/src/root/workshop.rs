//! A place to try things in on the file system of a folder, whether it is
//! served or not: for `doctor`.
//!
//! It opens a folder as a start of the daemon would, so it fails where that
//! would. Nothing in the folder shows afterwards that it was there: where its
//! private directory had to be made, the folder's time is given back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::trial::{Trial, not_made, trials};
use super::{Error, is_read_only, open_folder, private, proc_path};
use crate::path::PRIVATE_DIR;

/// A directory below the private one, gone when this is dropped.
#[derive(Debug)]
pub struct Workshop {
    path: PathBuf,
    // Dropped in this order.
    dir: Room,
    _private: Option<Lent>,
}

impl Workshop {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (path, root) = open_folder(path)?;
        let lent = Lent::make(&path, root.as_fd())?;
        if is_read_only(root.as_fd()) {
            return Err(Error::ReadOnly { path });
        }
        let parent = private::look_over(&path, root.as_fd())?;
        let dir = Room::make(parent).map_err(|errno| Error::opening(&path, errno.into()))?;
        Ok(Self { path, dir, _private: lent })
    }

    /// Tries what `run` asks of a file system.
    pub fn trials(&self) -> Vec<Trial> {
        trials(&self.path, self.dir.handle.as_fd())
    }

    /// By which its directory can be reached, as long as it is there.
    pub fn path(&self) -> PathBuf {
        proc_path(self.dir.handle.as_fd()).into()
    }
}

/// A directory to work in.
#[derive(Debug)]
struct Room {
    parent: OwnedFd,
    name: String,
    handle: OwnedFd,
}

impl Room {
    fn make(parent: OwnedFd) -> Result<Self, Errno> {
        let name = format!("doctor-{}", std::process::id());
        fs::mkdirat(&parent, &name, Mode::RWXU)?;
        let handle = fs::openat(&parent, &name, private::DIRECTORY, Mode::empty())?;
        Ok(Self { parent, name, handle })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Best effort: a daemon clears the place at its start.
        let place = Path::new(&proc_path(self.parent.as_fd())).join(&self.name);
        let _ = std::fs::remove_dir_all(place);
    }
}

/// The private directory of a folder that never was served, there for a while.
#[derive(Debug)]
struct Lent {
    root: OwnedFd,
    /// The folder's mtime before, and with it.
    before: Timespec,
    with: Timespec,
}

impl Lent {
    /// `None` where there is a private directory.
    fn make(path: &Path, root: BorrowedFd<'_>) -> Result<Option<Self>, Error> {
        let failed = |errno: Errno| not_made(path, root, Error::opening(path, errno.into()));
        match fs::statat(root, PRIVATE_DIR, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
            Ok(_) => return Ok(None),
        }
        let own = root.try_clone_to_owned().map_err(|error| Error::opening(path, error))?;
        let before = mtime(root).map_err(failed)?;
        // Only a folder's owner may give its time back. Said of one that could
        // be served, or the reason not to would be another.
        let can_give_back = set_mtime(root, before).is_ok();
        if !can_give_back
            && fs::accessat(root, c".", fs::Access::WRITE_OK, AtFlags::EACCESS).is_ok()
        {
            return Err(not_made(path, root, Error::Untried { path: path.into() }));
        }
        fs::mkdirat(root, PRIVATE_DIR, Mode::RWXU).map_err(failed)?;
        let with = mtime(root).map_err(failed)?;
        Ok(Some(Self { root: own, before, with }))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Best effort, and a directory that is used by now is not empty and
        // stays. Who changed the folder meanwhile keeps the time of that.
        let is_alone = mtime(self.root.as_fd()).is_ok_and(|now| now == self.with);
        let removed = fs::unlinkat(&self.root, PRIVATE_DIR, AtFlags::REMOVEDIR);
        if is_alone && removed.is_ok() {
            let _ = set_mtime(self.root.as_fd(), self.before);
        }
    }
}

fn mtime(folder: BorrowedFd<'_>) -> Result<Timespec, Errno> {
    let stat = fs::fstat(folder)?;
    Ok(Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 })
}

fn set_mtime(folder: BorrowedFd<'_>, mtime: Timespec) -> Result<(), Errno> {
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    fs::futimens(folder, &Timestamps { last_access: unchanged, last_modification: mtime })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modified(path: &Path) -> std::time::SystemTime {
        std::fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn it_leaves_no_trace_in_a_folder_that_never_was_served() {
        let folder = tempfile::tempdir().unwrap();
        let before = modified(folder.path());
        let workshop = Workshop::open(folder.path()).unwrap();
        std::fs::write(workshop.path().join("file"), b"left by a trial").unwrap();
        assert!(folder.path().join(PRIVATE_DIR).exists());
        drop(workshop);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(modified(folder.path()), before);
        // Somebody else's change keeps its time.
        let workshop = Workshop::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("file"), b"by a user").unwrap();
        drop(workshop);
        assert!(modified(folder.path()) > before);
    }

    #[test]
    fn it_changes_nothing_of_a_folder_that_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let root = super::super::Root::open(folder.path()).unwrap();
        let private = folder.path().join(PRIVATE_DIR);
        let facts = || (modified(folder.path()), modified(&private));
        let before = facts();
        let workshop = Workshop::open(folder.path()).unwrap();
        assert!(workshop.trials().iter().all(|trial| trial.outcome.is_ok()));
        drop(workshop);
        assert_eq!(facts(), before);
        assert_eq!(std::fs::read_dir(private.join("tmp")).unwrap().count(), 0);
        drop(root);
    }

    #[test]
    fn it_fails_where_a_start_would() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PRIVATE_DIR), b"in the way").unwrap();
        let (ours, starts) =
            (Workshop::open(folder.path()), super::super::Root::open(folder.path()));
        let (ours, starts) = (ours.unwrap_err().to_string(), starts.unwrap_err().to_string());
        assert!(ours.contains("it is no directory"), "{ours}");
        assert_eq!(ours, starts);
        for missing in ["/nowhere", "/proc"].map(Path::new) {
            let (ours, starts) = (Workshop::open(missing), super::super::Root::open(missing));
            assert_eq!(ours.unwrap_err().to_string(), starts.unwrap_err().to_string());
        }
    }
}
