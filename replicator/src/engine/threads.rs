//! The engine for where io_uring is forbidden: a few threads that take jobs
//! from one queue and make plain system calls.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use tokio::sync::mpsc;

use super::job::{Job, Operation, Step, Waiting};
use super::{Error, Queue, Shared};
use crate::range::Range;

/// Starts the threads; says how many.
pub(super) fn start(cores: usize, shared: &Arc<Shared>) -> Result<(Queue, usize), Error> {
    let count = (cores * 2).clamp(THREADS_MIN, THREADS_MAX);
    let (queue, receiver) = Queue::new(None);
    let receiver = Arc::new(Mutex::new(receiver));
    for index in 0..count {
        let receiver = Arc::clone(&receiver);
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name(format!("io-{index}"))
            .spawn(move || serve(&receiver, &shared))
            .map_err(Error::Thread)?;
    }
    Ok((queue, count))
}

/// Does jobs until the queue is closed and empty.
pub(super) fn serve(jobs: &Mutex<mpsc::Receiver<Job>>, shared: &Shared) {
    loop {
        // One thread waits in the channel, the others for the lock. A panic
        // elsewhere leaves the channel as good as it was.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        match job {
            Some(job) => run(job, shared),
            None => return,
        }
    }
}

/// Writes dirty pages out, see [`super::Engine::sync_range`]. Blocks.
pub(super) fn sync_range(file: &impl AsRawFd, range: Range, waiting: Waiting) -> io::Result<()> {
    let start = libc::off64_t::try_from(range.start).unwrap_or(libc::off64_t::MAX);
    // The kernel reads a length of 0 as up to the end.
    let bytes = libc::off64_t::try_from(range.len()).unwrap_or(0);
    // SAFETY: takes numbers and a file descriptor that is open while `file`
    // is borrowed; touches no memory of ours.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, bytes, waiting.flags()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until a write to the file that is under way is done, on a file system
/// that lets no two write at once and looks for extents under the same lock.
/// Blocks. The answer does not matter, nor does a refusal.
pub(super) fn wait_for_writers(file: &impl AsRawFd) {
    let mut question = Fiemap { length: 1, ..Fiemap::default() };
    // SAFETY: the kernel reads and writes the structure, which outlives the
    // call, and no extents behind it, of which it says that there is room for
    // none.
    unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut question) };
}

/// `FS_IOC_FIEMAP` of Linux.
const FIEMAP: libc::Ioctl = 0xc020_660b;

/// `struct fiemap` of Linux without any extents: only how many there are is
/// asked.
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    found: u32,
    room: u32,
    reserved: u32,
}

/// Threads mostly wait for a disk, so there are more than cores, and enough
/// that one slow disk read does not stop everything.
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 16;

fn run(mut job: Job, shared: &Shared) {
    if job.is_pointless() {
        return;
    }
    if let Err(error) = job.prepare(shared) {
        return job.finish(Err(error));
    }
    let outcome = loop {
        let result = call(&mut job);
        if let Step::Done(outcome) = job.advance(result, shared) {
            break outcome;
        }
    };
    job.finish(outcome);
}

fn call(job: &mut Job) -> io::Result<usize> {
    let file = &*job.file;
    match &mut job.operation {
        Operation::Read { range, buffer } => {
            let offset = range.start + buffer.len() as u64;
            Ok(rustix::io::pread(file, spare_capacity(buffer), offset)?)
        }
        Operation::Write { offset, bytes } => Ok(rustix::io::pwrite(file, bytes, *offset)?),
        Operation::SyncRange(range, waiting) => sync_range(file, *range, *waiting).map(|()| 0),
    }
}
