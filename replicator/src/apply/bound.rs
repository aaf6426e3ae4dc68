//! Entries that nobody may change (`chattr +i`, `+a`): the daemon neither, so
//! their flags are taken off while a step works on them.
//!
//! Were the daemon killed meanwhile, the next start would take an entry
//! without its flags for one that a user freed. So what it is to bear is noted
//! first, durably, and the next start gives it that. Of what is written in
//! place the redo record tells the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{self, AtFlags};
use serde::{Deserialize, Serialize};

use super::durable::flush_named;
use super::{Error, moment, sealed};
use crate::entry::{Flags, Stat, Timestamp};
use crate::path::RelPath;
use crate::root::{Root, set_flags};

const MAGIC: &[u8; 8] = b"rplflag1";

/// Tells notes from redo records, beside which they lie.
const SUFFIX: &str = ".flags";

/// Two paths of the longest and some numbers.
const NOTE_BYTES_MAX: u64 = 16 << 10;

/// What an entry is to bear.
#[derive(Serialize, Deserialize)]
struct Promise {
    /// Where it is, or will be.
    paths: Vec<RelPath>,
    inode: u64,
    born: Timestamp,
    flags: Flags,
}

/// A durable promise; dropped when it is kept, or void.
#[derive(Debug)]
pub(super) struct Note {
    dir: OwnedFd,
    name: String,
}

impl Note {
    /// Of an entry that is to have its place first; `None` where nothing is to
    /// bind it.
    pub(super) fn of_new(
        root: &Root,
        path: &RelPath,
        stat: &Stat,
        binding: Flags,
    ) -> Result<Option<Self>, Error> {
        let flags = stat.metadata.flags.with(binding);
        binding.is_binding().then(|| Self::write(root, &[path], stat, flags)).transpose()
    }

    fn write(root: &Root, paths: &[&RelPath], stat: &Stat, flags: Flags) -> Result<Self, Error> {
        let failed = |errno| Error::private("note the flags of an entry", errno);
        let promise = Promise {
            paths: paths.iter().map(|path| (*path).clone()).collect(),
            inode: stat.fingerprint.inode,
            born: stat.fingerprint.birth,
            flags,
        };
        let promise = postcard::to_stdvec(&promise).map_err(|error| {
            Error::private_io("note the flags of an entry", std::io::Error::other(error))
        })?;
        let dir = root.redo().try_clone_to_owned();
        let dir = dir.map_err(|error| Error::private_io("note the flags of an entry", error))?;
        let name = moment::name(SystemTime::now()) + SUFFIX;
        let note = Self { dir, name };
        let parts = [&MAGIC[..], &promise].into_iter();
        let file = sealed::write(note.dir.as_fd(), &note.name, parts).map_err(failed)?;
        flush_named(root, note.dir.as_fd(), &[file.as_fd()]).map_err(failed)?;
        Ok(note)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // What stays gives the entry the flags that it has, or finds it gone.
        let _ = fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
    }
}

/// An entry whose flags are off. They are put back when this is dropped,
/// wherever it is by then.
#[derive(Debug)]
pub(super) struct Lifted {
    entry: Arc<OwnedFd>,
    flags: Flags,
    note: Option<Note>,
}

impl Lifted {
    /// Takes off what binds an entry; `None` where nothing does.
    pub(super) fn lift(
        root: &Root,
        paths: &[&RelPath],
        entry: &Arc<OwnedFd>,
        stat: &Stat,
    ) -> Result<Option<Self>, Error> {
        let flags = stat.metadata.flags;
        if !flags.is_binding() {
            return Ok(None);
        }
        let note = Note::write(root, paths, stat, flags)?;
        let free = flags.without(Flags::BINDING);
        let failed = |errno| Error::entry(paths[0], "take the flags off", errno);
        set_flags(entry.as_fd(), free).map_err(failed)?;
        Ok(Some(Self { entry: Arc::clone(entry), flags, note: Some(note) }))
    }

    /// What it bears but for now.
    pub(super) fn flags(&self) -> Flags {
        self.flags
    }

    /// It is on its way out, or was given others.
    pub(super) fn let_go(mut self) {
        self.note = None;
    }
}

impl Drop for Lifted {
    fn drop(&mut self) {
        if self.note.is_some()
            && let Err(errno) = set_flags(self.entry.as_fd(), self.flags)
        {
            tracing::error!(flags = ?self.flags, "the flags of an entry cannot be put back: {errno}");
        }
    }
}

/// Is this name of the directory of redo records a note?
pub(super) fn is_note(name: &[u8]) -> bool {
    name.ends_with(SUFFIX.as_bytes())
}

/// Gives an entry what a killed daemon noted. `false` where it is not there
/// any more, has it already, or the note is not whole: nothing was done then.
pub(super) fn keep_promise(root: &Root, name: &[u8]) -> Result<bool, Error> {
    let Some(promise) = read(root, name)? else { return Ok(false) };
    for path in &promise.paths {
        let Some((entry, stat)) = root.look(path)? else { continue };
        let is_it =
            (stat.fingerprint.inode, stat.fingerprint.birth) == (promise.inode, promise.born);
        let wanted = promise.flags.among(root.flags());
        if is_it && stat.metadata.flags != wanted {
            set_flags(entry.as_fd(), wanted)
                .map_err(|errno| Error::entry(path, "put back the flags of", errno))?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(root: &Root, name: &[u8]) -> Result<Option<Promise>, Error> {
    let promise = sealed::read(root.redo(), name, MAGIC, NOTE_BYTES_MAX)
        .map_err(|error| Error::private_io("read what was noted of flags", error))?;
    Ok(promise.and_then(|promise| postcard::from_bytes(&promise).ok()))
}

/// Takes off what binds an entry of which a redo record tells what it is to
/// bear.
pub(super) fn free(root: &Root, path: &RelPath, entry: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = root.binding_flags(entry)?;
    if flags.is_empty() {
        return Ok(());
    }
    let rest = root.stat_fd(entry)?.metadata.flags.without(Flags::BINDING);
    set_flags(entry, rest).map_err(|errno| Error::entry(path, "take the flags off", errno))
}
