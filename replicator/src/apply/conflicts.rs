//! The conflict store: what lost and must not be lost.
//!
//! Two entries a conflict: the bytes under an id, and a JSON file beside them
//! that says what they are. The JSON comes first, so bytes are never without
//! it. Works with and without a running daemon; nothing here expires, and what
//! leaves by itself is what the folder shows (`agreed.rs`).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::content::{copy_bytes, write_at};
use super::staged::copy_into;
use super::trash::Resting;
use super::{Error, beside, metadata, moment};
use crate::entry::{Kind, Stat};
use crate::path::RelPath;
use crate::root::Root;

const JSON_SUFFIX: &str = ".json";

/// Longest JSON file: a path of 4,095 bytes as numbers and escapes, and room.
const JSON_BYTES_MAX: u64 = 64 << 10;

/// Two changes of a directory may bear one time so long: a tick of the slowest
/// kernels is 10 ms.
const TICK_MAX: Duration = Duration::from_millis(20);

/// How what was kept is opened: root may read what another user put there, and
/// must not wait for the other end of a pipe.
pub(super) const KEPT: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// One kept loser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Names it in commands: the moment it was kept.
    pub id: String,
    /// Where it was, readable; control bytes and what is no UTF-8 escaped.
    pub path: String,
    /// Where it was, exactly.
    pub path_bytes: Vec<u8>,
    pub kind: Kind,
    /// Since 1970.
    pub seconds: u64,
    pub size: u64,
    /// Whose it was, or why it was kept.
    pub label: String,
}

/// How many a folder has, for who asks often.
#[derive(Debug, Default)]
pub struct Tally {
    /// When the store had last changed as it was counted.
    changed: Option<SystemTime>,
    count: u64,
}

impl Tally {
    /// Counts where the store has changed since; what it was where it cannot be
    /// read. A change within a tick of the kernel's clock leaves its time as it is.
    pub fn count(&mut self, root: &Root) -> u64 {
        let store = root.conflicts();
        let changed = fs::fstat(store).ok().and_then(|stat| {
            let since = Duration::new(stat.st_mtime.try_into().ok()?, stat.st_mtime_nsec as u32);
            UNIX_EPOCH.checked_add(since)
        });
        let is_counted = changed.is_some() && changed == self.changed;
        if !is_counted && let Ok(names) = names(root) {
            self.count = described(&names).count() as u64;
            let is_over = |at: &SystemTime| at.elapsed().is_ok_and(|since| since > TICK_MAX);
            self.changed = changed.filter(is_over);
        }
        self.count
    }
}

/// All conflicts of a folder, oldest first.
pub fn list(root: &Root) -> Result<Vec<Conflict>, Error> {
    let names = names(root)?;
    let mut found = Vec::new();
    for name in described(&names) {
        match read(root, name) {
            Ok(conflict) => found.push(conflict),
            Err(error) => {
                tracing::warn!(name = %name.escape_ascii(), %error, "unreadable conflict")
            }
        }
    }
    Ok(found)
}

/// All that lies in the store, sorted.
pub(super) fn names(root: &Root) -> Result<Vec<Vec<u8>>, Error> {
    let mut names = beside::names(root.conflicts())?;
    names.sort_unstable();
    Ok(names)
}

/// The descriptions among them. One without bytes is what a crash left of a
/// conflict being kept or dropped.
pub(super) fn described(names: &[Vec<u8>]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let has_bytes = |name: &&[u8]| {
        let id = name.strip_suffix(JSON_SUFFIX.as_bytes());
        id.is_some_and(|id| names.binary_search_by(|other| other.as_slice().cmp(id)).is_ok())
    };
    names.iter().map(Vec::as_slice).filter(has_bytes)
}

/// Puts a conflict back: to where it was, or to any path of this machine,
/// which must be free. What is at the old place now goes to the trash.
pub fn restore(root: &Root, id: &str, to: Option<&Path>) -> Result<Conflict, Error> {
    let conflict = find(root, id)?;
    match to {
        Some(to) => restore_to(root, &conflict, to)?,
        None => restore_home(root, &conflict)?,
    }
    forget(root, id);
    Ok(conflict)
}

/// Removes one conflict and its bytes for good.
pub fn drop(root: &Root, id: &str) -> Result<Conflict, Error> {
    let conflict = find(root, id)?;
    remove(root, &conflict)?;
    Ok(conflict)
}

/// Removes all conflicts and tells which there were.
pub fn drop_all(root: &Root) -> Result<Vec<Conflict>, Error> {
    let all = list(root)?;
    all.iter().try_for_each(|conflict| remove(root, conflict))?;
    Ok(all)
}

/// Moves an entry of a private directory into the store.
pub(super) fn keep(
    root: &Root,
    from: (BorrowedFd<'_>, &[u8]),
    path: &RelPath,
    stat: &Stat,
    label: &str,
) -> Result<String, Error> {
    let failed = |errno| Error::private("keep a conflict", errno);
    let id = describe(root, path, stat, label)?;
    if stat.kind == Kind::File && stat.links > 1 {
        // Another name of the inode remains in the tree, and writing there
        // would change what is kept here.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(from.0, from.1, flags, Mode::empty()).map_err(failed)?;
        copy_into(root, (root.conflicts(), id.as_bytes()), file.as_fd(), stat)?;
        return beside::remove_tree(from.0, from.1).map_err(failed).map(|()| id);
    }
    fs::renameat_with(from.0, from.1, root.conflicts(), id.as_str(), RenameFlags::NOREPLACE)
        .map_err(failed)?;
    Ok(id)
}

/// Copies a file of the tree into the store.
pub(super) fn keep_copy(
    root: &Root,
    file: BorrowedFd<'_>,
    path: &RelPath,
    stat: &Stat,
    label: &str,
) -> Result<String, Error> {
    let id = describe(root, path, stat, label)?;
    copy_into(root, (root.conflicts(), id.as_bytes()), file, stat)?;
    Ok(id)
}

/// Writes the JSON file and gives the id.
fn describe(root: &Root, path: &RelPath, stat: &Stat, label: &str) -> Result<String, Error> {
    let failed = |errno| Error::private("keep a conflict", errno);
    let now = SystemTime::now();
    let conflict = Conflict {
        id: moment::name(now),
        path: path.to_string(),
        path_bytes: path.as_bytes().to_vec(),
        kind: stat.kind,
        seconds: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        size: stat.fingerprint.size,
        label: label.to_owned(),
    };
    let json = serde_json::to_vec_pretty(&conflict)
        .map_err(|error| Error::private_io("describe a conflict", error.into()))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = format!("{}{JSON_SUFFIX}", conflict.id);
    let file =
        fs::openat(root.conflicts(), name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    write_at(file.as_fd(), &json, 0).map_err(failed)?;
    fs::fsync(&file).map_err(failed)?;
    Ok(conflict.id)
}

pub(super) fn remove(root: &Root, conflict: &Conflict) -> Result<(), Error> {
    beside::remove_tree(root.conflicts(), conflict.id.as_bytes())
        .map_err(|errno| Error::private("drop the conflict", errno))?;
    forget(root, &conflict.id);
    Ok(())
}

fn find(root: &Root, id: &str) -> Result<Conflict, Error> {
    let all = list(root)?;
    let unknown = || Error::NoConflict { id: id.to_owned() };
    all.into_iter().find(|conflict| conflict.id == id).ok_or_else(unknown)
}

pub(super) fn read(root: &Root, name: &[u8]) -> Result<Conflict, Error> {
    let file = fs::openat(root.conflicts(), name, KEPT, Mode::empty())
        .map_err(|errno| Error::private("read a conflict", errno))?;
    let mut json = Vec::new();
    File::from(file)
        .take(JSON_BYTES_MAX)
        .read_to_end(&mut json)
        .map_err(|error| Error::private_io("read a conflict", error))?;
    let mut conflict: Conflict = serde_json::from_slice(&json)
        .map_err(|error| Error::private_io("read a conflict", error.into()))?;
    // What is shown is what is restored: root may act on what another wrote.
    if let Ok(path) = RelPath::parse(&conflict.path_bytes) {
        conflict.path = path.to_string();
    }
    let named = format!("{}{JSON_SUFFIX}", conflict.id);
    if named.as_bytes() != name {
        let other = std::io::Error::other("the file was renamed");
        return Err(Error::private_io("read a conflict", other));
    }
    Ok(conflict)
}

/// The bytes are gone; a description that stays is not listed.
fn forget(root: &Root, id: &str) {
    let _ = fs::unlinkat(root.conflicts(), format!("{id}{JSON_SUFFIX}"), AtFlags::empty());
}

fn restore_home(root: &Root, conflict: &Conflict) -> Result<(), Error> {
    let damaged = |_| Error::NoConflict { id: conflict.id.clone() };
    let path = RelPath::parse(&conflict.path_bytes).map_err(damaged)?;
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Err(Error::RootEntry);
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let no_parent = || Error::NoParent { path: path.clone() };
    let parent = root.resolve(&parent, flags)?.ok_or_else(no_parent)?;
    let (store, id) = (root.conflicts(), conflict.id.as_str());
    match fs::renameat_with(store, id, &parent, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::entry(&path, "restore", errno)),
    }
    fs::renameat_with(store, id, &parent, name, RenameFlags::EXCHANGE)
        .map_err(|errno| Error::entry(&path, "restore", errno))?;
    let resting = Resting::reserve(root, &path)?;
    fs::renameat(store, id, root.trash(), resting.name.as_slice())
        .map_err(|errno| Error::private("move the replaced entry to the trash", errno))
}

fn restore_to(root: &Root, conflict: &Conflict, to: &Path) -> Result<(), Error> {
    let failed = |errno: Errno| Error::Restore { path: to.to_path_buf(), source: errno.into() };
    let (store, id) = (root.conflicts(), conflict.id.as_str());
    let name = to.as_os_str().as_bytes();
    match fs::renameat_with(store, id, CWD, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        // Another file system takes a copy; one without NOREPLACE too.
        Err(Errno::XDEV | Errno::INVAL) if conflict.kind == Kind::File => {}
        Err(errno) => return Err(failed(errno)),
    }
    let from = fs::openat(store, id, KEPT, Mode::empty()).map_err(failed)?;
    let kept = root.stat_fd(from.as_fd())?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let copy = fs::openat(CWD, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    copy_bytes(from.as_fd(), copy.as_fd(), kept.fingerprint.size).map_err(failed)?;
    let now = root.stat_fd(copy.as_fd())?;
    metadata::set(root, copy.as_fd(), &now, &kept.metadata).map_err(failed)?;
    fs::fsync(&copy).map_err(failed)?;
    beside::remove_tree(store, id.as_bytes())
        .map_err(|errno| Error::private("drop the conflict", errno))
}
