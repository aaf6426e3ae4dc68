//! Carries out the core's jobs: gets the bytes, writes them beside their
//! place, makes them durable and hands the steps to apply.
//!
//! Everything a job needs is fetched and written before its first step, and
//! flushed once, so that a thousand small files cost one round trip and one
//! flush. What cannot be had is answered for that action alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::arrivals::Arrivals;
use super::change::Changes;
use super::download;
use super::large::Large;
use super::outrun::Outrun;
use super::staging::{Written, failed, leaves_of, stage_bytes};
use super::wanted::Wanted;
use super::way::Way;
use crate::apply::{self, Applier, Expect, Staged, Step};
use crate::engine::Engine;
use crate::entry::Fingerprint;
use crate::hash::{Digest, Leaves};
use crate::id::{BodyId, NodeId};
use crate::limits::WHOLE_BYTES_MAX;
use crate::path::RelPath;
use crate::root::Root;
use crate::sync::effect::{Action, Job, Keep, Outcome, Over, Source, What};
use crate::transport::Transport;

/// Large files of one job fetched at the same time.
const LARGE_AT_ONCE: usize = 8;

/// The rooms a job passes through.
#[derive(Clone)]
pub(super) struct Carrier {
    pub root: Arc<Root>,
    pub engine: Engine,
    pub applier: Arc<Applier>,
    pub transport: Transport,
    /// Large files on their way in.
    pub arrivals: Arc<Arrivals>,
    /// Changes of files whose bytes were cut off.
    pub changes: Arc<Changes>,
    /// Files that were written on while their changes were fetched.
    pub outrun: Arc<Outrun>,
    /// May files change in place?
    pub in_place: bool,
    /// Bytes to leave free.
    pub min_free: u64,
}

/// An action after its bytes were got.
pub(super) enum Prepared {
    Steps(Vec<Step>, Option<Leaves>),
    Ended(Outcome),
}

impl Prepared {
    fn staged(&self) -> Option<&Staged> {
        let Prepared::Steps(steps, _) = self else { return None };
        steps.iter().find_map(|step| match step {
            Step::Place { staged, .. } => Some(staged),
            _ => None,
        })
    }
}

/// A whole file whose bytes came with its record.
struct InlineFile {
    writes: Vec<(u64, Bytes)>,
    size: u64,
    digest: Digest,
}

impl Carrier {
    /// One outcome an action, in their order.
    pub async fn carry(self, job: Job, way: Way) -> Vec<Outcome> {
        let bodies: Vec<BodyId> = job.actions.iter().map(|action| action.body).collect();
        let full = self.check_room(&job.actions).err();
        let mut written = match full {
            Some(_) => BTreeMap::new(),
            None => self.write_whole(&job.actions, &way).await,
        };
        let mut prepared = Vec::with_capacity(job.actions.len());
        for (at, action) in job.actions.into_iter().enumerate() {
            if let Some(reason) = full.as_ref().filter(|_| bytes_of(&action) > 0) {
                // Deletions and renames go on: they may make room.
                prepared.push(Prepared::Ended(Outcome::Failed(reason.clone())));
                continue;
            }
            prepared.push(self.prepare(action, written.remove(&at), &way).await);
        }
        let count = prepared.len();
        let outcomes = match self.flush(prepared).await {
            Ok(prepared) => self.apply(prepared).await,
            Err(reason) => vec![Outcome::Failed(reason); count],
        };
        self.arrivals.end(&bodies);
        outcomes
    }

    /// Is there room for what the job is to write?
    fn check_room(&self, actions: &[Action]) -> Result<(), String> {
        let needed = actions.iter().map(bytes_of).sum();
        if needed == 0 {
            return Ok(());
        }
        apply::check_room(&self.root, needed, self.min_free).map_err(|error| error.to_string())
    }

    /// Writes every file of the job that is to be had as a whole.
    async fn write_whole(
        &self,
        actions: &[Action],
        way: &Way,
    ) -> BTreeMap<usize, Result<Written, Outcome>> {
        let mut inline = Vec::new();
        let mut small: BTreeMap<NodeId, Vec<(usize, Wanted)>> = BTreeMap::new();
        let mut large = Vec::new();
        let mut copies = Vec::new();
        for (at, action) in actions.iter().enumerate() {
            let (source, size, digest) = match &action.what {
                What::Write { source, size, digest, .. } => (source, *size, *digest),
                What::Update(update) if update.size <= WHOLE_BYTES_MAX => {
                    (&update.source, update.size, update.to)
                }
                _ => continue,
            };
            match (source, &action.what) {
                (Source::Inline { writes, .. }, What::Write { .. }) => {
                    let writes = writes.clone();
                    inline.push((at, InlineFile { writes, size, digest }));
                }
                (Source::Copy { from, expect }, _) => {
                    let wanted = Wanted { body: action.body, size, digest };
                    copies.push((at, from.clone(), *expect, wanted));
                }
                (Source::Peers(peers), _) => {
                    let wanted = Wanted { body: action.body, size, digest };
                    match peers.first() {
                        Some(peer) if size <= WHOLE_BYTES_MAX => {
                            small.entry(*peer).or_default().push((at, wanted));
                        }
                        _ => large.push((at, peers.clone(), wanted)),
                    }
                }
                _ => {}
            }
        }
        let mut written = BTreeMap::new();
        if !inline.is_empty() {
            written.extend(self.stage_inline(inline).await);
        }
        for (at, from, expect, wanted) in copies {
            written.insert(at, self.copy_whole(from, expect, wanted).await);
        }
        for (peer, wanted) in small {
            let files = download::small_files(&self.root, &self.transport, peer, wanted);
            written.extend(files.await);
        }
        written.extend(self.write_large(large, way).await);
        written
    }

    /// Content that lies in the folder already is not sent for: its blocks are
    /// shared where the file system can, else copied, and read once to see
    /// that they are what they are said to be.
    pub(super) async fn copy_whole(
        &self,
        from: RelPath,
        expect: Fingerprint,
        wanted: Wanted,
    ) -> Result<Written, Outcome> {
        let (root, engine) = (Arc::clone(&self.root), self.engine.clone());
        let copied = tokio::task::spawn_blocking(move || {
            let lies = root.stat(&from).ok().flatten();
            match lies.is_some_and(|stat| stat.fingerprint.same_bytes(&expect)) {
                true => Staged::copy_of(&root, &from).map_err(|_| Outcome::NotHeld),
                false => Err(Outcome::NotHeld),
            }
        });
        let staged = copied.await.map_err(failed)??;
        let leaves = leaves_of(&engine, staged.file(), wanted.size).await?;
        match leaves.digest() == wanted.digest {
            true => Ok(Written { staged, leaves }),
            false => Err(Outcome::NotHeld),
        }
    }

    /// Several at a time, so that their round trips overlap.
    async fn write_large(
        &self,
        files: Vec<(usize, Vec<NodeId>, Wanted)>,
        way: &Way,
    ) -> BTreeMap<usize, Result<Written, Outcome>> {
        let mut written = BTreeMap::new();
        let mut files = files.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < LARGE_AT_ONCE {
                let Some((at, sources, wanted)) = files.next() else { break };
                let fetch = self.large(way).fetch(sources, wanted, None, None);
                running.spawn(async move { (at, fetch.await) });
            }
            match running.join_next().await {
                Some(done) => written.extend(done),
                None => return written,
            }
        }
    }

    pub(super) fn large(&self, way: &Way) -> Large {
        Large {
            way: way.clone(),
            root: Arc::clone(&self.root),
            engine: self.engine.clone(),
            transport: self.transport.clone(),
            arrivals: Arc::clone(&self.arrivals),
            min_free: self.min_free,
        }
    }

    async fn stage_inline(
        &self,
        files: Vec<(usize, InlineFile)>,
    ) -> BTreeMap<usize, Result<Written, Outcome>> {
        let root = Arc::clone(&self.root);
        let staged = tokio::task::spawn_blocking(move || {
            let mut staged = BTreeMap::new();
            for (at, file) in files {
                let InlineFile { writes, size, digest } = file;
                staged.insert(at, stage_bytes(&root, &writes, size, digest));
            }
            staged
        });
        staged.await.unwrap_or_default()
    }

    async fn prepare(
        &self,
        action: Action,
        written: Option<Result<Written, Outcome>>,
        way: &Way,
    ) -> Prepared {
        let Action { path, body, kind, what } = action;
        let written = match written.transpose() {
            Ok(written) => written,
            Err(outcome) => return Prepared::Ended(outcome),
        };
        let step = match what {
            What::MakeDirectory { metadata } => Step::MakeDirectory { path, metadata, over: None },
            What::MakeSymlink { target, metadata, over } => {
                Step::MakeSymlink { path, target, metadata, over: over.map(displaced) }
            }
            What::MakeFifo { metadata, over } => {
                Step::MakeFifo { path, metadata, over: over.map(displaced) }
            }
            What::Write { metadata, over, .. } => {
                // The task that wrote it ended badly.
                let Some(Written { staged, leaves }) = written else {
                    return Prepared::Ended(Outcome::Broken);
                };
                let over = over.map(displaced);
                let step = Step::Place { path, staged, metadata, over };
                return Prepared::Steps(vec![step], Some(leaves));
            }
            What::Update(update) => return self.update(path, body, update, written, way).await,
            What::Rename { from, expect } => {
                Step::Rename { from, to: path, expect: Expect { kind, fingerprint: expect } }
            }
            What::Exchange { with, expect, kind_here, expect_here } => Step::Exchange {
                a: path,
                b: with,
                expect_a: Expect { kind: kind_here, fingerprint: expect_here },
                expect_b: Expect { kind, fingerprint: expect },
            },
            What::Link { from, expect, over } => Step::Link {
                from,
                to: path,
                expect: Expect { kind, fingerprint: expect },
                over: over.map(displaced),
            },
            What::Remove { expect, keep } => Step::Remove {
                path,
                expect: Expect { kind, fingerprint: expect },
                keep: kept(keep),
            },
            What::Touch { expect, mtime } => {
                Step::Touch { path, expect: Expect { kind, fingerprint: expect }, mtime }
            }
            What::SetMetadata { expect, metadata } => {
                Step::SetMetadata { path, expect: Expect { kind, fingerprint: expect }, metadata }
            }
        };
        Prepared::Steps(vec![step], None)
    }

    /// Makes what was written durable before any name leads to it.
    async fn flush(&self, prepared: Vec<Prepared>) -> Result<Vec<Prepared>, String> {
        if prepared.iter().all(|prepared| prepared.staged().is_none()) {
            return Ok(prepared);
        }
        let root = Arc::clone(&self.root);
        let flush = move || {
            let staged: Vec<&Staged> = prepared.iter().filter_map(Prepared::staged).collect();
            apply::flush(&root, staged)?;
            Ok(prepared)
        };
        let flushed: Result<_, apply::Error> =
            tokio::task::spawn_blocking(flush).await.map_err(|error| error.to_string())?;
        flushed.map_err(|error| error.to_string())
    }

    async fn apply(&self, prepared: Vec<Prepared>) -> Vec<Outcome> {
        let mut steps = Vec::new();
        let mut slots = Vec::with_capacity(prepared.len());
        for one in prepared {
            match one {
                Prepared::Ended(outcome) => slots.push(Err(outcome)),
                Prepared::Steps(of_action, leaves) => {
                    slots.push(Ok((of_action.len(), leaves)));
                    steps.extend(of_action);
                }
            }
        }
        let mut results = match steps.is_empty() {
            true => Vec::new(),
            false => self.applier.run(steps).await,
        }
        .into_iter();
        let outcome = |slot: Result<(usize, Option<Leaves>), Outcome>| match slot {
            Err(outcome) => outcome,
            Ok((count, leaves)) => {
                let last = results.by_ref().take(count).last();
                match last {
                    Some(apply::Outcome::Done(stat)) => Outcome::Done(stat.map(Box::new), leaves),
                    Some(apply::Outcome::Raced) | None => Outcome::Raced,
                    Some(apply::Outcome::Failed(error)) => failed(error),
                }
            }
        };
        slots.into_iter().map(outcome).collect()
    }
}

/// What an action writes at the most.
fn bytes_of(action: &Action) -> u64 {
    match &action.what {
        What::Write { size, .. } => *size,
        What::Update(update) => match &update.source {
            Source::Inline { writes, .. } => {
                writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
            }
            Source::Copy { .. } => 0,
            // Known once it is known what differs, and checked then.
            Source::Peers(_) => 0,
        },
        _ => 0,
    }
}

fn displaced(over: Over) -> apply::Over {
    let expect = Expect { kind: over.kind, fingerprint: over.expect };
    apply::Over { expect, keep: kept(over.keep) }
}

pub(super) fn kept(keep: Keep) -> apply::Keep {
    match keep {
        Keep::Trash => apply::Keep::Trash,
        Keep::Discard => apply::Keep::Discard,
        Keep::Conflict(actor) => apply::Keep::Conflict { label: format!("{actor:?}") },
        Keep::Linked(actor) => apply::Keep::Linked { label: format!("{actor:?}") },
    }
}
