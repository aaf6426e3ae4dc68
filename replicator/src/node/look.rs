//! Looks and scans on behalf of the core.
//!
//! Before absence is believed, the root is checked: a folder that was
//! unmounted or exchanged has not been emptied by anyone.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::nested;
use super::report::Report;
use crate::apply;
use crate::capture::Capture;
use crate::engine::look::{Content, Observation};
use crate::engine::observe;
use crate::engine::{self, Engine};
use crate::limits::LOOKS_TOGETHER_MAX;
use crate::look::{Depth, Look};
use crate::path::RelPath;
use crate::root::Root;
use crate::sync::effect::{Found, Listed, Sight, Sighted};

/// Batches of a scan that may wait for the core.
const SCAN_QUEUE: usize = 4;

/// Looks at busy files at once: each brings along up to
/// [`BUSY_LOOK_BYTES_MAX`](crate::limits::BUSY_LOOK_BYTES_MAX).
const BUSY_LOOKS_MAX: usize = 8;

static BUSY_LOOKS: Semaphore = Semaphore::const_new(BUSY_LOOKS_MAX);

/// Carries out looks, each report as soon as it is known: a small file does
/// not wait for a large one.
pub(super) async fn look(
    root: Arc<Root>,
    engine: Engine,
    capture: Arc<Capture>,
    looks: Vec<Look>,
    reports: mpsc::Sender<Report>,
) {
    let (deep, shallow): (Vec<Look>, Vec<Look>) =
        looks.into_iter().partition(|look| matches!(look.depth, Depth::Whole | Depth::Ranges(_)));
    let mut parts: Vec<Vec<Look>> = deep.into_iter().map(|look| vec![look]).collect();
    let mut shallow = shallow.into_iter().peekable();
    while shallow.peek().is_some() {
        parts.push(shallow.by_ref().take(LOOKS_TOGETHER_MAX).collect());
    }
    let mut running = JoinSet::new();
    for part in parts {
        let (root, engine, capture) = (Arc::clone(&root), engine.clone(), Arc::clone(&capture));
        running.spawn(look_together(root, engine, capture, part, reports.clone()));
    }
    running.join_all().await;
}

async fn look_together(
    root: Arc<Root>,
    engine: Engine,
    capture: Arc<Capture>,
    mut looks: Vec<Look>,
    reports: mpsc::Sender<Report>,
) {
    looks.iter_mut().for_each(|look| look.wait = capture.tells_early());
    for look in &looks {
        tracing::trace!(path = %look.path, depth = ?look.depth, sync = look.sync, "looking");
    }
    let is_busy = looks.iter().any(|look| look.busy);
    // Never closed.
    let _permit = if is_busy { BUSY_LOOKS.acquire().await.ok() } else { None };
    let observations = observe::observe_many(&root, &engine, looks).await;
    let sights: Vec<Sight> = observations.into_iter().map(sight).collect();
    if is_busy {
        // What was written while it was read is told before what was read.
        capture.flush().await;
    }
    let missing = sights.iter().any(|sight| matches!(sight.found, Found::Nothing));
    let report = match missing.then(|| root.check()) {
        Some(Err(error)) => Report::RootGone(error),
        Some(Ok(())) | None => Report::Seen { sights, heard: is_busy },
    };
    // Nobody listens any more: the node is ending.
    let _ = reports.send(report).await;
}

/// Lists everything beneath a path, with `sync` after what mappings stored so
/// far has been written back.
pub(super) async fn scan(
    root: Arc<Root>,
    capture: Arc<Capture>,
    beneath: RelPath,
    sync: bool,
    reports: mpsc::Sender<Report>,
) {
    if sync {
        let root = Arc::clone(&root);
        let flushed = tokio::task::spawn_blocking(move || apply::flush_all(&root)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!("stores through mappings may be seen late: {error}");
        }
    }
    let (sink, mut batches) = mpsc::channel(SCAN_QUEUE);
    let walk = tokio::spawn(engine::scan::scan(Arc::clone(&root), beneath.clone(), sink));
    while let Some(batch) = batches.recv().await {
        let directories = batch.iter().filter(|found| {
            found.result.as_ref().is_ok_and(|stat| stat.kind == crate::entry::Kind::Directory)
        });
        let mut served = directories.map(|found| root.path().join(found.path.as_path()));
        if let Some(other) = served.find(|directory| nested::is_served(directory)) {
            // Nobody listens any more: the node is ending.
            let _ = reports.send(Report::Nested(other)).await;
            return;
        }
        let listed = batch.into_iter().filter_map(|found| match found.result {
            Ok(stat) => {
                let (kind, fingerprint) = (stat.kind, stat.fingerprint);
                Some(Listed { path: found.path, kind, fingerprint })
            }
            Err(error) => {
                tracing::warn!("not replicated: {error}");
                None
            }
        });
        let report = Report::Listed(beneath.clone(), listed.collect());
        if reports.send(report).await.is_err() {
            return;
        }
    }
    let walked = walk.await;
    // What was removed while somebody looked is told before it is missed.
    capture.flush().await;
    let report = match (walked, root.check()) {
        (_, Err(error)) => Report::RootGone(error),
        (Err(error), _) => {
            tracing::error!(%beneath, "a scan ended badly: {error}");
            Report::Scanned(beneath)
        }
        (Ok(_), Ok(())) => Report::Scanned(beneath),
    };
    // Nobody listens any more: the node is ending.
    let _ = reports.send(report).await;
}

fn sight(observation: Observation) -> Sight {
    let found = match observation.result {
        Ok(None) => Found::Nothing,
        Ok(Some(entry)) => {
            let sighted = match entry.content {
                Content::NotRead => Sighted::NotRead,
                Content::Directory => Sighted::Directory,
                Content::Fifo => Sighted::Fifo,
                Content::Symlink(target) => Sighted::Symlink(target),
                Content::File(file) => Sighted::File {
                    leaves: file.leaves,
                    changed: file.changed,
                    bytes: file.bytes,
                    holes: file.holes,
                    stable: file.stable,
                },
            };
            Found::Entry(entry.stat, sighted)
        }
        Err(engine::Error::Unsettled { .. }) => Found::Unsettled,
        Err(error) if error.excludes() => Found::Excluded(error.to_string()),
        Err(error) => Found::Unreadable(error.to_string()),
    };
    Sight { path: observation.path, found }
}
