//! Nodes, the network between them and the order in which things happen:
//! all drawn from one seed.

mod lives;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::disk::{Change, Disk, Queued};
use super::ledger::Ledger;
use super::plan::Plan;
use super::random::Random;
use super::said::{ended, heard, said, stuck};
use super::users::Contents;
use crate::choice::Mode;
use crate::entry::Timestamp;
use crate::hash::Digest;
use crate::id::{Actor, NodeId};
use crate::limits::SENDS_IN_FLIGHT_MAX;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::Introduction;
use crate::sync::core::Core;
use crate::sync::effect::{
    Action, Effect, Found, Job, Listed, Look, Now, Outcome, Sight, Source, What,
};
use crate::sync::message::Message;
use crate::sync::store::{MemoryStore, Store};

/// After this long nothing may be left to do.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

/// After this long all know what the others do.
const MET_WITHIN: Duration = Duration::from_secs(10);

/// Events after which a run counts as going round in circles.
const EVENTS_MAX: usize = 400_000;

/// How far a clock may be off, in nanoseconds: a year.
const SKEW_MAX: i64 = 365 * 86_400 * 1_000_000_000;

/// Nodes among which every start makes everybody try to connect again.
const ALL_AT_ONCE_MAX: usize = 64;

/// Beyond so many nodes a state is not remembered after every event.
const CROWD: usize = 8;
const SNAPSHOT_EVERY: Duration = Duration::from_millis(20);

/// Of so many jobs of a wild run one is torn by a crash.
const TORN_ONE_IN: u64 = 100;

/// Of so many changes in a wild run one is not told; that it was lost is.
const UNTOLD_ONE_IN: u64 = 16;

/// After one of so many events what a core remembers is measured.
const MEASURED_ONE_IN: u64 = 8;

/// States a crash may fall back to.
const SNAPSHOTS: usize = 12;

pub(super) struct Node {
    pub core: Core<MemoryStore>,
    pub disk: Disk,
    pub running: bool,
    /// It has not joined yet.
    pub awaited: bool,
    /// It has left for good.
    pub left: bool,
    actor: Actor,
    /// The actors before it.
    lives: Vec<Actor>,
    /// How often it began anew.
    pub rejoined: u32,
    /// Counts starts: what was under way before one is void.
    pub life: u32,
    snapshots: Vec<(Duration, MemoryStore)>,
    /// By how much its clock is off, in nanoseconds.
    pub skew: i64,
    pub capture_at: Duration,
    /// When its core wants to be woken.
    wakes: Option<Duration>,
}

pub(super) struct World {
    pub nodes: Vec<Node>,
    pub plan: Plan,
    pub contents: Contents,
    pub ledger: Ledger,
    pub trace: Vec<String>,
    pub operations_done: u64,
    pub connections: u32,
    pub starts: u64,
    /// A user had held deletions undone.
    pub has_restored: bool,
    /// When a change was last applied somewhere.
    pub applied_at: Duration,
    pub random: Random,
    pub now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    tickets: u64,
    /// Connections, both ways.
    links: BTreeMap<(usize, usize), Link>,
    /// When cores want to be woken.
    timers: BTreeSet<(Duration, usize)>,
    actors: u64,
}

/// One way of a connection.
#[derive(Clone, Copy, Debug)]
struct Link {
    connection: u32,
    /// When the last message on it arrives.
    arrives: Duration,
    /// Messages that count and have not been taken from the sender yet.
    in_flight: usize,
}

pub(super) enum Event {
    /// Of a user; of the second round or not.
    Operation(bool),
    Trouble,
    Captured(usize, u32, Vec<Queued>),
    Look(usize, u32, Vec<Look>),
    Seen(usize, u32, Vec<Sight>),
    Scan(usize, u32, RelPath),
    Listed(usize, u32, RelPath, Vec<Listed>),
    Scanned(usize, u32, RelPath),
    Heard(usize, u32),
    Job(usize, u32, Job),
    Applied(usize, u32, u64, Vec<Outcome>),
    Message {
        from: usize,
        to: usize,
        connection: u32,
        frame: bytes::Bytes,
    },
    Sent {
        from: usize,
        to: usize,
        connection: u32,
    },
    Connect(usize, usize),
    Start(usize),
    /// The last node goes for good, and a user says so elsewhere.
    Leave,
    Retire,
    /// A user says what held deletions are.
    Judged(usize, u32, bool),
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            plan,
            contents: Contents::default(),
            ledger: Ledger::default(),
            trace: Vec::new(),
            operations_done: 0,
            connections: 0,
            starts: 0,
            has_restored: false,
            applied_at: Duration::ZERO,
            random: Random::new(plan.seed),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            tickets: 0,
            links: BTreeMap::new(),
            timers: BTreeSet::new(),
            actors: 0,
        };
        for at in 0..plan.nodes {
            let mut skew = world.random.below(2_000_000_000) as i64 - 1_000_000_000;
            if plan.members {
                // Clocks a year ahead, right, or a year behind.
                skew += (at as i64 % 3 - 1) * SKEW_MAX;
            }
            let store = MemoryStore::default();
            world.add(store, Disk::new(1000 * (at as u64 + 1), plan.in_place), skew);
        }
        if plan.skewed {
            let at = world.random.below(plan.nodes as u64) as usize;
            let off = world.random.below(2 * SKEW_MAX as u64) as i64 - SKEW_MAX;
            world.nodes[at].skew += off;
        }
        world
    }

    /// One more node, which does not run yet.
    pub(super) fn add(&mut self, store: MemoryStore, mut disk: Disk, skew: i64) -> usize {
        let actor = self.next_actor();
        disk.bear(self.plan.flags(self.nodes.len()));
        self.nodes.push(Node {
            core: new_core(self.plan, self.nodes.len(), actor, 1, store),
            disk,
            running: false,
            awaited: false,
            left: false,
            actor,
            lives: Vec::new(),
            rejoined: 0,
            life: 0,
            snapshots: Vec::new(),
            skew,
            capture_at: Duration::ZERO,
            wakes: None,
        });
        self.nodes.len() - 1
    }

    pub(super) fn actor(&self, at: usize) -> Actor {
        self.nodes[at].actor
    }

    /// Gives a node that does not run yet a past.
    pub(super) fn seed(&mut self, at: usize, store: MemoryStore, disk: Disk) {
        let plan = self.plan;
        let node = &mut self.nodes[at];
        let next = store.have().get(node.actor) + 1;
        node.core = new_core(plan, at, node.actor, next, store);
        node.disk = disk;
    }

    /// A user does something, which may destroy contents, and capture reports
    /// it where the node runs.
    pub(super) fn act(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut Disk, &mut BTreeSet<Vec<u8>>) -> Vec<Change>,
    ) {
        self.set_clock(at);
        let changes = act(&mut self.nodes[at].disk, &mut self.contents.dead);
        if self.nodes[at].running && !changes.is_empty() {
            self.queue(self.now, at, changes);
        }
    }

    /// Capture tells of these changes then.
    pub(super) fn queue(&mut self, due: Duration, at: usize, changes: Vec<Change>) {
        let queued = self.queued(at, changes);
        self.push(due, Event::Captured(at, self.nodes[at].life, queued));
    }

    /// A round of operations and trouble and then peace, and perhaps another.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let plan = self.plan;
        if let Some(differences) = plan.copies {
            self.hand_out_copies(differences);
        }
        if plan.deletions > 0 {
            // Without it all of a folder may seem to be gone.
            let lasting = super::path("lasting");
            self.nodes[0].disk.write(&lasting, b"lasting", &mut BTreeSet::new());
        }
        let span = 40 * plan.operations as u64;
        for at in 0..plan.nodes {
            let late = (plan.late || (plan.comings && at > 1)) && self.random.below(2) > 0;
            let start = if late { self.random.below(span) } else { 0 };
            if plan.comings && at + 2 == plan.nodes {
                self.nodes[at].awaited = true;
            } else {
                self.at(start, Event::Start(at));
            }
        }
        if plan.leaves {
            let leave = self.random.below(span);
            let told = self.random.below(500);
            self.at(leave, Event::Leave);
            if !plan.unsaid {
                self.at(leave + told, Event::Retire);
            }
        }
        self.round(plan.operations, false)?;
        if plan.deletions == 0 {
            return Ok(());
        }
        if let Some((at, mode)) = plan.one_way {
            return self.end_one_way(at, mode);
        }
        super::check::check(self)?;
        if plan.copies.is_some() {
            self.note_copies();
        }
        self.run_until(self.now + Duration::from_secs(1))?;
        if plan.comings {
            self.leave(plan.nodes - 1);
            let told = self.random.below(500);
            self.at_from_now(told, Event::Retire);
            let start = self.random.below(40 * plan.deletions as u64);
            self.nodes[plan.nodes - 2].awaited = false;
            self.at_from_now(start, Event::Start(plan.nodes - 2));
        }
        self.round(plan.deletions, true)
    }

    pub(super) fn round(&mut self, operations: usize, is_tidying: bool) -> Result<(), String> {
        let span = 40 * operations as u64;
        let end = self.now + Duration::from_millis(span);
        for _ in 0..operations {
            let at = self.random.below(span);
            self.at_from_now(at, Event::Operation(is_tidying));
        }
        for _ in 0..operations as u64 / 6 {
            let at = self.random.below(span);
            self.at_from_now(at, Event::Trouble);
        }
        self.run_until(end)?;
        self.make_peace()
    }

    /// All run and can reach each other, until nothing is left to do.
    pub(super) fn make_peace(&mut self) -> Result<(), String> {
        self.trace(|| "peace".into());
        let plan = self.plan;
        (self.plan.partitions, self.plan.crashes) = (false, false);
        for at in 0..self.nodes.len() {
            self.start(at);
        }
        self.connect_all();
        if plan.unsaid {
            // Who lacks something is waited for, for so long.
            self.act(0, |disk, dead| disk.write(&super::path("later"), b"later", dead));
        } else if self.nodes.last().is_some_and(|last| last.left) {
            // Who was told may have forgotten it in a crash.
            self.at_from_now(100, Event::Retire);
        }
        if let Some((way, _)) = plan.one_way.filter(|_| plan.is_divided()) {
            // Those behind it lack what its users took away.
            self.run_for(MET_WITHIN)?;
            self.revert(way);
        }
        self.settle()?;
        self.plan = plan;
        Ok(())
    }

    /// Lets all come to rest.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.run_events(self.now + SETTLED_WITHIN)?;
        if self.next_event().is_some() {
            let states: Vec<_> = self.nodes.iter().map(|node| stuck(&node.core)).collect();
            return Err(format!("it never settles: {}", states.join("; ")));
        }
        self.nothing_is_to_be_mended()
    }

    /// A check of every name finds nothing to mend: a node that begins does it.
    fn nothing_is_to_be_mended(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            let now = self.clock(at);
            let node = &mut self.nodes[at];
            if node.running && !node.core.is_mended(now) {
                return Err(format!("node {at} at rest has something to mend"));
            }
        }
        Ok(())
    }

    pub(super) fn run_for(&mut self, time: Duration) -> Result<(), String> {
        self.run_until(self.now + time)
    }

    fn run_until(&mut self, end: Duration) -> Result<(), String> {
        self.run_events(end)?;
        self.now = self.now.max(end);
        Ok(())
    }

    fn run_events(&mut self, end: Duration) -> Result<(), String> {
        for _ in 0..EVENTS_MAX * (1 + self.nodes.len() / 8) {
            let Some((at, is_timer)) = self.next_event().filter(|(at, _)| *at <= end) else {
                return Ok(());
            };
            self.now = self.now.max(at);
            match is_timer {
                Some(node) => {
                    // The clock goes on between two wakes.
                    self.now += Duration::from_micros(100);
                    let now = self.clock(node);
                    self.nodes[node].core.handle_timeout(now);
                    self.carry_out(node);
                }
                None => {
                    if let Some((_, event)) = self.events.pop_first() {
                        self.handle(event);
                    }
                }
            }
        }
        let states: Vec<_> = self.nodes.iter().map(|node| stuck(&node.core)).collect();
        Err(format!("it goes round in circles at {:?}: {}", self.now, states.join("; ")))
    }

    /// When something happens next; with the node whose timer it is.
    fn next_event(&self) -> Option<(Duration, Option<usize>)> {
        let event = self.events.keys().next().map(|(at, _)| (*at, None));
        let timer = self.timers.first().map(|(at, node)| (*at, Some(*node)));
        // A timer long due must not keep everything else from happening.
        let at = |(due, _): &(Duration, _)| (*due).max(self.now);
        [event, timer].into_iter().flatten().min_by_key(at)
    }

    fn set_timer(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let wakes = node.core.next_timeout().filter(|_| node.running);
        if let Some(former) = std::mem::replace(&mut node.wakes, wakes) {
            self.timers.remove(&(former, at));
        }
        self.timers.extend(wakes.map(|wakes| (wakes, at)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Operation(is_tidying) => self.operate(is_tidying),
            Event::Trouble => self.trouble(),
            Event::Start(at) => self.start(at),
            Event::Leave => self.leave(self.nodes.len() - 1),
            Event::Retire => self.retire(self.nodes.len() - 1),
            Event::Judged(at, life, restores) => {
                self.has_restored |= restores;
                self.with(at, life, |core, now| {
                    match restores {
                        true => core.undo_deletions(now),
                        false => core.confirm_deletions(now),
                    };
                });
            }
            Event::Connect(one, other) => self.connect(one, other),
            Event::Captured(at, life, changes) => self.capture(at, life, changes),
            Event::Look(at, life, looks) if self.lives(at, life) => {
                let sights = looks
                    .iter()
                    .map(|look| {
                        let with_bytes = self.random.below(3) > 0;
                        // Somebody replaced it all the time.
                        if !self.plan.steady && self.random.below(16) == 0 {
                            return Sight { path: look.path.clone(), found: Found::Unsettled };
                        }
                        self.nodes[at].disk.look(look, with_bytes)
                    })
                    .collect();
                self.after(at, 4, Event::Seen(at, life, sights));
            }
            Event::Seen(at, life, sights) => {
                self.with(at, life, |core, now| core.handle_sights(now, sights));
            }
            Event::Scan(at, life, beneath) if self.lives(at, life) => {
                let listed = self.nodes[at].disk.list(&beneath);
                self.after(at, 5, Event::Listed(at, life, beneath, listed));
            }
            Event::Listed(at, life, beneath, listed) => {
                self.with(at, life, |core, now| core.handle_listed(now, &beneath, listed));
                self.after(at, 5, Event::Scanned(at, life, beneath));
            }
            Event::Scanned(at, life, beneath) => {
                self.with(at, life, |core, now| core.handle_scanned(now, &beneath));
            }
            Event::Heard(at, life) => self.with(at, life, |core, now| core.handle_heard(now)),
            Event::Job(at, life, mut job) if self.lives(at, life) => {
                if self.plan.wild && self.plan.crashes && self.random.below(TORN_ONE_IN) == 0 {
                    let done = self.random.below(job.actions.len() as u64 + 1);
                    job.actions.truncate(done as usize);
                    self.carry(at, life, job);
                    return self.crash(at);
                }
                self.carry(at, life, job);
            }
            Event::Applied(at, life, job, outcomes) => {
                self.with(at, life, |core, now| core.handle_applied(now, job, outcomes));
            }
            Event::Message { from, to, connection, frame } => {
                if self.is_up(from, to, connection) {
                    let message = Message::decode(&frame).expect("an honest node sent it");
                    self.trace(|| format!("{to}: from {from}: {}", heard(&message)));
                    let life = self.nodes[to].life;
                    self.with(to, life, |core, now| {
                        core.handle_message(now, node_id(from), message);
                    });
                }
            }
            Event::Sent { from, to, connection } => {
                if self.is_up(from, to, connection) {
                    if let Some(link) = self.links.get_mut(&(from, to)) {
                        link.in_flight -= 1;
                    }
                    let life = self.nodes[from].life;
                    self.with(from, life, |core, now| core.handle_sent(now, node_id(to)));
                }
            }
            Event::Look(..) | Event::Scan(..) | Event::Job(..) => {}
        }
    }

    pub(super) fn queued(&self, at: usize, changes: Vec<Change>) -> Vec<Queued> {
        changes.into_iter().map(|change| self.nodes[at].disk.queue(change)).collect()
    }

    fn capture(&mut self, at: usize, life: u32, queued: Vec<Queued>) {
        if self.plan.wild && self.random.below(UNTOLD_ONE_IN) == 0 {
            self.trace(|| format!("{at}: LOSES {queued:?}"));
            let since = Timestamp { seconds: 0, nanos: 0 };
            return self.with(at, life, |core, _| core.scan_since(RelPath::root(), Some(since)));
        }
        let (ranges_told, disk) = (self.plan.ranges_told, &self.nodes[at].disk);
        let places: Vec<_> = queued
            .into_iter()
            .filter_map(|one| disk.told(one))
            .map(|change| match change {
                Change::Data(inode) if !ranges_told => (disk.place_of(inode), change),
                _ => (None, change),
            })
            .collect();
        self.with(at, life, |core, now| {
            for (place, change) in places {
                match (place, change) {
                    (Some(place), _) => core.bytes_changed_at(now, place),
                    (None, Change::Name(path)) => core.path_changed(now, path),
                    (None, Change::Moved(from, to)) => core.path_moved(now, from, to),
                    (None, Change::Came(path)) => core.path_came(now, path),
                    (None, Change::Data(inode)) => {
                        let all: RangeSet = Range::new(0, 1 << 20).into_iter().collect();
                        core.bytes_changed(now, inode, Some(all), false);
                    }
                }
            }
            core.handle_timeout(now);
        });
    }

    /// Feeds a core, if it still is the one that was meant.
    pub(super) fn with(
        &mut self,
        at: usize,
        life: u32,
        feed: impl FnOnce(&mut Core<MemoryStore>, Now),
    ) {
        if self.lives(at, life) {
            let now = self.clock(at);
            feed(&mut self.nodes[at].core, now);
            self.carry_out(at);
        }
    }

    /// Ends a turn: what the core asks for is begun.
    fn carry_out(&mut self, at: usize) {
        for (_, what, path) in std::mem::take(&mut self.nodes[at].core.progress.recent) {
            self.trace(|| format!("{at}: {what}: {path}"));
        }
        let life = self.nodes[at].life;
        while self.nodes[at].life == life
            && let Some(effect) = self.nodes[at].core.poll_effect()
        {
            match effect {
                Effect::Forget(member) => self.disconnect(at, node_of(member)),
                Effect::Rejoin => self.rejoin(at),
                Effect::NewActor => unreachable!("no state is restored here"),
                Effect::Retired => self.stop(at),
                Effect::Look(looks) if self.plan.steady => {
                    self.after(at, 4, Event::Look(at, life, looks));
                }
                Effect::Look(looks) => {
                    for look in looks {
                        self.after(at, 4, Event::Look(at, life, vec![look]));
                    }
                }
                Effect::Scan { beneath, .. } => self.after(at, 5, Event::Scan(at, life, beneath)),
                Effect::Listen => {
                    // Behind everything that is on its way from capture.
                    let heard = self.nodes[at].capture_at.max(self.now);
                    let wait = Duration::from_micros(50 + self.random.below(2000));
                    self.push(heard + wait, Event::Heard(at, life));
                }
                Effect::Apply(job) => self.after(at, 6, Event::Job(at, life, job)),
                Effect::Send { peer, message } => self.send(at, node_of(peer), &message),
            }
        }
        self.set_timer(at);
        if self.tickets.is_multiple_of(MEASURED_ONE_IN)
            && let Err(wrong) = super::check::memory_is_bounded(&self.nodes[at].core, self.actors)
        {
            self.ledger.wrong.get_or_insert(wrong);
        }
        if self.nodes[at].life == life && self.nodes[at].core.progress().deletions_held > 0 {
            let restores = self.random.below(2) == 0;
            self.after(at, 50, Event::Judged(at, life, restores));
        }
        // Also in peace, where what is to survive a later crash becomes durable.
        if !self.plan.crashes && self.plan.durable_after.is_none() {
            return;
        }
        let among_many = self.plan.durable_after.is_some() && self.nodes.len() > CROWD;
        let node = &mut self.nodes[at];
        let latest = node.snapshots.last().map(|(when, _)| *when);
        if among_many && latest.is_some_and(|latest| self.now < latest + SNAPSHOT_EVERY) {
            return;
        }
        node.snapshots.push((self.now, node.core.store().clone()));
        if node.snapshots.len() > SNAPSHOTS {
            node.snapshots.remove(0);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        let wait = Duration::from_micros(200 + self.random.below(8_000));
        let taken = Duration::from_micros(self.random.below(4_000));
        let Some(link) = self.links.get_mut(&(from, to)) else { return };
        // A stream keeps its order; streams of other peers have their own.
        link.arrives = link.arrives.max(self.now + wait);
        let is_counted = message.counts();
        link.in_flight += usize::from(is_counted);
        let Link { connection, arrives, in_flight } = *link;
        let frame = message.encode();
        self.ledger.note(message, frame.len(), self.plan.records_max);
        if in_flight > SENDS_IN_FLIGHT_MAX {
            self.ledger.wrong.get_or_insert(format!("{in_flight} messages in flight"));
        }
        self.push(arrives, Event::Message { from, to, connection, frame });
        if is_counted {
            self.push(self.now + taken, Event::Sent { from, to, connection });
        }
    }

    fn carry(&mut self, at: usize, life: u32, job: Job) {
        let fetched: Vec<Result<Option<Vec<u8>>, ()>> =
            job.actions.iter().map(|action| self.fetch(at, action)).collect();
        let mut outcomes = Vec::new();
        self.nodes[at].disk.begin_job();
        self.set_clock(at);
        if self.plan.mode(at) == Mode::SendOnly {
            self.ledger.wrong.get_or_insert(format!("node {at} only sends, and changes its disk"));
        }
        for (action, fetched) in job.actions.iter().zip(fetched) {
            let outcome = match fetched {
                Ok(fetched) => self.nodes[at].disk.apply(action, fetched),
                Err(()) => Outcome::NotHeld,
            };
            self.trace(|| format!("{at}: {} -> {}", said(action), ended(&outcome)));
            outcomes.push(outcome);
        }
        self.applied_at = self.now;
        self.after(at, 4, Event::Applied(at, life, job.id, outcomes));
    }

    /// Gets an action's bytes from the peer it names.
    fn fetch(&self, at: usize, action: &Action) -> Result<Option<Vec<u8>>, ()> {
        let (source, digest) = match &action.what {
            What::Write { source, digest, .. } => (source, *digest),
            What::Update(update) => (&update.source, update.to),
            _ => return Ok(None),
        };
        let peers = match source {
            Source::Peers(peers) => peers,
            Source::Copy { from, expect } => {
                let bytes = self.nodes[at].disk.read(from, expect).ok_or(())?;
                return (Digest::of(bytes) == digest).then(|| Some(bytes.to_vec())).ok_or(());
            }
            Source::Inline { .. } => return Ok(None),
        };
        let peer = node_of(peers[0]);
        if !self.links.contains_key(&(at, peer)) {
            return Err(());
        }
        let located = self.nodes[peer].core.locate(action.body, digest).ok_or(())?;
        let bytes = self.nodes[peer].disk.read(&located.path, &located.fingerprint).ok_or(())?;
        (Digest::of(bytes) == digest).then(|| Some(bytes.to_vec())).ok_or(())
    }

    // What goes wrong.

    fn connect_all(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                self.connect_soon(one, other);
            }
        }
    }

    fn connect_soon(&mut self, one: usize, other: usize) {
        if self.plan.are_neighbours(one, other) {
            let wait = self.random.below(20);
            self.at_from_now(wait, Event::Connect(one, other));
        }
    }

    /// Connections there may be, each counted from both sides.
    pub(super) fn directed_links(&self) -> u64 {
        let count = self.nodes.len();
        let pairs = (0..count).flat_map(|one| (0..count).map(move |other| (one, other)));
        pairs.filter(|(one, other)| self.plan.are_neighbours(*one, *other)).count() as u64
    }

    pub(super) fn connect(&mut self, one: usize, other: usize) {
        let is_ready = self.nodes[one].running && self.nodes[other].running;
        if !is_ready
            || !self.plan.are_neighbours(one, other)
            || self.links.contains_key(&(one, other))
        {
            return;
        }
        self.connections += 1;
        self.trace(|| format!("{one}-{other}: CONNECTED"));
        for (from, to) in [(one, other), (other, one)] {
            let link = Link { connection: self.connections, arrives: self.now, in_flight: 0 };
            self.links.insert((from, to), link);
        }
        for (from, to) in [(one, other), (other, one)] {
            let life = self.nodes[from].life;
            self.with(from, life, |core, now| core.handle_connected(now, node_id(to)));
        }
    }

    fn isolate(&mut self, at: usize) {
        (0..self.nodes.len()).for_each(|peer| self.disconnect(at, peer));
    }

    pub(super) fn disconnect(&mut self, one: usize, other: usize) {
        if self.links.remove(&(one, other)).is_none() {
            return;
        }
        self.links.remove(&(other, one));
        self.trace(|| format!("{one}-{other}: CUT"));
        for (from, to) in [(one, other), (other, one)] {
            let life = self.nodes[from].life;
            self.with(from, life, |core, now| core.handle_disconnected(now, node_id(to)));
        }
    }

    // Time.

    fn clock(&self, at: usize) -> Now {
        let wall = 1_700_000_000_000_000_000 + self.now.as_nanos() as i64 + self.nodes[at].skew;
        Now { monotonic: self.now, wall }
    }

    pub(super) fn set_clock(&mut self, at: usize) {
        let wall = self.clock(at).wall;
        self.nodes[at].disk.set_clock(wall);
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.push(Duration::from_millis(ms), event);
    }

    fn at_from_now(&mut self, ms: u64, event: Event) {
        self.push(self.now + Duration::from_millis(ms), event);
    }

    /// After up to so many milliseconds.
    fn after(&mut self, at: usize, ms: u64, event: Event) {
        debug_assert!(at < self.nodes.len());
        let wait = Duration::from_micros(50 + self.random.below(ms * 1000));
        self.push(self.now + wait, event);
    }

    pub(super) fn push(&mut self, due: Duration, event: Event) {
        self.tickets += 1;
        self.events.insert((due, self.tickets), event);
    }

    fn lives(&self, at: usize, life: u32) -> bool {
        self.nodes[at].running && self.nodes[at].life == life
    }

    fn is_up(&self, from: usize, to: usize, connection: u32) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.connection == connection)
    }

    fn next_actor(&mut self) -> Actor {
        self.actors += 1;
        Actor(self.actors)
    }

    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.plan.traced {
            self.trace.push(format!("{:>9.3} {}", self.now.as_secs_f64() * 1000.0, line()));
        }
    }
}

fn node_id(at: usize) -> NodeId {
    NodeId::from_bytes((at as u128).to_be_bytes())
}

fn node_of(id: NodeId) -> usize {
    u128::from_be_bytes(*id.as_bytes()) as usize
}

fn new_core(
    plan: Plan,
    at: usize,
    actor: Actor,
    next: u64,
    store: MemoryStore,
) -> Core<MemoryStore> {
    let mut core = Core::new(plan.options(at), actor, next, store);
    if plan.members {
        let (node, name) = (node_id(at), format!("node {at}"));
        core.introduce(Introduction { node, name, retention: plan.retention(at) });
    }
    core
}
