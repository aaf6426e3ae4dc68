//! The way out: gathers changes into batches and hands them over.
//!
//! The channel is bounded. When its receiver is slow this waits, the capture
//! thread with it, and the kernel coalesces meanwhile. The only thing that
//! ends the waiting early is that capture is stopped.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::mpsc::{Sender, error::TrySendError};

use super::change::{Change, LossCause};
use super::counters::Tally;
use super::limits::BATCH_CHANGES_MAX;
use crate::entry::Timestamp;
use crate::path::RelPath;

/// Nobody wants changes any more: the receiver is gone or capture is dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

pub struct Outbox {
    channel: Sender<Vec<Change>>,
    stop: Arc<Notify>,
    waiter: tokio::runtime::Runtime,
    batch: Vec<Change>,
    /// What the batch says about paths, so that a file written a thousand
    /// times is named once.
    said: HashSet<(Discriminant<Change>, RelPath)>,
    tally: Arc<Tally>,
}

impl Outbox {
    pub fn new(
        channel: Sender<Vec<Change>>,
        stop: Arc<Notify>,
        tally: Arc<Tally>,
    ) -> std::io::Result<Self> {
        let waiter = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { channel, stop, waiter, batch: Vec::new(), said: HashSet::new(), tally })
    }

    /// Look at the entry.
    pub fn name(&mut self, path: RelPath) -> Result<(), Stopped> {
        self.once(path, Change::Name)
    }

    /// Look at both entries. Told in the order of the moves, however often.
    pub fn moved(&mut self, from: RelPath, to: RelPath) -> Result<(), Stopped> {
        self.push(Change::Moved(from, to))
    }

    /// Look at the entry and at everything in it.
    pub fn came(&mut self, path: RelPath) -> Result<(), Stopped> {
        self.once(path, Change::Came)
    }

    /// Look at the content.
    pub fn content(&mut self, path: RelPath) -> Result<(), Stopped> {
        self.once(path, Change::DataAt)
    }

    /// Look at everything in the directory.
    pub fn unlisted(&mut self, directory: RelPath) -> Result<(), Stopped> {
        self.once(directory, Change::Unlisted)
    }

    /// Changes of any kind went unseen here, where it is known when since then.
    pub fn lost(
        &mut self,
        beneath: RelPath,
        cause: LossCause,
        since: Option<Timestamp>,
    ) -> Result<(), Stopped> {
        self.tally.lost(cause);
        self.push(Change::Lost { beneath, cause, since })
    }

    pub fn push(&mut self, change: Change) -> Result<(), Stopped> {
        self.batch.push(change);
        if self.batch.len() >= BATCH_CHANGES_MAX { self.send() } else { Ok(()) }
    }

    /// Hands over what was gathered.
    pub fn send(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            return if self.channel.is_closed() { Err(Stopped) } else { Ok(()) };
        }
        self.said.clear();
        let batch = std::mem::take(&mut self.batch);
        let changes = batch.len() as u64;
        match self.channel.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(Stopped),
            Err(TrySendError::Full(batch)) => self.send_slowly(batch)?,
        }
        self.tally.changes.add(changes);
        Ok(())
    }

    fn once(&mut self, path: RelPath, change: fn(RelPath) -> Change) -> Result<(), Stopped> {
        let change = change(path.clone());
        if !self.said.insert((discriminant(&change), path)) {
            return Ok(());
        }
        self.push(change)
    }

    fn send_slowly(&mut self, batch: Vec<Change>) -> Result<(), Stopped> {
        let Self { channel, stop, waiter, .. } = self;
        waiter.block_on(async {
            tokio::select! {
                biased;
                () = stop.notified() => Err(Stopped),
                sent = channel.send(batch) => sent.map_err(|_| Stopped),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn outbox(capacity: usize) -> (Outbox, tokio::sync::mpsc::Receiver<Vec<Change>>, Arc<Notify>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(capacity);
        let stop = Arc::new(Notify::new());
        let outbox = Outbox::new(sender, Arc::clone(&stop), Arc::default()).unwrap();
        (outbox, receiver, stop)
    }

    #[test]
    fn a_batch_names_a_path_once_and_the_next_batch_again() {
        let (mut outbox, mut receiver, _stop) = outbox(2);
        for _ in 0..2 {
            for _ in 0..1000 {
                outbox.content(path("busy")).unwrap();
            }
            outbox.name(path("busy")).unwrap();
            outbox.send().unwrap();
            let batch = receiver.try_recv().unwrap();
            assert_eq!(batch, [Change::DataAt(path("busy")), Change::Name(path("busy"))]);
        }
    }

    #[test]
    fn a_stop_ends_the_wait_for_a_receiver_that_never_reads() {
        let (mut outbox, _receiver, stop) = outbox(1);
        outbox.name(path("a")).unwrap();
        outbox.send().unwrap();
        outbox.name(path("b")).unwrap();
        stop.notify_one();
        assert_eq!(outbox.send(), Err(Stopped));
    }
}
