//! The tables of the index and how keys and rows are laid out in them.
//!
//! Keys are made so that byte order is the order the core reads in: paths as
//! they are, ids and places big-endian. Values are postcard. A change here is
//! a change of [`super::SCHEMA`].

use redb::TableDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use crate::hash::Leaves;
use crate::id::{Actor, BodyId};

/// Path -> `NameRow`.
pub(super) const NAMES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("names");
/// Body id -> `BodyRow`.
pub(super) const BODIES: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("bodies");
/// Inode -> body id.
pub(super) const INODES: TableDefinition<u64, &[u8; 16]> = TableDefinition::new("inodes");
/// First eight bytes of a content's digest, or of the first leaf of a hash list, and a
/// body that has it on this disk.
pub(super) const HOLDERS: TableDefinition<&[u8; 24], ()> = TableDefinition::new("contents");
/// Place in an actor's log -> `Key`.
pub(super) const LOG: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("log");
/// Body id and number of the chunk -> a part of the body's hash list.
pub(super) const LEAVES: TableDefinition<&[u8; 20], &[u8]> = TableDefinition::new("leaves");
/// Facts about the index as a whole, and the node's notes.
pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

pub(super) const META_SCHEMA: &str = "schema";
pub(super) const META_ACTOR: &str = "actor";
/// The actors before that one, each of which ended uncleanly.
pub(super) const META_LIVES: &str = "lives";
/// The next counter of the actor. There only while the index is closed and
/// was closed cleanly.
pub(super) const META_CLEAN: &str = "clean";
pub(super) const META_HAVE: &str = "have";

/// Keeps notes apart from the facts above.
pub(super) fn note_key(key: &str) -> String {
    format!("note:{key}")
}

pub(super) fn body_key(id: BodyId) -> [u8; 16] {
    pair_key(id.origin.0, id.counter)
}

pub(super) fn body_of_key(key: &[u8; 16]) -> BodyId {
    let (origin, counter) = pair_of_key(key);
    BodyId { origin: Actor(origin), counter }
}

pub(super) fn place_key((actor, counter): (Actor, u64)) -> [u8; 16] {
    pair_key(actor.0, counter)
}

pub(super) fn place_of_key(key: &[u8; 16]) -> (Actor, u64) {
    let (actor, counter) = pair_of_key(key);
    (Actor(actor), counter)
}

pub(super) fn holder_key((hash, id): (u64, BodyId)) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&hash.to_be_bytes());
    key[8..].copy_from_slice(&body_key(id));
    key
}

pub(super) fn holder_of_key(key: &[u8; 24]) -> BodyId {
    let (_, id) = key.split_last_chunk().expect("longer than what is asked for");
    body_of_key(id)
}

pub(super) fn chunk_key(id: BodyId, chunk: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&body_key(id));
    key[16..].copy_from_slice(&chunk.to_be_bytes());
    key
}

pub(super) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    // Rows are plain data of known length and memory has no end to run
    // into, which are all the reasons postcard has to fail.
    postcard::to_stdvec(row).expect("rows always encode")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|error| Error::Corrupt(format!("a row: {error}")))
}

/// Hashes in one value of [`LEAVES`]: with its key, the size and what redb
/// adds it fills one page of 4 KiB, so one changed leaf writes one page.
const HASHES_PER_CHUNK: usize = 120;

/// The values a hash list is stored as, in order. The first begins with the
/// file's size.
pub(super) fn chunks_of(leaves: &Leaves) -> impl Iterator<Item = Vec<u8>> + use<> {
    let hashes = leaves.to_bytes();
    let size = leaves.size();
    let count = hashes.len().div_ceil(HASHES_PER_CHUNK * 32).max(1);
    (0..count).map(move |chunk| {
        let start = chunk * HASHES_PER_CHUNK * 32;
        let end = hashes.len().min(start + HASHES_PER_CHUNK * 32);
        let mut value = if chunk == 0 { size.to_be_bytes().to_vec() } else { Vec::new() };
        value.extend_from_slice(&hashes[start..end]);
        value
    })
}

/// Takes the values in order, put behind one another.
pub(super) fn leaves_of(chunks: &[u8]) -> Result<Leaves, Error> {
    let parts = chunks.split_first_chunk::<8>();
    parts
        .and_then(|(size, hashes)| Leaves::from_bytes(u64::from_be_bytes(*size), hashes))
        .ok_or_else(|| Error::Corrupt("a hash list does not fit its file".into()))
}

fn pair_key(high: u64, low: u64) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

fn pair_of_key(key: &[u8; 16]) -> (u64, u64) {
    let pair = u128::from_be_bytes(*key);
    ((pair >> 64) as u64, pair as u64)
}
