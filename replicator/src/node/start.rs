//! The start of one life: every room in its order, each before those that need
//! it.
//!
//! The index comes first, since it says who this node is, and capture before
//! the folder is met, so that nothing changes unseen. Whatever cannot be had
//! ends the start with one line, and leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::carry::Carrier;
use super::members::Members;
use super::{Error, Inputs, Node, Ready, provenance};
use crate::apply::{self, Applier, Recovered};
use crate::capture::{self, Capture};
use crate::choice::InPlace;
use crate::config::Config;
use crate::engine::Engine;
use crate::id::Actor;
use crate::index::{self, Index};
use crate::root::Root;
use crate::status::{StateDir, control};
use crate::sync::store::Store;
use crate::transport::{self, Events, Identity, Secret, Transport};

/// Batches of changes that capture may be ahead.
const CHANGES_QUEUE: usize = 64;

/// Decoded rows and database pages kept in memory.
const INDEX_CACHE_BYTES: usize = 64 << 20;

/// Where the index remembers which folder it speaks of.
pub(super) const MARKER_NOTE: &str = "root-marker";

/// How long the connections of a former life may hold its port. One that was
/// closed while it was being made has measured no round trip, and answers for
/// three times the first probe timeout: 3 s (RFC 9000, 10.2; RFC 9002, 6.2.2).
pub(super) const LET_GO_LIMIT: Duration = Duration::from_secs(10);
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// One life of the node, from opening the index to closing it.
pub(super) async fn live(
    config: &Config,
    root: &Arc<Root>,
    door: Door,
    stop: &mut watch::Receiver<bool>,
    questions: &mut mpsc::Receiver<control::Asked>,
    ready: impl FnOnce(&Ready),
) -> Result<(), Error> {
    let settled = Arc::new(AtomicBool::new(true));
    let index = open_index(config, root, &settled)?;
    let identity = Identity::load_or_create(&config.state_dir)?;
    if index.index.roster().is_some_and(|roster| roster.is_retired(identity.id())) {
        index.index.close(index.next_counter)?;
        return Err(Error::Retired);
    }
    let engine = Engine::start(config.engine)?;
    let applier = Arc::new(Applier::start(Arc::clone(root))?);
    let repaired = applier.recovered();
    if *repaired != Recovered::default() {
        tracing::info!(?repaired, "what the last run left half done was repaired");
    }
    let (transport, events) = door.open(config, identity).await?;
    let (changed, changes) = mpsc::channel(CHANGES_QUEUE);
    let capture = Arc::new(Capture::start(
        capture::Options {
            root: root.path().to_path_buf(),
            choice: config.capture,
            memory_bytes: config.capture_memory,
        },
        changed,
    )?);
    let members = Members::new(
        transport.clone(),
        config.advertise,
        config.peers.clone(),
        &index.index,
        getrandom::u64().map_err(|error| Error::Random(error.to_string()))?,
    );
    ready(&Ready {
        root: root.path().to_path_buf(),
        listen: transport.local_addr(),
        id: transport.id(),
        name: config.name.clone(),
        capture: capture.level().to_string(),
        engine: engine.describe().to_owned(),
    });
    let min_free = config.min_free.bytes_of(root.free_space()?.total);
    let carrier = Carrier {
        root: Arc::clone(root),
        engine,
        applier,
        transport,
        arrivals: Arc::default(),
        changes: Arc::default(),
        outrun: Arc::default(),
        in_place: config.in_place != InPlace::Never,
        min_free,
    };
    let place = StateDir::new(&config.state_dir);
    let mut node = Node::new(config.clone(), place, carrier, capture, members, index, settled);
    let ended = node.serve(stop, Inputs { changes, events, questions }).await;
    node.end(ended).await
}

/// What a life needs to be reached by its peers.
pub(super) struct Door {
    pub secret: Secret,
    /// How long a former life of this process may still hold the port; zero
    /// in the first, where a port in use is somebody else's.
    pub free_within: Duration,
}

impl Door {
    /// Starts the transport.
    async fn open(self, config: &Config, identity: Identity) -> Result<(Transport, Events), Error> {
        let give_up = Instant::now() + self.free_within;
        let mut identity = identity;
        loop {
            let options = transport::Options {
                identity,
                secret: self.secret.clone(),
                listen: config.listen,
                name: config.name.clone(),
            };
            match Transport::start(options) {
                Err(transport::Error::Listen { source, .. })
                    if source.kind() == std::io::ErrorKind::AddrInUse
                        && Instant::now() < give_up =>
                {
                    tokio::time::sleep(LISTEN_PAUSE).await;
                    identity = Identity::load_or_create(&config.state_dir)?;
                }
                started => return Ok(started?),
            }
        }
    }
}

fn open_index(
    config: &Config,
    root: &Arc<Root>,
    settled: &Arc<AtomicBool>,
) -> Result<index::Opened, Error> {
    let open = || {
        let fresh = getrandom::u64().map_err(|error| Error::Random(error.to_string()))?;
        // After a power loss the index must not speak of files the disk lost.
        let (disk, settled) = (Arc::clone(root), Arc::clone(settled));
        let before_commit = move || match settled.swap(true, Ordering::AcqRel) {
            true => Ok(()),
            false => apply::flush_all(&disk).map_err(|error| error.to_string()),
        };
        let options = index::Options {
            fresh_actor: Actor(fresh),
            cache_bytes: INDEX_CACHE_BYTES,
            before_commit: Box::new(before_commit),
        };
        let state_dir = &config.state_dir;
        let failed = |error| Error::Unopened { state_dir: state_dir.clone(), error };
        Index::open(state_dir, options).map_err(failed)
    };
    let mut opened = open()?;
    let marker = root.marker().as_bytes();
    match opened.index.note(MARKER_NOTE) {
        Some(noted) if noted != marker => {
            return Err(Error::OtherRoot { root: root.path().to_path_buf() });
        }
        Some(_) => {}
        None => opened.index.put_note(MARKER_NOTE, marker.to_vec()),
    }
    let opened = provenance::check(opened, &config.state_dir, root, open)?;
    if opened.unclean {
        tracing::warn!("the last run did not end cleanly: everything is compared with the index");
    }
    Ok(opened)
}
