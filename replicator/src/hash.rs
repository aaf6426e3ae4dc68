//! What a file's content is, in 32 bytes, and leaf by leaf.
//!
//! A file is cut into leaves of one size, a power of two, and each leaf is a
//! BLAKE3 subtree. So one changed byte costs one leaf to read and hash again,
//! two hash lists say which leaves differ, and the root of the list is plain
//! `blake3::hash` of the content: what `b3sum FILE` prints.
//!
//! Pure: nothing here reads a file.

use std::fmt;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{LEAF_BYTES_MAX, LEAF_BYTES_MIN, LEAVES_TARGET};
use crate::range::{Range, RangeSet};

/// Largest file that has a hash list: its list takes 128 MiB. Sparse files
/// cost nothing to make, so without this bound one `truncate` by any user
/// would take all memory. It is also the largest file of ext4.
pub const FILE_BYTES_MAX: u64 = 16 << 40;

/// The BLAKE3 hash of the whole content of a file.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    #[cfg(test)]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How large the leaves of a file of `size` bytes are. They double with the
/// file, so that a list stays near [`LEAVES_TARGET`] entries, up to a bound
/// that keeps a small edit in a large file cheap.
pub fn leaf_bytes(size: u64) -> u64 {
    let mut bytes = LEAF_BYTES_MIN;
    while bytes < LEAF_BYTES_MAX && size > bytes * LEAVES_TARGET {
        bytes *= 2;
    }
    bytes
}

/// The hash of one leaf: a BLAKE3 chaining value, which depends on where in
/// the file the leaf lies.
///
/// The only leaf of a file that has just one is the root of its tree, and a
/// root is finalized differently: for it this is the hash of the file itself.
pub type LeafHash = [u8; 32];

/// The hash of leaf `index` of a file of `size` bytes. Apart from a list, so
/// that several threads can each hash some leaves of one file.
///
/// # Panics
/// When `bytes` are not exactly as many as that leaf holds.
pub fn leaf_hash(size: u64, index: u64, bytes: &[u8]) -> LeafHash {
    let range = leaf_range(size, index);
    assert_eq!(range.len(), bytes.len() as u64, "leaf {index} of {size} bytes");
    if count(size) == 1 {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = leaf_hasher(range.start);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The hash list of one version of a file. An empty file has no leaves.
///
/// A leaf that was never set is stale; [`Leaves::digest`] is the content's
/// only once none is.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaves {
    size: u64,
    /// All zeros where stale: no content is known to hash to that.
    hashes: Vec<LeafHash>,
}

impl Leaves {
    /// A list for `size` bytes, each leaf of it stale. `None` for a file
    /// larger than [`FILE_BYTES_MAX`].
    pub fn new(size: u64) -> Option<Self> {
        if size > FILE_BYTES_MAX {
            return None;
        }
        Some(Self { size, hashes: vec![STALE; count(size) as usize] })
    }

    pub fn of(content: &[u8]) -> Self {
        let size = content.len() as u64;
        let leaves = content.chunks(leaf_bytes(size) as usize).enumerate();
        let hashes = leaves.map(|(index, bytes)| leaf_hash(size, index as u64, bytes)).collect();
        Self { size, hashes }
    }

    /// Takes what [`Leaves::to_bytes`] gave, from a disk or a peer. `None`
    /// where the length is not that of a list for `size` bytes.
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Option<Self> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let fits = size <= FILE_BYTES_MAX && rest.is_empty() && hashes.len() as u64 == count(size);
        fits.then(|| Self { size, hashes: hashes.to_vec() })
    }

    /// Hashes leaf `index` anew.
    ///
    /// # Panics
    /// When `bytes` are not exactly as many as that leaf holds.
    pub fn set(&mut self, index: u64, bytes: &[u8]) {
        self.hashes[index as usize] = leaf_hash(self.size, index, bytes);
    }

    /// Takes a hash made by [`leaf_hash`] for this size and index.
    ///
    /// # Panics
    /// When there is no such leaf.
    pub fn set_hash(&mut self, index: u64, hash: LeafHash) {
        self.hashes[index as usize] = hash;
    }

    /// The list for this file cut or grown to `size` bytes. Leaves that stay
    /// as they are keep their hash, all others are stale. Where leaves double
    /// with the size, two of the old ones give the hash of a new one. `None`
    /// where they become smaller: everything must be read again.
    pub fn resized(&self, size: u64) -> Option<Self> {
        if size == self.size {
            return Some(self.clone());
        }
        let mut resized = Leaves::new(size)?;
        if leaf_bytes(size) > self.leaf_bytes() && self.count() > 1 {
            let hashes = self.joined(leaf_bytes(size));
            resized.hashes[..hashes.len()].copy_from_slice(&hashes);
            return Some(resized);
        }
        if leaf_bytes(size) != self.leaf_bytes() {
            return None;
        }
        // The hash of an only leaf is finalized as a root, so it is of no
        // use in a longer list, nor one of a longer list as an only leaf.
        if self.count() > 1 && resized.count() > 1 {
            let whole = (size.min(self.size) / self.leaf_bytes()) as usize;
            resized.hashes[..whole].copy_from_slice(&self.hashes[..whole]);
        }
        Some(resized)
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn leaf_bytes(&self) -> u64 {
        leaf_bytes(self.size)
    }

    /// How many leaves.
    pub fn count(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// The hash of leaf `index`; `None` where there is no such leaf or it is
    /// stale.
    pub fn get(&self, index: u64) -> Option<&LeafHash> {
        self.hashes.get(usize::try_from(index).ok()?).filter(|hash| **hash != STALE)
    }

    /// The bytes of leaf `index`.
    ///
    /// # Panics
    /// When there is no such leaf.
    pub fn range_of(&self, index: u64) -> Range {
        leaf_range(self.size, index)
    }

    /// The leaves that hold any of these bytes, in ascending order. Bytes
    /// behind the end of the file are in no leaf.
    pub fn touched(&self, ranges: &RangeSet) -> impl Iterator<Item = u64> + use<> {
        let mut within = ranges.aligned(self.leaf_bytes());
        within.truncate(self.size);
        let leaf = self.leaf_bytes();
        let each = within.iter().map(|range| range.start / leaf..range.end.div_ceil(leaf));
        each.collect::<Vec<_>>().into_iter().flatten()
    }

    /// The bytes whose leaves were not set since the list was made or resized.
    pub fn stale(&self) -> RangeSet {
        self.ranges_where(|_, hash| *hash == STALE)
    }

    /// The hash of the whole content. Means nothing while a leaf is stale.
    pub fn digest(&self) -> Digest {
        match &self.hashes[..] {
            [] => Digest::of(b""),
            [only] => Digest(*only),
            hashes => {
                let (left, right, left_bytes) = halves(hashes, self.size, self.leaf_bytes());
                let left = subtree(left, left_bytes, self.leaf_bytes());
                let right = subtree(right, self.size - left_bytes, self.leaf_bytes());
                Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
            }
        }
    }

    /// The bytes of this version that `other` may not have: what to fetch to
    /// get from there to here. Everything, where the leaves are of other sizes.
    pub fn differing(&self, other: &Leaves) -> RangeSet {
        let comparable = self.leaf_bytes() == other.leaf_bytes();
        // Equal hashes at one place mean equal bytes, the number of bytes
        // included; that of an only leaf equals none of a longer list.
        self.ranges_where(|index, hash| !comparable || other.hashes.get(index) != Some(hash))
    }

    /// Does this version begin with all of that shorter one, as far as whole
    /// leaves of this one tell? They must tell of something.
    pub fn begins_with(&self, shorter: &Leaves) -> bool {
        if shorter.size >= self.size || shorter.count() < 2 {
            return false;
        }
        let whole = shorter.joined(self.leaf_bytes());
        !whole.is_empty() && self.hashes.starts_with(&whole)
    }

    /// What a longer version that begins with this one has for its first leaf,
    /// for each size that its leaves may be of.
    pub fn first_of_longer(&self) -> impl Iterator<Item = LeafHash> + use<> {
        let mut bytes = self.leaf_bytes();
        // That of an only leaf is finalized as a root.
        let whole = if self.count() < 2 { 0 } else { self.size / bytes };
        let mut hashes = self.hashes[..whole.min(LEAF_BYTES_MAX / bytes) as usize].to_vec();
        std::iter::from_fn(move || {
            let first = *hashes.first()?;
            hashes = if bytes < LEAF_BYTES_MAX { in_pairs(&hashes) } else { Vec::new() };
            bytes *= 2;
            Some(first)
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// The hashes of the larger leaves that are made of whole ones of these.
    fn joined(&self, leaf_bytes: u64) -> Vec<LeafHash> {
        let whole = (self.size / self.leaf_bytes()) as usize;
        let mut hashes = self.hashes[..whole].to_vec();
        let mut bytes = self.leaf_bytes();
        while bytes < leaf_bytes {
            hashes = in_pairs(&hashes);
            bytes *= 2;
        }
        hashes
    }

    fn ranges_where(&self, is_wanted: impl Fn(usize, &LeafHash) -> bool) -> RangeSet {
        let leaves = self.hashes.iter().enumerate();
        let wanted = leaves.filter(|(index, hash)| is_wanted(*index, hash));
        wanted.map(|(index, _)| self.range_of(index as u64)).collect()
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaves({} bytes, {:?})", self.size, self.digest())
    }
}

impl Serialize for Leaves {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.size, &self.hashes).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Leaves {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (size, hashes) = <(u64, Vec<LeafHash>)>::deserialize(deserializer)?;
        if size > FILE_BYTES_MAX || hashes.len() as u64 != count(size) {
            return Err(serde::de::Error::custom("a hash list that does not fit its file's size"));
        }
        Ok(Self { size, hashes })
    }
}

/// Hashes one leaf that is fed front to back in pieces of any size.
pub struct LeafHasher {
    hasher: blake3::Hasher,
    is_only: bool,
}

impl LeafHasher {
    /// For leaf `index` of a file of `size` bytes.
    ///
    /// # Panics
    /// When there is no such leaf.
    pub fn new(size: u64, index: u64) -> Self {
        let start = leaf_range(size, index).start;
        Self { hasher: leaf_hasher(start), is_only: count(size) == 1 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The hash of the leaf, once exactly its bytes were fed.
    pub fn finish(self) -> LeafHash {
        match self.is_only {
            true => *self.hasher.finalize().as_bytes(),
            false => self.hasher.finalize_non_root(),
        }
    }
}

/// Marks a leaf whose hash is not known.
const STALE: LeafHash = [0; 32];

fn count(size: u64) -> u64 {
    size.div_ceil(leaf_bytes(size))
}

fn leaf_range(size: u64, index: u64) -> Range {
    assert!(index < count(size), "leaf {index} of {size} bytes");
    let start = index * leaf_bytes(size);
    Range { start, end: size.min(start + leaf_bytes(size)) }
}

/// For the leaf that begins at `start`, a multiple of the leaf size and so of
/// BLAKE3's chunks.
fn leaf_hasher(start: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    hasher
}

/// The hashes of leaves twice as large: an odd last one is left out.
fn in_pairs(hashes: &[LeafHash]) -> Vec<LeafHash> {
    let join = |pair: &[LeafHash]| match pair.contains(&STALE) {
        true => STALE,
        false => merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash),
    };
    hashes.chunks_exact(2).map(join).collect()
}

/// The chaining value above these leaves, which hold `bytes` in all.
fn subtree(hashes: &[ChainingValue], bytes: u64, leaf_bytes: u64) -> ChainingValue {
    if let [only] = hashes {
        return *only;
    }
    let (left, right, left_bytes) = halves(hashes, bytes, leaf_bytes);
    let left = subtree(left, left_bytes, leaf_bytes);
    let right = subtree(right, bytes - left_bytes, leaf_bytes);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// Two or more leaves, parted where BLAKE3 parts them, and the bytes to the
/// left: a power of two that is no less than a leaf.
fn halves(
    hashes: &[ChainingValue],
    bytes: u64,
    leaf_bytes: u64,
) -> (&[ChainingValue], &[ChainingValue], u64) {
    let left_bytes = left_subtree_len(bytes);
    let (left, right) = hashes.split_at((left_bytes / leaf_bytes) as usize);
    (left, right, left_bytes)
}

#[cfg(test)]
mod tests;
