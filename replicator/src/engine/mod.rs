//! Reading and writing the bytes of files, off the async threads.
//!
//! [`Engine`] moves bytes: through io_uring rings on their own threads, or,
//! where io_uring is forbidden (many containers), through a few threads that
//! make plain system calls. Both take the same jobs from bounded queues, so
//! whoever submits faster than the disk waits. [`observe`] looks at one entry
//! and hashes what changed, [`scan`] walks a tree.
//!
//! A job owns its buffer and its file until the kernel is done with them;
//! dropping the future that waits for it only drops the result. Nothing here
//! decides what is looked at, and paths are resolved by [`crate::root`].

mod content;
mod job;
pub mod look;
pub mod observe;
mod pool;
pub mod scan;
mod threads;
mod uring;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::job::{Job, Operation, Waiting};
use self::pool::Pool;
pub use crate::choice::EngineChoice;
use crate::hash::FILE_BYTES_MAX;
use crate::limits::LEAF_BYTES_MAX;
use crate::path::RelPath;
use crate::range::Range;
use crate::root;

/// Most bytes of one [`Engine::read`], which holds them all in memory: four
/// of the largest leaves. Larger reads are several, and can overlap.
pub const READ_BYTES_MAX: u64 = 16 << 20;

/// Cores that this process may use. To ask takes a dozen system calls.
fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(2, |count| count.get()));
    *CORES
}

/// Moves bytes between memory and files. Cheap to clone; its threads end
/// when the last clone is dropped and the jobs under way are done.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl Engine {
    /// Starts its threads. With [`EngineChoice::Auto`] this fails only where
    /// no thread can be started.
    pub fn start(choice: EngineChoice) -> Result<Engine, Error> {
        let shared = Arc::new(Shared::default());
        let cores = cores();
        let started = match choice {
            EngineChoice::Threads => None,
            EngineChoice::Uring => Some(uring::start(cores, &shared)?),
            EngineChoice::Auto => match uring::start(cores, &shared) {
                Ok(queues) => Some(queues),
                Err(error) => {
                    tracing::info!(%error, "reading with threads");
                    let (queue, count) = threads::start(cores, &shared)?;
                    let description = format!("threads, {count} ({error})");
                    return Ok(Self::of(vec![queue], description, shared));
                }
            },
        };
        Ok(match started {
            Some(queues) => {
                let plural = if queues.len() == 1 { "" } else { "s" };
                let description = format!("io_uring, {} ring{plural}", queues.len());
                Self::of(queues, description, shared)
            }
            None => {
                let (queue, count) = threads::start(cores, &shared)?;
                Self::of(vec![queue], format!("threads, {count}"), shared)
            }
        })
    }

    /// One line for the status: which engine, and why not the better one.
    pub fn describe(&self) -> &str {
        &self.0.description
    }

    /// The bytes of `range`, fewer only where the file ends before. At most
    /// [`READ_BYTES_MAX`].
    pub async fn read(&self, file: &Arc<OwnedFd>, range: Range) -> io::Result<Bytes> {
        if range.len() > READ_BYTES_MAX || range.end > i64::MAX as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a read of too many bytes"));
        }
        self.run(file, Operation::read(range)).await
    }

    /// Writes all of `bytes` at `offset`. Where the future is dropped, any
    /// part of them may be written.
    pub async fn write(&self, file: &Arc<OwnedFd>, offset: u64, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.run(file, Operation::Write { offset, bytes }).await.map(drop)
    }

    /// Writes the dirty pages of `range` out and thereby write-protects them:
    /// a later store through a mapping faults, and capture sees it. Says
    /// nothing about durability.
    pub async fn sync_range(&self, file: &Arc<OwnedFd>, range: Range) -> io::Result<()> {
        self.run(file, Operation::SyncRange(range, Waiting::UntilWritten)).await.map(drop)
    }

    /// Lets the kernel begin to write the dirty pages of `range` out, so that
    /// the flush of a large file finds most of it written.
    pub async fn begin_writeback(&self, file: &Arc<OwnedFd>, range: Range) -> io::Result<()> {
        self.run(file, Operation::SyncRange(range, Waiting::No)).await.map(drop)
    }

    /// Waits for room for so many bytes that are to be read and then hashed.
    /// Without it a thousand files, each read before there is time to hash
    /// it, lie in memory at once.
    async fn room_to_hash(&self, bytes: u64) -> io::Result<OwnedSemaphorePermit> {
        // More than all of the room would be waited for without end.
        let bytes = bytes.min(unhashed_bytes_max() as u64) as u32;
        let room = Arc::clone(&self.0.unhashed);
        room.acquire_many_owned(bytes).await.map_err(|_| thread_ended())
    }

    pub fn stats(&self) -> EngineStats {
        let shared = &self.0.shared;
        EngineStats {
            reads: shared.reads.load(Ordering::Relaxed),
            read_bytes: shared.read_bytes.load(Ordering::Relaxed),
            writes: shared.writes.load(Ordering::Relaxed),
            written_bytes: shared.written_bytes.load(Ordering::Relaxed),
        }
    }

    fn of(queues: Vec<Queue>, description: String, shared: Arc<Shared>) -> Self {
        let unhashed = Arc::new(Semaphore::new(unhashed_bytes_max()));
        Self(Arc::new(Inner { queues, next: AtomicUsize::new(0), unhashed, description, shared }))
    }

    async fn run(&self, file: &Arc<OwnedFd>, operation: Operation) -> io::Result<Bytes> {
        let (reply, outcome) = oneshot::channel();
        let next = self.0.next.fetch_add(1, Ordering::Relaxed);
        let queue = &self.0.queues[next % self.0.queues.len()];
        queue.send(Job { file: Arc::clone(file), operation, reply }).await?;
        outcome.await.unwrap_or_else(|_| Err(thread_ended()))
    }
}

/// What an engine did since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStats {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
}

/// What went wrong in this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel, or whoever runs this container, does not let us.
    #[error("{0}")]
    NoUring(String),
    /// The machine is out of threads or memory.
    #[error("cannot start a thread that reads files: {0}")]
    Thread(#[source] io::Error),
    /// The entry, or its file system, does not let us look.
    #[error(transparent)]
    Root(#[from] root::Error),
    /// The disk failed, or access is denied.
    #[error("cannot read {path}: {source}")]
    Read { path: RelPath, source: io::Error },
    /// More than a hash list is made for.
    #[error("{path} is larger than {} TiB and is not replicated", FILE_BYTES_MAX >> 40)]
    TooLarge { path: RelPath },
    /// Somebody replaces or shortens it all the time; look again later.
    #[error("{path} did not stay the same for long enough to be read")]
    Unsettled { path: RelPath },
}

impl Error {
    /// Is the entry one that is not replicated, however often it is looked at?
    pub fn excludes(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Root(root::Error::Unsupported { .. }))
    }
}

/// Jobs that wait in one queue. They hold no buffer for what they will read.
const QUEUE_JOBS_MAX: usize = 256;

/// Bytes that are read, or about to be, and not yet hashed, for each core:
/// one of the largest leaves to hash, and three on their way from the disk.
const UNHASHED_BYTES_A_CORE: usize = 4 * LEAF_BYTES_MAX as usize;

/// Cores that are given so much room.
const UNHASHED_CORES_MAX: usize = 16;

fn unhashed_bytes_max() -> usize {
    cores().clamp(1, UNHASHED_CORES_MAX) * UNHASHED_BYTES_A_CORE
}

struct Inner {
    queues: Vec<Queue>,
    /// Where the next job goes: round and round.
    next: AtomicUsize,
    /// A permit for each byte of [`unhashed_bytes_max`].
    unhashed: Arc<Semaphore>,
    description: String,
    shared: Arc<Shared>,
}

/// What all threads of an engine share.
#[derive(Default)]
struct Shared {
    pool: Arc<Pool>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
}

/// The way in to one ring, or to all threads.
struct Queue {
    /// `None` only while it is dropped.
    sender: Option<mpsc::Sender<Job>>,
    /// What a ring sleeps on; threads sleep on the channel itself.
    wake: Option<Arc<uring::Wake>>,
}

impl Queue {
    fn new(wake: Option<Arc<uring::Wake>>) -> (Queue, mpsc::Receiver<Job>) {
        let (sender, receiver) = mpsc::channel(QUEUE_JOBS_MAX);
        (Queue { sender: Some(sender), wake }, receiver)
    }

    async fn send(&self, job: Job) -> io::Result<()> {
        let sender = self.sender.as_ref().ok_or_else(thread_ended)?;
        sender.send(job).await.map_err(|_| thread_ended())?;
        if let Some(wake) = &self.wake {
            wake.after_send();
        }
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Closed first: a ring that wakes then sees that nothing will come.
        self.sender = None;
        if let Some(wake) = &self.wake {
            wake.now();
        }
    }
}

fn thread_ended() -> io::Error {
    io::Error::other("the thread that reads files has ended")
}

#[cfg(test)]
mod tests;
