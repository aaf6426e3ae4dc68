//! Nodes, the network between them and the order in which things happen:
//! all drawn from one seed.

mod backups;
mod events;
pub(super) mod forgetting;
mod jobs;
mod links;
mod lives;
mod outages;
mod rounds;
mod splits;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub(super) use self::backups::Backup;
use self::backups::Saved;
pub(super) use self::events::Event;
use self::links::Link;
use self::outages::Disks;
use self::splits::Splits;
use super::contents::Contents;
use super::disk::{Change, Disk};
use super::ledger::Ledger;
use super::plan::Plan;
use super::random::Random;
use crate::entry::Timestamp;
use crate::id::{Actor, NodeId};
use crate::sync::core::Core;
use crate::sync::effect::{Effect, Now};
use crate::sync::store::{MemoryStore, Store};
use crate::sync::version::Dot;
use crate::sync::{Introduction, Outage};

/// How far a clock may be off, in nanoseconds: a year.
const SKEW_MAX: i64 = 365 * 86_400 * 1_000_000_000;

/// Nodes among which every start makes everybody try to connect again.
const ALL_AT_ONCE_MAX: usize = 64;

/// Beyond so many nodes a state is not remembered after every event.
const CROWD: usize = 8;
const SNAPSHOT_EVERY: Duration = Duration::from_millis(20);

/// After one of so many events what a core remembers is measured.
const MEASURED_ONE_IN: u64 = 8;

/// States a crash may fall back to.
const SNAPSHOTS: usize = 12;

/// What brings many bytes takes up to so many milliseconds.
const HUGE_MS_MAX: u64 = 3000;

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
    /// Since when the next start reads what was changed.
    unread_since: Option<Timestamp>,
    snapshots: Vec<Snapshot>,
    /// Its disk as it was flushed last, and whether a job changed it since.
    flushed: Rc<Disk>,
    is_changed: bool,
    /// It did not run since its machine went down.
    is_after_outage: bool,
    /// By how much its clock is off, in nanoseconds.
    pub skew: i64,
    pub capture_at: Duration,
    /// When its core wants to be woken.
    wakes: Option<Duration>,
}

/// What a crash may fall back to.
struct Snapshot {
    when: Duration,
    store: MemoryStore,
    /// Noted with it.
    outage: Option<Outage>,
    disks: Option<Disks>,
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
    /// What a backup of a node holds.
    saved: Option<Saved>,
    /// Which machine was put back, and from which number on it counts again.
    put_back: Option<(usize, Dot)>,
    /// This node reaches nobody for a while.
    alone: Option<usize>,
    pub splits: Splits,
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
            saved: None,
            put_back: None,
            alone: None,
            splits: Splits::default(),
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
            flushed: Rc::new(disk.clone()),
            disk,
            running: false,
            awaited: false,
            left: false,
            actor,
            lives: Vec::new(),
            rejoined: 0,
            life: 0,
            unread_since: None,
            snapshots: Vec::new(),
            is_changed: true,
            is_after_outage: false,
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
        node.flushed = Rc::new(disk.clone());
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
                Effect::NewActor => self.go_on_anew(at),
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
                Effect::Apply(job) => {
                    let ms = if self.is_huge(at, &job) { HUGE_MS_MAX } else { 6 };
                    self.after(at, ms, Event::Job(at, life, job));
                }
                Effect::GiveWay { job } => self.give_way(at, life, job),
                Effect::Ask { peer, body, digest, .. } => {
                    self.ask(at, life, node_of(peer), (body, digest));
                }
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
        let latest = node.snapshots.last().map(|snapshot| snapshot.when);
        if among_many && latest.is_some_and(|latest| self.now < latest + SNAPSHOT_EVERY) {
            return;
        }
        let disks = self.plan.outages.then(|| node.disks());
        let (store, outage) = (node.core.store().clone(), node.core.outage());
        node.snapshots.push(Snapshot { when: self.now, store, outage, disks });
        if node.snapshots.len() > SNAPSHOTS {
            node.snapshots.remove(0);
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
