//! The engine on io_uring: rings, each made, fed and emptied by one thread.
//!
//! One issuer and deferred task work (Linux 6.1) let the kernel run
//! completions only when that thread asks for them; older kernels get the
//! flags they know. An idle ring sleeps in the kernel with one poll on an
//! eventfd armed, and costs no CPU.
//!
//! Memory safety rests on one rule: what an operation points to belongs to a
//! job in the slot its completion will name, and a slot is emptied only by
//! that completion. Whoever waits may go away at any time.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::event::EventfdFlags;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::job::{Job, Operation, Step};
use super::{Error, Queue, Shared, threads};

/// Starts one ring a core, up to [`RINGS_MAX`].
pub(super) fn start(cores: usize, shared: &Arc<Shared>) -> Result<Vec<Queue>, Error> {
    let mut queues = Vec::new();
    for index in 0..cores.clamp(1, RINGS_MAX) {
        match start_ring(index, shared) {
            Ok(queue) => queues.push(queue),
            Err(error) if queues.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, rings = queues.len(), "going on with fewer rings");
                break;
            }
        }
    }
    Ok(queues)
}

/// Wakes a ring's thread when there is work.
pub(super) struct Wake {
    eventfd: OwnedFd,
    /// The thread sleeps, or is about to.
    is_asleep: AtomicBool,
}

impl Wake {
    /// After a job was put in the queue. Costs a system call only where the
    /// thread may be asleep.
    pub fn after_send(&self) {
        // Pairs with the fence in `Worker::may_sleep`: either the thread sees
        // the job there, or this sees that it is asleep.
        fence(Ordering::SeqCst);
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            self.now();
        }
    }

    pub fn now(&self) {
        // It fails only where 2^64 wake-ups are pending: one is enough.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }
}

/// A ring's thread is busy only with copying what is cached. Two of them read
/// 10 to 14 GB/s, more than a network or a hash takes; four leave room.
const RINGS_MAX: usize = 4;

/// Operations under way in one ring.
const SLOTS: usize = 255;

/// The slots and the poll on the eventfd.
const ENTRIES: u32 = 256;

/// Most bytes of one operation: what is cached is copied on the ring's
/// thread, so a larger read would hold up all others (eight of this
/// size in flight read 10 GB/s).
const OPERATION_BYTES_MAX: usize = 256 << 10;

/// Names the poll's completions; no slot has this number.
const WAKE_TOKEN: u64 = u64::MAX;

fn start_ring(index: usize, shared: &Arc<Shared>) -> Result<Queue, Error> {
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::Thread(error.into()))?;
    let wake = Arc::new(Wake { eventfd, is_asleep: AtomicBool::new(false) });
    let (queue, receiver) = Queue::new(Some(Arc::clone(&wake)));
    let shared = Arc::clone(shared);
    let (report, started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name(format!("ring-{index}"))
        .spawn(move || match make_ring() {
            Ok(ring) => {
                let _ = report.send(Ok(()));
                Worker::new(ring, receiver, wake, shared).run();
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        })
        .map_err(Error::Thread)?;
    match started.recv() {
        Ok(Ok(())) => Ok(queue),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::NoUring("the io_uring thread ended while it started".into())),
    }
}

/// Makes a ring with the best flags this kernel knows. Called on the thread
/// that will use it.
fn make_ring() -> Result<IoUring, Error> {
    let single = |builder: &mut io_uring::Builder| {
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    };
    let cooperative = |builder: &mut io_uring::Builder| {
        builder.setup_coop_taskrun().setup_submit_all();
    };
    let plain = |_: &mut io_uring::Builder| {};
    let levels: [&dyn Fn(&mut io_uring::Builder); 3] = [&single, &cooperative, &plain];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for level in levels {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(ENTRIES * 4);
        level(&mut builder);
        match builder.build(ENTRIES) {
            Ok(ring) => return check(ring),
            // Flags that this kernel is too old to know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(refused(&last))
}

/// Has this kernel all that the engine uses?
fn check(ring: IoUring) -> Result<IoUring, Error> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| refused(&error))?;
    let used = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::SyncFileRange::CODE,
        opcode::PollAdd::CODE,
    ];
    // Without NODROP a full completion queue loses completions.
    if used.iter().all(|code| probe.is_supported(*code)) && ring.params().is_feature_nodrop() {
        return Ok(ring);
    }
    Err(Error::NoUring("the io_uring of this kernel is too old: 5.6 or later is needed".into()))
}

fn refused(error: &io::Error) -> Error {
    Error::NoUring(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here, by the container's seccomp profile or by the sysctl \
             kernel.io_uring_disabled"
                .into()
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::ENOMEM) => {
            "io_uring got no memory: raise the limit of locked memory (RLIMIT_MEMLOCK)".into()
        }
        _ => format!("io_uring cannot be used: {error}"),
    })
}

/// The thread of one ring.
struct Worker {
    ring: IoUring,
    /// By slot. Never freed by unwinding: the kernel may hold pointers.
    jobs: ManuallyDrop<Vec<Option<Job>>>,
    free: Vec<usize>,
    receiver: mpsc::Receiver<Job>,
    wake: Arc<Wake>,
    /// The poll on the eventfd is under way.
    is_armed: bool,
    /// Nobody can submit any more.
    is_closed: bool,
    shared: Arc<Shared>,
}

impl Worker {
    fn new(
        ring: IoUring,
        receiver: mpsc::Receiver<Job>,
        wake: Arc<Wake>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            ring,
            jobs: ManuallyDrop::new((0..SLOTS).map(|_| None).collect()),
            free: (0..SLOTS).rev().collect(),
            receiver,
            wake,
            is_armed: false,
            is_closed: false,
            shared,
        }
    }

    fn run(mut self) {
        if let Err(error) = self.turn_until_closed() {
            self.go_on_without(&error);
        } else {
            // Every slot is empty; only the list itself is left.
            drop(ManuallyDrop::into_inner(self.jobs));
        }
    }

    fn turn_until_closed(&mut self) -> io::Result<()> {
        loop {
            self.accept()?;
            if self.is_closed && self.free.len() == SLOTS {
                return Ok(());
            }
            if !self.is_armed && !self.is_closed {
                let eventfd = types::Fd(self.wake.eventfd.as_raw_fd());
                let poll = opcode::PollAdd::new(eventfd, libc::POLLIN as u32).build();
                // SAFETY: a poll points to no memory, and the eventfd lives
                // as long as this worker.
                unsafe { self.push(&poll.user_data(WAKE_TOKEN)) }?;
                self.is_armed = true;
            }
            let wanted = usize::from(self.may_sleep());
            match self.ring.submit_and_wait(wanted) {
                Ok(_) => {}
                // Interrupted, or full of completions that wait to be reaped.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            self.wake.is_asleep.store(false, Ordering::SeqCst);
            self.reap()?;
        }
    }

    /// Takes jobs from the queue while there is room for them.
    fn accept(&mut self) -> io::Result<()> {
        while !self.free.is_empty() {
            match self.receiver.try_recv() {
                Ok(mut job) if !job.is_pointless() => match job.prepare(&self.shared) {
                    Ok(()) => self.submit_new(job)?,
                    Err(error) => job.finish(Err(error)),
                },
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.is_closed = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// May the thread sleep until something completes? Where all slots are
    /// taken it need not hear of new jobs, where the queue is closed none come.
    fn may_sleep(&self) -> bool {
        if self.free.is_empty() || self.is_closed {
            return true;
        }
        self.wake.is_asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.receiver.is_empty() && !self.receiver.is_closed()
    }

    fn submit_new(&mut self, job: Job) -> io::Result<()> {
        // `accept` looked that one is free.
        let Some(slot) = self.free.pop() else { return Ok(()) };
        self.jobs[slot] = Some(job);
        self.submit(slot)
    }

    /// Starts what is left of the job in this slot.
    fn submit(&mut self, slot: usize) -> io::Result<()> {
        let Some(job) = &mut self.jobs[slot] else { return Ok(()) };
        let entry = entry(job).user_data(slot as u64);
        // SAFETY: the entry points into the job in `slot` and uses its file.
        // The job stays there until the completion that names the slot, and
        // moving a job moves neither its buffer nor its descriptor.
        unsafe { self.push(&entry) }
    }

    /// # Safety
    /// What the entry points to must live until its completion.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks at what completed: ends jobs, or starts what is left of them.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            let Some(completion) = self.ring.completion().next() else { return Ok(()) };
            if completion.user_data() == WAKE_TOKEN {
                self.is_armed = false;
                let mut count = [0; 8];
                // Only resets it; empty is fine.
                let _ = rustix::io::read(&self.wake.eventfd, &mut count);
                continue;
            }
            let slot = completion.user_data() as usize;
            let Some(job) = self.jobs.get_mut(slot).and_then(Option::as_mut) else { continue };
            let result = match completion.result() {
                count @ 0.. => Ok(count as usize),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
            if let (Ok(count), Operation::Read { buffer, .. }) = (&result, &mut job.operation) {
                // SAFETY: the kernel wrote `count` bytes behind those that
                // were there, into capacity that the entry was limited to.
                unsafe { buffer.set_len(buffer.len() + count) };
            }
            match job.advance(result, &self.shared) {
                Step::Again => self.submit(slot)?,
                Step::Done(outcome) => {
                    if let Some(job) = self.jobs[slot].take() {
                        job.finish(outcome);
                    }
                    self.free.push(slot);
                }
            }
        }
    }

    /// The ring failed, which no kernel should do. What it holds may still be
    /// written to, so it is never freed; new jobs are done without a ring.
    fn go_on_without(self, error: &io::Error) {
        tracing::error!(%error, "an io_uring ring failed, going on with plain reads");
        let Worker { ring, jobs, receiver, shared, .. } = self;
        std::mem::forget(ring);
        for job in ManuallyDrop::into_inner(jobs).into_iter().flatten() {
            let Job { file, operation, reply } = job;
            std::mem::forget((file, operation));
            let _ = reply.send(Err(io::Error::from(error.kind())));
        }
        threads::serve(&Mutex::new(receiver), &shared);
    }
}

/// The next system call of a job. It points into the job.
fn entry(job: &mut Job) -> squeue::Entry {
    let file = types::Fd(job.file.as_raw_fd());
    match &mut job.operation {
        Operation::Read { range, buffer } => {
            let offset = range.start + buffer.len() as u64;
            let wanted = range.len() as usize - buffer.len();
            let room = &mut buffer.spare_capacity_mut()[..wanted.min(OPERATION_BYTES_MAX)];
            opcode::Read::new(file, room.as_mut_ptr().cast(), room.len() as u32)
                .offset(offset)
                .build()
        }
        Operation::Write { offset, bytes } => {
            let count = bytes.len().min(OPERATION_BYTES_MAX) as u32;
            opcode::Write::new(file, bytes.as_ptr(), count).offset(*offset).build()
        }
        Operation::SyncRange(range, waiting) => {
            // The kernel reads a length of 0 as up to the end.
            let count = u32::try_from(range.len()).unwrap_or(0);
            let flags = waiting.flags();
            opcode::SyncFileRange::new(file, count).offset(range.start).flags(flags).build()
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
