//! From a directory's file handle to its path below the root.
//!
//! The kernel tells where a directory is only as a path of the mount that the
//! root was opened through. That path is never trusted: the directory is
//! opened again, beneath the root, and must be the same inode. So a bind
//! mount, a mount on top, a directory called `x (deleted)` or a move in
//! between can at worst cost another try.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::capture::limits::{ANCESTORS_MAX, DIRECTORY_CACHE_MAX, RESOLVE_TRIES};
use crate::capture::sys;
use crate::limits::PATH_BYTES_MAX;
use crate::path::RelPath;

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    Inside(RelPath),
    /// Somewhere below this one, deeper than a path is told of.
    Beneath(RelPath),
    /// Not below the root, or hidden by a mount.
    Outside,
    /// It no longer exists.
    Vanished,
    /// It could not be found out.
    Unresolved,
}

pub struct Resolver {
    root: OwnedFd,
    /// Only what stays true until a directory moves or goes.
    cache: HashMap<Box<[u8]>, Placement>,
}

impl Resolver {
    pub fn new(root: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { root: root.try_clone_to_owned()?, cache: HashMap::new() })
    }

    /// Some directory moved or went: what was known may be wrong.
    pub fn forget(&mut self) {
        self.cache.clear();
    }

    /// Where the directory with this handle is now.
    pub fn place(&mut self, handle: &[u8]) -> Placement {
        if let Some(known) = self.cache.get(handle) {
            return known.clone();
        }
        let placement = self.find(handle);
        if !matches!(placement, Placement::Vanished | Placement::Unresolved) {
            if self.cache.len() >= DIRECTORY_CACHE_MAX {
                self.cache.clear();
            }
            self.cache.insert(handle.into(), placement.clone());
        }
        placement
    }

    /// The inode number of an object with more than one name.
    pub fn linked_inode(&self, handle: &[u8]) -> Option<u64> {
        let object = sys::open_by_handle(self.root.as_fd(), handle).ok()?;
        let stat = rustix::fs::fstat(&object).ok()?;
        (stat.st_nlink > 1).then_some(stat.st_ino)
    }

    /// The inode number of an object that is not what lies at this path: its
    /// writer opened it by a name that is gone, or before it had one.
    pub fn inode_elsewhere(&self, handle: &[u8], path: &RelPath) -> Option<u64> {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let named = rustix::fs::statat(&self.root, path.as_path(), flags).ok();
        let object = sys::open_by_handle(self.root.as_fd(), handle).ok()?;
        let stat = rustix::fs::fstat(&object).ok()?;
        let is_there = named.is_some_and(|named| named.st_ino == stat.st_ino);
        (!is_there && stat.st_nlink > 0).then_some(stat.st_ino)
    }

    fn find(&self, handle: &[u8]) -> Placement {
        let directory = match sys::open_by_handle(self.root.as_fd(), handle) {
            Ok(directory) => directory,
            Err(error) => {
                let gone = matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT));
                return if gone { Placement::Vanished } else { Placement::Unresolved };
            }
        };
        match self.find_open(directory.as_fd()) {
            Ok(placement) => placement,
            Err(error) => {
                tracing::debug!(%error, "a directory could not be resolved");
                Placement::Unresolved
            }
        }
    }

    fn find_open(&self, directory: BorrowedFd<'_>) -> io::Result<Placement> {
        let mut hidden = true;
        let mut last = None;
        for _ in 0..RESOLVE_TRIES {
            if rustix::fs::fstat(directory)?.st_nlink == 0 {
                return Ok(Placement::Vanished);
            }
            let root = path_of(self.root.as_fd())?;
            let path = match path_of(directory) {
                Err(error) if is_too_long(&error) => return self.find_above(directory, &root),
                path => path?,
            };
            let below = strip(&path, &root);
            if path_of(self.root.as_fd())? != root {
                hidden = false;
                continue;
            }
            let Some(below) = below else {
                return Ok(Placement::Outside);
            };
            if let Ok(below) = RelPath::parse(below)
                && self.is_at(directory, &below)?
            {
                return Ok(Placement::Inside(below));
            }
            hidden &= last.as_ref().is_none_or(|last| *last == path);
            last = Some(path);
        }
        // The same path every time, and never this directory behind it:
        // something is mounted over it.
        Ok(if hidden { Placement::Outside } else { Placement::Unresolved })
    }

    /// Of a directory with a path too long to be told, by the nearest above it
    /// whose path is not: anybody on this file system can make such, and none
    /// of theirs is a reason to look at the folder.
    fn find_above(&self, directory: BorrowedFd<'_>, root: &[u8]) -> io::Result<Placement> {
        // Levels above it that are known to be too long, and the next to try.
        let (mut too_long, mut levels, mut too_high) = (0, 1, None);
        while levels <= ANCESTORS_MAX && too_high != Some(too_long + 1) {
            match path_of(climb(directory, levels)?.as_fd()) {
                Err(error) if is_too_long(&error) => too_long = levels,
                Err(error) => return Err(error),
                Ok(path) => match strip(&path, root) {
                    Some(below) => {
                        return Ok(shallow(below).map_or(Placement::Unresolved, Placement::Beneath));
                    }
                    // Above the root as well, which may lie in between.
                    None if strip(root, &path).is_some() => too_high = Some(levels),
                    None => return Ok(Placement::Outside),
                },
            }
            levels = too_high.map_or(2 * too_long, |high| (too_long + high) / 2);
        }
        Ok(if too_high.is_some() { Placement::Outside } else { Placement::Unresolved })
    }

    fn is_at(&self, directory: BorrowedFd<'_>, path: &RelPath) -> io::Result<bool> {
        let opened = rustix::fs::openat2(
            &self.root,
            path.as_path(),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        );
        let opened = match opened {
            Ok(opened) => opened,
            Err(
                rustix::io::Errno::NOENT
                | rustix::io::Errno::NOTDIR
                | rustix::io::Errno::LOOP
                | rustix::io::Errno::AGAIN,
            ) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let (found, meant) = (rustix::fs::fstat(&opened)?, rustix::fs::fstat(directory)?);
        Ok((found.st_dev, found.st_ino) == (meant.st_dev, meant.st_ino))
    }
}

/// The directory so many levels above this one, or the top.
fn climb(directory: BorrowedFd<'_>, levels: usize) -> io::Result<OwnedFd> {
    const UP: &str = "../";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = directory.try_clone_to_owned()?;
    let mut left = levels;
    while left > 0 {
        let step = left.min(PATH_BYTES_MAX / UP.len());
        at = rustix::fs::openat(&at, UP.repeat(step), flags, Mode::empty())?;
        left -= step;
    }
    Ok(at)
}

/// Cut to half of what a path may have, so that all that happens in one endless
/// tree has the same place looked at.
fn shallow(below: &[u8]) -> Option<RelPath> {
    let mut path = RelPath::parse(below).ok()?;
    while path.as_bytes().len() > PATH_BYTES_MAX / 2 {
        path = path.parent()?;
    }
    Some(path)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

fn path_of(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

/// What of `path` lies below `root`, without a leading slash.
fn strip<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    if root == b"/" {
        return path.strip_prefix(b"/");
    }
    let rest = path.strip_prefix(root)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory so many levels below this one.
    fn deep_below(top: &std::path::Path, levels: usize, name_bytes: usize) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at: OwnedFd = rustix::fs::open(top, flags, Mode::empty()).unwrap();
        let name = "x".repeat(name_bytes);
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        at
    }

    #[test]
    fn a_path_too_long_to_be_told_is_known_to_be_inside_or_outside() {
        // The last is found by going too high first.
        for (levels, name_bytes) in [(22, 200), (600, 8), (120, 74)] {
            let dir = tempfile::tempdir().unwrap();
            let (folder, other) = (dir.path().join("folder"), dir.path().join("other"));
            [&folder, &other].iter().for_each(|made| std::fs::create_dir(made).unwrap());
            let root = std::fs::File::open(&folder).unwrap();
            let resolver = Resolver::new(root.as_fd()).unwrap();
            let found = |top| {
                let deep = deep_below(top, levels, name_bytes);
                resolver.find_open(deep.as_fd()).unwrap()
            };
            assert_eq!(found(&other), Placement::Outside);
            let Placement::Beneath(top) = found(&folder) else {
                panic!("{levels} levels of {name_bytes} bytes were not found")
            };
            let bytes = top.as_bytes().len();
            assert!((1000..PATH_BYTES_MAX / 2).contains(&bytes), "{bytes} bytes deep");
        }
    }

    #[test]
    fn stripping_respects_name_borders() {
        assert_eq!(strip(b"/srv/a/b", b"/srv/a"), Some(&b"b"[..]));
        assert_eq!(strip(b"/srv/a", b"/srv/a"), Some(&b""[..]));
        assert_eq!(strip(b"/srv/ab", b"/srv/a"), None);
        assert_eq!(strip(b"/srv", b"/"), Some(&b"srv"[..]));
    }
}
