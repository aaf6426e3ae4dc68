//! Who belongs to the cluster, and what each is known to hold: values only.
//!
//! Every member says from time to time how far it holds each log. What all
//! members hold need not be kept for anybody: a tombstone below that line is
//! of no more use. A member that stays silent for longer than the retention
//! while it lacks something is no longer waited for; it is told so when it
//! comes back, and begins anew.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::version::VersionVector;
use crate::id::NodeId;
use crate::limits::{MEMBERS_MAX, NODE_NAME_BYTES_MAX};

/// What a member says of itself, as nodes tell it each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub node: NodeId,
    /// Of two records of one node the higher counts.
    pub version: u64,
    pub name: String,
    /// It has left for good. Nothing takes that back.
    pub retired: bool,
    /// How far it holds each log.
    pub have: VersionVector,
}

impl MemberRecord {
    /// Could an honest node have sent it?
    pub fn is_well_formed(&self) -> bool {
        self.name.len() <= NODE_NAME_BYTES_MAX && self.have.is_well_formed()
    }
}

/// A member as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub record: MemberRecord,
    /// For how long it has lacked something and not been heard of, while this
    /// node ran. Counted, not read from a clock: clocks may be off by years.
    pub silent: Duration,
}

/// Everybody this node ever heard of, itself included, and what follows from
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    members: BTreeMap<NodeId, Member>,
    /// Tombstones of log places up to here may have been forgotten, here or
    /// by a node this one learned from. Whoever holds less may hold what was
    /// deleted and does not know.
    pub floor: VersionVector,
    /// What all members held a round ago.
    pub candidate: VersionVector,
    /// Up to here the logs have been gone through for tombstones.
    pub swept: VersionVector,
}

impl Roster {
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// In the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn is_retired(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|member| member.record.retired)
    }

    /// Takes what a record knows better. True where it did.
    pub fn accept(&mut self, record: &MemberRecord) -> bool {
        let Some(known) = self.members.get_mut(&record.node) else {
            if self.members.len() >= MEMBERS_MAX {
                return false;
            }
            let member = Member { record: record.clone(), silent: Duration::ZERO };
            self.members.insert(record.node, member);
            return true;
        };
        let retires = record.retired && !known.record.retired;
        if record.version <= known.record.version && !retires {
            return false;
        }
        let retired = record.retired || known.record.retired;
        let version = record.version.max(known.record.version);
        known.record = MemberRecord { retired, version, ..record.clone() };
        known.silent = Duration::ZERO;
        true
    }

    /// Marks a member as gone for good; the record to be told.
    pub fn retire(&mut self, node: NodeId) -> Option<MemberRecord> {
        let member = self.members.get_mut(&node)?;
        member.record.retired = true;
        member.record.version += 1;
        Some(member.record.clone())
    }

    /// So much time has passed; `heard` says who is connected.
    pub fn pass(&mut self, time: Duration, have: &VersionVector, heard: impl Fn(NodeId) -> bool) {
        for (node, member) in &mut self.members {
            let lacks = !member.record.have.covers(have);
            match lacks && !heard(*node) && !member.record.retired {
                true => member.silent = member.silent.saturating_add(time),
                false => member.silent = Duration::ZERO,
            }
        }
    }

    /// How far every member that is waited for holds each log.
    pub fn held_by_all(&self, retention: Duration) -> VersionVector {
        let mut counted = self
            .members
            .values()
            .filter(|member| !member.record.retired && member.silent <= retention);
        let Some(first) = counted.next() else { return VersionVector::new() };
        let first = first.record.have.clone();
        counted.fold(first, |all, member| all.meet(&member.record.have))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use crate::sync::version::Dot;

    fn record(node: u8, version: u64, counter: u64) -> MemberRecord {
        let mut have = VersionVector::new();
        have.advance(Dot { actor: Actor(1), counter });
        let node = NodeId::from_bytes([node; 16]);
        MemberRecord { node, version, name: String::new(), retired: false, have }
    }

    #[test]
    fn the_slowest_member_counts_until_it_was_silent_for_too_long() {
        let retention = Duration::from_secs(10);
        let mut roster = Roster::default();
        assert!(roster.accept(&record(1, 1, 9)));
        assert!(roster.accept(&record(2, 1, 4)));
        assert!(!roster.accept(&record(2, 1, 7)), "an old record");
        let all = |roster: &Roster| roster.held_by_all(retention).get(Actor(1));
        assert_eq!(all(&roster), 4);
        let have = record(1, 1, 9).have;
        roster.pass(retention, &have, |_| false);
        assert_eq!(all(&roster), 4);
        roster.pass(Duration::from_secs(1), &have, |_| false);
        assert_eq!(all(&roster), 9);
        assert!(roster.accept(&record(2, 2, 5)));
        assert_eq!(all(&roster), 5, "it is back");
    }

    #[test]
    fn retiring_stays_whatever_the_retired_says() {
        let mut roster = Roster::default();
        roster.accept(&record(1, 5, 9));
        roster.accept(&record(2, 5, 1));
        let told = roster.retire(NodeId::from_bytes([2; 16])).unwrap();
        assert!(told.retired);
        roster.accept(&record(2, 9, 2));
        assert!(roster.is_retired(told.node));
        assert_eq!(roster.held_by_all(Duration::MAX).get(Actor(1)), 9);
    }
}
