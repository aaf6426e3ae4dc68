//! Who belongs to the cluster, and what each is known to hold: values only.
//!
//! Every member says from time to time how far it holds each log. What all
//! members hold need not be kept for anybody: a tombstone below that line is
//! of no more use. A member that stays silent for longer than the retention
//! while it lacks something is no longer waited for; it is told so when it
//! comes back, and begins anew.
//!
//! Each member says how long the silent are to be waited for, and the longest
//! time counts for all: who forgets a deletion earlier than others would have
//! them refuse a node that they still wait for.
//!
//! Members that rest hold the same. A vector is kept once for all of them,
//! and told and stored as what differs from one that is known already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::version::{Difference, VersionVector};
use crate::id::NodeId;
use crate::limits::{MEMBERS_MAX, NODE_NAME_BYTES_MAX};

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    pub node: NodeId,
    /// Of two records of one node the higher counts.
    pub version: u64,
    pub name: String,
    /// How long it wants the silent to be waited for.
    pub retention: Duration,
    /// It has left for good. Nothing takes that back.
    pub retired: bool,
    /// How far it holds each log.
    pub have: Arc<VersionVector>,
}

impl MemberRecord {
    /// For somebody who knows `base`.
    pub fn news(&self, base: &Arc<VersionVector>) -> MemberNews {
        let have = match Arc::ptr_eq(&self.have, base) {
            true => Difference::default(),
            false => self.have.difference_from(base),
        };
        let (name, retention) = (self.name.clone(), self.retention);
        let Self { node, version, retired, .. } = *self;
        MemberNews { node, version, name, retention, retired, have }
    }
}

/// The same as nodes tell it each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNews {
    pub node: NodeId,
    pub version: u64,
    pub name: String,
    pub retention: Duration,
    pub retired: bool,
    /// What differs from a vector that both sides know.
    pub have: Difference,
}

impl MemberNews {
    /// What was told by somebody who knows that `base` is known here.
    pub fn record(self, base: &Arc<VersionVector>) -> MemberRecord {
        let have = match self.have.is_empty() {
            true => Arc::clone(base),
            false => Arc::new(self.have.applied_to(base)),
        };
        let Self { node, version, name, retention, retired, .. } = self;
        MemberRecord { node, version, name, retention, retired, have }
    }

    /// Could an honest node have sent it?
    pub fn is_well_formed(&self) -> bool {
        self.name.len() <= NODE_NAME_BYTES_MAX && self.have.is_well_formed()
    }
}

/// A member as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub record: MemberRecord,
    /// For how long it has lacked something and not been heard of, while this
    /// node ran. Counted, not read from a clock: clocks may be off by years.
    pub silent: Duration,
}

/// Everybody this node ever heard of, itself included, and what follows from
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Roster {
    members: BTreeMap<NodeId, Member>,
    /// Tombstones of log places up to here may have been forgotten, here or
    /// by a node this one learned from. Whoever holds less may hold what was
    /// deleted and does not know.
    pub floor: VersionVector,
    /// What all members held a round ago.
    pub candidate: Arc<VersionVector>,
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

    /// Members that may come back with what they held: they have not left for
    /// good, and not been silent for too long.
    pub fn waited_for(&self) -> impl Iterator<Item = &MemberRecord> {
        let retention = self.retention();
        let members = self.members.values().filter(move |member| !member.is_given_up(retention));
        members.map(|member| &member.record)
    }

    /// How long a silent member is waited for: as long as the most patient
    /// one wants, while it is waited for itself.
    pub fn retention(&self) -> Duration {
        let members = self.members.values();
        let counted = members.filter(|member| !member.is_given_up(member.record.retention));
        counted.map(|member| member.record.retention).max().unwrap_or_default()
    }

    pub fn is_retired(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|member| member.record.retired)
    }

    /// Takes what a record knows better. True where it did.
    pub fn accept(&mut self, record: &MemberRecord) -> bool {
        let Some(known) = self.members.get_mut(&record.node) else {
            if self.members.len() >= MEMBERS_MAX && !self.make_room() {
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

    /// Forgets the member that has been silent for longest, if it is not
    /// waited for. Should it come back, the floor says what it lacks.
    fn make_room(&mut self) -> bool {
        let retention = self.retention();
        let given_up = self.members.values().filter(|member| member.silent > retention);
        let longest = given_up.max_by_key(|member| member.silent);
        let Some(node) = longest.map(|member| member.record.node) else { return false };
        self.members.remove(&node).is_some()
    }

    /// Marks a member as gone for good; false where it is not known.
    pub fn retire(&mut self, node: NodeId) -> bool {
        let Some(member) = self.members.get_mut(&node) else { return false };
        member.record.retired = true;
        member.record.version += 1;
        true
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
    pub fn held_by_all(&self) -> Arc<VersionVector> {
        let mut counted = self.waited_for().map(|record| &record.have);
        let Some(first) = counted.next().cloned() else { return Arc::default() };
        counted.fold(first, |all, have| match Arc::ptr_eq(&all, have) || have.covers(&all) {
            true => all,
            false => Arc::new(all.meet(have)),
        })
    }
}

impl Member {
    fn is_given_up(&self, retention: Duration) -> bool {
        self.record.retired || self.silent > retention
    }
}

/// A roster as the index has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    floor: VersionVector,
    candidate: VersionVector,
    swept: VersionVector,
    /// As they differ from the candidate, and how long they were silent.
    members: Vec<(MemberNews, Duration)>,
}

impl From<Roster> for Stored {
    fn from(roster: Roster) -> Self {
        let Roster { members, floor, candidate, swept } = roster;
        let news = |member: &Member| (member.record.news(&candidate), member.silent);
        let members = members.values().map(news).collect();
        Self { floor, candidate: (*candidate).clone(), swept, members }
    }
}

impl From<Stored> for Roster {
    fn from(stored: Stored) -> Self {
        let Stored { floor, candidate, swept, members } = stored;
        let candidate = Arc::new(candidate);
        let member = |(news, silent): (MemberNews, Duration)| {
            let record = news.record(&candidate);
            (record.node, Member { record, silent })
        };
        let members = members.into_iter().map(member).collect();
        Self { members, floor, candidate, swept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use crate::sync::version::Dot;

    const RETENTION: Duration = Duration::from_secs(10);

    fn id(node: u16) -> NodeId {
        NodeId::from_bytes(u128::from(node).to_be_bytes())
    }

    fn record(node: u16, version: u64, counter: u64) -> MemberRecord {
        let mut have = VersionVector::new();
        have.advance(Dot { actor: Actor(1), counter });
        let (node, name, have) = (id(node), String::new(), Arc::new(have));
        MemberRecord { node, version, name, retention: RETENTION, retired: false, have }
    }

    fn held_by_all(roster: &Roster) -> u64 {
        roster.held_by_all().get(Actor(1))
    }

    #[test]
    fn the_slowest_member_counts_until_it_was_silent_for_too_long() {
        let mut roster = Roster::default();
        assert!(roster.accept(&record(1, 1, 9)));
        assert!(roster.accept(&record(2, 1, 4)));
        assert!(!roster.accept(&record(2, 1, 7)), "an old record");
        assert_eq!(held_by_all(&roster), 4);
        let have = record(1, 1, 9).have;
        roster.pass(RETENTION, &have, |_| false);
        assert_eq!(held_by_all(&roster), 4);
        assert_eq!(roster.waited_for().count(), 2);
        roster.pass(Duration::from_secs(1), &have, |_| false);
        assert_eq!(held_by_all(&roster), 9);
        assert_eq!(roster.waited_for().count(), 1);
        assert!(roster.accept(&record(2, 2, 5)));
        assert_eq!(held_by_all(&roster), 5, "it is back");
    }

    #[test]
    fn the_most_patient_member_is_followed_while_it_is_waited_for_itself() {
        let mut roster = Roster::default();
        let patient = MemberRecord { retention: 3 * RETENTION, ..record(3, 1, 4) };
        for record in [record(1, 1, 9), record(2, 1, 4), patient] {
            roster.accept(&record);
        }
        let have = record(1, 1, 9).have;
        roster.pass(3 * RETENTION, &have, |_| false);
        assert_eq!((roster.retention(), held_by_all(&roster)), (3 * RETENTION, 4));
        roster.pass(Duration::from_secs(1), &have, |_| false);
        assert_eq!((roster.retention(), held_by_all(&roster)), (RETENTION, 9));
        roster.accept(&MemberRecord { version: 2, ..record(2, 2, 9) });
        roster.retire(id(3));
        assert_eq!(roster.retention(), RETENTION);
    }

    #[test]
    fn retiring_stays_whatever_the_retired_says() {
        let mut roster = Roster::default();
        roster.accept(&record(1, 5, 9));
        roster.accept(&record(2, 5, 1));
        assert!(roster.retire(id(2)) && !roster.retire(id(3)));
        roster.accept(&record(2, 9, 2));
        assert!(roster.is_retired(id(2)));
        assert_eq!(held_by_all(&roster), 9);
    }

    #[test]
    fn who_is_not_waited_for_makes_room() {
        let mut roster = Roster::default();
        (0..MEMBERS_MAX as u16).for_each(|node| assert!(roster.accept(&record(node, 1, 9))));
        let fresh = MEMBERS_MAX as u16;
        assert!(!roster.accept(&record(fresh, 1, 9)), "all of them are waited for");
        assert!(roster.accept(&record(7, 2, 4)));
        roster.pass(2 * RETENTION, &record(0, 1, 9).have, |_| false);
        assert!(roster.accept(&record(fresh, 1, 9)));
        assert!(roster.get(id(7)).is_none());
        assert!(!roster.accept(&record(fresh + 1, 1, 9)));
    }

    #[test]
    fn members_that_hold_the_same_are_stored_in_few_bytes() {
        let mut have = VersionVector::new();
        (1..=100).for_each(|actor| have.advance(Dot { actor: Actor(actor), counter: actor }));
        let have = Arc::new(have);
        let mut roster = Roster { candidate: Arc::clone(&have), ..Roster::default() };
        for node in 0..100 {
            roster.accept(&MemberRecord { have: Arc::clone(&have), ..record(node, 1, 0) });
        }
        roster.accept(&record(100, 1, 3));
        let bytes = postcard::to_stdvec(&roster).unwrap();
        assert!(bytes.len() < 100 * 40, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Roster>(&bytes).unwrap(), roster);
    }
}
