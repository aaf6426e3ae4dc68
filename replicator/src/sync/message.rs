//! What nodes say to each other, and its form on the wire.
//!
//! Messages are postcard, one a frame; the transport below knows only bytes.
//! Variants are only ever appended, and a golden test holds the bytes of the
//! present ones, so that a rolling upgrade stays possible. Everything that
//! comes from a peer is checked here before anyone believes it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::outline::{Outlines, Shapes};
use super::record::{BodyRecord, NameRecord};
use super::roster::MemberNews;
use super::version::VersionVector;
use crate::hash::Digest;
use crate::id::{Actor, BodyId};
use crate::limits::{BODIES_ASKED_MAX, FETCH_ITEMS_MAX, FRAME_BYTES_MAX, STRETCHES_MAX};
use crate::path::RelPath;
use crate::range::{Range, RangeSet};
use crate::writes::{Writes, bytes_of, copied, outside, spans};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The first message on a connection.
    Greeting {
        actor: Actor,
        have: VersionVector,
    },
    Records(Records),
    /// What this node holds now and whom it talks to: spares others passing
    /// on what it has or hears anyway.
    Have {
        have: VersionVector,
        links: Vec<Actor>,
    },
    /// Are you done? Asked by `replicator wait`.
    Probe {
        token: u64,
    },
    ProbeReply {
        token: u64,
        have: VersionVector,
        unfinished: u64,
    },
    /// The very first message on a connection: who the sender is to the
    /// cluster, and below which places it may have forgotten tombstones.
    Meet {
        floor: VersionVector,
        /// How far the sender holds each log. What it tells of any member,
        /// itself included, differs so from what it said last of itself.
        have: VersionVector,
        mine: MemberNews,
    },
    /// News of members.
    Members(Vec<MemberNews>),
    /// Nothing is taken from the receiver: it lacks part of what lies below
    /// this floor, and may show what was deleted.
    Refused {
        floor: VersionVector,
    },
    /// Bodies that the sender has forgotten and finds bound again.
    WantBodies(Vec<BodyId>),
    Bodies(Vec<BodyRecord>),
    /// What the sender shows, in outline, to one that may show the same.
    Offer(Offer),
    /// What became of each stretch of an offer.
    Answer {
        id: u64,
        answers: Vec<Answer>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Records {
    /// Before the names that are bound to them.
    pub bodies: Vec<BodyRecord>,
    pub names: Vec<NameRecord>,
    /// Bytes of some of the bodies, where they are few.
    pub patches: Vec<Patch>,
    /// Closes a series: with these records and all before them on this
    /// connection, the receiver holds every log up to here.
    pub have: Option<VersionVector>,
}

/// Stretches of the sender's tree, one after the other, for a receiver that
/// shows the same there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Counts the offers to this peer.
    pub id: u64,
    /// The path behind which the first one begins; `None`: with the root.
    pub after: Option<RelPath>,
    pub shapes: Shapes,
    pub stretches: Vec<Stretch>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Its last path.
    pub up_to: RelPath,
    pub outlines: Outlines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The receiver shows the same and has taken it.
    Same,
    /// It shows something else there.
    Differs,
    /// It shows nothing there.
    Nothing,
}

/// The bytes that lead from one version of a file to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    pub body: BodyId,
    /// `None`: from nothing, the writes are the whole file.
    pub from: Option<Digest>,
    pub to: Digest,
    pub writes: Writes,
    /// Bytes that are a hole now.
    pub holes: RangeSet,
}

impl Patch {
    pub fn bytes(&self) -> usize {
        bytes_of(&self.writes) as usize
    }

    /// The same and then a later one, which begins where this one ends.
    pub fn then(&self, later: &Patch) -> Patch {
        let Delta { ranges, holes } = later.delta();
        let mut writes = outside(&self.writes, &ranges);
        writes = outside(&writes, &holes);
        writes.extend(later.writes.iter().cloned());
        let mut all_holes = self.holes.clone();
        all_holes.subtract(&ranges);
        all_holes.extend(&holes);
        Patch { body: self.body, from: self.from, to: later.to, writes, holes: all_holes }
    }

    /// The same from another version, from which no more than this differs.
    pub fn since(self, from: Digest, delta: &Delta) -> Patch {
        let mut differing = delta.ranges.clone();
        differing.extend(&delta.holes);
        let writes = copied(&self.writes, &differing);
        Patch { from: Some(from), writes, holes: self.holes.intersection(&differing), ..self }
    }

    /// Only what lies within a file of this size.
    pub fn truncate(&mut self, size: u64) {
        let beyond = Range::new(size, u64::MAX).into_iter().collect();
        self.writes = outside(&self.writes, &beyond);
        self.holes.truncate(size);
    }

    /// Where its bytes lie.
    pub fn delta(&self) -> Delta {
        Delta { ranges: spans(&self.writes), holes: self.holes.clone() }
    }
}

/// A request on a stream of its own: file contents or hash lists.
///
/// Each item is answered in turn by one byte, [`HELD`], [`NOT_HELD`] or [`CHANGING`], and
/// after the former by the bytes asked for, whose number follows from the
/// item; for [`Part::Since`] and [`Part::Held`] from a head as told there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRequest {
    pub items: Vec<FetchItem>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchItem {
    pub body: BodyId,
    pub digest: Digest,
    pub size: u64,
    pub part: Part,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    Whole,
    /// The hash list, 32 bytes a leaf.
    Leaves,
    Ranges(RangeSet),
    /// What differs from this earlier version, if that is known and little:
    /// four bytes with the length of the [`Delta`] (little endian), the delta,
    /// the bytes of its ranges.
    Since(Digest),
    /// Which leaves are to be had here already: a bitmap, a bit a leaf, the
    /// lowest bit of a byte first.
    Held,
}

/// The bytes in which two versions of a file may differ, apart from its size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    pub ranges: RangeSet,
    /// Bytes that are a hole now, none of `ranges`.
    pub holes: RangeSet,
}

impl Delta {
    /// Only what lies within a file of this size.
    pub fn truncate(&mut self, size: u64) {
        self.ranges.truncate(size);
        self.holes.truncate(size);
    }

    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// Takes what a peer sent for a file of `size` bytes.
    pub fn decode(bytes: &[u8], size: u64) -> Result<Self, Malformed> {
        let delta: Delta = postcard::from_bytes(bytes)?;
        let fits = |set: &RangeSet| set.is_well_formed() && set.end() <= size;
        match fits(&delta.ranges) && fits(&delta.holes) {
            true => Ok(delta),
            false => Err(Malformed::Impossible("delta")),
        }
    }
}

/// The bytes follow.
pub const HELD: u8 = 1;
/// This node does not hold that version, or no longer; nothing follows.
pub const NOT_HELD: u8 = 0;

/// Answers an item: it was held, and the file has changed since. What became
/// of it will be told.
pub const CHANGING: u8 = 2;

/// What a peer sent is not what an honest node of this version sends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    #[error("the peer sent a message that cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
    #[error("the peer sent a {0} that no honest node makes")]
    Impossible(&'static str),
}

impl Message {
    /// Is it of those of which only a few are on their way to a peer at once?
    /// Whoever sends one tells the core when the transport has taken it.
    pub fn counts(&self) -> bool {
        matches!(self, Self::Records(_) | Self::Offer(_))
    }

    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let message: Message = postcard::from_bytes(frame)?;
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), Malformed> {
        let vector = |have: &VersionVector| match have.is_well_formed() {
            true => Ok(()),
            false => Err(Malformed::Impossible("version vector")),
        };
        match self {
            Message::Greeting { have, .. }
            | Message::Have { have, .. }
            | Message::ProbeReply { have, .. } => vector(have),
            Message::Records(records) => {
                if !records.bodies.iter().all(BodyRecord::is_well_formed) {
                    return Err(Malformed::Impossible("body"));
                }
                if !records.names.iter().all(NameRecord::is_well_formed) {
                    return Err(Malformed::Impossible("name"));
                }
                let ends = |(at, bytes): &(u64, Bytes)| at.checked_add(bytes.len() as u64);
                let mut writes = records.patches.iter().flat_map(|patch| &patch.writes);
                if !writes.all(|write| ends(write).is_some_and(|end| i64::try_from(end).is_ok())) {
                    return Err(Malformed::Impossible("patch"));
                }
                records.have.as_ref().map_or(Ok(()), vector)
            }
            Message::Probe { .. } => Ok(()),
            Message::Meet { floor, have, mine } => {
                if !mine.is_well_formed() {
                    return Err(Malformed::Impossible("member"));
                }
                vector(floor).and(vector(have))
            }
            Message::Members(members) => match members.iter().all(MemberNews::is_well_formed) {
                true => Ok(()),
                false => Err(Malformed::Impossible("member")),
            },
            Message::Refused { floor } => vector(floor),
            Message::WantBodies(wanted) => match wanted.len() <= BODIES_ASKED_MAX {
                true => Ok(()),
                false => Err(Malformed::Impossible("request for bodies")),
            },
            Message::Offer(offer) => {
                let outlines: Vec<&Outlines> =
                    offer.stretches.iter().map(|stretch| &stretch.outlines).collect();
                match outlines.len() <= STRETCHES_MAX && offer.shapes.are_well_formed(&outlines) {
                    true => Ok(()),
                    false => Err(Malformed::Impossible("outline")),
                }
            }
            Message::Answer { answers, .. } => match answers.len() <= STRETCHES_MAX {
                true => Ok(()),
                false => Err(Malformed::Impossible("answer")),
            },
            Message::Bodies(bodies) => {
                match bodies.len() <= BODIES_ASKED_MAX
                    && bodies.iter().all(BodyRecord::is_well_formed)
                {
                    true => Ok(()),
                    false => Err(Malformed::Impossible("body")),
                }
            }
        }
    }
}

impl FetchRequest {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let request: FetchRequest = postcard::from_bytes(frame)?;
        if request.items.len() > FETCH_ITEMS_MAX {
            return Err(Malformed::Impossible("fetch request"));
        }
        Ok(request)
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = postcard::to_stdvec(value)
        .expect("these types serialize: no maps of unknown length, no failing impl");
    debug_assert!(bytes.len() <= FRAME_BYTES_MAX);
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Actor, NodeId};
    use crate::sync::version::Dot;

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::parse(bytes).expect("a path")
    }

    #[test]
    fn the_bytes_on_the_wire_do_not_change_by_accident() {
        let mut have = VersionVector::new();
        have.advance(Dot { actor: Actor(7), counter: 300 });
        let greeting = Message::Greeting { actor: Actor(7), have: have.clone() };
        assert_eq!(greeting.encode()[..], [0, 7, 1, 7, 172, 2]);
        assert_eq!(Message::Probe { token: 5 }.encode()[..], [3, 5]);
        let message = Message::Have { have: have.clone(), links: vec![Actor(1)] };
        assert_eq!(message.encode()[..], [2, 1, 7, 172, 2, 1, 1]);
        let (node, name) = (NodeId::from_bytes([3; 16]), "n".to_owned());
        let retention = std::time::Duration::from_secs(9);
        let base = VersionVector::new();
        let difference = have.difference_from(&base);
        let mine =
            MemberNews { node, version: 2, name, retention, retired: true, have: difference };
        let news = [&[3; 16][..], &[2, 1, b'n', 9, 0, 1, 1, 7, 172, 2]].concat();
        let members = Message::Members(vec![mine.clone()]).encode();
        assert_eq!(members[..], [&[6, 1], &news[..]].concat());
        let meet = Message::Meet { floor: base, have, mine }.encode();
        assert_eq!(meet[..], [&[5, 0, 1, 7, 172, 2], &news[..]].concat());
        let refused = Message::Refused { floor: VersionVector::new() };
        assert_eq!(refused.encode()[..], [7, 0]);
        let answer = Message::Answer { id: 300, answers: vec![Answer::Same, Answer::Nothing] };
        assert_eq!(answer.encode()[..], [11, 172, 2, 2, 0, 2]);
        let stretch = Stretch { up_to: path(b"a"), outlines: Outlines::default() };
        let (after, stretches) = (Some(path(b"b")), vec![stretch]);
        let offer = Message::Offer(Offer { id: 5, after, stretches, ..Offer::default() }).encode();
        let head = [10, 5, 1, 1, b'b', 0, 0, 1, 1, b'a', 0, 0];
        assert_eq!(offer[..], [&head, &[0; 16][..]].concat());
        let request = FetchRequest {
            items: vec![FetchItem {
                body: BodyId { origin: Actor(1), counter: 2 },
                digest: Digest::from_bytes([9; 32]),
                size: 4,
                part: Part::Whole,
            }],
        };
        assert_eq!(request.encode()[..4], [1, 1, 2, 9]);
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        for length in 0..64 {
            for byte in 0..=255u8 {
                let _ = Message::decode(&vec![byte; length]);
            }
        }
    }

    #[test]
    fn a_vector_out_of_order_is_refused() {
        let mut bytes = vec![0, 7, 2];
        bytes.extend([9, 1, 3, 1]);
        assert!(matches!(Message::decode(&bytes), Err(Malformed::Impossible(_))));
    }
}
