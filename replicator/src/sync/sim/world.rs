//! Nodes, the network between them and the order in which things happen:
//! all drawn from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::disk::{Change, Disk};
use super::random::Random;
use crate::entry::Kind;
use crate::hash::Digest;
use crate::id::{Actor, NodeId};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::core::{Core, Options};
use crate::sync::effect::{
    Action, Effect, Found, Job, Listed, Look, Now, Outcome, Sight, Source, What,
};
use crate::sync::message::Message;
use crate::sync::store::MemoryStore;
use crate::sync::{Introduction, Mode};

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// Operations of users, over all nodes.
    pub operations: usize,
    /// Records in one message: few make long series.
    pub records_max: usize,
    /// Says what happens.
    pub traced: bool,
    pub partitions: bool,
    pub crashes: bool,
    /// Nodes are connected one to the next, not each to each.
    pub chain: bool,
    /// Nodes know each other as members and forget what was deleted.
    pub members: bool,
}

/// How long a silent member is waited for.
pub(super) const RETENTION: Duration = Duration::from_secs(20);

/// What a crash loses at most, where nodes rely on what others said they
/// hold.
const LOST_MAX: Duration = Duration::from_millis(100);

/// After this long nothing may be left to do.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

/// Events after which a run counts as going round in circles.
const EVENTS_MAX: usize = 400_000;

/// States a crash may fall back to.
const SNAPSHOTS: usize = 12;

pub(super) struct Node {
    pub core: Core<MemoryStore>,
    pub disk: Disk,
    pub running: bool,
    actor: Actor,
    /// The actors before it.
    lives: Vec<Actor>,
    /// How often it began anew.
    pub rejoined: u32,
    /// Counts starts: what was under way before one is void.
    life: u32,
    snapshots: Vec<(Duration, MemoryStore)>,
    skew: i64,
    capture_at: Duration,
}

pub(super) struct World {
    pub nodes: Vec<Node>,
    pub plan: Plan,
    /// Contents that users wrote, and those that users destroyed knowing them.
    pub written: BTreeSet<Vec<u8>>,
    pub dead: BTreeSet<Vec<u8>>,
    pub trace: Vec<String>,
    random: Random,
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    tickets: u64,
    /// Connections, with when the last message on them arrives. Both ways.
    links: BTreeMap<(usize, usize), (u32, Duration)>,
    connections: u32,
    actors: u64,
}

enum Event {
    Operation,
    Trouble,
    Captured(usize, u32, Vec<Change>),
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
    /// A user says what held deletions are.
    Judged(usize, u32, bool),
}

/// Few names, so that users meet on them.
const PATHS: [&str; 12] =
    ["a", "b", "c", "d", "e", "d/a", "d/b", "d/d", "e/a", "e/d", "d/d/a", "e/d/a"];

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            plan,
            written: BTreeSet::new(),
            dead: BTreeSet::new(),
            trace: Vec::new(),
            random: Random::new(plan.seed),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            tickets: 0,
            links: BTreeMap::new(),
            connections: 0,
            actors: 0,
        };
        for at in 0..plan.nodes {
            let actor = world.next_actor();
            let mut skew = world.random.below(2_000_000_000) as i64 - 1_000_000_000;
            if plan.members {
                // Clocks a year ahead, right, or a year behind.
                skew += (at as i64 % 3 - 1) * 365 * 86_400 * 1_000_000_000;
            }
            world.nodes.push(Node {
                core: new_core(plan, at, actor, 1, MemoryStore::default()),
                disk: Disk::new(1000 * (at as u64 + 1)),
                running: false,
                actor,
                lives: Vec::new(),
                rejoined: 0,
                life: 0,
                snapshots: Vec::new(),
                skew,
                capture_at: Duration::ZERO,
            });
            world.at(0, Event::Start(at));
        }
        world
    }

    /// Operations and trouble, then peace until nothing is left to do.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let span = 40 * self.plan.operations as u64;
        for _ in 0..self.plan.operations {
            let at = self.random.below(span);
            self.at(at, Event::Operation);
        }
        let troubles = self.plan.operations as u64 / 6;
        for _ in 0..troubles {
            let at = self.random.below(span);
            self.at(at, Event::Trouble);
        }
        self.run_until(Duration::from_millis(span))?;
        self.settle()
    }

    /// Peace: all run, all can reach each other, until nothing is left to do.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.trace(|| "peace".into());
        self.plan.partitions = false;
        self.plan.crashes = false;
        for at in 0..self.nodes.len() {
            if !self.nodes[at].running {
                self.start(at);
            }
        }
        self.connect_all();
        self.run_until(self.now + SETTLED_WITHIN)?;
        if self.next_event().is_some() {
            let states: Vec<_> = self.nodes.iter().map(|node| stuck(&node.core)).collect();
            return Err(format!("it never settles: {}", states.join("; ")));
        }
        Ok(())
    }

    pub(super) fn run_for(&mut self, time: Duration) -> Result<(), String> {
        self.run_until(self.now + time)
    }

    fn run_until(&mut self, end: Duration) -> Result<(), String> {
        for _ in 0..EVENTS_MAX {
            let Some((at, is_timer)) = self.next_event().filter(|(at, _)| *at <= end) else {
                self.now = self.now.max(end);
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
        let timers = self.nodes.iter().enumerate().filter(|(_, node)| node.running);
        let timers = timers
            .filter_map(|(at, node)| Some((node.core.next_timeout()?, Some(at))))
            .min_by_key(|(due, _)| *due);
        // A timer long due must not keep everything else from happening.
        let at = |(due, _): &(Duration, _)| (*due).max(self.now);
        [event, timers].into_iter().flatten().min_by_key(at)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Operation => self.operate(),
            Event::Trouble => self.trouble(),
            Event::Start(at) => self.start(at),
            Event::Judged(at, life, restores) => self.with(at, life, |core, now| {
                match restores {
                    true => core.undo_deletions(now),
                    false => core.confirm_deletions(now),
                };
            }),
            Event::Connect(one, other) => self.connect(one, other),
            Event::Captured(at, life, changes) => self.with(at, life, |core, now| {
                for change in changes {
                    match change {
                        Change::Name(path) => core.path_changed(now, path, true),
                        Change::Data(inode) => {
                            let all: RangeSet = Range::new(0, 1 << 20).into_iter().collect();
                            core.bytes_changed(now, inode, Some(all), false);
                        }
                    }
                }
                core.handle_timeout(now);
            }),
            Event::Look(at, life, looks) if self.lives(at, life) => {
                let sights = looks
                    .iter()
                    .map(|look| {
                        let with_bytes = self.random.below(3) > 0;
                        // Somebody replaced it all the time.
                        if self.random.below(16) == 0 {
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
            Event::Job(at, life, job) if self.lives(at, life) => self.carry(at, life, job),
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
                    let life = self.nodes[from].life;
                    self.with(from, life, |core, now| core.handle_sent(now, node_id(to)));
                }
            }
            Event::Look(..) | Event::Scan(..) | Event::Job(..) => {}
        }
    }

    /// Feeds a core, if it still is the one that was meant.
    fn with(&mut self, at: usize, life: u32, feed: impl FnOnce(&mut Core<MemoryStore>, Now)) {
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
                Effect::Look(looks) => {
                    for look in looks {
                        self.after(at, 4, Event::Look(at, life, vec![look]));
                    }
                }
                Effect::Scan(beneath) => self.after(at, 5, Event::Scan(at, life, beneath)),
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
        if self.nodes[at].life == life && self.nodes[at].core.progress().deletions_held > 0 {
            let restores = self.random.below(2) == 0;
            self.after(at, 50, Event::Judged(at, life, restores));
        }
        if !self.plan.crashes && !self.plan.members {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[at];
        node.snapshots.push((now, node.core.store().clone()));
        if node.snapshots.len() > SNAPSHOTS {
            node.snapshots.remove(0);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        let Some((connection, arrives)) = self.links.get(&(from, to)).copied() else { return };
        let wait = Duration::from_micros(200 + self.random.below(8_000));
        // A stream keeps its order; streams of other peers have their own.
        let arrives = arrives.max(self.now + wait);
        self.links.insert((from, to), (connection, arrives));
        let frame = message.encode();
        self.push(arrives, Event::Message { from, to, connection, frame });
        let taken = self.random.below(4_000);
        let sent = Event::Sent { from, to, connection };
        self.push(self.now + Duration::from_micros(taken), sent);
    }

    fn carry(&mut self, at: usize, life: u32, job: Job) {
        let fetched: Vec<Result<Option<Vec<u8>>, ()>> =
            job.actions.iter().map(|action| self.fetch(at, action)).collect();
        let mut outcomes = Vec::new();
        self.nodes[at].disk.begin_job();
        self.set_clock(at);
        for (action, fetched) in job.actions.iter().zip(fetched) {
            let outcome = match fetched {
                Ok(fetched) => self.nodes[at].disk.apply(action, fetched),
                Err(()) => Outcome::NotHeld,
            };
            self.trace(|| format!("{at}: {} -> {}", said(action), ended(&outcome)));
            outcomes.push(outcome);
        }
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

    // What users do.

    fn operate(&mut self) {
        let at = self.random.below(self.nodes.len() as u64) as usize;
        let (path, other) = (self.any_path(), self.any_path());
        self.set_clock(at);
        let content = format!("{}", self.written.len() + 1).into_bytes();
        let what = self.random.below(100);
        let node = &mut self.nodes[at];
        let (disk, dead) = (&mut node.disk, &mut self.dead);
        let (name, changes) = match what {
            0..30 => ("write", disk.write(&path, &content, dead)),
            30..40 => ("replace", disk.replace(&path, &content, dead)),
            40..52 => ("remove", disk.remove_all(&path, dead)),
            52..70 => ("rename", disk.rename(&path, &other, dead)),
            70..86 => ("mkdir", disk.make_entry(&path, Kind::Directory, b"")),
            86..90 => ("symlink", disk.make_entry(&path, Kind::Symlink, &content)),
            90..94 => ("link", disk.link(&path, &other)),
            _ => ("chmod", disk.chmod(&path, 0o600 + (what as u32 % 8))),
        };
        if changes.is_empty() {
            return;
        }
        if matches!(name, "write" | "replace") {
            self.written.insert(content.clone());
        }
        let content = String::from_utf8_lossy(&content).into_owned();
        let other = if name == "rename" || name == "link" { other.to_string() } else { content };
        self.trace(|| format!("{at}: USER {name} {path} {other}"));
        if self.nodes[at].running {
            let delay = Duration::from_micros(self.random.below(5_000));
            let due = self.nodes[at].capture_at.max(self.now + delay);
            self.nodes[at].capture_at = due;
            let life = self.nodes[at].life;
            self.push(due, Event::Captured(at, life, changes));
        }
    }

    fn any_path(&mut self) -> RelPath {
        let at = self.random.below(PATHS.len() as u64) as usize;
        RelPath::parse(PATHS[at].as_bytes()).expect("a path")
    }

    /// A user removes an entry, with everything in it.
    pub(super) fn remove(&mut self, at: usize, path: &RelPath) {
        self.set_clock(at);
        let changes = self.nodes[at].disk.remove_all(path, &mut self.dead);
        self.trace(|| format!("{at}: USER remove {path}"));
        if self.nodes[at].running && !changes.is_empty() {
            let life = self.nodes[at].life;
            self.push(self.now, Event::Captured(at, life, changes));
        }
    }

    // What goes wrong.

    fn trouble(&mut self) {
        let count = self.nodes.len() as u64;
        let one = self.random.below(count) as usize;
        let other = self.random.below(count) as usize;
        match self.random.below(4) {
            0 if self.plan.crashes && self.nodes[one].running => self.crash(one),
            1 | 2 if self.plan.partitions && one != other => {
                self.disconnect(one, other);
                let back = 20 + self.random.below(1500);
                self.at_from_now(back, Event::Connect(one, other));
            }
            _ => {}
        }
    }

    /// Loses what was not durable, and now and then nothing: a clean end.
    fn crash(&mut self, at: usize) {
        self.stop(at);
        let back = self.random.below(400);
        self.at_from_now(back, Event::Start(at));
    }

    /// Ends, well or badly, and stays away.
    pub(super) fn stop(&mut self, at: usize) {
        for peer in 0..self.nodes.len() {
            self.disconnect(at, peer);
        }
        let is_clean = self.random.below(3) == 0;
        let back = self.random.below(self.nodes[at].snapshots.len().max(1) as u64) as usize;
        let (fresh, plan) = (self.next_actor(), self.plan);
        let oldest = self.now.saturating_sub(LOST_MAX);
        let node = &mut self.nodes[at];
        node.running = false;
        node.life += 1;
        if is_clean {
            let next = node.core.next_counter();
            let store = node.core.store().clone();
            node.core = new_core(plan, at, node.actor, next, store);
        } else {
            let durable = node.snapshots.iter().rposition(|(when, _)| *when <= oldest);
            let back = if plan.members { back.max(durable.unwrap_or(0)) } else { back };
            let store = node.snapshots.get(back).map(|(_, store)| store.clone());
            node.lives.push(std::mem::replace(&mut node.actor, fresh));
            node.core = new_core(plan, at, fresh, 1, store.unwrap_or_default());
        }
        node.core.remember_lives(node.lives.iter().copied());
        node.snapshots.clear();
        self.trace(|| format!("{at}: {}", if is_clean { "ENDS" } else { "CRASHES" }));
    }

    /// Begins anew over what lies on its disk.
    fn rejoin(&mut self, at: usize) {
        self.trace(|| format!("{at}: REJOINS"));
        for peer in 0..self.nodes.len() {
            self.disconnect(at, peer);
        }
        let (fresh, plan) = (self.next_actor(), self.plan);
        let node = &mut self.nodes[at];
        node.rejoined += 1;
        node.lives.clear();
        node.running = false;
        node.life += 1;
        node.actor = fresh;
        node.core = new_core(plan, at, fresh, 1, MemoryStore::default());
        node.snapshots.clear();
        self.at_from_now(5, Event::Start(at));
    }

    pub(super) fn start(&mut self, at: usize) {
        if self.nodes[at].running {
            return;
        }
        let actor = self.nodes[at].actor;
        self.trace(|| format!("{at}: STARTS as {actor:?}"));
        self.nodes[at].running = true;
        self.nodes[at].core.scan(RelPath::root());
        self.carry_out(at);
        self.connect_all();
    }

    fn connect_all(&mut self) {
        for one in 0..self.nodes.len() {
            for other in one + 1..self.nodes.len() {
                if !self.plan.chain || other == one + 1 {
                    let wait = self.random.below(20);
                    self.at_from_now(wait, Event::Connect(one, other));
                }
            }
        }
    }

    fn connect(&mut self, one: usize, other: usize) {
        let is_ready = self.nodes[one].running && self.nodes[other].running;
        let is_far = self.plan.chain && one.abs_diff(other) != 1;
        if !is_ready || is_far || one == other || self.links.contains_key(&(one, other)) {
            return;
        }
        self.connections += 1;
        self.trace(|| format!("{one}-{other}: CONNECTED"));
        for (from, to) in [(one, other), (other, one)] {
            self.links.insert((from, to), (self.connections, self.now));
        }
        for (from, to) in [(one, other), (other, one)] {
            let life = self.nodes[from].life;
            self.with(from, life, |core, now| core.handle_connected(now, node_id(to)));
        }
    }

    fn disconnect(&mut self, one: usize, other: usize) {
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

    fn set_clock(&mut self, at: usize) {
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

    fn push(&mut self, due: Duration, event: Event) {
        self.tickets += 1;
        self.events.insert((due, self.tickets), event);
    }

    fn lives(&self, at: usize, life: u32) -> bool {
        self.nodes[at].running && self.nodes[at].life == life
    }

    fn is_up(&self, from: usize, to: usize, connection: u32) -> bool {
        self.links.get(&(from, to)).is_some_and(|(now, _)| *now == connection)
    }

    fn next_actor(&mut self) -> Actor {
        self.actors += 1;
        Actor(self.actors)
    }

    fn trace(&mut self, line: impl FnOnce() -> String) {
        if self.plan.traced {
            self.trace.push(format!("{:>9.3} {}", self.now.as_secs_f64() * 1000.0, line()));
        }
    }
}

fn new_core(
    plan: Plan,
    at: usize,
    actor: Actor,
    next: u64,
    store: MemoryStore,
) -> Core<MemoryStore> {
    let mut core = Core::new(options(&plan), actor, next, store);
    if plan.members {
        let (node, name) = (node_id(at), format!("node {at}"));
        core.introduce(Introduction { node, name, retention: RETENTION });
    }
    core
}

fn options(plan: &Plan) -> Options {
    Options {
        delay: Duration::from_millis(3),
        max_delay: Duration::from_millis(200),
        in_place: true,
        ranges_told: true,
        records_max: plan.records_max,
        delete_brake: Some(50),
        mode: Mode::Both,
    }
}

fn node_id(at: usize) -> NodeId {
    NodeId::from_bytes([at as u8; 16])
}

fn node_of(id: NodeId) -> usize {
    usize::from(id.as_bytes()[0])
}

/// What a core that does not come to rest is in the middle of.
fn stuck(core: &Core<MemoryStore>) -> String {
    format!(
        "timer {:?}, {:?}, looks {:?}, jobs {:?}, pending {:?} {:?}, draining {}",
        core.next_timeout(),
        core.locks,
        core.looks.keys(),
        core.jobs.keys(),
        core.pending_names,
        core.pending_bodies,
        core.draining,
    )
}

fn said(action: &Action) -> String {
    let what = format!("{:?}", action.what);
    let what = what.split([' ', '(']).next().unwrap_or_default();
    let from = match &action.what {
        What::Rename { from, .. } | What::Link { from, .. } => format!(" from {from}"),
        What::Exchange { with, .. } => format!(" with {with}"),
        What::Remove { keep, .. } => format!(" {keep:?}"),
        What::Update(update) => format!(" {:?}", update.keep),
        What::Write { over: Some(over), .. } => format!(" over {:?}", over.keep),
        _ => String::new(),
    };
    format!("{what} {} {:?}{from}", action.path, action.body)
}

fn ended(outcome: &Outcome) -> String {
    let outcome = format!("{outcome:?}");
    outcome.split('(').next().unwrap_or_default().to_owned()
}

fn heard(message: &Message) -> String {
    let Message::Records(records) = message else { return format!("{message:?}") };
    let names = records.names.iter().map(|name| {
        let winner = name.binding.winner();
        let losers = name.binding.losers().count();
        format!("{} = {:?} {:?} +{losers}", name.path, winner.dot, winner.value.body())
    });
    let bodies = records.bodies.iter().map(|body| {
        let winner = body.content.winner();
        format!("{:?} = {:?} {:?}", body.id, winner.dot, winner.value)
    });
    let all: Vec<String> = bodies.chain(names).collect();
    format!("{} closed {:?}", all.join(", "), records.have)
}
