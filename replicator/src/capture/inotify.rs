//! Names and writes through inotify, for daemons without any privilege: one
//! watch a directory.
//!
//! A directory is always watched before it is listed, so nothing that appears
//! in it can fall between; what it held by then is told to be listed, since
//! whoever looked at it earlier may have found less. What cannot be watched
//! (the user's limits of watches and instances, which other programs may have
//! used up) is never an end, be it all of the folder: it is reported, and
//! looked at again from time to time. inotify does not say who wrote, so this
//! process sees its own changes too; the comparison with the index drops them.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::change::LossCause;
use super::counters::Tally;
use super::limits::{EVENT_BUFFER_BYTES, LOSS_MARGIN};
use super::outbox::{Outbox, Stopped};
use crate::entry::Timestamp;
use crate::path::RelPath;

const INTEREST: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::EXCL_UNLINK);

pub struct Inotify {
    /// `None` while the kernel has none for this user.
    queue: Option<OwnedFd>,
    root: PathBuf,
    watched: HashMap<i32, RelPath>,
    /// Directories the kernel refused to watch, for lack of watches.
    unwatched: BTreeSet<RelPath>,
    /// The first half of a rename; the other, if it comes, comes next.
    moved_from: Option<(u32, RelPath)>,
    /// When the last drain began: the kernel had told of whatever it dropped
    /// before.
    drained_at: Timestamp,
    tally: Arc<Tally>,
}

/// One event, out of the kernel's buffer.
struct Event {
    watch: i32,
    what: ReadFlags,
    /// The same for both events of a rename.
    cookie: u32,
    name: Vec<u8>,
}

impl Inotify {
    /// Watches every directory that exists below the root, as far as the
    /// limits allow.
    pub fn watch(root: &Path, tally: Arc<Tally>) -> io::Result<Self> {
        let queue = within_limits(new_queue())?;
        // Fails early where the root cannot be watched for another reason.
        let watch = queue.as_ref().map(|queue| inotify::add_watch(queue, root, INTEREST));
        let is_root_watched = within_limits(watch.transpose())?.flatten().is_some();
        let mut inotify = Self {
            queue,
            root: root.to_owned(),
            watched: HashMap::new(),
            unwatched: BTreeSet::new(),
            moved_from: None,
            drained_at: SystemTime::now().into(),
            tally,
        };
        inotify.watch_tree(&RelPath::root());
        if !inotify.unwatched.is_empty() {
            inotify.tally.lost(LossCause::WatchLimit);
            inotify.warn(is_root_watched);
        }
        Ok(inotify)
    }

    fn warn(&self, is_root_watched: bool) {
        let (unwatched, looked_at) = (self.unwatched.len(), "looked at once a minute");
        match (&self.queue, is_root_watched) {
            (Some(_), true) => tracing::warn!(
                unwatched,
                "the limit of inotify watches is reached: some directories are only {looked_at}; \
                 raise fs.inotify.max_user_watches"
            ),
            (Some(_), false) => tracing::warn!(
                "inotify has no watch left, other programs use all: the folder is only \
                 {looked_at}; raise fs.inotify.max_user_watches"
            ),
            (None, _) => tracing::warn!(
                "inotify has no instance left, other programs use all: the folder is only \
                 {looked_at}; raise fs.inotify.max_user_instances"
            ),
        }
    }

    /// Does anything have to be looked at from time to time?
    pub fn has_unwatched(&self) -> bool {
        !self.unwatched.is_empty()
    }

    /// Tries the unwatched directories again and reports them to be looked at.
    pub fn retry_unwatched(&mut self, outbox: &mut Outbox) -> Result<(), Stopped> {
        if self.queue.is_none() {
            self.queue = new_queue().ok();
        }
        for directory in std::mem::take(&mut self.unwatched) {
            self.watch_tree(&directory);
            outbox.lost(directory, LossCause::WatchLimit, None)?;
        }
        if self.unwatched.is_empty() {
            tracing::info!("inotify watches all of the folder now");
        }
        Ok(())
    }

    /// What to wait for.
    pub fn queue(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(AsFd::as_fd)
    }

    /// Reports what was queued when this was called.
    pub fn drain(&mut self, outbox: &mut Outbox) -> Result<(), Stopped> {
        let started = SystemTime::now().into();
        let queued = self.queue().and_then(|queue| rustix::io::ioctl_fionread(queue).ok());
        let mut left = queued.unwrap_or(0) as usize;
        while left > 0 {
            let Some((events, bytes)) = self.read(outbox)? else {
                break;
            };
            left = left.saturating_sub(bytes);
            self.tally.events.add(events.len() as u64);
            for event in events {
                self.report(&event, outbox)?;
            }
        }
        self.drained_at = started;
        Ok(())
    }

    /// What was not told of happened after the last drain began.
    fn lost(&self, cause: LossCause, outbox: &mut Outbox) -> Result<(), Stopped> {
        outbox.lost(RelPath::root(), cause, Some(self.drained_at.before(LOSS_MARGIN)))
    }

    /// One buffer of events and their size; `None` where nothing is queued.
    fn read(&mut self, outbox: &mut Outbox) -> Result<Option<(Vec<Event>, usize)>, Stopped> {
        let Some(queue) = &self.queue else {
            return Ok(None);
        };
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        let mut reader = inotify::Reader::new(queue, &mut buffer);
        let (mut events, mut bytes) = (Vec::new(), 0);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec());
                    // The kernel pads names to multiples of the event's size.
                    bytes += 16 + name.as_ref().map_or(0, |name| (name.len() + 16) / 16 * 16);
                    events.push(Event {
                        watch: event.wd(),
                        what: event.events(),
                        cookie: event.cookie(),
                        name: name.unwrap_or_default(),
                    });
                }
                Err(Errno::AGAIN) if events.is_empty() => return Ok(None),
                Err(Errno::AGAIN) => return Ok(Some((events, bytes))),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "inotify cannot be read");
                    self.lost(LossCause::Malformed, outbox)?;
                    return Ok(None);
                }
            }
            if reader.is_buffer_empty() {
                return Ok(Some((events, bytes)));
            }
        }
    }

    fn report(&mut self, event: &Event, outbox: &mut Outbox) -> Result<(), Stopped> {
        if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            // A directory may have appeared in what was dropped.
            self.watch_tree(&RelPath::root());
            return self.lost(LossCause::InotifyOverflow, outbox);
        }
        if event.what.contains(ReadFlags::IGNORED) {
            self.watched.remove(&event.watch);
            return Ok(());
        }
        let Some(directory) = self.watched.get(&event.watch).cloned() else {
            return Ok(());
        };
        let path = match &*event.name {
            b"" => directory,
            name => directory.join(name).unwrap_or(directory),
        };
        if path.is_private() {
            return Ok(());
        }
        if event.what.contains(ReadFlags::ISDIR) {
            self.follow_directory(event.what, &path, outbox)?;
        }
        if event.what.intersects(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) {
            outbox.content(path.clone())?;
        }
        let content = ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE | ReadFlags::ISDIR;
        if event.what.difference(content).is_empty() {
            return Ok(());
        }
        let from = self.moved_from.take().filter(|(cookie, _)| *cookie == event.cookie);
        if event.what.contains(ReadFlags::MOVED_FROM) {
            self.moved_from = Some((event.cookie, path.clone()));
        }
        match from {
            Some((_, from)) if event.what.contains(ReadFlags::MOVED_TO) => outbox.moved(from, path),
            None if event.what.contains(ReadFlags::MOVED_TO) => outbox.came(path),
            _ => outbox.name(path),
        }
    }

    fn follow_directory(
        &mut self,
        what: ReadFlags,
        path: &RelPath,
        outbox: &mut Outbox,
    ) -> Result<(), Stopped> {
        if what.contains(ReadFlags::MOVED_FROM) {
            // Where it went is told by another event, or it left the folder.
            let gone: Vec<i32> = self.watched_within(path);
            for watch in gone {
                self.watched.remove(&watch);
                // A watch that the kernel dropped by itself is as good.
                let _ = self.queue.as_ref().map(|queue| inotify::remove_watch(queue, watch));
            }
            self.unwatched.retain(|directory| !directory.is_within(path));
        }
        if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            let before = self.unwatched.len();
            let was_filled = self.watch_tree(path);
            if self.unwatched.len() > before {
                if before == 0 {
                    self.warn(true);
                }
                outbox.lost(path.clone(), LossCause::WatchLimit, None)?;
            } else if was_filled {
                outbox.unlisted(path.clone())?;
            }
        }
        Ok(())
    }

    fn watched_within(&self, path: &RelPath) -> Vec<i32> {
        let within = self.watched.iter().filter(|(_, directory)| directory.is_within(path));
        within.map(|(&watch, _)| watch).collect()
    }

    /// Watches this directory and all beneath it, each before it is listed.
    /// Did one that was not watched here before hold anything?
    fn watch_tree(&mut self, top: &RelPath) -> bool {
        let mut was_filled = false;
        let mut todo = vec![top.clone()];
        while let Some(directory) = todo.pop() {
            let path = self.root.join(directory.as_path());
            let watch = self.queue.as_ref().map(|queue| inotify::add_watch(queue, &path, INTEREST));
            let is_new = match within_limits(watch.transpose()) {
                Ok(Some(Some(watch))) => {
                    self.watched.insert(watch, directory.clone()).as_ref() != Some(&directory)
                }
                Ok(_) => {
                    self.unwatched.insert(directory);
                    continue;
                }
                Err(error) => {
                    // Gone again, or closed to this user: the look at it that
                    // follows finds out which.
                    tracing::debug!(%directory, %error, "cannot watch");
                    continue;
                }
            };
            let listed = list(&path, &directory);
            was_filled |= is_new && !listed.is_empty();
            todo.extend(listed.into_iter().filter(|(_, is_dir)| *is_dir).map(|(path, _)| path));
        }
        self.tally.unwatched.set(self.unwatched.len() as u64);
        was_filled
    }
}

fn new_queue() -> Result<OwnedFd, Errno> {
    inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
}

/// `None` where the kernel has no more of it for now.
fn within_limits<T>(had: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match had {
        Ok(had) => Ok(Some(had)),
        Err(Errno::NOSPC | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What lies in a directory, and which of it are directories.
fn list(path: &Path, directory: &RelPath) -> Vec<(RelPath, bool)> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let found = entries.flatten().filter_map(|entry| {
        let name: &OsStr = &entry.file_name();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        Some((directory.join(name.as_bytes()).ok()?, is_dir))
    });
    found.filter(|(path, _)| !path.is_private()).collect()
}
