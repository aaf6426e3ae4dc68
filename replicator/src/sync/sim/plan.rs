//! How a run is made: its nodes, how they are connected and what befalls them.

use std::time::Duration;

use super::planted::Bug;
use super::world::Backup;
use crate::choice::Mode;
use crate::entry::Flags;
use crate::limits::{JOB_BYTES_MAX, MEETING_MIN, RECORDS_MAX, STRETCH_ROWS_MAX, WHOLE_BYTES_MAX};
use crate::sync::core::Options;

/// How long a silent member is waited for.
pub(super) const RETENTION: Duration = Duration::from_secs(20);

/// Who is connected with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Each with each.
    Mesh,
    /// Each with the next.
    Chain,
    /// A ring, each with those 1, 2, 4, 8, ... places away, as large clusters
    /// are.
    Ring,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub shape: Shape,
    /// Operations of users, over all nodes.
    pub operations: usize,
    /// A second round after all came to rest: mostly of deletions, or on the
    /// one-way node alone.
    pub deletions: usize,
    /// Records in one message: few make long series.
    pub records_max: usize,
    /// Changes from which on nodes tell each other in outline what both show,
    /// and entries that are told so at once.
    pub meeting_min: u64,
    pub stretch_rows: usize,
    /// Larger files count as large, and larger ones as those that take long.
    pub bulk_above: u64,
    pub huge_above: u64,
    /// Capture tells which bytes change, and not only that a file did.
    pub ranges_told: bool,
    pub partitions: bool,
    /// Nodes are parted into groups for a while, and who starts meets no others
    /// but its own neighbours.
    pub splits: bool,
    pub crashes: bool,
    /// Some of them take what their disk had not written out.
    pub outages: bool,
    /// What is older than this survives a crash, as an index commits it. Else
    /// only how many states ago it was counts.
    pub durable_after: Option<Duration>,
    /// One node's clock is up to a year off.
    pub skewed: bool,
    /// Nodes join late, some with a folder of their own, and the last one
    /// leaves before the second round: for good, the others are told.
    pub comings: bool,
    /// The last one leaves in the midst of it, perhaps with the only copy of
    /// something, and the others are told that it is gone for good.
    pub leaves: bool,
    /// Nobody is told that it is gone.
    pub unsaid: bool,
    /// Users put the same content in a file's place, as who copies a tree once
    /// more: another inode with nothing new in it.
    pub renewals: bool,
    /// Nodes begin with copies of one folder, each with up to so many
    /// differences.
    pub copies: Option<u64>,
    /// One node's state, folder, or both are put back to what they were.
    pub backup: Option<Backup>,
    /// Nodes know each other as members and forget what was deleted.
    pub members: bool,
    /// All but the first node want members to be waited for a tenth of the
    /// time only.
    pub impatient: bool,
    /// Users mostly move directories, and write into them.
    pub moving: bool,
    /// Users write into two files all the time, on every node.
    pub editing: bool,
    /// One change follows the other faster than nodes hear of them.
    pub hurried: bool,
    /// Users also copy files, exchange entries, set times back and flags, which
    /// not every node can; capture loses changes, and crashes tear jobs.
    pub wild: bool,
    /// This node only sends, or only receives.
    pub one_way: Option<(usize, Mode)>,
    /// Beside one that only receives, the next one only sends.
    pub mixed: bool,
    /// Nodes join late, over what their users did there before.
    pub late: bool,
    /// Files are patched where they lie, or only replaced as a whole.
    pub in_place: bool,
    /// What was looked at together is seen together, at once: moves are met.
    pub steady: bool,
    /// Every look brings the bytes along that are few, as on a disk: else the
    /// lot decides, and what a change costs is as the lot falls.
    pub brings_bytes: bool,
    pub bug: Option<Bug>,
    /// Says what happens.
    pub traced: bool,
}

impl Plan {
    /// Two nodes that nothing befalls.
    pub(super) fn peaceful(seed: u64) -> Self {
        Self {
            seed,
            nodes: 2,
            shape: Shape::Mesh,
            operations: 20,
            deletions: 0,
            records_max: if seed.is_multiple_of(2) { RECORDS_MAX } else { 3 },
            meeting_min: MEETING_MIN,
            stretch_rows: STRETCH_ROWS_MAX,
            // Users write the numbers of what they write.
            bulk_above: if seed % 3 == 1 { 0 } else { WHOLE_BYTES_MAX },
            huge_above: if seed % 3 == 1 { 1 } else { JOB_BYTES_MAX },
            ranges_told: true,
            partitions: false,
            splits: false,
            crashes: false,
            outages: false,
            durable_after: None,
            skewed: false,
            comings: false,
            leaves: false,
            unsaid: false,
            renewals: false,
            copies: None,
            backup: None,
            members: false,
            impatient: false,
            moving: false,
            editing: false,
            hurried: false,
            wild: false,
            one_way: None,
            mixed: false,
            late: false,
            in_place: !seed.is_multiple_of(7),
            steady: false,
            brings_bytes: false,
            bug: None,
            traced: super::number("REPLICATOR_SIM_SEED").is_some(),
        }
    }

    pub(super) fn partitioned(seed: u64) -> Self {
        let nodes = 2 + (seed % 4) as usize;
        Self { nodes, operations: 40, partitions: true, ..Self::peaceful(seed) }
    }

    pub(super) fn chained(seed: u64) -> Self {
        let nodes = 3 + (seed % 3) as usize;
        Self {
            nodes,
            shape: Shape::Chain,
            operations: 30,
            partitions: true,
            wild: seed % 5 == 2,
            moving: seed % 5 == 4,
            ..Self::peaceful(seed)
        }
    }

    pub(super) fn crashing(seed: u64) -> Self {
        let nodes = 2 + (seed % 3) as usize;
        Self { nodes, operations: 40, partitions: true, crashes: true, ..Self::peaceful(seed) }
    }

    /// Files are replaced by others, most of them with the same content.
    pub(super) fn copying(seed: u64) -> Self {
        Self { operations: 60, renewals: true, ..Self::crashing(seed) }
    }

    /// One of them only receives, or only sends, or there is one of each.
    pub(super) fn one_way(seed: u64) -> Self {
        let nodes = 2 + (seed % 3) as usize;
        let mode = if seed % 8 < 6 { Mode::ReceiveOnly } else { Mode::SendOnly };
        let at = seed as usize / 8 % nodes;
        // One that only sends is no way for what it does not take.
        let is_way = mode == Mode::ReceiveOnly || at == 0 || at + 1 == nodes;
        let is_chain = is_way && seed.is_multiple_of(5);
        Self {
            nodes,
            one_way: Some((at, mode)),
            mixed: mode == Mode::ReceiveOnly && nodes > 2 && !is_chain && seed % 16 < 8,
            shape: if is_chain { Shape::Chain } else { Shape::Mesh },
            operations: 30,
            deletions: 10,
            crashes: seed.is_multiple_of(2),
            durable_after: Some(Duration::from_millis(100)),
            ranges_told: !seed.is_multiple_of(9),
            members: seed % 7 == 1,
            moving: seed % 4 == 1,
            wild: seed.is_multiple_of(3),
            late: true,
            ..Self::partitioned(seed)
        }
    }

    /// Everything at once, twice.
    pub(super) fn deleting(seed: u64) -> Self {
        Self {
            nodes: 2 + (seed % 3) as usize,
            operations: 20,
            deletions: 16,
            ranges_told: !seed.is_multiple_of(5),
            skewed: true,
            members: seed % 4 == 3,
            durable_after: Some(Duration::from_millis(100)),
            ..Self::crashing(seed)
        }
    }

    /// Nodes that come and go.
    pub(super) fn coming(seed: u64) -> Self {
        Self {
            nodes: 3 + (seed % 4) as usize,
            operations: 24,
            deletions: 12,
            meeting_min: if seed.is_multiple_of(2) { MEETING_MIN } else { 1 + seed % 9 },
            comings: true,
            members: true,
            wild: seed % 3 == 1,
            moving: seed % 6 == 1,
            ..Self::deleting(seed)
        }
    }

    /// One of the members goes for good before all it told of was fetched.
    pub(super) fn leaving(seed: u64) -> Self {
        Self {
            nodes: 2 + (seed % 4) as usize,
            operations: 30,
            crashes: seed.is_multiple_of(2),
            durable_after: Some(Duration::from_millis(100)),
            leaves: true,
            members: true,
            ranges_told: !seed.is_multiple_of(5),
            skewed: true,
            wild: seed % 4 == 1,
            moving: seed % 4 == 2,
            ..Self::partitioned(seed)
        }
    }

    /// Directories that are moved while others write into them.
    pub(super) fn moving(seed: u64) -> Self {
        let nodes = 2 + (seed % 3) as usize;
        let crashes = seed.is_multiple_of(4);
        Self { nodes, moving: true, operations: 40, crashes, ..Self::partitioned(seed) }
    }

    /// Files that are written into on all nodes at once, faster than they hear
    /// of each other.
    pub(super) fn editing(seed: u64) -> Self {
        let nodes = 2 + (seed % 4) as usize;
        let operations = if seed.is_multiple_of(5) { 1000 } else { 200 };
        Self {
            nodes,
            editing: true,
            hurried: true,
            operations,
            partitions: seed.is_multiple_of(3),
            crashes: seed % 6 == 1,
            ranges_told: seed % 7 != 2,
            skewed: seed % 11 == 3,
            ..Self::peaceful(seed)
        }
    }

    /// Any of these, in a hurry.
    pub(super) fn hurried(seed: u64) -> Self {
        let plan = match seed % 8 {
            0 => Self::partitioned,
            1 => Self::chained,
            2 => Self::crashing,
            3 => Self::one_way,
            4 => Self::deleting,
            5 => Self::leaving,
            6 => Self::moving,
            _ => Self::wild,
        };
        Self { hurried: true, ..plan(seed) }
    }

    /// Whatever users, kernels and crashes may do.
    pub(super) fn wild(seed: u64) -> Self {
        Self { wild: true, moving: seed.is_multiple_of(3), ..Self::deleting(seed) }
    }

    /// Nodes that come with nearly the same folder, in any order.
    pub(super) fn alike(seed: u64) -> Self {
        Self {
            nodes: 2 + (seed % 4) as usize,
            shape: if seed.is_multiple_of(3) { Shape::Chain } else { Shape::Mesh },
            operations: 10,
            deletions: if seed.is_multiple_of(2) { 8 } else { 0 },
            meeting_min: 1 + seed % 12,
            stretch_rows: 1 + (seed * 7 % 40) as usize,
            crashes: !seed.is_multiple_of(5),
            copies: Some(4),
            ..Self::deleting(seed)
        }
    }

    /// One of them is restored from a backup, in the midst of it or when all
    /// know what it did since.
    pub(super) fn restored(seed: u64) -> Self {
        let backup = Backup::ALL[(seed % 4) as usize];
        Self {
            nodes: 2 + (seed / 4 % 3) as usize,
            operations: 30,
            deletions: if seed.is_multiple_of(3) { 12 } else { 0 },
            backup: Some(backup),
            // Only members say what they hold of a log.
            members: true,
            ..Self::deleting(seed)
        }
    }

    /// Up to fifty nodes.
    pub(super) fn crowded(seed: u64) -> Self {
        let nodes = 7 + (seed * 7 % 44) as usize;
        let shape = if nodes > 16 { Shape::Ring } else { Shape::Mesh };
        let (operations, deletions) = (24, 8);
        let (members, wild, moving) = (seed % 3 == 1, false, false);
        Self { nodes, shape, operations, deletions, members, wild, moving, ..Self::coming(seed) }
    }

    /// Machines lose their power, and not only their nodes their memory.
    pub(super) fn powerless(seed: u64) -> Self {
        let kinds = [
            Self::crashing,
            Self::copying,
            Self::deleting,
            Self::coming,
            Self::moving,
            Self::wild,
            Self::hurried,
            Self::alike,
            Self::chained,
            Self::one_way,
            Self::leaving,
            Self::editing,
        ];
        // Of each kind the seeds in turn: what they decide is no matter of the kind.
        let (kind, inner) = (seed as usize % kinds.len(), seed / kinds.len() as u64);
        Self { seed, crashes: true, outages: true, members: true, ..kinds[kind](inner) }
    }

    /// Any of these, in groups that hear nothing of each other for a while, and
    /// then one more round, in which much is deleted.
    pub(super) fn split(seed: u64) -> Self {
        let kinds = [
            Self::partitioned,
            Self::chained,
            Self::crashing,
            Self::deleting,
            Self::coming,
            Self::moving,
            Self::wild,
            Self::hurried,
            Self::leaving,
            Self::alike,
            Self::restored,
            Self::one_way,
        ];
        // Of each kind the seeds in turn: what they decide is no matter of the kind.
        let (kind, inner) = (seed as usize % kinds.len(), seed / kinds.len() as u64);
        let plan = kinds[kind](inner);
        // Where it lies in a chain decides what one of one way may do.
        let more = if plan.one_way.is_some() { 0 } else { 1 + (inner % 2) as usize };
        let (nodes, deletions) = (plan.nodes + more, plan.deletions.max(12));
        Self { seed, nodes, deletions, partitions: true, splits: true, ..plan }
    }

    /// Up to fifty nodes, each of which does something, in groups.
    pub(super) fn split_crowd(seed: u64) -> Self {
        let plan = Self::crowded(seed);
        let (operations, deletions) = (2 * plan.nodes, plan.nodes);
        let (wild, moving, hurried) = (seed % 4 == 1, seed % 4 == 2, seed % 4 == 3);
        Self { operations, deletions, wild, moving, hurried, splits: true, ..plan }
    }

    /// For so many operations there is time.
    pub(super) fn span_ms(&self, operations: usize) -> u64 {
        let each = if self.hurried { 3 } else { 40 };
        each * operations as u64
    }

    pub(super) fn are_neighbours(&self, one: usize, other: usize) -> bool {
        let apart = one.abs_diff(other);
        let round = apart.min(self.nodes - apart);
        match self.shape {
            Shape::Mesh => apart > 0,
            Shape::Chain => apart == 1,
            Shape::Ring => round.is_power_of_two(),
        }
    }

    pub(super) fn options(&self, at: usize) -> Options {
        Options {
            delay: Duration::from_millis(3),
            max_delay: Duration::from_millis(200),
            stream_delay: Duration::from_millis(50),
            ranges_told: self.ranges_told,
            records_max: self.records_max,
            meeting_min: self.meeting_min,
            stretch_rows: self.stretch_rows,
            bulk_above: self.bulk_above,
            huge_above: self.huge_above,
            delete_brake: Some(50),
            flags: self.flags(at),
            mode: self.mode(at),
        }
    }

    /// How long a node wants silent members to be waited for.
    pub(super) fn retention(&self, at: usize) -> Duration {
        match self.impatient && at > 0 {
            true => RETENTION / 10,
            false => RETENTION,
        }
    }

    /// Do some of the others meet through the one that only receives?
    pub(super) fn is_divided(&self) -> bool {
        let is_inside = |(at, _): (usize, Mode)| at > 0 && at + 1 < self.nodes;
        self.shape == Shape::Chain && self.one_way.is_some_and(is_inside)
    }

    /// Some nodes can give an entry no flags, or not all.
    pub(super) fn flags(&self, at: usize) -> Flags {
        match at % 3 {
            1 if self.wild => Flags::NONE,
            2 if self.wild => Flags::NODUMP,
            _ => Flags::ALL,
        }
    }

    pub(super) fn mode(&self, at: usize) -> Mode {
        match self.one_way {
            Some((node, mode)) if node == at => mode,
            Some((node, _)) if self.mixed && (node + 1) % self.nodes == at => Mode::SendOnly,
            _ => Mode::Both,
        }
    }
}
