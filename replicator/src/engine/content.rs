//! Which bytes of a file to read again, and what they say.
//!
//! A [`Plan`] cuts them into chunks; each chunk is read by whoever suits
//! (one system call, or the engine), digested on any thread, and gathered in
//! any order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use bytes::Bytes;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::look::FileContent;
use crate::entry::{Kind, Stat};
use crate::hash::{LeafHash, Leaves, leaf_bytes, leaf_hash};
use crate::limits::{BUSY_LOOK_BYTES_MAX, INLINE_BYTES_MAX, LEAF_BYTES_MAX};
use crate::look::{Depth, Known, Look};
use crate::range::{Range, RangeSet};
use crate::writes::{Writes, bytes_of};

/// What is read and hashed in one piece, unless a leaf is larger: large
/// enough that handing it between threads costs nothing beside hashing it.
const CHUNK_BYTES: u64 = 1 << 20;

/// Most holes told about one file; what lies behind counts as data. A list
/// this long takes 1 MiB.
const HOLES_MAX: usize = 64 << 10;

/// What is read instead of a hole.
static ZEROS: LazyLock<Bytes> = LazyLock::new(|| vec![0; LEAF_BYTES_MAX as usize].into());

/// What to read of one version of a file.
pub(super) struct Plan {
    /// Of the size the file has now; what need not be read is already set.
    leaves: Leaves,
    /// Whole leaves.
    read: RangeSet,
    change: Change,
    /// Has the file holes?
    is_sparse: bool,
    /// Do all bytes that are read come along?
    all_read: bool,
}

enum Change {
    /// Told by capture, or by a new size.
    Told(RangeSet),
    /// The leaves that are not as they were, or all.
    Compare(Option<Leaves>),
}

/// Bytes to read and hash in one piece.
pub(super) struct Chunk {
    pub range: Range,
    /// Those of them that were told to have changed.
    changed: Vec<Range>,
}

/// What one chunk says.
pub(super) struct Digested {
    hashes: Vec<(u64, LeafHash)>,
    changed: RangeSet,
    holes: Vec<Range>,
    /// `None` where it is more than may come along.
    bytes: Option<Writes>,
}

impl Plan {
    /// What to read at this depth. `None`: nothing.
    pub fn new(request: &Look, stat: &Stat) -> Option<Result<Plan, TooLarge>> {
        let known = request.known.as_ref();
        let known = known.filter(|known| known.kind == Kind::File);
        let same_inode = known.filter(|known| known.fingerprint.is_inode(&stat.fingerprint));
        let told = match &request.depth {
            Depth::Changed if known.is_some_and(|known| known.fingerprint == stat.fingerprint) => {
                return None;
            }
            Depth::Metadata if same_inode.is_some() => return None,
            Depth::Ranges(ranges) => {
                let leaves = same_inode.and_then(|known| known.leaves.as_ref());
                leaves.and_then(|leaves| Plan::of_ranges(ranges, leaves, stat))
            }
            _ => None,
        };
        let plan = told.map_or_else(|| Plan::of_everything(known, stat), Ok);
        Some(plan.map(|plan| {
            let all_read = request.busy && plan.bytes() <= BUSY_LOOK_BYTES_MAX;
            Plan { all_read, ..plan }
        }))
    }

    /// How many bytes it reads.
    pub fn bytes(&self) -> u64 {
        self.read.bytes()
    }

    /// Looks whether holes can be skipped. File systems answer only when no
    /// write is under way, or let the reading wait for it: one that began
    /// before capture did, and set its time already, is not read half.
    pub fn look_for_holes(&mut self, file: &OwnedFd) {
        let size = self.leaves.size();
        self.is_sparse = hole_after(file, 0).is_some_and(|hole| hole < size);
    }

    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + Send + use<> {
        let step = CHUNK_BYTES.max(self.leaves.leaf_bytes());
        let changed: Vec<Range> = match &self.change {
            Change::Told(changed) => changed.iter().collect(),
            Change::Compare(_) => Vec::new(),
        };
        let read: Vec<Range> = self.read.iter().collect();
        let mut next = 0;
        let pieces = read.into_iter().flat_map(move |range| range.pieces(step));
        pieces.map(move |range| {
            while changed.get(next).is_some_and(|changed| changed.end <= range.start) {
                next += 1;
            }
            let within = changed[next..].iter().take_while(|changed| changed.start < range.end);
            let changed = within.filter_map(|changed| changed.intersection(&range)).collect();
            Chunk { range, changed }
        })
    }

    /// The bytes of a chunk, where it is one hole and need not be read.
    pub fn zeros(&self, file: &OwnedFd, range: Range) -> Option<Bytes> {
        let is_hole = self.is_sparse && data_after(file, range.start) >= range.end;
        is_hole.then(|| ZEROS.slice(..range.len() as usize))
    }

    /// Waits for a write that is under way, where all that was read comes
    /// along: the tracepoints of whatever was seen of it have fired then. A
    /// file system that has no lock for this question does not let anybody
    /// read half a write.
    pub fn wait_for_writers(&self, file: &OwnedFd) {
        if self.all_read {
            hole_after(file, 0);
        }
    }

    /// Hashes a chunk. `bytes` are all of it.
    pub fn digest(&self, file: &OwnedFd, chunk: Chunk, bytes: Bytes) -> Digested {
        let (size, leaf) = (self.leaves.size(), self.leaves.leaf_bytes());
        let first = chunk.range.start / leaf;
        let leaves = bytes.chunks(leaf as usize).zip(first..);
        let hashes: Vec<_> =
            leaves.map(|(bytes, index)| (index, leaf_hash(size, index, bytes))).collect();
        let changed: RangeSet = match &self.change {
            Change::Told(_) => chunk.changed.into_iter().collect(),
            Change::Compare(before) => hashes
                .iter()
                .filter(|(index, hash)| !is_held(before.as_ref(), leaf, *index, hash))
                .map(|(index, _)| self.leaves.range_of(*index))
                .collect(),
        };
        if self.all_read {
            let holes = match self.is_sparse {
                true => parted(file, &[chunk.range].into_iter().collect()).1,
                false => Vec::new(),
            };
            let bytes = Some(vec![(chunk.range.start, bytes)]);
            return Digested { hashes, changed, holes, bytes };
        }
        let (data, holes) = if self.is_sparse {
            parted(file, &changed)
        } else {
            (changed.iter().collect(), Vec::new())
        };
        let may_come =
            !self.is_too_much() && data.iter().map(Range::len).sum::<u64>() <= INLINE_BYTES_MAX;
        let copy = |range: Range| {
            let start = (range.start - chunk.range.start) as usize;
            let end = (range.end - chunk.range.start) as usize;
            (range.start, Bytes::copy_from_slice(&bytes[start..end]))
        };
        let bytes = may_come.then(|| data.into_iter().map(copy).collect());
        Digested { hashes, changed, holes, bytes }
    }

    /// All of it is new, and more than may come along: the last chunk of such
    /// a file is small, and would be kept until the others are hashed.
    fn is_too_much(&self) -> bool {
        let is_new = matches!(self.change, Change::Compare(None));
        is_new && !self.is_sparse && self.bytes() > INLINE_BYTES_MAX
    }

    /// Puts together what the chunks said.
    pub fn gather(&self) -> Gathered {
        Gathered {
            leaves: self.leaves.clone(),
            changed: RangeSet::new(),
            holes: RangeSet::new(),
            bytes: Some(Vec::new()),
            bytes_max: if self.all_read { BUSY_LOOK_BYTES_MAX } else { INLINE_BYTES_MAX },
        }
    }

    /// Only what was told, and the end of the file where that has moved.
    fn of_ranges(ranges: &RangeSet, before: &Leaves, stat: &Stat) -> Option<Plan> {
        let size = stat.fingerprint.size;
        let leaves = before.resized(size)?;
        let mut changed = ranges.clone();
        changed.extend(&Range::new(before.size(), size).into_iter().collect());
        changed.truncate(size);
        let mut touched = changed.clone();
        touched.extend(&leaves.stale());
        let read = leaves.touched(&touched).map(|index| leaves.range_of(index)).collect();
        let change = Change::Told(changed);
        Some(Plan { leaves, read, change, is_sparse: false, all_read: false })
    }

    fn of_everything(known: Option<&Known>, stat: &Stat) -> Result<Plan, TooLarge> {
        let size = stat.fingerprint.size;
        let leaves = Leaves::new(size).ok_or(TooLarge)?;
        let read = Range::new(0, size).into_iter().collect();
        let before = known.and_then(|known| known.leaves.clone());
        let change = Change::Compare(before);
        Ok(Plan { leaves, read, change, is_sparse: false, all_read: false })
    }
}

/// The file is larger than a hash list can be.
#[derive(Debug)]
pub(super) struct TooLarge;

/// The content of a file, as far as its chunks came in.
pub(super) struct Gathered {
    leaves: Leaves,
    changed: RangeSet,
    holes: RangeSet,
    bytes: Option<Writes>,
    bytes_max: u64,
}

impl Gathered {
    pub fn add(&mut self, digested: Digested) {
        for (index, hash) in digested.hashes {
            self.leaves.set_hash(index, hash);
        }
        self.changed.extend(&digested.changed);
        let room = HOLES_MAX.saturating_sub(self.holes.count());
        let is_told = digested.holes.len() <= room;
        digested.holes.into_iter().take(room).for_each(|hole| self.holes.insert(hole));
        // Bytes that neither come along nor are told to be holes would be lost.
        let more = digested.bytes.filter(|_| is_told);
        self.bytes = self.bytes.take().zip(more).and_then(|(mut bytes, more)| {
            bytes.extend(more);
            (bytes_of(&bytes) <= self.bytes_max).then_some(bytes)
        });
    }

    pub fn finish(self, is_stable: bool) -> FileContent {
        let Gathered { leaves, changed, holes, bytes, .. } = self;
        let bytes = bytes.map(|mut bytes| {
            bytes.sort_unstable_by_key(|(offset, _)| *offset);
            bytes
        });
        FileContent { leaves, changed, bytes, holes, stable: is_stable }
    }
}

fn is_held(before: Option<&Leaves>, leaf: u64, index: u64, hash: &LeafHash) -> bool {
    before
        .is_some_and(|before| leaf_bytes(before.size()) == leaf && before.get(index) == Some(hash))
}

/// The data and the holes of these ranges.
fn parted(file: &OwnedFd, ranges: &RangeSet) -> (Vec<Range>, Vec<Range>) {
    let (mut data, mut holes) = (Vec::new(), Vec::new());
    for range in ranges.iter() {
        let mut at = range.start;
        while at < range.end {
            let data_start = data_after(file, at).min(range.end);
            holes.extend(Range::new(at, data_start));
            if data_start == range.end || holes.len() >= HOLES_MAX {
                data.extend(Range::new(data_start, range.end));
                break;
            }
            // The next hole lies behind, or the file changes under our eyes.
            let hole = hole_after(file, data_start).unwrap_or(range.end);
            at = hole.clamp(data_start + 1, range.end);
            data.extend(Range::new(data_start, at));
        }
    }
    (data, holes)
}

/// Where data begins, at or behind `at`. `u64::MAX` where no more follows.
fn data_after(file: &OwnedFd, at: u64) -> u64 {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(Errno::NXIO) => u64::MAX,
        // The file system cannot tell: all of it counts as data.
        Err(_) => at,
    }
}

/// Where a hole begins, at or behind `at`. The end of a file counts as one.
fn hole_after(file: &OwnedFd, at: u64) -> Option<u64> {
    rustix::fs::seek(file, SeekFrom::Hole(at)).ok()
}

/// Reads exactly these bytes with plain system calls.
pub(super) fn read_exact(file: &OwnedFd, range: Range) -> io::Result<Vec<u8>> {
    let wanted = range.len() as usize;
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let at = range.start + bytes.len() as u64;
        match rustix::io::pread(file.as_fd(), rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    bytes.truncate(wanted);
    Ok(bytes)
}
