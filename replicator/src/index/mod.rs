//! The index: what this node knows of every name and body, on disk.
//!
//! It lives in one redb database, `<state_dir>/index.redb`. What is written is
//! read back at once and becomes durable with the turn it was written in: a
//! batch holds whole turns and is one transaction, so after a crash the index
//! is as it was between two turns of the core. That some of the last turns
//! may be missing then is what the fresh actor stands for: an announced
//! counter that was lost is never used again, and announcing need not wait
//! for the disk.
//!
//! Resident memory is bounded by the cache of the database, the cache of
//! decoded rows and two batches; it does not grow with the number of files.
//! Nothing here knows what the rows mean.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use redb::{Database, ReadableTable};
use serde::{Deserialize, Serialize};

use crate::entry::Timestamp;
use crate::id::{Actor, BodyId};
use crate::limits::LIVES_MAX;
use crate::path::RelPath;
use crate::sync::record::{BodyRow, NameRow};

mod batch;
mod cache;
mod error;
mod merge;
mod snapshot;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Error, Fault};

use batch::Batch;
use cache::Cache;
use snapshot::Snapshot;
use tables::{META, META_ACTOR, META_CLEAN, META_LIVES, META_SCHEMA};
use writer::{Commit, Failure, Writer};

/// Counts the layouts that [`tables`] ever had.
const SCHEMA: u32 = 7;

/// How long a written row may wait for its transaction. Each one costs a
/// flush of the disk, so rows share it.
pub const BATCH_AGE_MAX: Duration = Duration::from_millis(50);

/// Rows after which a transaction does not wait any longer. As many again can
/// gather behind it before the core has to wait for the disk.
pub const BATCH_ROWS_MAX: usize = 4096;

/// Decoded rows kept, of names and of bodies each: about 10 MiB both.
pub const CACHED_ROWS_MAX: usize = 8192;

/// How soon to look again whether the writer is done, where nothing else
/// brings a turn.
const WRITER_POLL: Duration = Duration::from_millis(10);

/// See the module's page.
pub struct Index {
    path: PathBuf,
    /// Rows written since the last hand-over.
    active: Batch,
    /// The batch that the writer has.
    committing: Option<Arc<Batch>>,
    /// Always agree with the newest batch that has the row.
    names: Mutex<Cache<RelPath, NameRow>>,
    bodies: Mutex<Cache<BodyId, BodyRow>>,
    snapshot: Snapshot,
    /// When to be called again.
    deadline: Option<Instant>,
    /// When the active batch is old.
    due: Option<Instant>,
    stats: IndexStats,
    failure: Failure,
    writer: Writer,
    db: Arc<Database>,
}

/// What an index is opened with.
pub struct Options {
    /// The actor of a life that begins anew.
    pub fresh_actor: Actor,
    /// Memory for pages of the database.
    pub cache_bytes: usize,
    /// Called by the writer before each commit: makes durable what the rows
    /// speak of. Its error is a failure of the index.
    pub before_commit: BeforeCommit,
}

/// See [`Options::before_commit`].
pub type BeforeCommit = Box<dyn Fn() -> Result<(), String> + Send>;

/// What [`Index::open`] found.
pub struct Opened {
    pub index: Index,
    /// Writes from now on.
    pub actor: Actor,
    /// The actors of this node's lives before, the latest last.
    pub former: Vec<Actor>,
    /// The first counter that the actor has not used.
    pub next_counter: u64,
    /// The last run did not end cleanly: rows of its last moments may be
    /// missing, and what was in flight is unknown. False for a new index.
    pub unclean: bool,
    /// When the file was last written before; `None` for a new index.
    pub last_written: Option<Timestamp>,
}

/// Numbers for the status file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStats {
    /// Tombstones included.
    pub names: u64,
    pub bodies: u64,
    /// Rows that a crash now would lose: their batch is not committed yet.
    pub uncommitted_rows: u64,
    /// Transactions since the start, and what they put into or took out of
    /// tables.
    pub commits: u64,
    pub entries_written: u64,
    /// Size of the database file.
    pub disk_bytes: u64,
}

impl Index {
    /// Opens or makes `<state_dir>/index.redb`. After an unclean end, and for
    /// a new index, `fresh_actor` becomes the actor and its counters start at
    /// 1; after a clean one the former actor goes on. That choice is durable
    /// when this returns.
    pub fn open(state_dir: &Path, options: Options) -> Result<Opened, Error> {
        let Options { fresh_actor, cache_bytes, before_commit } = options;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        let path = state_dir.join("index.redb");
        let last_written = fs::metadata(&path).and_then(|found| found.modified()).ok();
        let last_written = last_written.map(Timestamp::from);
        // It holds the names of all files: for the owner's eyes only.
        let mut file = OpenOptions::new();
        file.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let db = Database::builder().set_cache_size(cache_bytes).create(&path)?;
        let life = begin_life(&db, fresh_actor)?;
        let db = Arc::new(db);
        let snapshot = Snapshot::take(&db)?;
        let (names, bodies) = snapshot.counts()?;
        let failure = Failure::new(OnceLock::new());
        let index = Self {
            path,
            active: Batch::default(),
            committing: None,
            names: Mutex::new(Cache::new(CACHED_ROWS_MAX)),
            bodies: Mutex::new(Cache::new(CACHED_ROWS_MAX)),
            snapshot,
            deadline: None,
            due: None,
            stats: IndexStats { names, bodies, ..IndexStats::default() },
            writer: Writer::start(db.clone(), before_commit, failure.clone())?,
            failure,
            db,
        };
        let Life { actor, former, next_counter, unclean } = life;
        Ok(Opened { index, actor, former, next_counter, unclean, last_written })
    }

    /// Of the index's file: a copy has another.
    pub fn inode(state_dir: &Path) -> Result<u64, Error> {
        Ok(fs::metadata(state_dir.join("index.redb"))?.ino())
    }

    /// Drops everything that was known: the next opening makes a new index.
    pub fn discard(state_dir: &Path) -> Result<(), Error> {
        match fs::remove_file(state_dir.join("index.redb")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// To be called between two turns of the core, and at [`Index::deadline`]:
    /// what was written so far belongs together. Hands it to the writer when
    /// it is old or much. Waits where the writer is a whole batch behind.
    pub fn end_turn(&mut self, now: Instant) {
        if self.committing.is_some()
            && let Some(commit) = self.writer.poll()
        {
            self.finish(commit);
        }
        self.hand_over_if_due(now);
        self.deadline = match (self.due, &self.committing) {
            _ if self.failure.get().is_some() => None,
            // A busy writer makes a due batch wait.
            (Some(due), Some(_)) => Some(due.max(now + WRITER_POLL)),
            (None, Some(_)) => Some(now + WRITER_POLL),
            (due, None) => due,
        };
    }

    /// When to call [`Index::end_turn`] though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Everything written so far is durable when this returns. To be called
    /// between two turns.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.wait_for_writer();
        self.check()?;
        if !self.active.is_empty() {
            self.hand_over();
            self.wait_for_writer();
        }
        self.deadline = None;
        self.check()
    }

    /// Flushes, and marks the state as cleanly ended: the actor goes on with
    /// `next_counter`. An index that is only dropped ends as in a crash.
    pub fn close(mut self, next_counter: u64) -> Result<(), Error> {
        self.flush()?;
        let Self { db, writer, snapshot, .. } = self;
        drop(writer);
        drop(snapshot);
        let txn = db.begin_write()?;
        txn.open_table(META)?.insert(META_CLEAN, tables::encode(&next_counter).as_slice())?;
        txn.commit()?;
        // The writer had the only other handle.
        if let Some(db) = Arc::into_inner(db) {
            db.close()?;
        }
        Ok(())
    }

    /// The first failure of the database; from then on nothing more is made
    /// durable and reads cannot be trusted, so the node stops.
    pub fn failure(&self) -> Option<Fault> {
        self.failure.get().cloned()
    }

    pub fn stats(&self) -> IndexStats {
        let disk_bytes = fs::metadata(&self.path).map_or(0, |file| file.len());
        let batches = [Some(&self.active), self.committing.as_deref()];
        let uncommitted: usize = batches.into_iter().flatten().map(Batch::weight).sum();
        IndexStats { disk_bytes, uncommitted_rows: uncommitted as u64, ..self.stats }
    }

    /// A small fact the node wanted remembered.
    pub fn note(&self, key: &str) -> Option<Vec<u8>> {
        let batches = [Some(&self.active), self.committing.as_deref()];
        let pending = batches.into_iter().flatten().find_map(|batch| batch.notes.get(key));
        match pending {
            Some(value) => Some(value.clone()),
            None => self.read(|snapshot| snapshot.meta(&tables::note_key(key))),
        }
    }

    pub fn put_note(&mut self, key: &str, value: Vec<u8>) {
        self.active.notes.insert(key.into(), value);
    }

    /// Reads the database; where that fails, remembers it and says nothing.
    fn read<T: Default>(&self, read: impl FnOnce(&Snapshot) -> Result<T, Error>) -> T {
        read(&self.snapshot).unwrap_or_else(|error| {
            self.fail(&error);
            T::default()
        })
    }

    fn fail(&self, error: &Error) {
        if matches!(error, Error::FailedBefore) {
            self.writer.let_say_why();
        }
        self.failure.get_or_init(|| Fault::from(error));
    }

    fn check(&self) -> Result<(), Error> {
        self.failure().map_or(Ok(()), |failure| Err(Error::Stopped(failure)))
    }

    fn hand_over_if_due(&mut self, now: Instant) {
        // After a failed read the core may have written nonsense.
        if self.active.is_empty() || self.failure.get().is_some() {
            return;
        }
        let due = *self.due.get_or_insert(now + BATCH_AGE_MAX);
        let is_full = self.active.weight() >= BATCH_ROWS_MAX;
        if is_full {
            self.wait_for_writer();
        }
        if (is_full || now >= due) && self.committing.is_none() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let batch = Arc::new(std::mem::take(&mut self.active));
        self.writer.begin(batch.clone());
        self.committing = Some(batch);
        self.due = None;
    }

    fn wait_for_writer(&mut self) {
        if self.committing.is_some()
            && let Some(commit) = self.writer.wait()
        {
            self.finish(commit);
        }
    }

    /// The batch under way lies in the database now.
    fn finish(&mut self, commit: Commit) {
        self.stats.commits += 1;
        self.stats.entries_written += commit.entries;
        match Snapshot::take(&self.db) {
            Ok(snapshot) => {
                self.snapshot = snapshot;
                self.committing = None;
            }
            Err(error) => self.fail(&error),
        }
    }
}

/// How a run of the node writes.
struct Life {
    actor: Actor,
    former: Vec<Actor>,
    next_counter: u64,
    unclean: bool,
}

/// Makes the tables, and takes the mark of a clean end away.
fn begin_life(db: &Database, fresh_actor: Actor) -> Result<Life, Error> {
    let txn = db.begin_write()?;
    let life = {
        let mut meta = txn.open_table(META)?;
        let schema: Option<u32> = read_meta(&meta, META_SCHEMA)?;
        if let Some(found) = schema.filter(|&schema| schema != SCHEMA) {
            return Err(Error::Schema { found });
        }
        let former: Option<u64> = read_meta(&meta, META_ACTOR)?;
        let clean: Option<u64> = read_meta(&meta, META_CLEAN)?;
        let mut lives: Vec<u64> = read_meta(&meta, META_LIVES)?.unwrap_or_default();
        let (actor, next_counter, unclean) = match (former, clean) {
            (Some(former), Some(next_counter)) => (Actor(former), next_counter, false),
            (former, _) => {
                lives.extend(former);
                lives.drain(..lives.len().saturating_sub(LIVES_MAX));
                (fresh_actor, 1, former.is_some())
            }
        };
        let former = lives.iter().copied().map(Actor).collect();
        let life = Life { actor, former, next_counter, unclean };
        meta.insert(META_LIVES, tables::encode(&lives).as_slice())?;
        meta.insert(META_SCHEMA, tables::encode(&SCHEMA).as_slice())?;
        meta.insert(META_ACTOR, tables::encode(&life.actor.0).as_slice())?;
        meta.remove(META_CLEAN)?;
        life
    };
    txn.open_table(tables::NAMES)?;
    txn.open_table(tables::BODIES)?;
    txn.open_table(tables::INODES)?;
    txn.open_table(tables::HOLDERS)?;
    txn.open_table(tables::LOG)?;
    txn.open_table(tables::LEAVES)?;
    txn.commit()?;
    Ok(life)
}

fn read_meta<T: serde::de::DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, Error> {
    meta.get(key)?.map(|value| tables::decode(value.value())).transpose()
}
