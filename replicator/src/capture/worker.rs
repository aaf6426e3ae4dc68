//! The capture thread: sleeps until the kernel has something, drains it, hands
//! it over.
//!
//! It never wakes up on its own while nothing happens, and never more often
//! than [`DRAIN_INTERVAL`] allows while much does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::sync::{Notify, oneshot};

use super::ebpf::Kernel;
use super::fanotify::Fanotify;
use super::inotify::Inotify;
use super::limits::{DRAIN_INTERVAL, UNWATCHED_RETRY};
use super::outbox::{Outbox, Stopped};
use super::sys;

/// How others reach the thread.
pub struct Control {
    wake: OwnedFd,
    stop: AtomicBool,
    pub unblock: Arc<Notify>,
    /// `None` once the thread has ended.
    flushes: Mutex<Option<Vec<oneshot::Sender<()>>>>,
}

impl Control {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            wake: sys::eventfd()?,
            stop: AtomicBool::new(false),
            unblock: Arc::default(),
            flushes: Mutex::new(Some(Vec::new())),
        })
    }

    /// Ends the thread, at once even while it waits for the receiver.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.unblock.notify_one();
        sys::wake(&self.wake);
    }

    /// Resolves once everything that the kernel knows now was handed over,
    /// and with an error when the thread has ended.
    pub fn flush(&self) -> oneshot::Receiver<()> {
        let (done, flushed) = oneshot::channel();
        if let Some(waiting) = &mut *self.flushes() {
            waiting.push(done);
            sys::wake(&self.wake);
        }
        flushed
    }

    fn take_flushes(&self) -> Vec<oneshot::Sender<()>> {
        self.flushes().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn flushes(&self) -> MutexGuard<'_, Option<Vec<oneshot::Sender<()>>>> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where changes come from; at least one is there.
#[derive(Default)]
pub struct Sources {
    pub kernel: Option<Kernel>,
    pub fanotify: Option<Fanotify>,
    pub inotify: Option<Inotify>,
}

pub struct Worker {
    pub control: Arc<Control>,
    pub sources: Sources,
    pub outbox: Outbox,
}

impl Worker {
    /// Runs until capture is stopped or nobody receives.
    pub fn run(mut self) {
        let result = self.work();
        // Whoever waits for a flush learns that none will come.
        *self.control.flushes() = None;
        if let Err(error) = result {
            tracing::error!(%error, "capture ended");
        }
    }

    fn work(&mut self) -> io::Result<()> {
        let mut retry_at = Instant::now() + UNWATCHED_RETRY;
        while !self.control.stop.load(Ordering::SeqCst) {
            let unwatched = self.sources.inotify.as_ref().is_some_and(Inotify::has_unwatched);
            let check_at = self.sources.kernel.as_ref().map(Kernel::check_at);
            let due = unwatched.then_some(retry_at).into_iter().chain(check_at).min();
            self.sleep(due.map(|due| due.saturating_duration_since(Instant::now())))?;
            sys::settle(&self.control.wake);
            let started = Instant::now();
            // Taken before the drain: it covers what happened before them.
            let flushes = self.control.take_flushes();
            let retry = unwatched && started >= retry_at;
            if retry {
                retry_at = started + UNWATCHED_RETRY;
            }
            if self.drain(retry) == Err(Stopped) {
                return Ok(());
            }
            // Who no longer waits needs no answer.
            flushes.into_iter().for_each(|done| done.send(()).unwrap_or_default());
            self.pace(DRAIN_INTERVAL.saturating_sub(started.elapsed()))?;
        }
        Ok(())
    }

    fn drain(&mut self, retry: bool) -> Result<(), Stopped> {
        let Self { sources: Sources { kernel, fanotify, inotify }, outbox, .. } = self;
        if let Some(fanotify) = fanotify {
            let mut names_moved = || {
                if let Some(kernel) = kernel {
                    kernel.names_moved();
                }
            };
            fanotify.drain(outbox, &mut names_moved)?;
        }
        if let Some(kernel) = kernel {
            kernel.drain(outbox)?;
        }
        if let Some(inotify) = inotify {
            inotify.drain(outbox)?;
            if retry {
                inotify.retry_unwatched(outbox)?;
            }
        }
        outbox.send()
    }

    /// Until a source or somebody else has something.
    fn sleep(&self, timeout: Option<Duration>) -> io::Result<()> {
        let Sources { kernel, fanotify, inotify } = &self.sources;
        let sources = [
            Some(self.control.wake.as_fd()),
            kernel.as_ref().map(AsFd::as_fd),
            fanotify.as_ref().map(AsFd::as_fd),
            inotify.as_ref().and_then(Inotify::queue),
        ];
        let mut fds: Vec<_> = sources
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut fds, timeout)
    }

    /// Lets the kernel coalesce for a moment; a flush or a stop ends it early.
    fn pace(&self, rest: Duration) -> io::Result<()> {
        if rest.is_zero() {
            return Ok(());
        }
        poll(&mut [PollFd::new(&self.control.wake, PollFlags::IN)], Some(rest))
    }
}

fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // A duration beyond what the kernel can express would be refused; waiting
    // for ever is the same.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
