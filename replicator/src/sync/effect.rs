//! What the core asks of the world: looks at the disk, and changes to it.
//!
//! Plain values. The node carries them out with the rooms that can, and hands
//! the results back.

use std::time::Duration;

use super::message::Message;
use crate::entry::{Fingerprint, Kind, Metadata, Stat, Timestamp};
use crate::hash::{Digest, Leaves};
use crate::id::{Actor, BodyId, NodeId};
use crate::look::Look;
use crate::path::RelPath;
use crate::range::RangeSet;
use crate::writes::Writes;

/// The time as the caller sees it. The core has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; never goes back.
    pub monotonic: Duration,
    /// Nanoseconds since 1970 by the wall clock; may jump.
    pub wall: i64,
}

impl Now {
    /// Seconds since 1970 by the wall clock.
    pub fn seconds(self) -> i64 {
        self.wall.div_euclid(1_000_000_000)
    }
}

#[derive(Debug)]
pub enum Effect {
    /// Look at these entries and answer with `Core::handle_sights`.
    Look(Vec<Look>),
    /// List everything beneath and answer with `handle_listed`, then
    /// `handle_scanned`. With `sync` write the file system's dirty pages back
    /// before: mappings may store unseen until they are protected again.
    Scan { beneath: RelPath, sync: bool },
    /// Answer with `handle_heard` once everything that has happened so far has
    /// been told.
    Listen,
    /// Answer with `handle_sent` when the transport has taken one that counts.
    Send { peer: NodeId, message: Message },
    /// Make it so and answer with `handle_applied`.
    Apply(Job),
    /// Something waits for this job, which may take hours: it is to end soon,
    /// and to keep what has come.
    GiveWay { job: u64 },
    /// Does this peer hold all of this version? Answer with `handle_answered`
    /// where it says so.
    Ask { peer: NodeId, body: BodyId, digest: Digest, size: u64 },
    /// This member has left for good: nobody is to dial it or show it.
    Forget(NodeId),
    /// This node was away for too long: its index is to be dropped, and its
    /// folder to be merged like a new one's. The core is of no more use.
    Rejoin,
    /// The numbers of this actor's changes are used already: the node goes on
    /// as another one. The core is of no more use.
    NewActor,
    /// This node was told to leave for good.
    Retired,
}

/// What a look found.
#[derive(Clone, Debug)]
pub struct Sight {
    pub path: RelPath,
    pub found: Found,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every look finds an entry")]
pub enum Found {
    Nothing,
    Entry(Stat, Sighted),
    /// It did not stay the same for long enough to be read: look again.
    Unsettled,
    /// There is something that could not be read this time; the reason is for
    /// the status.
    Unreadable(String),
    /// There is something that is never replicated, and why.
    Excluded(String),
}

#[derive(Clone, Debug)]
pub enum Sighted {
    /// Presumed to be what is known.
    NotRead,
    Directory,
    Fifo,
    Symlink(Vec<u8>),
    File {
        leaves: Leaves,
        /// What may differ from the known version.
        changed: RangeSet,
        /// At least the bytes that changed, where they are few.
        bytes: Option<Writes>,
        /// At least the holes among the bytes that changed.
        holes: RangeSet,
        /// Nothing changed the file while it was read.
        stable: bool,
    },
}

/// An entry met by a scan.
#[derive(Clone, Debug)]
pub struct Listed {
    pub path: RelPath,
    pub kind: Kind,
    pub fingerprint: Fingerprint,
}

/// Changes to the disk that belong together: carried out in order, each on
/// its own (one that fails does not stop the next).
#[derive(Debug)]
pub struct Job {
    pub id: u64,
    pub actions: Vec<Action>,
}

#[derive(Clone, Debug)]
pub struct Action {
    /// The place that changes; for an exchange the first of two.
    pub path: RelPath,
    /// What is to lie there.
    pub body: BodyId,
    pub kind: Kind,
    pub what: What,
}

impl Action {
    /// Of the content that is to come, where one is.
    pub fn digest(&self) -> Option<Digest> {
        match &self.what {
            What::Write { digest, .. } => Some(*digest),
            What::Update(update) => Some(update.to),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub enum What {
    MakeDirectory {
        metadata: Metadata,
    },
    MakeSymlink {
        target: Vec<u8>,
        metadata: Metadata,
        over: Option<Over>,
    },
    MakeFifo {
        metadata: Metadata,
        over: Option<Over>,
    },
    /// A file is written beside its place, then moved or exchanged into it.
    Write {
        size: u64,
        digest: Digest,
        metadata: Metadata,
        over: Option<Over>,
        source: Source,
    },
    /// A file that lies here changes to another version, keeping its inode
    /// where `in_place`.
    Update(Update),
    /// The body comes from another path.
    Rename {
        from: RelPath,
        expect: Fingerprint,
    },
    /// The body comes from another path, to which what lies here goes.
    Exchange {
        with: RelPath,
        expect: Fingerprint,
        kind_here: Kind,
        expect_here: Fingerprint,
    },
    /// One more name for a body that lies here.
    Link {
        from: RelPath,
        expect: Fingerprint,
        over: Option<Over>,
    },
    Remove {
        expect: Fingerprint,
        keep: Keep,
    },
    /// A directory is given back the mtime that changes in it took.
    Touch {
        expect: Fingerprint,
        mtime: Timestamp,
    },
    SetMetadata {
        expect: Fingerprint,
        metadata: Metadata,
    },
}

impl What {
    /// Where the bytes of a file come from that this brings, and how many they
    /// are at the most.
    pub fn brings(&self) -> Option<(&Source, u64)> {
        match self {
            What::Write { source, size, .. } => Some((source, *size)),
            What::Update(update) => Some((&update.source, update.size)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Update {
    pub expect: Fingerprint,
    pub from: Digest,
    /// The hash list of the present version, where it has several leaves.
    pub held: Option<Leaves>,
    pub to: Digest,
    pub size: u64,
    pub metadata: Metadata,
    pub source: Source,
    /// Other paths lead to the inode: it must stay.
    pub linked: bool,
    /// What becomes of the present version.
    pub keep: Keep,
    /// Nobody else knows the present version: it is not to be overwritten
    /// where it lies, but goes where `keep` says.
    pub is_own: bool,
}

/// Where bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    Inline {
        writes: Writes,
        holes: RangeSet,
    },
    /// A file of the folder that had the same content when it was read.
    Copy {
        from: RelPath,
        expect: Fingerprint,
    },
    /// Any of these, the best first; never none.
    Peers(Vec<NodeId>),
}

/// What lies in the way and is to be displaced.
#[derive(Clone, Debug)]
pub struct Over {
    pub kind: Kind,
    pub expect: Fingerprint,
    pub keep: Keep,
}

/// What becomes of displaced bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Replaced knowingly: rests in the trash for a while, unless another name
    /// leads to it.
    Trash,
    /// Lost against a concurrent change, made by this actor: listed and kept.
    Conflict(Actor),
    /// Goes on under its other names. Should a user have taken those meanwhile, it
    /// is kept as a conflict.
    Linked(Actor),
    /// The same bytes lie elsewhere in the tree.
    Discard,
}

/// How one action went.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The entry as it is now; `None` where it was removed.
    Done(Option<Box<Stat>>, Option<Leaves>),
    /// Something else was found; nothing was changed.
    Raced,
    /// The peer does not hold that version.
    NotHeld,
    /// What came was cut off, or is not that version: the file may be changing
    /// there just now.
    Broken,
    /// It was asked to give way, and what has come of it is kept.
    GaveWay,
    Failed(String),
}
