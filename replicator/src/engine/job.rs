//! One piece of work for an engine, and how far it has come.
//!
//! Both engines make the system calls; this says what is left to do after
//! each. So short transfers and interruptions are handled once.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use rustix::fs::OFlags;
use tokio::sync::oneshot;

use super::Shared;
use crate::range::Range;

/// Owns all that the kernel touches while it works on it.
pub(super) struct Job {
    pub file: Arc<OwnedFd>,
    pub operation: Operation,
    pub reply: oneshot::Sender<io::Result<Bytes>>,
}

pub(super) enum Operation {
    /// `buffer` holds what was read so far.
    Read { range: Range, buffer: Vec<u8> },
    /// What is left to write, and where.
    Write { offset: u64, bytes: Bytes },
    /// See [`super::Engine::sync_range`] and [`super::Engine::begin_writeback`].
    SyncRange(Range, Waiting),
}

/// Whether to wait until dirty pages are written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    UntilWritten,
    No,
}

impl Waiting {
    /// For `sync_file_range`.
    pub fn flags(self) -> u32 {
        match self {
            Waiting::UntilWritten => {
                libc::SYNC_FILE_RANGE_WAIT_BEFORE
                    | libc::SYNC_FILE_RANGE_WRITE
                    | libc::SYNC_FILE_RANGE_WAIT_AFTER
            }
            Waiting::No => libc::SYNC_FILE_RANGE_WRITE,
        }
    }
}

impl Operation {
    /// Takes no memory yet: that happens when it leaves the queue.
    pub fn read(range: Range) -> Self {
        Operation::Read { range, buffer: Vec::new() }
    }
}

/// What to do after a system call.
pub(super) enum Step {
    Again,
    Done(io::Result<Bytes>),
}

impl Job {
    /// Takes the memory it needs. An error says that there is none.
    pub fn prepare(&mut self, shared: &Shared) -> io::Result<()> {
        if let Operation::Read { range, buffer } = &mut self.operation {
            // A range is no longer than `READ_BYTES_MAX`: it fits a `usize`.
            *buffer = shared.pool.take(range.len() as usize)?;
        }
        Ok(())
    }

    /// Does nobody wait for what it would read?
    pub fn is_pointless(&self) -> bool {
        matches!(self.operation, Operation::Read { .. }) && self.reply.is_closed()
    }

    /// After a system call moved `result` bytes. The bytes read are already
    /// in the buffer.
    pub fn advance(&mut self, result: io::Result<usize>, shared: &Shared) -> Step {
        let count = match result {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Step::Again,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.let_block() => {
                return Step::Again;
            }
            Err(error) => return Step::Done(Err(error)),
        };
        match &mut self.operation {
            Operation::Read { range, buffer } => {
                if count > 0 && (buffer.len() as u64) < range.len() {
                    return Step::Again;
                }
                buffer.truncate(range.len() as usize);
                shared.reads.fetch_add(1, Ordering::Relaxed);
                shared.read_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                Step::Done(Ok(shared.pool.freeze(std::mem::take(buffer))))
            }
            Operation::Write { offset, bytes } => {
                if count == 0 {
                    return Step::Done(Err(io::ErrorKind::WriteZero.into()));
                }
                shared.written_bytes.fetch_add(count as u64, Ordering::Relaxed);
                *offset += count as u64;
                bytes.advance(count);
                if !bytes.is_empty() {
                    return Step::Again;
                }
                shared.writes.fetch_add(1, Ordering::Relaxed);
                Step::Done(Ok(Bytes::new()))
            }
            Operation::SyncRange(..) => Step::Done(Ok(Bytes::new())),
        }
    }

    /// A ring takes `O_NONBLOCK`, which guards the opening of a file against
    /// fifos, to forbid waiting for the disk where the file system (FUSE,
    /// overlays, old kernels) cannot read asynchronously. Takes the flag away;
    /// `false` where it was not set.
    fn let_block(&self) -> bool {
        let Ok(flags) = rustix::fs::fcntl_getfl(&self.file) else { return false };
        flags.contains(OFlags::NONBLOCK)
            && rustix::fs::fcntl_setfl(&self.file, flags - OFlags::NONBLOCK).is_ok()
    }

    /// Hands the outcome over. The file and the memory go first, so that
    /// whoever waits finds both free.
    pub fn finish(self, outcome: io::Result<Bytes>) {
        let Job { file, operation, reply } = self;
        drop((file, operation));
        // Nobody may be waiting any more, which is fine.
        let _ = reply.send(outcome);
    }
}
