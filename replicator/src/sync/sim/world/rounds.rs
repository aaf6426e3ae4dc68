//! A run: rounds of operations and trouble, each followed by peace, in which all
//! has to come to rest.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Event, World};
use crate::path::RelPath;
use crate::sync::core::Core;
use crate::sync::effect::Now;
use crate::sync::record::Key;
use crate::sync::sim::said::stuck;
use crate::sync::sim::{check, path};
use crate::sync::store::MemoryStore;

/// After this long nothing may be left to do.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

/// After this long all know what the others do.
const MET_WITHIN: Duration = Duration::from_secs(10);

/// Events after which a run counts as going round in circles.
const EVENTS_MAX: usize = 400_000;

impl World {
    /// A round of operations and trouble and then peace, and perhaps another.
    pub(in crate::sync::sim) fn run(&mut self) -> Result<(), String> {
        let plan = self.plan;
        if let Some(differences) = plan.copies {
            self.hand_out_copies(differences);
        }
        if plan.deletions > 0 {
            // Without it all of a folder may seem to be gone.
            let lasting = path("lasting");
            self.nodes[0].disk.write(&lasting, b"lasting", &mut BTreeSet::new());
        }
        let span = plan.span_ms(plan.operations);
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
        if plan.backup.is_some() {
            self.plan_backup(span);
        }
        self.round(plan.operations, false)?;
        if self.has_backup() {
            check::check(self)?;
            self.restore(plan.restored_node());
            self.round(plan.operations / 2, false)?;
        }
        if plan.deletions == 0 {
            return Ok(());
        }
        if let Some((at, mode)) = plan.one_way {
            return self.end_one_way(at, mode);
        }
        check::check(self)?;
        if plan.copies.is_some() {
            self.note_copies();
        }
        self.run_until(self.now + Duration::from_secs(1))?;
        if plan.comings {
            self.leave(plan.nodes - 1);
            let told = self.random.below(500);
            self.at_from_now(told, Event::Retire);
            let start = self.random.below(plan.span_ms(plan.deletions));
            self.nodes[plan.nodes - 2].awaited = false;
            self.at_from_now(start, Event::Start(plan.nodes - 2));
        }
        self.round(plan.deletions, true)
    }

    pub(in crate::sync::sim) fn round(
        &mut self,
        operations: usize,
        is_tidying: bool,
    ) -> Result<(), String> {
        let span = self.plan.span_ms(operations);
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
    pub(in crate::sync::sim) fn make_peace(&mut self) -> Result<(), String> {
        self.trace(|| "peace".into());
        let plan = self.plan;
        (self.plan.partitions, self.plan.crashes, self.plan.splits) = (false, false, false);
        self.alone = None;
        self.heal(self.splits.begun);
        for at in 0..self.nodes.len() {
            self.start(at);
        }
        self.connect_all();
        if plan.unsaid {
            // Who lacks something is waited for, for so long.
            self.act(0, |disk, dead| disk.write(&path("later"), b"later", dead));
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
    pub(in crate::sync::sim) fn settle(&mut self) -> Result<(), String> {
        self.run_events(self.now + SETTLED_WITHIN)?;
        if self.next_event().is_some() {
            let states: Vec<_> = self.nodes.iter().map(|node| stuck(&node.core)).collect();
            return Err(format!("it never settles: {}", states.join("; ")));
        }
        self.nothing_is_to_be_mended()
    }

    /// A check of every name finds nothing to mend: a node that begins does it.
    pub(super) fn nothing_is_to_be_mended(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            let now = self.clock(at);
            let node = &mut self.nodes[at];
            if let Some(mended) = node.running.then(|| mends(&mut node.core, now)).flatten() {
                return Err(format!("node {at} at rest has something to mend at {mended}"));
            }
        }
        Ok(())
    }

    pub(in crate::sync::sim) fn run_for(&mut self, time: Duration) -> Result<(), String> {
        self.run_until(self.now + time)
    }

    pub(super) fn run_until(&mut self, end: Duration) -> Result<(), String> {
        self.run_events(end)?;
        self.now = self.now.max(end);
        Ok(())
    }

    pub(super) fn run_events(&mut self, end: Duration) -> Result<(), String> {
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
}

/// A name whose check changes anything.
fn mends(core: &mut Core<MemoryStore>, now: Now) -> Option<RelPath> {
    let counter = core.next_counter();
    let mut names = Vec::new();
    core.for_each_within(&RelPath::root(), |_, path, _| names.push(path));
    // What may be this node's own is looked at, and not changed.
    names.retain(|path| !core.may_be_own(path));
    names.into_iter().find(|path| {
        core.unchecked.insert(Key::Name(path.clone()));
        core.check_tree(now);
        core.next_counter() != counter
    })
}
