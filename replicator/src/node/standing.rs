//! What the failure detector says of the members, for people to read.
//!
//! In a large cluster a node is connected with few members. Of the others it
//! hears whether anybody reaches them. It decides nothing: who is dialed and
//! who is waited for is said elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::cluster::Member;
use crate::id::NodeId;
use crate::limits::MEMBERS_MAX;

/// How long after a member's end it may still be told to be up: the failure
/// detector of a small cluster takes some five seconds, that of a large one a
/// few more.
const BELATED_MS: u64 = 10_000;

/// A member as the failure detector last told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub is_up: bool,
    /// When that was heard, in milliseconds since 1970.
    pub since_ms: u64,
    pub address: SocketAddr,
}

impl Standing {
    /// That it is up says nothing, where its connection with here was lost a
    /// moment ago: that may have been its end.
    pub fn is_news(&self, lost_ms: Option<u64>, now_ms: u64) -> bool {
        let is_belated = |lost: u64| self.since_ms <= lost && now_ms < lost + BELATED_MS;
        !self.is_up || !lost_ms.is_some_and(is_belated)
    }
}

/// The members that were up at any time since the start, at most
/// [`MEMBERS_MAX`].
#[derive(Default)]
pub(super) struct Standings(BTreeMap<NodeId, Standing>);

impl Standings {
    pub fn get(&self, member: NodeId) -> Option<Standing> {
        self.0.get(&member).copied()
    }

    pub fn up(&mut self, now_ms: u64, member: &Member) {
        let known = self.get(member.id).filter(|known| known.is_up);
        if known.is_none() && self.0.len() >= MEMBERS_MAX {
            self.0.retain(|_, standing| standing.is_up);
        }
        if known.is_none() && self.0.len() >= MEMBERS_MAX {
            return;
        }
        let since_ms = known.map_or(now_ms, |known| known.since_ms);
        self.0.insert(member.id, Standing { is_up: true, since_ms, address: member.address });
    }

    pub fn down(&mut self, now_ms: u64, member: NodeId) {
        if let Some(standing) = self.0.get_mut(&member).filter(|standing| standing.is_up) {
            (standing.is_up, standing.since_ms) = (false, now_ms);
        }
    }

    pub fn forget(&mut self, member: NodeId) {
        self.0.remove(&member);
    }
}

/// The state of a member without a connection and since when it is in it:
/// `otherwise` where the failure detector has not told of it. It may have
/// been told of long before the connection was lost.
pub(super) fn state_of(
    standing: Option<Standing>,
    unconnected_since_ms: u64,
    otherwise: &str,
) -> (String, u64) {
    match standing {
        Some(Standing { is_up: true, since_ms, .. }) => {
            ("up, reached by others".to_owned(), since_ms.max(unconnected_since_ms))
        }
        Some(Standing { since_ms, .. }) => ("down".to_owned(), since_ms),
        None => (otherwise.to_owned(), unconnected_since_ms),
    }
}

/// The word of the failure detector alone.
pub(super) fn word(standing: Option<Standing>) -> String {
    match standing {
        Some(Standing { is_up: true, .. }) => "up".to_owned(),
        Some(_) => "down".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u64) -> Member {
        let id = NodeId::of_public_key(&number.to_be_bytes());
        Member { id, address: SocketAddr::from(([10, 0, 0, 1], 7400)), life: 1 }
    }

    #[test]
    fn a_member_without_a_connection_is_up_down_or_not_heard_of() {
        let (mut standings, member) = (Standings::default(), member(1));
        let told = |standings: &Standings| {
            let standing = standings.get(member.id);
            let (state, since_ms) = state_of(standing, 50, "not connected");
            (state, since_ms, word(standing))
        };
        assert_eq!(told(&standings), ("not connected".into(), 50, String::new()));
        standings.down(5, member.id);
        assert_eq!(told(&standings), ("not connected".into(), 50, String::new()));
        standings.up(10, &member);
        // Its connection was lost later.
        assert_eq!(told(&standings), ("up, reached by others".into(), 50, "up".into()));
        standings.up(70, &member);
        assert_eq!(standings.get(member.id).unwrap().since_ms, 10, "it was up before");
        standings.down(80, member.id);
        standings.down(90, member.id);
        assert_eq!(told(&standings), ("down".into(), 80, "down".into()));
        standings.up(100, &member);
        assert_eq!(told(&standings), ("up, reached by others".into(), 100, "up".into()));
        standings.forget(member.id);
        assert_eq!(standings.get(member.id), None);
    }

    #[test]
    fn a_member_whose_connection_was_just_lost_is_not_known_to_be_up() {
        let (mut standings, member) = (Standings::default(), member(1));
        standings.up(10, &member);
        let up = standings.get(member.id).unwrap();
        assert!(up.is_news(None, 60));
        assert!(!up.is_news(Some(50), 60));
        assert!(up.is_news(Some(50), 50 + BELATED_MS));
        assert!(up.is_news(Some(5), 60), "it came back since");
        standings.down(55, member.id);
        assert!(standings.get(member.id).unwrap().is_news(Some(50), 60));
    }

    #[test]
    fn those_that_are_down_make_room() {
        let mut standings = Standings::default();
        let count = MEMBERS_MAX as u64;
        (0..count).for_each(|number| standings.up(1, &member(number)));
        standings.down(2, member(0).id);
        standings.up(3, &member(count));
        assert_eq!(standings.get(member(0).id), None);
        assert!(standings.get(member(count).id).unwrap().is_up);
        standings.up(4, &member(count + 1));
        assert_eq!(standings.0.len(), MEMBERS_MAX);
    }
}
