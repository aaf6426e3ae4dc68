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
use crate::limits::{
    ANSWER_RANGES_MAX, BODIES_ASKED_MAX, FETCH_ITEMS_MAX, FRAME_BYTES_MAX, INLINE_BYTES_MAX,
    MEMBERS_MAX, RECORDS_MAX, STRETCHES_MAX,
};
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
    /// Bodies that the sender has forgotten and finds bound again. Of none: the
    /// receiver may ask anew for those that it asked for in vain.
    WantBodies(Vec<BodyId>),
    /// Those of the bodies asked for that the sender remembers.
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

    /// Is it so small that it rides with the record of its body? What is larger
    /// is fetched.
    pub fn rides(&self) -> bool {
        self.bytes() as u64 <= INLINE_BYTES_MAX
            && self.writes.len() + self.holes.count() <= ANSWER_RANGES_MAX
    }

    fn is_well_formed(&self) -> bool {
        let ends = |(at, bytes): &(u64, Bytes)| at.checked_add(bytes.len() as u64);
        let fits = |end| i64::try_from(end).is_ok();
        self.rides()
            && self.writes.iter().all(|write| ends(write).is_some_and(fits))
            && self.holes.is_well_formed()
            && fits(self.holes.end())
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
/// Each item is answered in turn by one byte, its [`ItemStatus`], and where it
/// is held by the bytes asked for, whose number follows from the item; for
/// [`Part::Since`] and [`Part::Held`] from a head as told there.
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
        ensure(fits(&delta.ranges) && fits(&delta.holes), "delta")?;
        Ok(delta)
    }
}

/// The byte that answers an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ItemStatus {
    /// This node does not hold that version, or no longer; nothing follows.
    NotHeld = 0,
    /// The bytes follow.
    Held = 1,
    /// It was held, and the file has changed since. What became of it will be
    /// told; nothing follows.
    Changing = 2,
}

impl ItemStatus {
    pub fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[self as u8])
    }
}

impl TryFrom<u8> for ItemStatus {
    type Error = Malformed;

    fn try_from(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Self::NotHeld),
            1 => Ok(Self::Held),
            2 => Ok(Self::Changing),
            _ => Err(Malformed::Impossible("answer to a fetch")),
        }
    }
}

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
        match self {
            Message::Greeting { have, .. } | Message::ProbeReply { have, .. } => vector(have),
            Message::Refused { floor } => vector(floor),
            Message::Have { have, links } => {
                ensure(links.len() <= MEMBERS_MAX, "list of connections")?;
                vector(have)
            }
            Message::Records(records) => records.check(),
            Message::Probe { .. } => Ok(()),
            Message::Meet { floor, have, mine } => {
                ensure(mine.is_well_formed(), "member")?;
                vector(floor).and(vector(have))
            }
            Message::Members(members) => {
                ensure(members.len() <= MEMBERS_MAX, "list of members")?;
                ensure(members.iter().all(MemberNews::is_well_formed), "member")
            }
            Message::WantBodies(wanted) => {
                ensure(wanted.len() <= BODIES_ASKED_MAX, "request for bodies")
            }
            Message::Bodies(bodies) => {
                ensure(bodies.len() <= BODIES_ASKED_MAX, "list of bodies")?;
                ensure(bodies.iter().all(BodyRecord::is_well_formed), "body")
            }
            Message::Offer(offer) => {
                let outlines: Vec<&Outlines> =
                    offer.stretches.iter().map(|stretch| &stretch.outlines).collect();
                ensure(outlines.len() <= STRETCHES_MAX, "list of stretches")?;
                ensure(offer.shapes.are_well_formed(&outlines), "outline")
            }
            Message::Answer { answers, .. } => ensure(answers.len() <= STRETCHES_MAX, "answer"),
        }
    }
}

impl Records {
    fn check(&self) -> Result<(), Malformed> {
        // The last name brings the body that it is bound to.
        let count = self.bodies.len() + self.names.len();
        ensure(count <= RECORDS_MAX + 1, "list of records")?;
        ensure(self.bodies.iter().all(BodyRecord::is_well_formed), "body")?;
        ensure(self.names.iter().all(NameRecord::is_well_formed), "name")?;
        ensure(self.patches.len() <= self.bodies.len(), "list of patches")?;
        ensure(self.patches.iter().all(Patch::is_well_formed), "patch")?;
        self.have.as_ref().map_or(Ok(()), vector)
    }
}

impl FetchRequest {
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let request: FetchRequest = postcard::from_bytes(frame)?;
        ensure(request.items.len() <= FETCH_ITEMS_MAX, "fetch request")?;
        Ok(request)
    }
}

fn vector(have: &VersionVector) -> Result<(), Malformed> {
    ensure(have.is_well_formed(), "version vector")
}

fn ensure(is_honest: bool, what: &'static str) -> Result<(), Malformed> {
    if is_honest { Ok(()) } else { Err(Malformed::Impossible(what)) }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = postcard::to_stdvec(value)
        .expect("these types serialize: no maps of unknown length, no failing impl");
    debug_assert!(bytes.len() <= FRAME_BYTES_MAX);
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests;
