//! Learns what changes in a folder, at the best level the kernel allows.
//!
//! Capture owns everything that asks the kernel: the eBPF programs and their
//! bitmaps (which ranges of which inode), fanotify (which names) and inotify
//! (both, roughly, without privileges). It gives hints and nothing else: it
//! never reads a file, never keeps an index and never decides what a change
//! means. What it drops, it counts and asks to be looked at again.

mod change;
mod counters;
mod describe;
mod ebpf;
mod error;
mod fanotify;
mod inotify;
mod level;
mod limits;
mod outbox;
mod select;
mod sys;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

pub use self::change::{Change, Extent, LossCause};
pub use self::counters::Counters;
use self::counters::Tally;
pub use self::describe::Description;
pub use self::error::{Error, Lack};
pub use self::level::Level;
pub use self::limits::MEMORY_BYTES_MIN;
use self::outbox::Outbox;
pub use self::select::probe;
use self::worker::{Control, Worker};
use crate::choice::CaptureChoice;

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder's root: an absolute path without symbolic links.
    pub root: PathBuf,
    pub choice: CaptureChoice,
    /// Bound of the kernel memory for what was written and which names changed.
    pub memory_bytes: usize,
}

/// A folder being watched. Dropping it ends that.
pub struct Capture {
    control: Arc<Control>,
    tally: Arc<Tally>,
    description: Description,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Probes, attaches and starts the capture thread. Every change after
    /// this returns is reported, in batches. When the receiver is slow the
    /// thread waits, and the kernel coalesces.
    pub fn start(options: Options, changes: mpsc::Sender<Vec<Change>>) -> Result<Self, Error> {
        let tally = Arc::new(Tally::default());
        let (sources, description) = select::select(&options, &tally)?;
        if let Some(why) = &description.why_not_higher {
            tracing::warn!("changes are captured at the level {}: {why}", description.level);
        }
        let control = Arc::new(Control::new().map_err(Error::Thread)?);
        let unblock = Arc::clone(&control.unblock);
        let outbox = Outbox::new(changes, unblock, Arc::clone(&tally)).map_err(Error::Thread)?;
        let worker = Worker { control: Arc::clone(&control), sources, outbox };
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(Self { control, tally, description, thread: Some(thread) })
    }

    pub fn level(&self) -> Level {
        self.description.level
    }

    /// May a write be told of before it is done? Whoever looks at the file then
    /// has to wait for it first.
    pub fn tells_early(&self) -> bool {
        self.description.tells_early
    }

    pub fn describe(&self) -> Description {
        self.description.clone()
    }

    pub fn counters(&self) -> Counters {
        self.tally.snapshot()
    }

    /// Returns when all changes made before the call are in the channel (or
    /// nobody receives any more).
    pub async fn flush(&self) {
        // An error means that the thread has ended: nothing more will come.
        let _ = self.control.flush().await;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the capture thread panicked");
        }
    }
}
