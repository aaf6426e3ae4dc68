//! One running node: the only module that knows all rooms.
//!
//! It starts them in order, turns what they report into calls of the sync
//! core, and carries out what the core asks for. One task owns the core and
//! the index; looking, fetching, applying and sending run beside it and
//! report back through one bounded queue. It decides nothing about the tree.

mod agreed;
mod arrivals;
mod carry;
mod change;
mod download;
mod effects;
mod ending;
mod error;
mod events;
mod facts;
mod guard;
mod large;
mod look;
mod members;
mod mixture;
mod nested;
mod outage;
mod outbox;
mod outrun;
mod pieces;
mod provenance;
mod pull;
mod questions;
mod report;
mod room;
mod scrub;
mod serve;
mod staging;
mod standing;
mod start;
mod unmet;
mod update;
mod wait;
mod wanted;
mod way;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

pub use self::error::Error;

use self::carry::Carrier;
use self::ending::Ending;
use self::facts::Facts;
use self::members::Members;
use self::outbox::Outboxes;
use self::questions::Leaving;
use self::report::{Report, gather};
use self::scrub::Scrub;
use self::start::{Door, LET_GO_LIMIT, live};
use self::wait::Waiters;
use self::way::Ways;
use crate::capture::{self, Capture, Change};
use crate::config::Config;
use crate::entry::{Stat, Timestamp};
use crate::id::NodeId;
use crate::index::{self, Index};
use crate::limits::{JOB_BYTES_MAX, MEETING_MIN, RECORDS_MAX, STRETCH_ROWS_MAX, WHOLE_BYTES_MAX};
use crate::root::Root;
use crate::status::{StateDir, control};
use crate::sync::effect::{Listed, Now};
use crate::sync::{Core, Introduction, Options};
use crate::transport::{Event, Events, Secret};
use crate::{apply, path::RelPath};

/// Reports of finished work that may wait for the core.
const REPORTS_QUEUE: usize = 256;

/// Questions of commands that may wait.
const QUESTIONS_QUEUE: usize = 16;

/// How often what has rested long enough leaves the trash.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// The least time an entry must be quiet: long enough that the parts of one
/// small write, from `open` to `close`, are one change.
const SETTLE_MIN: Duration = Duration::from_millis(2);

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
            // Not at a start: who starts it waits for its line.
            Err(error) if error.lacks_room() && ready.is_none() => {
                if !room::wait(&config.state_dir, &mut stop, &mut questions).await {
                    return Ok(());
                }
            }
            ended => return ended,
        }
    }
}

/// Where events come from.
struct Inputs<'a> {
    changes: mpsc::Receiver<Vec<Change>>,
    events: Events,
    questions: &'a mut mpsc::Receiver<control::Asked>,
}

/// Something for the core.
enum Input {
    Report(Report),
    Changes(Vec<Change>),
    Event(Event),
}

/// None of these always comes first: in the middle of a scan there is a report
/// at any time, and a peer that asks for what was scanned already would wait
/// for its end.
async fn next_input(
    reports: &mut mpsc::Receiver<Report>,
    changes: &mut mpsc::Receiver<Vec<Change>>,
    events: &mut Events,
) -> Result<Input, Error> {
    Ok(tokio::select! {
        report = reports.recv() => {
            Input::Report(report.ok_or(Error::Ended("the queue of reports"))?)
        }
        batch = changes.recv() => Input::Changes(batch.ok_or(Error::Ended("capture"))?),
        event = events.recv() => Input::Event(event.ok_or(Error::Ended("the transport"))?),
    })
}

struct Node {
    core: Core<Index>,
    carrier: Carrier,
    ways: Ways,
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
    leaving: Option<Leaving>,
    /// The node is to end as soon as it has read what was told.
    ending: Option<Ending>,
    /// The last life may not have read everything that was written since
    /// then, even of a file that looks as it knew it.
    unread_since: Option<Timestamp>,
    /// Not all is known yet of what its machine lost.
    is_after_outage: bool,
}

impl Node {
    fn new(
        config: Config,
        place: StateDir,
        carrier: Carrier,
        capture: Arc<Capture>,
        members: Members,
        mut opened: index::Opened,
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
            bulk_above: WHOLE_BYTES_MAX,
            huge_above: JOB_BYTES_MAX,
            delete_brake: config.delete_brake,
            flags: carrier.root.flags(),
            mode: config.mode,
        };
        let unread_since = ending::unread_since(&opened, options.max_delay);
        let outage = outage::noticed(&mut opened, &place, config.status_interval);
        let unwritten_since = outage.map(|outage| outage.since);
        let is_copy = provenance::is_copy(&mut opened, &carrier.root);
        let unclean = opened.unclean;
        let started = Instant::now();
        let verified = opened.index.note(scrub::NOTE);
        let scrub = Scrub::new(config.verify_interval, verified.as_deref(), now_since(started));
        let mut core = Core::new(options, opened.actor, opened.next_counter, opened.index);
        core.remember_lives(opened.former);
        if is_copy {
            core.folder_is_copy();
        }
        outage.into_iter().for_each(|outage| core.disk_may_be_behind(outage));
        let (reports, incoming) = mpsc::channel(REPORTS_QUEUE);
        Self {
            core,
            waiters: Waiters::new(!config.peers.is_empty()),
            facts: Facts::new(config, place, unclean),
            carrier,
            ways: Ways::default(),
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
            unread_since: unread_since.into_iter().chain(unwritten_since).min(),
            is_after_outage: outage.is_some(),
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
        if let Some(Stat { kind, fingerprint, .. }) = self.carrier.root.stat(&RelPath::root())? {
            self.core.note_restored(&Listed { path: RelPath::root(), kind, fingerprint });
        }
        self.core.scan_since(RelPath::root(), self.unread_since);
        guard::watch(&self.carrier.root, self.reports.clone()).map_err(Error::Watch)?;
        agreed::watch(&self.carrier.root, self.reports.clone()).map_err(Error::Watch)?;
        self.turn()?;
        loop {
            let wake = tokio::time::Instant::from_std(self.next_wake());
            tokio::select! {
                biased;
                _ = stop.changed(), if self.ending.is_none() => self.begin_end(),
                // A person waits for the answer, also in the middle of a first
                // merge, when something of all else is always there.
                question = questions.recv() => {
                    self.handle_question(question.ok_or(Error::Ended("the control socket"))?);
                }
                input = next_input(&mut reports, &mut changes, &mut events) => match input? {
                    Input::Report(report) => {
                        for report in gather(report, &mut reports) {
                            self.handle_report(report, &mut changes)?;
                        }
                    }
                    Input::Changes(batch) => {
                        self.handle_changes(batch);
                        self.drain_changes(&mut changes);
                    }
                    Input::Event(event) => self.handle_event(event),
                },
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
        if self.is_after_outage && self.core.outage().is_none() {
            self.is_after_outage = false;
            outage::forget(self.core.store_mut());
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
            self.begin_to_leave(now, answer);
        }
        self.scrub_when_due();
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
        let is_done = self.core.unfinished() == 0;
        self.carrier.arrivals.sweep(is_done);
        self.carrier.changes.sweep(is_done);
        self.facts.write_when_due(now, &self.core, &self.carrier, &self.capture, &self.members);
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
        let leaving = self.leaving.as_ref().map(|leaving| leaving.until);
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

    /// Capture tells its last, and the core looks at that.
    fn begin_end(&mut self) {
        self.ending = Some(Ending::new(self.now().seconds()));
        self.core.wind_up();
        self.report_when_told(Report::LastTold);
    }

    fn has_ended(&mut self) -> bool {
        let is_read = self.core.is_read() && self.core.is_wound_up();
        self.ending.as_ref().is_some_and(|ending| ending.is_over(is_read, self.core.store_mut()))
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
        } else if let Err(error) = index.flush() {
            tracing::debug!("the index keeps nothing of the last moments: {error}");
        }
        ended
    }
}

fn now_since(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX);
    Now { monotonic: started.elapsed(), wall }
}
