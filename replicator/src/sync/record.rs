//! What is versioned: names, bodies, and what of them lies on this disk.
//!
//! A **name** says which body a path is bound to. A **body** says what an
//! inode is: its content and its metadata, each with a version of its own. A
//! rename therefore touches two names and no content, and a chmod never
//! undoes an edit. Rows add what this node alone knows: which of it the disk
//! holds already. Values only; nothing here decides anything.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::register::{Rank, Register, Sibling};
use super::version::{Dot, VersionVector};
use crate::entry::{Fingerprint, Kind, Metadata};
use crate::hash::Digest;
use crate::id::BodyId;
use crate::limits::{LINK_TARGET_BYTES_MAX, XATTR_BYTES_MAX};
use crate::path::RelPath;

/// What a path is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Binding {
    Bound {
        body: BodyId,
        kind: Kind,
        /// What the writer replaced, if it replaced anything.
        over: Option<Replaced>,
    },
    /// A tombstone.
    Gone { was: Replaced, kind: Kind },
}

/// A body that lost a name, and which writes of its content the writer of
/// that change had seen. Content written beyond that was not meant to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Replaced {
    pub body: BodyId,
    pub seen: VersionVector,
    /// It had another name left when this one went: a rename, or one link of
    /// several. Such a change deletes no content.
    pub moved: bool,
}

impl Binding {
    pub fn body(&self) -> Option<(BodyId, Kind)> {
        match self {
            Binding::Bound { body, kind, .. } => Some((*body, *kind)),
            Binding::Gone { .. } => None,
        }
    }

    /// What somebody deleted that had the name: it was not moved.
    pub fn deleted(&self) -> Option<&Replaced> {
        match self {
            Binding::Gone { was, .. } if !was.moved => Some(was),
            _ => None,
        }
    }

    /// Did a node bind this body to the name it had, without a user?
    pub fn is_bound_again(&self) -> bool {
        match self {
            Binding::Bound { body, over: Some(over), .. } => {
                over.body == *body && over.seen.is_empty()
            }
            _ => false,
        }
    }

    /// What this change took the name away from.
    pub fn replaced(&self) -> Option<&Replaced> {
        match self {
            Binding::Bound { over, .. } => over.as_ref(),
            Binding::Gone { was, .. } => Some(was),
        }
    }
}

impl Rank for Binding {
    /// A change beats a concurrent deletion, and a directory beats a file:
    /// its children have no other place to be.
    fn rank(&self) -> u8 {
        match self {
            Binding::Gone { .. } => 0,
            Binding::Bound { kind: Kind::Directory, .. } => 2,
            Binding::Bound { .. } => 1,
        }
    }

    fn is_to_be_kept(&self) -> bool {
        self.body().is_some_and(|(_, kind)| kind != Kind::Directory)
    }
}

/// What it says of a body that a name was taken from it, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Burial {
    /// Who left it another name did not know all that it contains.
    Moved,
    /// Who left it another name knew all that it contains.
    Spared,
    /// Who deleted it did not know all that it contains.
    Deleted,
    /// Who deleted or replaced it knew all that it contains.
    Meant,
}

/// What a body contains.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    File {
        size: u64,
        digest: Digest,
    },
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    /// A file's, of which its author says that nobody holds it any more.
    Lost,
}

impl Content {
    pub fn kind(&self) -> Kind {
        match self {
            Content::File { .. } | Content::Lost => Kind::File,
            Content::Directory => Kind::Directory,
            Content::Symlink(_) => Kind::Symlink,
            Content::Fifo => Kind::Fifo,
        }
    }

    /// What names the bytes of a file.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Content::File { digest, .. } => Some(*digest),
            _ => None,
        }
    }

    pub fn is_lost(&self) -> bool {
        matches!(self, Content::Lost)
    }

    /// Bytes to be carried for it.
    pub fn size(&self) -> u64 {
        match self {
            Content::File { size, .. } => *size,
            _ => 0,
        }
    }
}

impl Rank for Content {
    /// Anything that is held beats what nobody holds.
    fn rank(&self) -> u8 {
        u8::from(!self.is_lost())
    }

    fn is_to_be_kept(&self) -> bool {
        matches!(self, Content::File { .. })
    }
}

impl Rank for Metadata {}

/// A name as nodes tell it each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NameRecord {
    /// The change that made this very state: its place in an actor's log.
    pub stamp: Dot,
    pub path: RelPath,
    pub binding: Register<Binding>,
}

/// A body as nodes tell it each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BodyRecord {
    /// See [`NameRecord::stamp`].
    pub stamp: Dot,
    pub id: BodyId,
    pub content: Register<Content>,
    pub metadata: Register<Metadata>,
}

impl NameRecord {
    /// About how many bytes it is on the wire.
    pub fn weight(&self) -> usize {
        let siblings = self.binding.siblings().len() + self.binding.passed_over().len();
        self.path.as_bytes().len() + siblings * 96 + self.binding.context().len() * 16
    }

    /// Could an honest node have sent it?
    pub fn is_well_formed(&self) -> bool {
        !self.path.is_private() && self.binding.is_well_formed() && self.stamp.counter > 0
    }
}

impl BodyRecord {
    /// About how many bytes it is on the wire.
    pub fn weight(&self) -> usize {
        let target = |content: &Content| match content {
            Content::Symlink(target) => 64 + target.len(),
            _ => 64,
        };
        let xattrs = |metadata: &Metadata| {
            let bytes = metadata.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
            64 + bytes.sum::<usize>()
        };
        let passed_over = self.content.passed_over().iter().map(|one| &one.loser);
        let content = self.content.siblings().iter().chain(passed_over);
        let metadata = self.metadata.losers().chain([self.metadata.winner()]);
        content.map(|one| target(&one.value)).sum::<usize>()
            + metadata.map(|one| xattrs(&one.value)).sum::<usize>()
            + (self.content.context().len() + self.metadata.context().len()) * 16
    }

    /// Could an honest node have sent it?
    pub fn is_well_formed(&self) -> bool {
        let sane = |content: &Content| match content {
            Content::Symlink(target) => {
                !target.is_empty() && target.len() <= LINK_TARGET_BYTES_MAX && !target.contains(&0)
            }
            Content::File { size, .. } => i64::try_from(*size).is_ok(),
            Content::Directory | Content::Fifo | Content::Lost => true,
        };
        let bounded = |metadata: &Metadata| {
            let bytes = metadata.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
            bytes.sum::<usize>() <= XATTR_BYTES_MAX
                && metadata.mode <= 0o7777
                && metadata.flags.is_well_formed()
                && metadata.mtime.nanos < 1_000_000_000
        };
        self.stamp.counter > 0
            && self.content.is_well_formed()
            && self.metadata.is_well_formed()
            && sane(&self.content.winner().value)
            && bounded(&self.metadata.winner().value)
            && self.content.values().all(|value| value.kind() == self.content.winner().value.kind())
            && self.content.passed_over().iter().all(|one| one.loser.value.kind() == Kind::File)
    }
}

/// How the disk stands to a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held<V> {
    /// The disk shows the winner.
    Winner,
    /// The disk shows this, written in knowledge of these changes; the winner
    /// is still to be applied.
    Behind { value: V, seen: VersionVector },
}

/// A name in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRow {
    pub stamp: Dot,
    pub binding: Register<Binding>,
    /// The body that lies at this path on this disk.
    pub held: Held<Option<(BodyId, Kind)>>,
}

impl NameRow {
    /// The body the tree is to show here.
    pub fn wanted(&self) -> Option<(BodyId, Kind)> {
        self.binding.winner().value.body()
    }

    /// The body that lies here now.
    pub fn on_disk(&self) -> Option<(BodyId, Kind)> {
        match &self.held {
            Held::Winner => self.wanted(),
            Held::Behind { value, .. } => *value,
        }
    }

    /// The changes the disk reflects.
    pub fn seen(&self) -> &VersionVector {
        match &self.held {
            Held::Winner => self.binding.context(),
            Held::Behind { seen, .. } => seen,
        }
    }

    pub fn is_pending(&self) -> bool {
        self.on_disk() != self.wanted()
    }

    /// The binding of what lies here, where it lost against a concurrent one:
    /// against the winner, or against one that was replaced before this node
    /// heard of it.
    pub fn loser(&self) -> Option<&Sibling<Binding>> {
        let (id, _) = self.on_disk()?;
        let is_it = |binding: &Binding| binding.body().is_some_and(|(body, _)| body == id);
        let loser = self.binding.losers().find(|loser| is_it(&loser.value));
        loser.or_else(|| self.binding.passed_over_at(self.seen(), is_it))
    }

    pub fn record(&self, path: &RelPath) -> NameRecord {
        NameRecord { stamp: self.stamp, path: path.clone(), binding: self.binding.clone() }
    }
}

/// Where a body lies: at one path, but for hard links.
pub type Paths = SmallVec<[RelPath; 1]>;

/// A body in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRow {
    pub stamp: Dot,
    pub content: Register<Content>,
    pub metadata: Register<Metadata>,
    /// The paths whose winner it is, sorted.
    pub bound: Paths,
    /// Of the names that were taken from it, the one that says most of what
    /// becomes of it without any: a change unseen by who took that brings the
    /// body back there.
    pub grave: Option<RelPath>,
    pub disk: Option<Disk>,
}

/// A body as it lies on this disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub fingerprint: Fingerprint,
    /// The paths that lead to it here, sorted; several are hard links.
    pub names: Paths,
    pub content: Held<Content>,
    pub metadata: Held<Metadata>,
}

impl BodyRow {
    /// The content that lies on this disk.
    pub fn content_on_disk(&self) -> Option<&Content> {
        match &self.disk.as_ref()?.content {
            Held::Winner => Some(&self.content.winner().value),
            Held::Behind { value, .. } => Some(value),
        }
    }

    /// What lies on this disk, where it lost against a concurrent content:
    /// the winner, or one that was replaced before this node heard of it.
    pub fn content_loser(&self) -> Option<&Sibling<Content>> {
        let on_disk = self.content_on_disk()?;
        if self.content.winner().value == *on_disk {
            return None;
        }
        let loser = self.content.losers().find(|loser| loser.value == *on_disk);
        let is_it = |content: &Content| content == on_disk;
        loser.or_else(|| self.content.passed_over_at(self.content_seen(), is_it))
    }

    /// When what lies on this disk was written; `None` where that was replaced by
    /// who knew of it.
    pub fn written_on_disk(&self) -> Option<i64> {
        let winner = self.content.winner();
        match winner.value == *self.content_on_disk()? {
            true => Some(winner.when),
            false => self.content_loser().map(|loser| loser.when),
        }
    }

    /// Did the writer of this binding replace this body, having seen the
    /// content that lies here?
    pub fn is_replaced_by(&self, id: BodyId, binding: &Binding) -> bool {
        let replaced = binding.replaced().filter(|replaced| replaced.body == id);
        replaced.is_some_and(|replaced| replaced.seen.covers(self.content_seen()))
    }

    /// Did the writer of this binding take a name from this body, knowing of
    /// the content that it shows? Else that was not meant to go.
    pub fn is_known_to(&self, id: BodyId, binding: &Binding) -> bool {
        let replaced = binding.replaced().filter(|replaced| replaced.body == id);
        replaced.is_some_and(|replaced| replaced.seen.contains(self.content.winner().dot))
    }

    /// What this binding says of it, if it took a name from it: who replaced it
    /// without knowing all of it left it to be kept, and nothing more.
    fn burial(&self, id: BodyId, binding: &Binding) -> Option<Burial> {
        let replaced = binding.replaced().filter(|replaced| replaced.body == id)?;
        match (binding.body(), self.is_known_to(id, binding)) {
            (Some((body, _)), _) if body == id => None,
            (_, true) if replaced.moved => Some(Burial::Spared),
            (_, true) => Some(Burial::Meant),
            (Some(_), false) => None,
            // No user took it from there.
            (None, false) if replaced.seen.is_empty() => None,
            (None, false) if replaced.moved => Some(Burial::Moved),
            (None, false) => Some(Burial::Deleted),
        }
    }

    /// What a name that was taken from it says of it: the most that anybody says
    /// who took it. One that another has by now is no place to come back to.
    pub fn burial_at(&self, id: BodyId, name: &Register<Binding>) -> Option<Burial> {
        let holder = name.winner().value.body().map(|(body, _)| body);
        if holder == Some(id) {
            return None;
        }
        let is_known = |burial: &Burial| matches!(burial, Burial::Spared | Burial::Meant);
        let burials = name.values().filter_map(|binding| self.burial(id, binding));
        burials.filter(|burial| holder.is_none() || is_known(burial)).max()
    }

    /// That it was deleted at this name by somebody who knew all that it contains:
    /// not moved, nor replaced.
    pub fn deletion_in<'a>(&self, id: BodyId, name: &'a Register<Binding>) -> Option<&'a Replaced> {
        name.values().filter(|binding| self.is_known_to(id, binding)).find_map(Binding::deleted)
    }

    /// Is it to come back at a name that is gone, for the sake of a change that
    /// nobody knew of who took that? Where that is lost, for the sake of
    /// what lies here: of what lies elsewhere others speak.
    pub fn outlives(&self, id: BodyId, name: &Register<Binding>) -> bool {
        match self.content.winner().value.is_lost() {
            true => self.disk.is_some() && !self.lies_let_go(id, name),
            false => {
                let is_meant = |binding| self.burial(id, binding) == Some(Burial::Meant);
                !self.is_known_to(id, &name.winner().value) && !name.values().any(is_meant)
            }
        }
    }

    /// Did anybody take this name from it, having seen the content that lies
    /// here?
    pub fn lies_let_go(&self, id: BodyId, name: &Register<Binding>) -> bool {
        name.values().any(|binding| self.is_replaced_by(id, binding))
    }

    /// The metadata that lies on this disk.
    pub fn metadata_on_disk(&self) -> Option<&Metadata> {
        match &self.disk.as_ref()?.metadata {
            Held::Winner => Some(&self.metadata.winner().value),
            Held::Behind { value, .. } => Some(value),
        }
    }

    /// The changes the content on this disk reflects; all known ones where
    /// nothing of it lies here.
    pub fn content_seen(&self) -> &VersionVector {
        match self.disk.as_ref().map(|disk| &disk.content) {
            Some(Held::Behind { seen, .. }) => seen,
            Some(Held::Winner) | None => self.content.context(),
        }
    }

    pub fn metadata_seen(&self) -> &VersionVector {
        match self.disk.as_ref().map(|disk| &disk.metadata) {
            Some(Held::Behind { seen, .. }) => seen,
            Some(Held::Winner) | None => self.metadata.context(),
        }
    }

    pub fn kind(&self) -> Kind {
        self.content.winner().value.kind()
    }

    /// Does the disk show an older content or metadata than the winners?
    pub fn is_pending(&self) -> bool {
        self.content_is_pending() || self.metadata_is_pending()
    }

    pub fn content_is_pending(&self) -> bool {
        self.content_on_disk().is_some_and(|content| *content != self.content.winner().value)
    }

    pub fn metadata_is_pending(&self) -> bool {
        self.metadata_on_disk().is_some_and(|metadata| *metadata != self.metadata.winner().value)
    }

    pub fn record(&self, id: BodyId) -> BodyRecord {
        BodyRecord {
            stamp: self.stamp,
            id,
            content: self.content.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

/// What a place in an actor's log names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Key {
    Name(RelPath),
    Body(BodyId),
}
