//! Marks dirty blocks, and tells the daemon once that there are some.
//!
//! A slot holds the bitmap of one region of one inode. Marking is an atomic
//! OR, collecting an atomic exchange in the daemon; only the first mark after
//! a collection costs a note in the ring buffer. The daemon may take a slot
//! away at any time, so a program looks again after it marked: if the slot no
//! longer is the one it meant, it sends the range itself.
//!
//! What is marked already needs no second mark. A program exchanges `queued`
//! for 1, which orders the change it tells of before what it then looks at:
//! was a note under way, is the block marked, is the slot its own. If all are
//! so, a collection that takes the mark comes after that look, and its reader
//! after the change. One comes: whoever left the mark there announced it or is
//! about to, and who collects or retires a slot of somebody clears `queued`
//! first and takes the marks then. Were `queued` 0, marks may be left that were
//! set when the slot was nobody's, and that nobody announces.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use core::hint::black_box;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg};
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use replicator_ebpf::{
    BLOCK_SHIFT, NOTE_RANGE, NOTE_SLOT, Note, REGION_SHIFT, SLOT_BLOCKS_SHIFT, SLOT_CLAIMED,
    SLOT_FREE, SLOT_PROBES, SLOT_READY, SLOT_WORDS, Slot, word,
};

use crate::kernel::{count, get};

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(64, 1 << 10);
#[map]
static NOTES: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// Marks `[start, end)` of the inode.
#[inline(never)]
pub fn range(inode: u64, start: u64, end: u64, flags: u64) {
    if start >= end {
        return;
    }
    let first = start >> REGION_SHIFT;
    let last = (end - 1) >> REGION_SHIFT;
    if last > first {
        // Longer than a page cache write: rare, and one note for all of it.
        note_range(inode, start, end, flags);
        return;
    }
    let (from, to) = (block(start), block(end - 1));
    let Some((slot, index)) = find(inode, first) else {
        note_range(inode, start, end, flags);
        return;
    };
    let queued = queue(slot);
    if queued && has(slot, from, to, flags) && is(slot, inode, first) {
        return;
    }
    set_bits(slot, from, to);
    if !announce(slot, index, inode, first, flags, queued) {
        note_range(inode, start, end, flags);
    }
}

/// Is `[start, end)` marked, and the daemon about to take the mark? Looks at
/// the first place only, and changes nothing.
#[inline(always)]
pub fn is_marked(inode: u64, start: u64, end: u64, flags: u64) -> bool {
    let region = start >> REGION_SHIFT;
    if (end - 1) >> REGION_SHIFT != region {
        return false;
    }
    let index = hash(inode, region) & get::SLOT_MASK();
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return false };
    let (from, to) = (block(start), block(end - 1));
    is_queued(slot) && has(slot, from, to, flags) && is(slot, inode, region)
}

/// Asks the daemon to look at the size of the inode.
#[inline(never)]
pub fn size(inode: u64, flags: u64) {
    let flags = flags | replicator_ebpf::FLAG_SIZE;
    let done = match find(inode, 0) {
        Some((slot, index)) => announce(slot, index, inode, 0, flags, true),
        None => false,
    };
    if !done {
        note_range(inode, 0, 0, flags);
    }
}

/// Sends a range that is in no bitmap.
#[inline(never)]
pub fn note_range(inode: u64, start: u64, end: u64, flags: u64) {
    let note = Note { kind: NOTE_RANGE, slot: 0, inode, start, end, flags };
    if !send(note) {
        count(word::RANGE_NOTES_DROPPED);
    }
}

/// The slot of this region and its number, claimed if there was none.
#[inline(always)]
fn find(inode: u64, region: u64) -> Option<(*mut Slot, u32)> {
    let hash = hash(inode, region);
    let mask = get::SLOT_MASK();
    let mut free = u32::MAX;
    for probe in 0..SLOT_PROBES {
        let index = hash.wrapping_add(probe) & mask;
        let slot = SLOTS.get_ptr_mut(index)?;
        if is(slot, inode, region) {
            return Some((slot, index));
        }
        // SAFETY: the pointer is to an element of the map.
        let state = unsafe { read_volatile(addr_of!((*slot).state)) };
        if state == SLOT_FREE && free == u32::MAX {
            free = index;
        }
    }
    if free != u32::MAX {
        let slot = SLOTS.get_ptr_mut(free)?;
        if claim(slot, inode, region) {
            return Some((slot, free));
        }
    }
    count(word::NO_SLOT);
    None
}

/// Where the slot of the region is looked for first.
#[inline(always)]
fn hash(inode: u64, region: u64) -> u32 {
    ((inode ^ region.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The number of a byte's block within its region.
#[inline(always)]
fn block(at: u64) -> u64 {
    at >> BLOCK_SHIFT & ((1 << SLOT_BLOCKS_SHIFT) - 1)
}

#[inline(always)]
fn claim(slot: *mut Slot, inode: u64, region: u64) -> bool {
    // SAFETY: the pointer is to an element of the map; the exchange makes
    // this program the only one that writes the owner.
    unsafe {
        let (_, won) = atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            addr_of_mut!((*slot).state),
            SLOT_FREE,
            SLOT_CLAIMED,
        );
        if won {
            write_volatile(addr_of_mut!((*slot).inode), inode);
            write_volatile(addr_of_mut!((*slot).region), region);
            atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(addr_of_mut!((*slot).state), SLOT_READY);
        }
        won
    }
}

#[inline(always)]
fn is(slot: *mut Slot, inode: u64, region: u64) -> bool {
    // SAFETY: the pointer is to an element of the map.
    unsafe {
        read_volatile(addr_of!((*slot).state)) == SLOT_READY
            && read_volatile(addr_of!((*slot).inode)) == inode
            && read_volatile(addr_of!((*slot).region)) == region
    }
}

/// Sets the bits `from` to `to`. Most writes touch one word. What lies between
/// two is set without a branch: the verifier would follow each, with all that
/// comes behind, and that took most of the time a daemon needs to start.
#[inline(always)]
fn set_bits(slot: *mut Slot, from: u64, to: u64) {
    let (first, last) = (from / 64, to / 64);
    let low = u64::MAX << (from & 63);
    let high = u64::MAX >> (63 - (to & 63));
    if first == last {
        return set_word_bits(slot, first, low & high);
    }
    set_word_bits(slot, first, low);
    set_word_bits(slot, last, high);
    for at in 1..SLOT_WORDS as u64 - 1 {
        // All ones where the subtraction is negative; opaque, or the compiler
        // makes branches of it.
        let behind_first = black_box(first.wrapping_sub(at)) as i64 >> 63;
        let before_last = black_box(at.wrapping_sub(last)) as i64 >> 63;
        set_word_bits(slot, at, (behind_first & before_last) as u64);
    }
}

#[inline(always)]
fn set_word_bits(slot: *mut Slot, at: u64, bits: u64) {
    // The verifier must see the mask that the compiler knows to be of no use.
    let at = black_box(at) as usize & (SLOT_WORDS - 1);
    // SAFETY: the index is within the array, the pointer to an element of the
    // map.
    unsafe {
        let word = addr_of_mut!((*slot).bits).cast::<u64>().add(at);
        atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(word, bits);
    }
}

/// Are all of one word's blocks marked, and the flags set?
#[inline(always)]
fn has(slot: *mut Slot, from: u64, to: u64, flags: u64) -> bool {
    if from / 64 != to / 64 {
        return false;
    }
    let bits = u64::MAX << (from & 63) & u64::MAX >> (63 - (to & 63));
    let at = black_box(from / 64) as usize & (SLOT_WORDS - 1);
    // SAFETY: as for setting them.
    unsafe {
        let word = addr_of!((*slot).bits).cast::<u64>().add(at);
        read_volatile(word) & bits == bits
            && (flags == 0 || read_volatile(addr_of!((*slot).flags)) & flags == flags)
    }
}

/// Says that a note is under way, and whether one was. Orders all before it
/// before all behind it.
#[inline(always)]
fn queue(slot: *mut Slot) -> bool {
    // SAFETY: the pointer is to an element of the map.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(addr_of_mut!((*slot).queued), 1) != 0 }
}

/// Is a note under way? Orders as [`queue`] does: it adds nothing to it.
#[inline(always)]
fn is_queued(slot: *mut Slot) -> bool {
    // SAFETY: as above.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(addr_of_mut!((*slot).queued), 0) != 0
    }
}

/// Sends a note about the slot unless one is under way, and was when it was
/// `queued` before. False where the slot was taken away meanwhile.
#[inline(always)]
fn announce(
    slot: *mut Slot,
    index: u32,
    inode: u64,
    region: u64,
    flags: u64,
    queued: bool,
) -> bool {
    if flags != 0 {
        // SAFETY: the pointer is to an element of the map.
        unsafe {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(addr_of_mut!((*slot).flags), flags);
        }
    }
    // In any case: it orders the marks before the look at the owner.
    let still_queued = queue(slot);
    if !(queued && still_queued) {
        let note = Note { kind: NOTE_SLOT, slot: index, inode: 0, start: 0, end: 0, flags: 0 };
        if !send(note) {
            // It stays queued: the daemon sweeps such slots when it sees the
            // count.
            count(word::SLOT_NOTES_DROPPED);
        }
    }
    is(slot, inode, region)
}

#[inline(always)]
fn send(note: Note) -> bool {
    let Some(mut room) = NOTES.reserve::<Note>(0) else { return false };
    room.write(note);
    room.submit(0);
    true
}
