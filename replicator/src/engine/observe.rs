//! Looking at an entry: what it is now, and which of its bytes are new.
//!
//! The only place where served files are read to be hashed. Capture's hints
//! say where to look; what is found here is compared with what the index
//! holds, so a wrong hint costs time and never a change. An entry that is
//! written while it is read is read again a few times, then reported as not
//! stable: the caller looks again once it is quiet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet, spawn_blocking};

use super::content::{Chunk, Digested, Gathered, Plan, read_exact};
use super::job::Waiting;
use super::look::{Content, Entry, Observation};
use super::{Engine, Error, threads};
use crate::entry::{Kind, Stat};
use crate::look::{Depth, Look};
use crate::path::RelPath;
use crate::root::{Access, Root};

/// Looks at many entries, small ones in batches on a few threads, large ones
/// one after the other through the engine. The observations are in the order
/// of the requests.
pub async fn observe_many(
    root: &Arc<Root>,
    engine: &Engine,
    requests: Vec<Look>,
) -> Vec<Observation> {
    let paths: Vec<RelPath> = requests.iter().map(|request| request.path.clone()).collect();
    let mut looks = look_at_all(root, requests).await;
    let mut observations = Vec::with_capacity(paths.len());
    for (index, path) in paths.into_iter().enumerate() {
        let result = match looks.remove(&index) {
            Some(Ok(Looked::Seen(entry))) => Ok(*entry),
            Some(Ok(Looked::Large(large))) => observe_large(root, engine, *large).await,
            Some(Err(error)) => Err(error),
            None => Err(Error::Unsettled { path: path.clone() }),
        };
        observations.push(Observation { path, result });
    }
    observations
}

/// How often an entry that changes while it is looked at is looked at again
/// at once.
const TRIES_MAX: u32 = 3;

/// Files of which no more than this must be read are read where they are
/// looked at; the engine would cost more hand-overs than it saves.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// What is read again at once when it changed while it was read: no more than
/// some milliseconds' worth.
const READ_AGAIN_BYTES_MAX: u64 = 16 << 20;

/// How long the size of a file may lag behind the news that bytes were
/// written behind its end (seen on Btrfs), and how often to wait for it.
const SIZE_LAG: Duration = Duration::from_millis(1);

/// Requests that one blocking task looks at: some milliseconds of work.
const BATCH_REQUESTS: usize = 64;

/// Chunks of one file read and hashed at the same time: with leaves of 4 MiB,
/// 16 MiB of memory.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// What one look brought.
enum Looked {
    Seen(Box<Option<Entry>>),
    Large(Box<Large>),
}

/// A file whose content is still to be read.
struct Large {
    request: Look,
    file: Arc<OwnedFd>,
    stat: Stat,
    plan: Plan,
    tries: u32,
}

type Looks = std::collections::HashMap<usize, Result<Looked, Error>>;

async fn look_at_all(root: &Arc<Root>, requests: Vec<Look>) -> Looks {
    let at_once = super::cores();
    let mut looks = Looks::with_capacity(requests.len());
    let mut requests = requests.into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        while running.len() < at_once {
            let batch: Vec<_> = requests.by_ref().take(BATCH_REQUESTS).collect();
            if batch.is_empty() {
                break;
            }
            let root = Arc::clone(root);
            running.spawn_blocking(move || {
                let look = |(index, request)| (index, look_repeatedly(&root, request, 0));
                batch.into_iter().map(look).collect::<Vec<_>>()
            });
        }
        match running.join_next().await {
            Some(joined) => looks.extend(unless_cancelled(joined).await),
            None => return looks,
        }
    }
}

/// Blocks: opens, looks, and reads what is small.
fn look_repeatedly(root: &Root, request: Look, tries: u32) -> Result<Looked, Error> {
    for tries in tries..TRIES_MAX {
        let is_last = tries + 1 == TRIES_MAX;
        if let Some(plan) = look(root, &request, tries, is_last)? {
            return Ok(match plan {
                Planned::Seen(entry) => Looked::Seen(Box::new(entry)),
                Planned::Large { file, stat, plan } => {
                    let file = Arc::new(file);
                    Looked::Large(Box::new(Large { request, file, stat, plan, tries }))
                }
            });
        }
    }
    Err(Error::Unsettled { path: request.path })
}

enum Planned {
    Seen(Option<Entry>),
    Large { file: OwnedFd, stat: Stat, plan: Plan },
}

/// `None`: it changed meanwhile, look again.
fn look(root: &Root, request: &Look, tries: u32, is_last: bool) -> Result<Option<Planned>, Error> {
    let path = &request.path;
    let Some(stat) = root.stat(path)? else { return Ok(Some(Planned::Seen(None))) };
    let content = match stat.kind {
        Kind::Directory => Content::Directory,
        Kind::Fifo => Content::Fifo,
        Kind::Symlink => match root.read_link(path)? {
            Some(target) if is_still(root, path, &stat)? => Content::Symlink(target),
            _ => return Ok(None),
        },
        Kind::File => {
            let stat = if request.wait { after_writers(root, path, stat)? } else { Some(stat) };
            return match stat {
                Some(stat) => look_at_file(root, request, stat, tries, is_last),
                None => Ok(None),
            };
        }
    };
    Ok(Some(Planned::Seen(Some(Entry { stat, content }))))
}

fn look_at_file(
    root: &Root,
    request: &Look,
    stat: Stat,
    tries: u32,
    is_last: bool,
) -> Result<Option<Planned>, Error> {
    let path = &request.path;
    if !is_last && is_size_lagging(&request.depth, &stat) {
        std::thread::sleep(SIZE_LAG * (tries + 1));
        return Ok(None);
    }
    let is_known = known_inode(request, &stat);
    let is_cheap = matches!(request.depth, Depth::Changed | Depth::Metadata);
    if !is_known && is_cheap && stat.fingerprint.size > SMALL_BYTES_MAX {
        let content = Content::NotRead;
        return Ok(Some(Planned::Seen(Some(Entry { stat, content }))));
    }
    let Some(plan) = Plan::new(request, &stat) else {
        let content = Content::NotRead;
        return Ok(Some(Planned::Seen(Some(Entry { stat, content }))));
    };
    let mut plan = plan.map_err(|_| Error::TooLarge { path: path.clone() })?;
    let Some(file) = root.open_file(path, Access::Read)? else { return Ok(None) };
    plan.look_for_holes(&file);
    if plan.bytes() > SMALL_BYTES_MAX {
        return Ok(Some(Planned::Large { file, stat, plan }));
    }
    let gathered = match read_small(&file, &plan, request.sync) {
        Ok(gathered) => gathered,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.clone(), source }),
    };
    let is_stable = root.glance_fd(file.as_fd())?.fingerprint == stat.fingerprint;
    if !is_stable && !is_last && !request.busy {
        return Ok(None);
    }
    let content = Content::File(gathered.finish(is_stable));
    Ok(Some(Planned::Seen(Some(Entry { stat, content }))))
}

/// What the file is once a write is done that was under way. `None`: it is
/// another one by then. Of one that may not be read nothing but its metadata is
/// asked, or the reading says why.
fn after_writers(root: &Root, path: &RelPath, stat: Stat) -> Result<Option<Stat>, Error> {
    let Ok(Some(file)) = root.open_file(path, Access::Read) else { return Ok(Some(stat)) };
    threads::wait_for_writers(&file);
    if root.glance_fd(file.as_fd())?.fingerprint == stat.fingerprint {
        return Ok(Some(stat));
    }
    let now = root.stat(path)?;
    Ok(now.filter(|now| now.fingerprint.is_inode(&stat.fingerprint)))
}

fn known_inode(request: &Look, stat: &Stat) -> bool {
    let known = request.known.as_ref();
    known.is_some_and(|known| known.fingerprint.is_inode(&stat.fingerprint))
}

fn read_small(file: &OwnedFd, plan: &Plan, sync: bool) -> io::Result<Gathered> {
    let mut gathered = plan.gather();
    for chunk in plan.chunks() {
        if sync {
            threads::sync_range(file, chunk.range, Waiting::UntilWritten)?;
        }
        let bytes = read_exact(file, chunk.range)?;
        gathered.add(plan.digest(file, chunk, bytes.into()));
    }
    plan.wait_for_writers(file);
    Ok(gathered)
}

/// Reads and hashes, and looks anew where the file changed meanwhile.
async fn observe_large(
    root: &Arc<Root>,
    engine: &Engine,
    mut large: Large,
) -> Result<Option<Entry>, Error> {
    loop {
        let path = large.request.path.clone();
        let may_repeat = large.plan.bytes() <= READ_AGAIN_BYTES_MAX
            && large.tries + 1 < TRIES_MAX
            && !large.request.busy;
        let plan = Arc::new(large.plan);
        let read = read_large(engine, &large.file, &plan, large.request.sync).await;
        let (root_there, file) = (Arc::clone(root), Arc::clone(&large.file));
        let read_plan = Arc::clone(&plan);
        let stat = spawn_blocking(move || {
            read_plan.wait_for_writers(&file);
            root_there.glance_fd(file.as_fd())
        });
        let after = unless_cancelled(stat.await).await?;
        let is_stable = after.fingerprint == large.stat.fingerprint;
        match read {
            Ok(gathered) if is_stable || !may_repeat => {
                let content = Content::File(gathered.finish(is_stable));
                return Ok(Some(Entry { stat: large.stat, content }));
            }
            Ok(_) => {}
            // It became shorter meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(source) => return Err(Error::Read { path, source }),
        }
        let (root, request, tries) = (Arc::clone(root), large.request, large.tries + 1);
        let look = spawn_blocking(move || look_repeatedly(&root, request, tries)).await;
        large = match unless_cancelled(look).await? {
            Looked::Seen(entry) => return Ok(*entry),
            Looked::Large(large) => *large,
        };
    }
}

async fn read_large(
    engine: &Engine,
    file: &Arc<OwnedFd>,
    plan: &Arc<Plan>,
    sync: bool,
) -> io::Result<Gathered> {
    let mut gathered = plan.gather();
    let mut chunks = plan.chunks();
    let mut running = JoinSet::new();
    loop {
        while running.len() < CHUNKS_IN_FLIGHT_MAX {
            let Some(chunk) = chunks.next() else { break };
            let (engine, file, plan) = (engine.clone(), Arc::clone(file), Arc::clone(plan));
            running.spawn(async move { read_chunk(engine, file, plan, chunk, sync).await });
        }
        match running.join_next().await {
            Some(joined) => gathered.add(unless_cancelled(joined).await?),
            None => return Ok(gathered),
        }
    }
}

async fn read_chunk(
    engine: Engine,
    file: Arc<OwnedFd>,
    plan: Arc<Plan>,
    chunk: Chunk,
    sync: bool,
) -> io::Result<Digested> {
    let room = engine.room_to_hash(chunk.range.len()).await?;
    if sync {
        engine.sync_range(&file, chunk.range).await?;
    }
    let bytes = match plan.zeros(&file, chunk.range) {
        Some(zeros) => zeros,
        None => engine.read(&file, chunk.range).await?,
    };
    if (bytes.len() as u64) < chunk.range.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let digest = spawn_blocking(move || {
        let digested = plan.digest(&file, chunk, bytes);
        drop(room);
        digested
    });
    Ok(unless_cancelled(digest.await).await)
}

/// Do bytes that were written lie wholly behind the end? A range without an
/// end tells of bytes that were cut off: there need not be any.
fn is_size_lagging(depth: &Depth, stat: &Stat) -> bool {
    let Depth::Ranges(ranges) = depth else { return false };
    ranges.iter().any(|range| range.start >= stat.fingerprint.size && range.end != u64::MAX)
}

fn is_still(root: &Root, path: &RelPath, stat: &Stat) -> Result<bool, Error> {
    Ok(root.stat(path)?.is_some_and(|now| now.fingerprint == stat.fingerprint))
}

/// What a task gave. It is cancelled only where the whole runtime ends, and
/// then nobody is to take half a result for a whole one: this waits until it
/// is dropped with the runtime.
pub(super) async fn unless_cancelled<T>(joined: Result<T, JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests;
