//! Entries under construction, beside their place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::Error;
use crate::root::{Root, proc_path};

/// Tells the entries of one process apart; the process id tells those of a
/// daemon and of a command beside it apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Gives an entry this name, if nobody has it: from its name beside, or where
/// it has none there by its handle alone.
pub(super) fn place(
    beside: Option<Beside>,
    handle: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Errno> {
    match beside {
        Some(beside) => beside.move_to(dir, name),
        None => link(handle, dir, name),
    }
}

/// Without a path where the system lets us: only its administrator may give a
/// name to what is known by a handle alone (`linkat(2)`, ENOENT).
fn link(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT) => fs::linkat(CWD, proc_path(file), dir, name, AtFlags::SYMLINK_FOLLOW),
        done => done,
    }
}

/// A name in `.replicator/tmp`, removed when it is dropped unplaced.
#[derive(Debug)]
pub(super) struct Beside {
    dir: Arc<OwnedFd>,
    name: String,
    placed: bool,
}

impl Beside {
    /// A fresh name; the entry is the caller's to make.
    pub(super) fn reserve(root: &Root) -> Self {
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{:x}-{count:x}", std::process::id());
        Self { dir: root.tmp().clone(), name, placed: false }
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn move_to(mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let (tmp, new) = (self.dir.as_fd(), self.name.as_str());
        fs::renameat_with(tmp, new, dir, name, RenameFlags::NOREPLACE)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.placed {
            // A name that was reserved and never made is gone already.
            let _ = remove_tree(self.dir(), self.name.as_bytes());
        }
    }
}

/// Removes what a killed daemon left in `.replicator/tmp`.
pub(super) fn empty(root: &Root) -> Result<u64, Error> {
    let mut removed = 0;
    for name in names(root.tmp().as_fd())? {
        remove_tree(root.tmp().as_fd(), &name)
            .map_err(|errno| Error::private("empty .replicator/tmp", errno))?;
        removed += 1;
    }
    Ok(removed)
}

/// The names in one of the private directories.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Error> {
    list(dir).map_err(|errno| Error::private("list a directory of .replicator", errno))
}

/// Removes an entry of a private directory, whatever it is, and what it
/// holds. Links are not followed.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    // Depth first without recursion: a tree as deep as a peer or a user made
    // it must not decide how much stack is used.
    let mut open = vec![open_directory(dir, name)?];
    let mut path = vec![name.to_vec()];
    while let Some(current) = open.last() {
        let mut deeper = None;
        for child in list(current.as_fd())? {
            match fs::unlinkat(current, child.as_slice(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => {
                    deeper = Some(child);
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        if let Some(child) = deeper {
            open.push(open_directory(current.as_fd(), &child)?);
            path.push(child);
            continue;
        }
        open.pop();
        let Some(emptied) = path.pop() else { break };
        let parent = open.last().map_or(dir, AsFd::as_fd);
        fs::unlinkat(parent, emptied.as_slice(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn open_directory(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty())
}

fn list(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}
