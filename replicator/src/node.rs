//! One running node: the only module that knows all rooms.
//!
//! It starts them in order, turns what they report into calls of the sync
//! core, and carries out what the core asks for. One task owns the core and
//! the index; looking, fetching, applying and sending run beside it and
//! report back through one bounded queue. It decides nothing about the tree.

mod arrivals;
mod carry;
mod change;
mod download;
mod ending;
mod error;
mod facts;
mod guard;
mod large;
mod look;
mod members;
mod mixture;
mod nested;
mod outbox;
mod pieces;
mod provenance;
mod questions;
mod scrub;
mod serve;
mod staging;
mod unmet;
mod update;
mod wait;
mod wanted;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};

pub use self::error::Error;

use self::carry::Carrier;
use self::ending::Ending;
use self::facts::Facts;
use self::members::Members;
use self::outbox::Outboxes;
use self::scrub::Scrub;
use self::wait::Waiters;
use crate::apply::{Applier, Recovered};
use crate::capture::{self, Capture, Change};
use crate::choice::InPlace;
use crate::config::Config;
use crate::engine::Engine;
use crate::entry::Timestamp;
use crate::id::{Actor, NodeId};
use crate::index::{self, Index};
use crate::limits::{MEETING_MIN, RECORDS_MAX, STRETCH_ROWS_MAX};
use crate::root::{self, Root};
use crate::status::{StateDir, control};
use crate::sync::effect::{Effect, Listed, Now, Outcome, Sight};
use crate::sync::message::{FetchRequest, Message};
use crate::sync::store::Store;
use crate::sync::{Core, Introduction, Options};
use crate::transport::{self, Event, Events, Identity, Secret, Transport};
use crate::{apply, path::RelPath};

/// Batches of changes that capture may be ahead.
const CHANGES_QUEUE: usize = 64;

/// Reports of finished work that may wait for the core.
const REPORTS_QUEUE: usize = 256;

/// Questions of commands that may wait.
const QUESTIONS_QUEUE: usize = 16;

/// Reports, changes and messages handled before the core's effects are
/// carried out: a burst makes one round of large effects, not many small.
const EVENTS_PER_TURN_MAX: usize = 64;

/// Decoded rows and database pages kept in memory.
const INDEX_CACHE_BYTES: usize = 64 << 20;

/// How often what has rested long enough leaves the trash.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Where the index remembers which folder it speaks of.
const MARKER_NOTE: &str = "root-marker";

/// What a node can say once it serves.
pub struct Ready {
    pub root: PathBuf,
    pub listen: SocketAddr,
    pub id: NodeId,
    pub name: String,
    pub capture: String,
    pub engine: String,
}

/// Serves the folder until `stop` says so. `ready` is called once changes are
/// seen and peers can connect.
pub async fn run(
    config: Config,
    mut stop: watch::Receiver<bool>,
    ready: impl FnOnce(&Ready),
) -> Result<(), Error> {
    let password = config.password()?;
    let place = StateDir::new(&config.state_dir);
    let (asked, mut questions) = mpsc::channel(QUESTIONS_QUEUE);
    let _server = control::serve(&place.control_socket(), asked)?;
    let root = Arc::new(Root::open(&config.root)?);
    root.check_writable()?;
    nested::check_above(root.path())?;
    let cluster = config.cluster.clone();
    let secret = tokio::task::spawn_blocking(move || Secret::derive(&password, &cluster));
    let secret = secret.await.map_err(|_| Error::Ended("stretching the password"))??;
    let mut ready = Some(ready);
    let mut free_within = Duration::ZERO;
    loop {
        let said = |node: &Ready| {
            if let Some(ready) = ready.take() {
                ready(node);
            }
        };
        let door = Door { secret: secret.clone(), free_within };
        let life = live(&config, &root, door, &mut stop, &mut questions, said);
        free_within = LET_GO_LIMIT;
        match life.await {
            Err(Error::Rejoin) => {
                tracing::warn!(
                    "this node was away for longer than the others wait, or its state is from a backup: its folder is merged like a new node's, nothing in it counts as a deletion"
                );
                Index::discard(&config.state_dir)?;
            }
            // The index was not closed, so its next opening draws an actor.
            Err(Error::NewActor) => {
                tracing::warn!(
                    "other nodes know more of this node's changes than it does: its state is from a backup, everything is compared"
                );
            }
            ended => return ended,
        }
    }
}

/// One life of the node, from opening the index to closing it.
async fn live(
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
        in_place: config.in_place != InPlace::Never,
        min_free,
    };
    let place = StateDir::new(&config.state_dir);
    let mut node = Node::new(config.clone(), place, carrier, capture, members, index, settled);
    let ended = node.serve(stop, Inputs { changes, events, questions }).await;
    node.end(ended).await
}

/// What a life needs to be reached by its peers.
struct Door {
    secret: Secret,
    /// How long a former life of this process may still hold the port; zero
    /// in the first, where a port in use is somebody else's.
    free_within: Duration,
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
        Ok(Index::open(&config.state_dir, options)?)
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

/// Where events come from.
struct Inputs<'a> {
    changes: mpsc::Receiver<Vec<Change>>,
    events: Events,
    questions: &'a mut mpsc::Receiver<control::Asked>,
}

/// What work beside the core reports.
enum Report {
    /// Was capture asked after the looks for what it knew by then?
    Seen {
        sights: Vec<Sight>,
        heard: bool,
    },
    Listed(RelPath, Vec<Listed>),
    /// Another replicator serves a folder in this one.
    Nested(PathBuf),
    Scanned(RelPath),
    Applied(u64, Vec<Outcome>),
    /// These are not what the index says.
    Stale(Vec<serve::Stale>),
    /// The transport has taken a message that counts.
    Sent(NodeId),
    /// All changes made before a question are in the queue.
    Flushed(u64),
    /// All that happened before the core listened is in the queue.
    Heard,
    /// The same before the end of this run.
    LastTold,
    /// A peer's question, once what happened before it is in the queue.
    Probed(NodeId, Message),
    /// The folder is not what it was.
    RootGone(root::Error),
}

struct Node {
    core: Core<Index>,
    carrier: Carrier,
    capture: Arc<Capture>,
    members: Members,
    reports: mpsc::Sender<Report>,
    incoming: Option<mpsc::Receiver<Report>>,
    outboxes: Outboxes,
    waiters: Waiters,
    facts: Facts,
    /// Nothing was applied since the disk was flushed.
    settled: Arc<AtomicBool>,
    started: Instant,
    swept: Instant,
    scrub: Scrub,
    /// Why the core is of no more use.
    over: Option<Error>,
    /// The node is leaving for good: who is to be told, and when at the
    /// latest.
    leaving: Option<(oneshot::Sender<control::Response>, Instant)>,
    /// The node is to end as soon as it has read what was told.
    ending: Option<Ending>,
    /// The last life may not have read everything that was written since
    /// then, even of a file that looks as it knew it.
    unread_since: Option<Timestamp>,
}

impl Node {
    fn new(
        config: Config,
        place: StateDir,
        carrier: Carrier,
        capture: Arc<Capture>,
        members: Members,
        opened: index::Opened,
        settled: Arc<AtomicBool>,
    ) -> Self {
        let options = Options {
            delay: config.delay.max(SETTLE_MIN),
            max_delay: config.max_delay,
            stream_delay: config.stream_delay,
            ranges_told: capture.level() == capture::Level::Ebpf,
            records_max: RECORDS_MAX,
            meeting_min: MEETING_MIN,
            stretch_rows: STRETCH_ROWS_MAX,
            delete_brake: config.delete_brake,
            flags: carrier.root.flags(),
            mode: config.mode,
        };
        let unread_since = ending::unread_since(&opened, options.max_delay);
        let unclean = opened.unclean;
        let started = Instant::now();
        let verified = opened.index.note(scrub::NOTE);
        let scrub = Scrub::new(config.verify_interval, verified.as_deref(), now_since(started));
        let mut core = Core::new(options, opened.actor, opened.next_counter, opened.index);
        core.remember_lives(opened.former);
        let (reports, incoming) = mpsc::channel(REPORTS_QUEUE);
        Self {
            core,
            waiters: Waiters::new(!config.peers.is_empty()),
            facts: Facts::new(config, place, unclean),
            carrier,
            capture,
            members,
            reports,
            incoming: Some(incoming),
            outboxes: Outboxes::default(),
            settled,
            started,
            swept: started,
            scrub,
            over: None,
            leaving: None,
            ending: None,
            unread_since,
        }
    }

    async fn serve(
        &mut self,
        stop: &mut watch::Receiver<bool>,
        inputs: Inputs<'_>,
    ) -> Result<(), Error> {
        let Inputs { mut changes, mut events, questions } = inputs;
        let mut reports = self.incoming.take().ok_or(Error::Ended("the queue of reports"))?;
        self.core.introduce(Introduction {
            node: self.carrier.transport.id(),
            name: self.facts.name().to_owned(),
            retention: self.facts.retention(),
        });
        self.note_scrub();
        self.core.scan_since(RelPath::root(), self.unread_since);
        guard::watch(&self.carrier.root, self.reports.clone()).map_err(Error::Guard)?;
        self.turn()?;
        loop {
            let wake = tokio::time::Instant::from_std(self.next_wake());
            tokio::select! {
                biased;
                _ = stop.changed(), if self.ending.is_none() => self.begin_end(),
                report = reports.recv() => {
                    let report = report.ok_or(Error::Ended("the queue of reports"))?;
                    for report in gather(report, &mut reports) {
                        self.handle_report(report, &mut changes)?;
                    }
                }
                batch = changes.recv() => {
                    self.handle_changes(batch.ok_or(Error::Ended("capture"))?);
                    self.drain_changes(&mut changes);
                }
                event = events.recv() => {
                    self.handle_event(event.ok_or(Error::Ended("the transport"))?);
                }
                question = questions.recv() => {
                    self.handle_question(question.ok_or(Error::Ended("the control socket"))?);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            self.members.handle_timeout(Instant::now());
            self.members.remember(self.core.store_mut());
            self.core.handle_timeout(self.now());
            self.turn()?;
            if let Some(over) = self.over.take() {
                return Err(over);
            }
            if self.has_left() || self.has_ended() {
                return Ok(());
            }
        }
    }

    /// Carries out what the core asks for and makes the index keep it.
    fn turn(&mut self) -> Result<(), Error> {
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
        let now = Instant::now();
        self.core.store_mut().end_turn(now);
        if let Some(failure) = self.core.store().failure() {
            return Err(Error::IndexFailed(failure));
        }
        for waiter in self.waiters.read_all(&self.core) {
            self.report_when_told(Report::Flushed(waiter));
        }
        self.waiters.poll(now, &mut self.core, &self.facts);
        if let Some(answer) = self.waiters.granted() {
            self.core.retire(self.carrier.transport.id());
            self.leaving = Some((answer, now + LEAVE_WAIT));
        }
        self.scrub_when_due();
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
        let is_done = self.core.unfinished() == 0;
        self.carrier.arrivals.sweep(is_done);
        self.carrier.changes.sweep(is_done);
        self.facts.write_when_due(now, &self.core, &self.carrier, &self.capture);
        if now.duration_since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.sweep();
        }
        Ok(())
    }

    fn next_wake(&self) -> Instant {
        let core = self.core.next_timeout().map(|timeout| self.started + timeout);
        let index = self.core.store().deadline();
        let members = self.members.next_timeout();
        let leaving = self.leaving.as_ref().map(|(_, until)| *until);
        let facts = Some(self.facts.next_write());
        let scrub = Some(self.started + self.scrub.next_timeout());
        let polls = self.waiters.next_poll();
        let ending = self.ending.as_ref().map(Ending::until);
        let times = [core, index, members, polls, facts, leaving, ending, scrub];
        times.into_iter().flatten().min().unwrap_or(self.swept + SWEEP_EVERY)
    }

    fn now(&self) -> Now {
        now_since(self.started)
    }

    fn handle_report(
        &mut self,
        report: Report,
        changes: &mut mpsc::Receiver<Vec<Change>>,
    ) -> Result<(), Error> {
        let now = self.now();
        match report {
            Report::Seen { sights, heard } => {
                if heard {
                    self.drain_changes(changes);
                }
                self.core.handle_sights(now, sights);
            }
            Report::Nested(other) => {
                let root = self.carrier.root.path().to_path_buf();
                return Err(Error::Nested { root, other });
            }
            Report::Listed(beneath, listed) => self.core.handle_listed(now, &beneath, listed),
            Report::Scanned(beneath) => {
                self.drain_changes(changes);
                let before = self.core.progress().deletions_held;
                self.core.handle_scanned(now, &beneath);
                let held = self.core.progress().deletions_held;
                if held > before {
                    tracing::warn!(
                        entries = held,
                        "much of the folder vanished while nobody looked: these deletions are held back; `replicator confirm` lets them through, `replicator confirm --restore` brings the files back"
                    );
                }
            }
            Report::Applied(job, outcomes) => {
                self.settled.store(false, Ordering::Release);
                self.core.handle_applied(now, job, outcomes);
            }
            Report::Stale(files) => {
                self.drain_changes(changes);
                for serve::Stale { path, known } in files {
                    self.core.found_stale(now, path, &known);
                }
            }
            Report::Sent(peer) => self.core.handle_sent(now, peer),
            Report::Flushed(waiter) => {
                self.drain_changes(changes);
                self.waiters.flushed(waiter);
            }
            Report::Heard => {
                self.drain_changes(changes);
                self.core.handle_heard(now);
            }
            Report::LastTold => {
                self.drain_changes(changes);
                self.ending.iter_mut().for_each(Ending::was_told);
            }
            Report::Probed(from, message) => {
                self.drain_changes(changes);
                self.core.handle_message(now, from, message);
            }
            Report::RootGone(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Capture tells its last, and the core looks at that.
    fn begin_end(&mut self) {
        self.ending = Some(Ending::new(self.now().seconds()));
        self.report_when_told(Report::LastTold);
    }

    /// Reports this once everything that has happened by now has been told.
    fn report_when_told(&self, report: Report) {
        let (capture, reports) = (Arc::clone(&self.capture), self.reports.clone());
        tokio::spawn(async move {
            capture.flush().await;
            // Nobody listens any more: the node is ending.
            let _ = reports.send(report).await;
        });
    }

    fn has_ended(&mut self) -> bool {
        let is_read = self.core.is_read();
        self.ending.as_ref().is_some_and(|ending| ending.is_over(is_read, self.core.store_mut()))
    }

    fn drain_changes(&mut self, changes: &mut mpsc::Receiver<Vec<Change>>) {
        while let Ok(batch) = changes.try_recv() {
            self.handle_changes(batch);
        }
    }

    fn handle_changes(&mut self, batch: Vec<Change>) {
        let now = self.now();
        for change in batch {
            match change {
                Change::Name(path) => self.core.path_changed(now, path),
                Change::Unlisted(directory) => self.core.scan(directory),
                Change::Moved(from, to) => self.core.path_moved(now, from, to),
                Change::Came(path) => self.core.path_came(now, path),
                Change::Data { inode, extent, mapped } => {
                    let ranges = match extent {
                        capture::Extent::Ranges(ranges) => Some(ranges),
                        capture::Extent::Whole => None,
                    };
                    self.core.bytes_changed(now, inode, ranges, mapped);
                }
                Change::DataAt(path) => self.core.bytes_changed_at(now, path),
                Change::Lost { beneath, cause, since } => {
                    tracing::warn!(%beneath, ?cause, "changes went unseen, looking again");
                    self.core.scan_since(beneath, since);
                }
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Up { peer, name, address, seen_from, .. } => {
                self.members.up(peer, address, seen_from);
                self.facts.peer_up(peer, name, address);
                let messages = self.outboxes.open(peer);
                let (transport, reports) = (self.carrier.transport.clone(), self.reports.clone());
                tokio::spawn(outbox::post(transport, peer, messages, reports));
                self.core.handle_connected(now, peer);
            }
            Event::Down { peer, reason } => {
                self.members.down(peer);
                self.facts.peer_down(peer, reason);
                self.outboxes.close(peer);
                self.core.handle_disconnected(now, peer);
            }
            Event::Message { from, payload, .. } => match Message::decode(&payload) {
                Ok(message @ Message::Probe { .. }) => {
                    self.report_when_told(Report::Probed(from, message));
                }
                Ok(message) => self.core.handle_message(now, from, message),
                Err(error) => {
                    tracing::error!(peer = %from, "disconnecting: {error}");
                    self.carrier.transport.disconnect(from);
                }
            },
            Event::Fetch { from, request, reply } => match FetchRequest::decode(&request) {
                Ok(request) => {
                    let find = |item| serve::find(&self.core, &self.carrier.arrivals, item);
                    let items = request.items.into_iter().map(find).collect();
                    let (root, engine) = (&self.carrier.root, &self.carrier.engine);
                    let (root, engine) = (Arc::clone(root), engine.clone());
                    let (capture, reports) = (Arc::clone(&self.capture), self.reports.clone());
                    tokio::spawn(async move {
                        let stale = serve::answer(root, engine, items, reply).await;
                        if !stale.is_empty() {
                            capture.flush().await;
                            // Nobody listens any more: the node is ending.
                            let _ = reports.send(Report::Stale(stale)).await;
                        }
                    });
                }
                Err(error) => tracing::error!(peer = %from, "a request was refused: {error}"),
            },
            Event::Datagram { from, payload } => self.members.datagram(from, &payload),
            Event::Twin { told_by } => self.over = Some(Error::Twin { told_by }),
            Event::Refused { address, reason } => self.facts.refused(address, reason.to_string()),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let reports = self.reports.clone();
        match effect {
            Effect::Look(looks) => {
                let (root, engine) = (Arc::clone(&self.carrier.root), self.carrier.engine.clone());
                let capture = Arc::clone(&self.capture);
                tokio::spawn(look::look(root, engine, capture, looks, reports));
            }
            Effect::Scan { beneath, sync } => {
                let (root, capture) = (&self.carrier.root, &self.capture);
                let (root, capture) = (Arc::clone(root), Arc::clone(capture));
                tokio::spawn(look::scan(root, capture, beneath, sync, reports));
            }
            Effect::Listen => self.report_when_told(Report::Heard),
            Effect::Send { peer, message } => {
                if let Err(outbox::Full) = self.outboxes.put(peer, message) {
                    tracing::warn!(%peer, "disconnecting: it takes no messages any more");
                    self.carrier.transport.disconnect(peer);
                }
            }
            Effect::Forget(member) => {
                self.members.retire(member);
                self.facts.forget(member);
                self.carrier.transport.disconnect(member);
            }
            Effect::NewActor => self.over = Some(Error::NewActor),
            Effect::Rejoin => self.over = Some(Error::Rejoin),
            Effect::Retired => self.over = Some(Error::Retired),
            Effect::Apply(job) => {
                let (carrier, id) = (self.carrier.clone(), job.id);
                tokio::spawn(async move {
                    let outcomes = carrier.carry(job).await;
                    // Nobody listens any more: the node is ending.
                    let _ = reports.send(Report::Applied(id, outcomes)).await;
                });
            }
        }
    }

    fn sweep(&self) {
        let (root, keep) = (Arc::clone(&self.carrier.root), self.facts.trash_keep());
        tokio::task::spawn_blocking(move || match apply::trash::sweep(&root, keep) {
            Ok(swept) => tracing::debug!(?swept, "the trash was swept"),
            Err(error) => tracing::warn!("the trash cannot be swept: {error}"),
        });
    }

    /// Says goodbye and leaves everything durable.
    async fn end(mut self, ended: Result<(), Error>) -> Result<(), Error> {
        self.members.leave();
        self.carrier.transport.close().await;
        let clean = ended.is_ok();
        let counter = self.core.next_counter();
        let mut index = self.core.into_store();
        if clean {
            let root = Arc::clone(&self.carrier.root);
            let flushed = tokio::task::spawn_blocking(move || apply::flush_all(&root)).await;
            flushed.map_err(|_| Error::Ended("flushing"))??;
            index.close(counter)?;
        } else {
            index.flush()?;
        }
        ended
    }
}

/// How long a node that leaves waits for the others to have heard it.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// How long the connections of a former life may hold its port. One that was
/// closed while it was being made has measured no round trip, and answers for
/// three times the first probe timeout: 3 s (RFC 9000, 10.2; RFC 9002, 6.2.2).
const LET_GO_LIMIT: Duration = Duration::from_secs(10);
const LISTEN_PAUSE: Duration = Duration::from_millis(100);

/// The least time an entry must be quiet: long enough that the parts of one
/// small write, from `open` to `close`, are one change.
const SETTLE_MIN: Duration = Duration::from_millis(2);

/// A report and those that have come after it by now. What several looks found
/// is one: the core goes through all that it doubts each time.
fn gather(first: Report, reports: &mut mpsc::Receiver<Report>) -> Vec<Report> {
    let mut gathered = vec![first];
    for _ in 0..EVENTS_PER_TURN_MAX {
        let Ok(report) = reports.try_recv() else { break };
        match (gathered.last_mut(), report) {
            (
                Some(Report::Seen { sights, heard }),
                Report::Seen { sights: more, heard: also_heard },
            ) => {
                sights.extend(more);
                *heard |= also_heard;
            }
            (_, report) => gathered.push(report),
        }
    }
    gathered
}

fn now_since(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX);
    Now { monotonic: started.elapsed(), wall }
}
