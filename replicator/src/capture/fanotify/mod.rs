//! Names of a whole file system through one fanotify mark, no watch per
//! directory.
//!
//! Owns the fanotify group. It reports only what lies below the root and
//! outside of the private directory, and nothing this process did. At the
//! fanotify level it also tells which file was written; at the eBPF level the
//! kernel programs do that, cheaper and exactly.

mod decode;
mod queue;
mod resolve;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::SystemTime;

use self::decode::{Event, Place};
use self::resolve::{Placement, Resolver};
use super::change::{Change, Extent, LossCause};
use super::counters::Tally;
use super::limits::{EVENT_BUFFER_BYTES, LOSS_MARGIN};
use super::outbox::{Outbox, Stopped};
use super::sys;
use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::range::RangeSet;

const NAMES: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_ATTRIB
    | libc::FAN_DELETE_SELF;
const CONTENT: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;

/// What the group looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Entries only.
    Names,
    /// Entries, and which file was written.
    NamesAndContent,
}

pub struct Fanotify {
    group: OwnedFd,
    resolver: Resolver,
    buffer: Vec<u8>,
    own_pid: i32,
    /// When the last drain began: the kernel had told of whatever it dropped
    /// before, as that stands in the queue where it happened.
    drained_at: Timestamp,
    tally: Arc<Tally>,
}

impl Fanotify {
    /// From here on the kernel queues every event of the file system that
    /// `root` lies on, as many as fit into so much of its memory; then, or where
    /// it finds none, it says that the queue overflowed.
    pub fn watch(
        root: BorrowedFd<'_>,
        interest: Interest,
        memory_bytes: usize,
        tally: Arc<Tally>,
    ) -> io::Result<Self> {
        let group = queue::group(queue::events_in(memory_bytes))?;
        Self::read_from(group, root, interest, tally)
    }

    /// Where this process cannot have a queue of the length it wants: the length
    /// it has.
    pub fn fixed_queue() -> Option<u64> {
        queue::fixed()
    }

    /// The same as [`Self::watch`] with a queue as long as the system allows everybody, whose
    /// limits stay as they are.
    pub fn try_out(root: BorrowedFd<'_>, interest: Interest) -> io::Result<Self> {
        Self::read_from(sys::fanotify_init()?, root, interest, Arc::default())
    }

    fn read_from(
        group: OwnedFd,
        root: BorrowedFd<'_>,
        interest: Interest,
        tally: Arc<Tally>,
    ) -> io::Result<Self> {
        let drained_at = SystemTime::now().into();
        let content = if interest == Interest::Names { 0 } else { CONTENT };
        mark(group.as_fd(), NAMES | content | libc::FAN_ONDIR, root)?;
        Ok(Self {
            group,
            resolver: Resolver::new(root)?,
            buffer: vec![0; EVENT_BUFFER_BYTES],
            own_pid: std::process::id() as i32,
            drained_at,
            tally,
        })
    }

    /// Reports what was queued when this was called. `names_moved` runs
    /// before any change that tells of a name that came to be, moved or went.
    pub fn drain(
        &mut self,
        outbox: &mut Outbox,
        names_moved: &mut dyn FnMut(),
    ) -> Result<(), Stopped> {
        let started = SystemTime::now().into();
        // The kernel answers with the number of events times the size of
        // their fixed part.
        let queued = rustix::io::ioctl_fionread(&self.group).unwrap_or(0);
        let mut left = (queued as usize).div_ceil(decode::METADATA_BYTES);
        while left > 0 {
            let mut buffer = std::mem::take(&mut self.buffer);
            let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.group, &mut *buffer));
            let handled = match length {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => Ok(usize::MAX),
                Ok(length) => self.handle(&buffer[..length], outbox, names_moved),
                Err(error) => {
                    tracing::error!(%error, "fanotify cannot be read");
                    self.lost(RelPath::root(), LossCause::Malformed, outbox).map(|()| usize::MAX)
                }
            };
            self.buffer = buffer;
            left = left.saturating_sub(handled?);
        }
        self.drained_at = started;
        Ok(())
    }

    /// What was not told of happened after the last drain began.
    fn lost(&self, beneath: RelPath, cause: LossCause, outbox: &mut Outbox) -> Result<(), Stopped> {
        outbox.lost(beneath, cause, Some(self.drained_at.before(LOSS_MARGIN)))
    }

    /// Gives the number of events in the buffer.
    fn handle(
        &mut self,
        bytes: &[u8],
        outbox: &mut Outbox,
        names_moved: &mut dyn FnMut(),
    ) -> Result<usize, Stopped> {
        let mask = decode::events(bytes).flatten().fold(0, |mask, event| mask | event.mask);
        // An event that waited behind a move may already tell of the new
        // place, and one before it may have been merged with a later one.
        // What overflowed may have told of any of it.
        let overflowed = mask & libc::FAN_Q_OVERFLOW != 0;
        let moved = overflowed
            || mask & libc::FAN_ONDIR != 0 && mask & (libc::FAN_RENAME | libc::FAN_DELETE) != 0;
        if moved {
            self.resolver.forget();
        }
        // A name that goes still is one for a moment after it no longer counts
        // as a link: what is decided by it then must not stand. A name that
        // came may be that of an old file, which has as many as before once
        // another of them went.
        if overflowed || mask & (libc::FAN_CREATE | libc::FAN_RENAME | libc::FAN_DELETE) != 0 {
            names_moved();
        }
        let mut count = 0;
        for event in decode::events(bytes) {
            count += 1;
            match event {
                Ok(event) => self.report(&event, outbox)?,
                Err(decode::Malformed) => {
                    self.lost(RelPath::root(), LossCause::Malformed, outbox)?;
                }
            }
        }
        self.tally.events.add(count as u64);
        if moved {
            self.resolver.forget();
        }
        Ok(count)
    }

    fn report(&mut self, event: &Event<'_>, outbox: &mut Outbox) -> Result<(), Stopped> {
        if event.mask & libc::FAN_Q_OVERFLOW != 0 {
            return self.lost(RelPath::root(), LossCause::FanotifyOverflow, outbox);
        }
        if event.pid == self.own_pid {
            self.tally.own_filtered.add(1);
            return Ok(());
        }
        if event.mask & NAMES != 0 {
            let mut path = |place: Option<Place<'_>>, outbox: &mut Outbox| match place {
                Some(place) => self.path(&place, outbox),
                None => Ok(None),
            };
            match (path(event.old_place, outbox)?, path(event.place, outbox)?) {
                (Some(from), Some(to)) => outbox.moved(from, to)?,
                (None, Some(path)) if event.mask & libc::FAN_RENAME != 0 => outbox.came(path)?,
                (Some(path), None) | (None, Some(path)) => outbox.name(path)?,
                (None, None) if event.mask & libc::FAN_ATTRIB != 0 => {
                    self.report_metadata(event, outbox)?;
                }
                (None, None) => {}
            }
        }
        if event.mask & CONTENT != 0 {
            self.report_content(event, outbox)?;
        }
        Ok(())
    }

    /// By a name outside, or in a directory that is gone: the file may have one
    /// inside.
    fn report_metadata(&self, event: &Event<'_>, outbox: &mut Outbox) -> Result<(), Stopped> {
        let object = event.object.map(|object| object.as_bytes());
        let Some(inode) = object.and_then(|object| self.resolver.linked_inode(object)) else {
            return Ok(());
        };
        let extent = Extent::Ranges(RangeSet::new());
        outbox.push(Change::Data { inode, extent, mapped: false })
    }

    fn report_content(&mut self, event: &Event<'_>, outbox: &mut Outbox) -> Result<(), Stopped> {
        let Some(place) = event.place else {
            return Ok(());
        };
        let object = event.object.map(|object| object.as_bytes());
        let inode = match self.path(&place, outbox)? {
            Some(path) => {
                let inode = object.and_then(|object| self.resolver.inode_elsewhere(object, &path));
                outbox.content(path)?;
                inode
            }
            // The writer used a name outside; the file may have one inside.
            None => object.and_then(|object| self.resolver.linked_inode(object)),
        };
        if let Some(inode) = inode {
            outbox.push(Change::Data { inode, extent: Extent::Whole, mapped: false })?;
        }
        Ok(())
    }

    /// The path of a place inside the folder that is replicated.
    fn path(&mut self, place: &Place<'_>, outbox: &mut Outbox) -> Result<Option<RelPath>, Stopped> {
        let directory = match self.resolver.place(place.directory.as_bytes()) {
            Placement::Inside(directory) => directory,
            Placement::Outside => return Ok(None),
            Placement::Beneath(top) => {
                self.lost(top, LossCause::Unresolved, outbox)?;
                return Ok(None);
            }
            Placement::Vanished => {
                // Its removal was reported by its parent, up to a directory
                // that exists; nothing beneath it is left to look at.
                self.tally.vanished.add(1);
                return Ok(None);
            }
            Placement::Unresolved => {
                self.lost(RelPath::root(), LossCause::Unresolved, outbox)?;
                return Ok(None);
            }
        };
        let path = match place.name {
            b"" | b"." => directory,
            // A path that is too long cannot be told; its directory can.
            name => directory.join(name).unwrap_or(directory),
        };
        Ok((!path.is_private()).then_some(path))
    }
}

/// Marks the file system. Of Btrfs one mark has all subvolumes, and is taken
/// where none of them begins.
fn mark(group: BorrowedFd<'_>, mask: u64, root: BorrowedFd<'_>) -> io::Result<()> {
    match sys::fanotify_mark_filesystem(group, mask, root) {
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
            let top = sys::btrfs_top(root).map_err(|why| {
                tracing::debug!(%why, "the top of the file system cannot be opened");
                error
            })?;
            sys::fanotify_mark_filesystem(group, mask, top.as_fd())
        }
        marked => marked,
    }
}

impl AsFd for Fanotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::limits::QUEUED_EVENT_BYTES;
    use crate::capture::tests::disk::Disk;
    use crate::capture::tests::{sh, skip};

    /// Queued by a shell, as what this process does is dropped.
    fn make_files(folder: &std::path::Path, from: u64, to: u64) {
        let script = format!("i={from}; while [ $i -lt {to} ]; do i=$((i+1)); : > $i; done");
        sh(folder, &script);
    }

    #[test]
    fn a_queue_that_overflows_is_told_as_a_loss_since_it_was_last_read() {
        let Some(disk) = Disk::make("tmpfs") else { return };
        let folder = disk.folder();
        let root = std::fs::File::open(folder.path()).unwrap();
        let everybodys = std::fs::read_to_string(queue::SETTING).unwrap();
        // More than the system allows others.
        let events = everybodys.trim().parse::<u64>().unwrap() + 1000;
        let memory_bytes = events as usize * QUEUED_EVENT_BYTES;
        let tally: Arc<Tally> = Arc::default();
        let watch = Fanotify::watch(root.as_fd(), Interest::Names, memory_bytes, tally.clone());
        let mut fanotify = match watch {
            Ok(fanotify) => fanotify,
            Err(error) => return skip(&error.to_string()),
        };
        let (sender, mut changes) = tokio::sync::mpsc::channel(1024);
        let mut outbox = Outbox::new(sender, Arc::default(), tally.clone()).unwrap();
        let mut drain = || {
            let (mut names_moved, before) = (0, Timestamp::from(SystemTime::now()));
            fanotify.drain(&mut outbox, &mut || names_moved += 1).unwrap();
            outbox.send().unwrap();
            let told = std::iter::from_fn(|| changes.try_recv().ok()).flatten().collect::<Vec<_>>();
            (before, names_moved, told)
        };
        make_files(folder.path(), 0, events);
        let (drained_at, _, told) = drain();
        assert_eq!(told.len() as u64, events);
        assert_eq!(tally.snapshot().lost.fanotify_overflow, 0);

        make_files(folder.path(), events, 2 * events + 100);
        let (_, _, told) = drain();
        assert_eq!(told.len() as u64, events + 1);
        let Some(Change::Lost { beneath, cause, since: Some(since) }) = told.last() else {
            panic!("{:?}", told.last())
        };
        assert_eq!((beneath, cause), (&RelPath::root(), &LossCause::FanotifyOverflow));
        let (earliest, latest) = (drained_at.before(2 * LOSS_MARGIN), drained_at);
        assert!(*since > earliest && *since < latest, "{since:?} of {drained_at:?}");
        assert_eq!(tally.snapshot().lost.fanotify_overflow, 1);
        assert_eq!(std::fs::read_to_string(queue::SETTING).unwrap(), everybodys);
    }

    /// What was dropped may have told of any move.
    #[test]
    fn an_overflow_voids_what_is_known_of_places() {
        let Some(disk) = Disk::make("tmpfs") else { return };
        let folder = disk.folder();
        let root = std::fs::File::open(folder.path()).unwrap();
        let mut fanotify = match Fanotify::try_out(root.as_fd(), Interest::Names) {
            Ok(fanotify) => fanotify,
            Err(error) => return skip(&error.to_string()),
        };
        let (sender, _changes) = tokio::sync::mpsc::channel(1024);
        let mut outbox = Outbox::new(sender, Arc::default(), Arc::default()).unwrap();
        let mut overflow = decode::tests::overflow();
        let mut names_moved = 0;
        fanotify.handle(&overflow, &mut outbox, &mut || names_moved += 1).unwrap();
        assert_eq!(names_moved, 1);
        // Of other marks of the kernel's, as of an attribute, that is not so.
        overflow[8..16].copy_from_slice(&libc::FAN_ATTRIB.to_ne_bytes());
        fanotify.handle(&overflow, &mut outbox, &mut || names_moved += 1).unwrap();
        assert_eq!(names_moved, 1);
    }
}
