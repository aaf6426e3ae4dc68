//! What the kernel programs and the daemon share: the layout of the dirty
//! bitmaps, of the notes in the ring buffer and of the numbered words.
//!
//! Plain `core`, no dependency: the programs build it for the kernel's
//! virtual machine, the daemon for its own.
#![no_std]

/// The number of a call that no kernel has, for one of `bpf_rdonly_cast`, which
/// has another number on every kernel.
pub const CAST_CALL: u32 = 0x7e57_ca57;

/// Bits of a block number within a [`Slot`]: a slot covers 4096 blocks.
pub const SLOT_BLOCKS_SHIFT: u32 = 12;
/// log2 of the bytes one bit stands for.
pub const BLOCK_SHIFT: u32 = 12;
/// log2 of the bytes one slot covers: 16 MiB.
pub const REGION_SHIFT: u32 = BLOCK_SHIFT + SLOT_BLOCKS_SHIFT;
pub const SLOT_WORDS: usize = (1 << SLOT_BLOCKS_SHIFT) / 64;

/// Slots an inode's region may be in, counted from its hash.
pub const SLOT_PROBES: u32 = 8;

/// States of a slot. A program claims a free one, the daemon retires and
/// frees it; a program that marked a slot checks afterwards that it still was
/// its own.
pub const SLOT_FREE: u64 = 0;
pub const SLOT_CLAIMED: u64 = 1;
pub const SLOT_READY: u64 = 2;
pub const SLOT_RETIRING: u64 = 3;

/// In [`Slot::flags`] and [`Note::flags`]: sync before reading.
pub const FLAG_MAPPED: u64 = 1;
/// In [`Slot::flags`]: look at the size.
pub const FLAG_SIZE: u64 = 2;

/// The dirty blocks of one region of one inode.
#[repr(C)]
pub struct Slot {
    pub state: u64,
    /// 1 while a note about this slot is under way.
    pub queued: u64,
    pub flags: u64,
    pub inode: u64,
    /// Number of the region within the file.
    pub region: u64,
    pub bits: [u64; SLOT_WORDS],
}

/// Entries of a [`Set`].
pub const WAYS: usize = 4;

/// What is remembered of one inode. The words before the size carry the
/// version they belong to in their lowest 16 bits.
#[repr(C)]
pub struct Entry {
    /// Its number.
    pub owner: u64,
    /// What the verdict about its place holds for.
    pub basis: u64,
    /// Its generation, and what is known of its place and its mappings.
    pub state: u64,
    pub size: u64,
    /// 0 where nobody asked since the entries of the set were last all used.
    pub used: u64,
}

/// The entries of inodes with one hash.
#[repr(C)]
pub struct Set {
    pub ways: [Entry; WAYS],
}

/// The note is about a slot.
pub const NOTE_SLOT: u32 = 0;
/// The note is about a range that is in no slot.
pub const NOTE_RANGE: u32 = 1;

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub kind: u32,
    /// Of a [`NOTE_SLOT`].
    pub slot: u32,
    /// Of a [`NOTE_RANGE`], as the rest.
    pub inode: u64,
    pub start: u64,
    pub end: u64,
    pub flags: u64,
}

/// Numbered words of the array `WORDS`, read and written by both sides.
pub mod word {
    /// Verdicts of an older generation are void. The daemon counts it up when
    /// a name came to be or moved.
    pub const GENERATION: u32 = 0;
    /// Slot notes that found no room; the slot stays queued.
    pub const SLOT_NOTES_DROPPED: u32 = 1;
    /// Range notes that found no room: knowledge was lost.
    pub const RANGE_NOTES_DROPPED: u32 = 2;
    /// Regions that found no slot and became range notes.
    pub const NO_SLOT: u32 = 3;
    /// Inodes taken to be inside for want of a decision.
    pub const UNDECIDED: u32 = 4;
    /// When (in nanoseconds since boot) an operation was last announced
    /// before it took effect.
    pub const ANNOUNCED_AT: u32 = 5;
    /// Stores whose page was forgotten before it was told, and that became
    /// notes of whole files.
    pub const FORGOTTEN: u32 = 6;
    /// Inodes whose place was found by a walk: those that were not in the
    /// table, and those whose verdict was void.
    pub const DECIDED: u32 = 7;
    /// Operations between two programs that the tables had no room for: the
    /// second one does not know of them.
    pub const UNREMEMBERED: u32 = 8;
    /// Announcements by tasks that were not in their table.
    pub const ANNOUNCERS: u32 = 9;
    /// Announced operations that are not over, and those that were pushed out
    /// of their table before they were.
    pub const PENDING: u32 = 10;
    /// Where the kernel keeps the file system of the root, once a program met
    /// one of its inodes. It stays there while the daemon has the root open.
    pub const SUPER: u32 = 11;
    /// Inodes that were pushed out of the table of verdicts by others.
    pub const EVICTED: u32 = 12;
    pub const COUNT: u32 = 512;
}
