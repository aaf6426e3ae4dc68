//! The thread that makes batches durable.
//!
//! redb's cost is per commit, not per row, so rows are gathered and written
//! in one transaction, each of which is on the disk before the next begins.
//! After a failure nothing more is written: a later batch must never be
//! durable where an earlier one is not.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::{Database, ReadableTable, Table, WriteTransaction};

use super::BeforeCommit;
use super::batch::Batch;
use super::error::{Error, Fault};
use super::tables::{self, BODIES, HOLDERS, INODES, LEAVES, LOG, META, META_HAVE, NAMES};
use crate::hash::Leaves;
use crate::id::BodyId;

/// How long an error that follows another waits for that to be told.
const SAY_WHY_LIMIT: Duration = Duration::from_secs(1);
const SAY_WHY_PAUSE: Duration = Duration::from_millis(10);

/// The first failure of whoever meets one.
pub(super) type Failure = Arc<OnceLock<Fault>>;

/// Has one batch at a time. Dropping it waits for that one.
pub(super) struct Writer {
    /// `None` only while dropping.
    batches: Option<SyncSender<Arc<Batch>>>,
    /// Only ever reached by the one owner: the lock lets the index be shared
    /// between threads for reading.
    commits: Mutex<Receiver<Commit>>,
    thread: Option<JoinHandle<()>>,
    failure: Failure,
}

/// What one transaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// Entries put into or taken out of tables.
    pub(super) entries: u64,
}

impl Writer {
    pub(super) fn start(
        db: Arc<Database>,
        before_commit: BeforeCommit,
        failure: Failure,
    ) -> Result<Self, Error> {
        // Room for the one batch that is under way: handing over never waits.
        let (batches, todo) = mpsc::sync_channel(1);
        let (done, commits) = mpsc::sync_channel(1);
        let shared = failure.clone();
        let work = move || run(&db, &before_commit, &todo, &done, &shared);
        let thread = thread::Builder::new().name("index-writer".into()).spawn(work)?;
        Ok(Self {
            batches: Some(batches),
            commits: Mutex::new(commits),
            thread: Some(thread),
            failure,
        })
    }

    /// Only to be called when no batch is under way.
    pub(super) fn begin(&self, batch: Arc<Batch>) {
        let sent = self.batches.as_ref().is_some_and(|batches| batches.send(batch).is_ok());
        if !sent {
            self.note_that_it_is_gone();
        }
    }

    /// The commit of the batch under way, if that is finished.
    pub(super) fn poll(&mut self) -> Option<Commit> {
        match self.commits().try_recv() {
            Ok(commit) => Some(commit),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.note_that_it_is_gone();
                None
            }
        }
    }

    /// Waits for the batch under way; `None` where it failed.
    pub(super) fn wait(&mut self) -> Option<Commit> {
        let commit = self.commits().recv().ok();
        if commit.is_none() {
            self.note_that_it_is_gone();
        }
        commit
    }

    /// The thread may have met an error that it has not told yet.
    pub(super) fn let_say_why(&self) {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + SAY_WHY_LIMIT;
        while self.failure.get().is_none() && Instant::now() < until {
            if let Err(RecvTimeoutError::Disconnected) = commits.recv_timeout(SAY_WHY_PAUSE) {
                break;
            }
        }
    }

    fn commits(&mut self) -> &mut Receiver<Commit> {
        self.commits.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread says itself why it ends, unless it panicked.
    fn note_that_it_is_gone(&self) {
        let reason = "the writer of index.redb ended unexpectedly".to_owned();
        self.failure.get_or_init(|| Fault::of(reason));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.note_that_it_is_gone();
        }
    }
}

fn run(
    db: &Database,
    before_commit: &BeforeCommit,
    todo: &Receiver<Arc<Batch>>,
    done: &SyncSender<Commit>,
    failure: &OnceLock<Fault>,
) {
    while let Ok(batch) = todo.recv() {
        let ready = before_commit().map_err(|reason| Error::Stopped(Fault::of(reason)));
        match ready.and_then(|()| commit(db, &batch)) {
            Ok(commit) => {
                if done.send(commit).is_err() {
                    return;
                }
            }
            Err(error) => {
                failure.get_or_init(|| Fault::from(&error));
                return;
            }
        }
    }
}

fn commit(db: &Database, batch: &Batch) -> Result<Commit, Error> {
    let txn = db.begin_write()?;
    let entries = write_names(&txn, batch)?
        + write_bodies(&txn, batch)?
        + write_log(&txn, batch)?
        + write_leaves(&txn, batch)?
        + write_meta(&txn, batch)?;
    txn.commit()?;
    Ok(Commit { entries })
}

fn write_names(txn: &WriteTransaction, batch: &Batch) -> Result<u64, Error> {
    let mut names = txn.open_table(NAMES)?;
    for (path, row) in &batch.names {
        match row {
            Some(row) => names.insert(path.0.as_bytes(), tables::encode(&**row).as_slice())?,
            None => names.remove(path.0.as_bytes())?,
        };
    }
    Ok(batch.names.len() as u64)
}

fn write_bodies(txn: &WriteTransaction, batch: &Batch) -> Result<u64, Error> {
    let mut bodies = txn.open_table(BODIES)?;
    for (id, row) in &batch.bodies {
        let key = tables::body_key(*id);
        match row {
            Some(row) => bodies.insert(&key, tables::encode(&**row).as_slice())?,
            None => bodies.remove(&key)?,
        };
    }
    let mut inodes = txn.open_table(INODES)?;
    for (inode, body) in &batch.inodes {
        match body {
            Some(id) => inodes.insert(inode, &tables::body_key(*id))?,
            None => inodes.remove(inode)?,
        };
    }
    let mut holders = txn.open_table(HOLDERS)?;
    for (held, is_held) in &batch.holders {
        let key = tables::holder_key(*held);
        match is_held {
            true => holders.insert(&key, ())?,
            false => holders.remove(&key)?,
        };
    }
    Ok((batch.bodies.len() + batch.inodes.len() + batch.holders.len()) as u64)
}

fn write_log(txn: &WriteTransaction, batch: &Batch) -> Result<u64, Error> {
    let mut log = txn.open_table(LOG)?;
    for (place, key) in &batch.log {
        let place = tables::place_key(*place);
        match key {
            Some(key) => log.insert(&place, tables::encode(key).as_slice())?,
            None => log.remove(&place)?,
        };
    }
    Ok(batch.log.len() as u64)
}

fn write_leaves(txn: &WriteTransaction, batch: &Batch) -> Result<u64, Error> {
    let mut table = txn.open_table(LEAVES)?;
    let mut entries = 0;
    for (id, leaves) in &batch.leaves {
        entries += write_list(&mut table, *id, leaves.as_deref())?;
    }
    Ok(entries)
}

/// Writes the chunks that differ from what is there, which is read for that:
/// one edited leaf in a long list is one chunk written.
fn write_list(
    table: &mut Table<'_, &'static [u8; 20], &'static [u8]>,
    id: BodyId,
    leaves: Option<&Leaves>,
) -> Result<u64, Error> {
    let mut entries = 0;
    let mut count = 0;
    for value in leaves.into_iter().flat_map(tables::chunks_of) {
        let key = tables::chunk_key(id, count);
        let same = table.get(&key)?.is_some_and(|held| held.value() == value);
        if !same {
            table.insert(&key, value.as_slice())?;
            entries += 1;
        }
        count += 1;
    }
    let (first, last) = (tables::chunk_key(id, count), tables::chunk_key(id, u32::MAX));
    table.retain_in::<&[u8; 20], _>(&first..=&last, |_, _| {
        entries += 1;
        false
    })?;
    Ok(entries)
}

fn write_meta(txn: &WriteTransaction, batch: &Batch) -> Result<u64, Error> {
    let mut meta = txn.open_table(META)?;
    for (key, value) in &batch.notes {
        meta.insert(tables::note_key(key).as_str(), value.as_slice())?;
    }
    if let Some(have) = &batch.have {
        meta.insert(META_HAVE, tables::encode(have).as_slice())?;
    }
    Ok(batch.notes.len() as u64 + u64::from(batch.have.is_some()))
}
