//! Marks dirty blocks, and tells the daemon once that there are some.
//!
//! A slot holds the bitmap of one region of one inode. Marking is an atomic
//! OR, collecting an atomic exchange in the daemon; only the first mark after
//! a collection costs a note in the ring buffer. The daemon may take a slot
//! away at any time, so a program looks again after it marked: if the slot no
//! longer is the one it meant, it sends the range itself.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use core::hint::black_box;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xchg};
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
    let blocks = (1u64 << SLOT_BLOCKS_SHIFT) - 1;
    let from = (start >> BLOCK_SHIFT) & blocks;
    let to = ((end - 1) >> BLOCK_SHIFT) & blocks;
    let Some(index) = find(inode, first) else {
        note_range(inode, start, end, flags);
        return;
    };
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return };
    set_bits(slot, from, to);
    if !announce(slot, index, inode, first, flags) {
        note_range(inode, start, end, flags);
    }
}

/// Asks the daemon to look at the size of the inode.
#[inline(never)]
pub fn size(inode: u64, flags: u64) {
    let flags = flags | replicator_ebpf::FLAG_SIZE;
    let done = match find(inode, 0) {
        Some(index) => match SLOTS.get_ptr_mut(index) {
            Some(slot) => announce(slot, index, inode, 0, flags),
            None => false,
        },
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

/// The slot of this region, claimed if there was none.
#[inline(always)]
fn find(inode: u64, region: u64) -> Option<u32> {
    let hash = ((inode ^ region.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    let mask = get::SLOT_MASK();
    let mut free = u32::MAX;
    for probe in 0..SLOT_PROBES {
        let index = hash.wrapping_add(probe) & mask;
        let slot = SLOTS.get_ptr_mut(index)?;
        if is(slot, inode, region) {
            return Some(index);
        }
        // SAFETY: the pointer is to an element of the map.
        let state = unsafe { read_volatile(addr_of!((*slot).state)) };
        if state == SLOT_FREE && free == u32::MAX {
            free = index;
        }
    }
    if free == u32::MAX || !claim(free, inode, region) {
        count(word::NO_SLOT);
        return None;
    }
    Some(free)
}

#[inline(always)]
fn claim(index: u32, inode: u64, region: u64) -> bool {
    let Some(slot) = SLOTS.get_ptr_mut(index) else { return false };
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

/// Sends a note about the slot unless one is under way. False where the slot
/// was taken away meanwhile.
#[inline(always)]
fn announce(slot: *mut Slot, index: u32, inode: u64, region: u64, flags: u64) -> bool {
    // SAFETY: the pointer is to an element of the map. The exchange orders
    // the marks before it and the second look at the owner after it.
    let queued = unsafe {
        if flags != 0 {
            atomic_or::<u64, u64, { AtomicOrdering::Relaxed }>(addr_of_mut!((*slot).flags), flags);
        }
        atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(addr_of_mut!((*slot).queued), 1)
    };
    if queued == 0 {
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
