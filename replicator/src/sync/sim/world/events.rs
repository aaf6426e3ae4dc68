//! What happens, and to which node.

use super::{World, node_id};
use crate::entry::Timestamp;
use crate::hash::Digest;
use crate::id::BodyId;
use crate::look::Look;
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::sync::effect::{Found, Job, Listed, Outcome, Sight};
use crate::sync::message::Message;
use crate::sync::sim::disk::{Change, Queued};
use crate::sync::sim::said::{heard, seen};

/// Of so many jobs of a wild run one is torn by a crash.
const TORN_ONE_IN: u64 = 100;

/// Of so many changes in a wild run one is not told; that it was lost is.
const UNTOLD_ONE_IN: u64 = 16;

pub(in crate::sync::sim) enum Event {
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
    /// Whether another node holds this.
    Answered(usize, u32, usize, (BodyId, Digest), bool),
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
    /// Of a user of this node.
    OperationOf(usize),
    /// A backup of this node is made, and put back.
    Backup(usize),
    Restore(usize),
    /// It ends and starts again, well or badly.
    Restart(usize),
    /// Who was alone reaches the others.
    Reach,
    /// The groups of this split meet again.
    Heal(u64),
    /// A user says what held deletions are.
    Judged(usize, u32, bool),
}

impl World {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Operation(is_tidying) => self.operate(is_tidying),
            Event::OperationOf(at) => self.operate_at(at, false),
            Event::Backup(at) => self.back_up(at),
            Event::Restore(at) => self.restore(at),
            Event::Restart(at) if self.nodes[at].running => self.crash(at),
            Event::Reach => self.set_alone(None),
            Event::Heal(split) => self.heal(split),
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
                        let with_bytes = self.random.below(3) > 0 || self.plan.brings_bytes;
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
                for sight in &sights {
                    self.trace(|| format!("{at}: SEES {}", seen(sight)));
                }
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
            Event::Answered(at, life, by, version, holds) => {
                self.trace(|| format!("{at}: {by} holds {version:?}: {holds}"));
                self.with(at, life, |core, now| {
                    core.handle_answered(now, node_id(by), version, holds);
                });
            }
            Event::Message { from, to, connection, frame } => {
                if self.is_up(from, to, connection) {
                    let message = Message::decode(&frame).expect("an honest node sent it");
                    self.trace(|| format!("{to}: from {from}: {}", heard(&message)));
                    if self.plan.backup.is_some() {
                        self.ledger.note_said(&message);
                    }
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
            Event::Look(..) | Event::Scan(..) | Event::Job(..) | Event::Restart(_) => {}
        }
    }

    pub(in crate::sync::sim) fn queued(&self, at: usize, changes: Vec<Change>) -> Vec<Queued> {
        changes.into_iter().map(|change| self.nodes[at].disk.queue(change)).collect()
    }

    pub(super) fn capture(&mut self, at: usize, life: u32, queued: Vec<Queued>) {
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
        for (_, change) in &places {
            self.trace(|| format!("{at}: TOLD {change:?}"));
        }
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
}
