//! A file that nobody else has open, for the moment in which it is written in
//! place.
//!
//! A program that has read a file and is about to write it knows nothing of
//! what arrives in between: it would write over that, and the peer whose
//! change it was has by then given up its own copy. So a patch waits for who
//! has the file open, and who opens it meanwhile waits for the patch. Both are
//! what a lease does (fcntl(2), `F_SETLEASE`): the kernel grants one only where
//! nobody else has the file open, and holds up who comes.
//!
//! Some files are always open: those of a database, a log. They are patched
//! all the same when patience is over, since they would never be otherwise.
//! Who only reads is waited for no longer than this program itself reads a
//! file it is asked for: somebody may be shown a film for two hours.
//!
//! Who writes to a file that loses a conflict is waited for likewise, before
//! that one is taken away.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// How long a patch waits for who has its file open for writing: reading it,
/// thinking, and writing it takes a program some milliseconds.
pub(super) const WRITERS_WAIT_MAX: Duration = Duration::from_millis(100);

/// The same for who has it open for reading.
const READERS_WAIT_MAX: Duration = Duration::from_millis(2);

/// What all patches of one run wait, whatever else is in it.
const RUN_WAIT_MAX: Duration = Duration::from_millis(500);

/// Between two attempts.
const PAUSE: Duration = Duration::from_micros(500);

/// For so long nobody waits once more for a file that stayed open.
const STAYS_OPEN: Duration = Duration::from_secs(10);

/// `fcntl.h` of every architecture; the libc crate lacks it.
const F_SETSIG: libc::c_int = 10;

/// Nobody else has the file open until this is dropped.
#[derive(Debug)]
pub(super) struct Lease<'file> {
    file: BorrowedFd<'file>,
}

impl<'file> Lease<'file> {
    /// Of a file that is open for writing here. `None` where others have it
    /// open, and where the file system or the rights of this process do not
    /// allow for leases.
    pub(super) fn take(
        file: BorrowedFd<'file>,
        inode: u64,
        patience: &mut Patience,
    ) -> Option<Self> {
        let Patience { left, readers, .. } = patience;
        readers.ask(file, libc::F_WRLCK, inode, left)
    }

    /// Of a file that is open for reading here, and that nobody has open for
    /// writing, nor opens so until this is dropped. `None` else, and where that
    /// cannot be known.
    pub(super) fn without_writers(file: BorrowedFd<'file>) -> Option<Self> {
        set(file, libc::F_RDLCK).ok().map(|()| Self { file })
    }
}

#[cfg(test)]
impl Lease<'_> {
    /// Does somebody wait for its end?
    pub(super) fn is_wanted(&self) -> bool {
        // SAFETY: as in `call`.
        let kind = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        kind != libc::F_WRLCK
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // It ends with the handle at the latest.
        let _ = call(self.file, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn set(file: BorrowedFd<'_>, kind: libc::c_int) -> Result<(), Errno> {
    // Of who comes the kernel tells by a signal, and the one it takes unasked
    // (`SIGIO`) ends the process; this one is ignored unless somebody asks.
    call(file, F_SETSIG, libc::SIGURG)?;
    call(file, libc::F_SETLEASE, kind)
}

fn call(file: BorrowedFd<'_>, what: libc::c_int, argument: libc::c_int) -> Result<(), Errno> {
    // SAFETY: takes numbers and a file descriptor that is open while `file` is
    // borrowed; touches no memory of ours.
    match unsafe { libc::fcntl(file.as_raw_fd(), what, argument) } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}

/// How much longer a run of steps may wait, and for what it waited in vain.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    writers: Others,
    readers: Others,
}

impl Patience {
    pub(super) fn new() -> Self {
        let others = |wait_max| Others { wait_max, stayed: HashMap::new() };
        let (writers, readers) = (others(WRITERS_WAIT_MAX), others(READERS_WAIT_MAX));
        Self { left: RUN_WAIT_MAX, writers, readers }
    }

    /// A new run begins.
    pub(super) fn renew(&mut self) {
        self.left = RUN_WAIT_MAX;
        self.writers.forget();
        self.readers.forget();
    }

    /// Until nobody has this file, which is open for reading here, open for
    /// writing: a lease to read is given only then.
    pub(super) fn wait_for_writers(&mut self, file: BorrowedFd<'_>, inode: u64) {
        let Self { left, writers, .. } = self;
        drop(writers.ask(file, libc::F_RDLCK, inode, left));
    }
}

/// Those who have files open.
#[derive(Debug)]
struct Others {
    wait_max: Duration,
    /// The files they did not close, by inode, and since when that is known.
    stayed: HashMap<u64, Instant>,
}

impl Others {
    /// Asks for a lease of this kind until it is given, for as long as there is
    /// patience.
    fn ask<'file>(
        &mut self,
        file: BorrowedFd<'file>,
        kind: libc::c_int,
        inode: u64,
        left: &mut Duration,
    ) -> Option<Lease<'file>> {
        let begun = Instant::now();
        loop {
            match set(file, kind) {
                Ok(()) => return Some(Lease { file }),
                Err(Errno::AGAIN) if !left.is_zero() && !self.stayed.contains_key(&inode) => {}
                Err(errno) => {
                    tracing::debug!(inode, "no lease before a patch: {errno}");
                    return None;
                }
            }
            if begun.elapsed() >= self.wait_max {
                self.stayed.insert(inode, Instant::now());
                continue;
            }
            let paused = Instant::now();
            thread::sleep(PAUSE);
            *left = left.saturating_sub(paused.elapsed());
        }
    }

    fn forget(&mut self) {
        self.stayed.retain(|_, since| since.elapsed() < STAYS_OPEN);
    }
}
