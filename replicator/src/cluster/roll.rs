//! The list of all members, read from a peer page by page.
//!
//! What SWIM tells is a few members at random. Of a thousand others a node
//! that joins would lack the last until these have probed it, each in its turn
//! of a quarter of an hour; nobody knows whom it lacks, so nobody tells it. So
//! whoever hears of many members in a moment, at a join or when a cut heals,
//! reads the list of a connected peer once that is over, and of the next one
//! until a list brings nobody new. So does whoever hears that many are gone: of
//! 300 that died at once some were taken for alive for four minutes, since most
//! of what is said then goes to the dead.
//!
//! A list is read once more when all is quiet. Who is alive in it and down here
//! is greeted: a false death that was told to the dead alone is put right so.
//!
//! It is never done for the news of a few, which gossip brings to all, nor by
//! the clock: at rest it costs nothing. And it judges nobody: what was read
//! goes to `foca` as any other news.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use foca::State;

use super::member::Member;
use super::topology::MESH_NODES_MAX;
use super::{Cluster, Output, log};
use crate::id::NodeId;
use crate::limits::DATAGRAM_BYTES_MAX;

/// How many members may come or go without the list being read, before a moment
/// passes in which nobody does.
const FEW: usize = MESH_NODES_MAX;

/// While more than a few come or go in each of these, it is no time to read. After
/// as long without an answer another peer is asked.
const MOMENT: Duration = Duration::from_secs(1);

/// Members that a page has room for, and some more: each begins with its id, of
/// 16 bytes.
const PAGE_MEMBERS_MAX: usize = DATAGRAM_BYTES_MAX / 16;

/// For so long nobody may have come or gone before a list that brings nobody
/// is the last one: more than a suspicion takes. What is found out last is told
/// in a few datagrams, and those may go to the dead.
const QUIET: Duration = Duration::from_secs(5);

/// What a datagram begins with, where a relayed one has its version.
const ASK: u8 = 2;
const TELL: u8 = 3;

/// Before the first of all ids, where a list begins.
const START: NodeId = NodeId::from_bytes([0; 16]);

/// How far this node has read, if it is reading.
pub(super) struct Roll {
    /// Members that came, came back or went lately.
    heard: usize,
    heard_at: Option<Instant>,
    is_wanted: bool,
    /// The last member read of the list, by id: all lists have one order, so
    /// any peer can go on with it.
    after: NodeId,
    asked: Option<NodeId>,
    next_turn: Option<Instant>,
}

impl Default for Roll {
    fn default() -> Self {
        let (heard, heard_at) = (0, None);
        Self { heard, heard_at, is_wanted: false, after: START, asked: None, next_turn: None }
    }
}

impl Roll {
    pub fn next_turn(&self) -> Option<Instant> {
        self.next_turn
    }

    /// A member came, came back or went.
    pub fn hear(&mut self, now: Instant) {
        self.heard += 1;
        self.heard_at = Some(now);
        self.next_turn.get_or_insert(now + MOMENT);
    }

    /// Whom of `connected` to ask now. Each begins with the one behind itself, so
    /// that all are asked alike.
    fn turn(&mut self, now: Instant, me: NodeId, connected: &BTreeSet<NodeId>) -> Option<NodeId> {
        self.next_turn = Some(now + MOMENT);
        let begins = self.after == START;
        if begins && self.heard > FEW {
            (self.heard, self.is_wanted) = (0, true);
            return None;
        }
        let last = self.asked.unwrap_or(me);
        let next = connected.range((Excluded(last), Unbounded)).next().or(connected.first());
        let next = next.copied().filter(|_| self.is_wanted);
        match next {
            // Nobody is left to ask: whoever is met next.
            None if self.is_wanted => self.next_turn = None,
            // More than a few may come or go, and never so many at once.
            None if self.heard_at.is_some_and(|at| now < at + MOMENT) => {}
            None => *self = Self { asked: self.asked, ..Self::default() },
            Some(_) if begins => (self.heard, self.asked) = (0, next),
            Some(_) => self.asked = next,
        }
        next
    }

    /// A peer is connected.
    pub fn meet(&mut self, now: Instant) {
        if self.is_wanted {
            self.next_turn.get_or_insert(now + MOMENT);
        }
    }

    /// Whether this is what was asked for.
    fn expects(&self, from: NodeId, after: NodeId) -> bool {
        self.is_wanted && self.asked == Some(from) && self.after == after
    }

    /// The page up to `last` was read, or the empty one behind the end. A list
    /// that brought somebody is not taken for the last word, nor is one that was
    /// read soon after others came or went.
    fn read(&mut self, now: Instant, last: Option<NodeId>) {
        self.next_turn = Some(now + MOMENT);
        self.after = last.unwrap_or(START);
        if last.is_none() && self.heard == 0 {
            let quiet = self.heard_at.map(|at| at + QUIET).filter(|quiet| *quiet > now);
            self.is_wanted = quiet.is_some();
            self.next_turn = quiet.or(self.next_turn);
        }
    }
}

/// What is said of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Who comes behind this member?
    Ask { after: NodeId },
    /// These do, in the order of their ids; nobody, where the list ends.
    Tell { after: NodeId, members: Vec<foca::Member<Member>> },
}

impl Call {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (after, mut rest) = rest.split_at_checked(16)?;
        let after = NodeId::from_bytes(after.try_into().ok()?);
        match *kind {
            ASK if rest.is_empty() => Some(Self::Ask { after }),
            TELL => {
                let (mut members, mut last) = (Vec::new(), after);
                while !rest.is_empty() {
                    let member: foca::Member<Member>;
                    (member, rest) = postcard::take_from_bytes(rest).ok()?;
                    let follows = member.id().id > last;
                    last = member.id().id;
                    members.push(member);
                    follows.then_some(())?;
                }
                Some(Self::Tell { after, members })
            }
            _ => None,
        }
    }

    /// Of more members than there is room for, the first.
    pub fn encode(&self) -> Bytes {
        let (kind, after, members) = match self {
            Self::Ask { after } => (ASK, after, &[][..]),
            Self::Tell { after, members } => (TELL, after, &members[..]),
        };
        let mut bytes = BytesMut::with_capacity(DATAGRAM_BYTES_MAX);
        bytes.put_u8(kind);
        bytes.put_slice(after.as_bytes());
        for member in members {
            match postcard::to_stdvec(member) {
                Ok(member) if bytes.len() + member.len() <= DATAGRAM_BYTES_MAX => {
                    bytes.put_slice(&member);
                }
                _ => break,
            }
        }
        bytes.freeze()
    }
}

impl Cluster {
    /// Asks for the list, or for what comes next of it.
    pub(super) fn read_roll(&mut self, now: Instant) {
        if let Some(peer) = self.roll.turn(now, self.id(), &self.connected) {
            self.ask(peer);
        }
    }

    pub(super) fn handle_call(&mut self, now: Instant, from: NodeId, call: Call) {
        match call {
            Call::Ask { after } => self.tell(from, after),
            Call::Tell { after, members } if self.roll.expects(from, after) => {
                let last = members.last().map(|member| member.id().id);
                self.greet_the_down(&members);
                let news = self.news_of(members);
                let result = self.foca.apply_many(news.into_iter(), true, &mut self.runtime);
                log(result);
                self.settle(now);
                self.roll.read(now, last);
                if last.is_some() {
                    self.ask(from);
                }
            }
            Call::Tell { .. } => tracing::debug!(%from, "a list nobody waits for"),
        }
    }

    /// What is said of those that are alive, and of whom else this node takes
    /// for alive: who was gone before it came is nothing to it.
    fn news_of(&self, members: Vec<foca::Member<Member>>) -> Vec<foca::Member<Member>> {
        let alive: HashSet<NodeId> = self.foca.iter_members().map(|one| one.id().id).collect();
        let is_news =
            |one: &foca::Member<Member>| one.state() != State::Down || alive.contains(&one.id().id);
        members.into_iter().filter(is_news).collect()
    }

    /// Greets some of those that are down here and not there. One that lives is
    /// told so in turn, and comes back in a later life; there may be nobody but
    /// this node who takes it for dead.
    fn greet_the_down(&mut self, members: &[foca::Member<Member>]) {
        let known = self.foca.iter_membership_state();
        let down = known.filter(|one| one.state() == State::Down).map(foca::Member::id);
        let down: HashSet<&Member> = down.collect();
        let alive = members.iter().filter(|one| one.state() != State::Down).map(foca::Member::id);
        let at_odds: Vec<Member> =
            alive.filter(|one| down.contains(*one)).take(FEW).cloned().collect();
        at_odds.into_iter().for_each(|member| self.greet(member));
    }

    fn ask(&mut self, peer: NodeId) {
        let bytes = Call::Ask { after: self.roll.after }.encode();
        self.outputs.push_back(Output::SendDatagram { to: peer, bytes });
    }

    fn tell(&mut self, peer: NodeId, after: NodeId) {
        let known = self.foca.iter_membership_state();
        let is_told = |id: NodeId| id > after && id != peer && !self.retired.contains(&id);
        let behind = known.filter(|member| is_told(member.id().id)).collect();
        let members = page(behind).into_iter().cloned().collect();
        let bytes = Call::Tell { after, members }.encode();
        self.outputs.push_back(Output::SendDatagram { to: peer, bytes });
    }
}

/// The first of many members, in the order of their ids. `foca` keeps none, and
/// of a thousand only those are sorted that a page may hold.
fn page(mut members: Vec<&foca::Member<Member>>) -> Vec<&foca::Member<Member>> {
    let id = |member: &&foca::Member<Member>| member.id().id;
    if members.len() > PAGE_MEMBERS_MAX {
        members.select_nth_unstable_by_key(PAGE_MEMBERS_MAX, id);
        members.truncate(PAGE_MEMBERS_MAX);
    }
    members.sort_unstable_by_key(id);
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8) -> foca::Member<Member> {
        let address = ([10, 0, 0, n], 7400).into();
        foca::Member::alive(Member { id: NodeId::from_bytes([n; 16]), address, life: 5 })
    }

    const ME: NodeId = NodeId::from_bytes([9; 16]);
    const PEER: NodeId = NodeId::from_bytes([4; 16]);

    /// Of 60 that die at once the news may trickle: 12 a second were seen.
    #[test]
    fn many_that_go_one_after_the_other_are_many() {
        let (mut roll, mut now) = (Roll::default(), Instant::now());
        let peers = BTreeSet::from([PEER]);
        for _ in 0..2 {
            (0..FEW * 3 / 4).for_each(|_| roll.hear(now));
            now += MOMENT / 2;
            assert_eq!(roll.turn(now, ME, &peers), None);
            now += MOMENT / 2;
        }
        now += MOMENT;
        assert_eq!(roll.turn(now, ME, &peers), Some(PEER));
    }

    #[test]
    fn a_few_now_and_then_are_never_many() {
        let (mut roll, mut now) = (Roll::default(), Instant::now());
        for _ in 0..10 * FEW {
            roll.hear(now);
            now += MOMENT;
            assert_eq!(roll.turn(now, ME, &BTreeSet::from([PEER])), None);
            assert_eq!(roll.next_turn(), None, "it is at rest");
        }
    }

    /// Nobody else tells it who is gone.
    #[test]
    fn who_is_left_alone_asks_whom_it_meets() {
        let (mut roll, now) = (Roll::default(), Instant::now());
        (0..=FEW).for_each(|_| roll.hear(now));
        assert_eq!(roll.turn(now + MOMENT, ME, &BTreeSet::new()), None);
        assert_eq!(roll.turn(now + 2 * MOMENT, ME, &BTreeSet::new()), None);
        assert_eq!(roll.next_turn(), None, "it is at rest");
        let met = now + 100 * MOMENT;
        roll.meet(met);
        assert_eq!(roll.next_turn(), Some(met + MOMENT));
        assert_eq!(roll.turn(met + MOMENT, ME, &BTreeSet::from([PEER])), Some(PEER));
    }

    #[test]
    fn golden_bytes() {
        let after = NodeId::from_bytes([3; 16]);
        let ask = Call::Ask { after };
        assert_eq!(&ask.encode()[..], [&[ASK][..], &[3; 16]].concat());
        assert_eq!(Call::decode(&ask.encode()), Some(ask));
        let tell = Call::Tell { after, members: vec![member(4)] };
        // Id, IPv4, address, port, life, incarnation, state.
        let one = [&[4; 16][..], &[0, 10, 0, 0, 4, 0xe8, 0x39, 5, 0, 0]].concat();
        assert_eq!(&tell.encode()[..], [&[TELL][..], &[3; 16], &one].concat());
        assert_eq!(Call::decode(&tell.encode()), Some(tell));
    }

    #[test]
    fn a_page_is_full_and_no_longer_than_a_datagram() {
        let members: Vec<_> = (1..=200).map(member).collect();
        let bytes = Call::Tell { after: START, members: members.clone() }.encode();
        assert!((DATAGRAM_BYTES_MAX - 40..=DATAGRAM_BYTES_MAX).contains(&bytes.len()));
        let Some(Call::Tell { members: told, .. }) = Call::decode(&bytes) else { panic!() };
        assert_eq!(told[..], members[..told.len()]);
    }

    #[test]
    fn a_page_holds_the_first_of_many_in_their_order() {
        let all: Vec<_> = (1..=200).rev().map(member).collect();
        let first = page(all.iter().collect());
        let told = Call::Tell { after: START, members: first.into_iter().cloned().collect() };
        let sorted = Call::Tell { after: START, members: (1..=200).map(member).collect() };
        assert_eq!(told.encode(), sorted.encode());
        assert_eq!(page(vec![&all[1], &all[0], &all[2]]), [&all[2], &all[1], &all[0]]);
    }

    #[test]
    fn other_things_are_not_read() {
        let after = NodeId::from_bytes([3; 16]);
        // No list goes back, or in a circle.
        for members in [vec![member(3)], vec![member(5), member(4)]] {
            assert_eq!(Call::decode(&Call::Tell { after, members }.encode()), None);
        }
        let page = Call::Tell { after, members: vec![member(4)] }.encode();
        assert_eq!(Call::decode(&page[..page.len() - 1]), None);
        assert_eq!(Call::decode(&[1; 17]), None);
        assert_eq!(Call::decode(&[ASK; 18]), None);
    }
}
