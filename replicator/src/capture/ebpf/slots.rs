//! The dirty bitmaps, shared with the kernel programs through a mapping.
//!
//! Collecting is an atomic exchange with nothing, so a mark is either in what
//! was collected or causes a new note. Slots stay with their inode after they
//! were collected, which is what makes a busy file cheap; when most are
//! taken, those that were idle longest are freed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use replicator_ebpf::{
    BLOCK_SHIFT, REGION_SHIFT, SLOT_FREE, SLOT_READY, SLOT_RETIRING, SLOT_WORDS, Slot, word,
};

use crate::range::{Range, RangeSet};

/// A slot as this side sees it: every word may change at any time.
#[repr(C)]
pub struct SharedSlot {
    state: AtomicU64,
    queued: AtomicU64,
    flags: AtomicU64,
    inode: AtomicU64,
    region: AtomicU64,
    bits: [AtomicU64; SLOT_WORDS],
}

const _: () = assert!(size_of::<SharedSlot>() == size_of::<Slot>());

/// What was in a slot.
#[derive(Debug, PartialEq, Eq)]
pub struct Collected {
    pub inode: u64,
    pub ranges: RangeSet,
    pub flags: u64,
}

impl SharedSlot {
    /// Takes what is marked. `None` where the slot belongs to no inode: then
    /// who marked it has sent the range by itself.
    pub fn collect(&self) -> Option<Collected> {
        // First: a mark that comes later sends a note again.
        self.queued.swap(0, Ordering::SeqCst);
        // Whoever claims the slot from now on sends a note, too. Marks that
        // are left in it are told as the next owner's, which costs a look.
        self.is_ready().then(|| self.take())
    }

    pub fn is_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) != 0
    }

    pub fn is_ready(&self) -> bool {
        self.state.load(Ordering::SeqCst) == SLOT_READY
    }

    /// Gives the slot back, with what was in it at the last moment. A program
    /// that marks it meanwhile sees the retirement and sends its range.
    pub fn retire(&self) -> Option<Collected> {
        let taken = self.state.compare_exchange(
            SLOT_READY,
            SLOT_RETIRING,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if taken.is_err() {
            return None;
        }
        self.queued.swap(0, Ordering::SeqCst);
        let collected = self.take();
        self.state.store(SLOT_FREE, Ordering::SeqCst);
        let empty = collected.ranges.is_empty() && collected.flags == 0;
        (!empty).then_some(collected)
    }

    /// Of a slot that has an owner and keeps it meanwhile: only the thread that
    /// calls this takes slots away.
    fn take(&self) -> Collected {
        let inode = self.inode.load(Ordering::Relaxed);
        let base = self.region.load(Ordering::Relaxed) << REGION_SHIFT;
        let mut ranges = RangeSet::new();
        for (number, word) in self.bits.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                let bits = word.swap(0, Ordering::SeqCst);
                insert_bits(&mut ranges, base, number as u64 * 64, bits);
            }
        }
        let flags = self.flags.swap(0, Ordering::SeqCst);
        Collected { inode, ranges, flags }
    }
}

/// Adds the runs of set bits; the first bit stands for block `first` behind
/// `base`.
fn insert_bits(ranges: &mut RangeSet, base: u64, first: u64, mut bits: u64) {
    while bits != 0 {
        let from = u64::from(bits.trailing_zeros());
        let run = u64::from((bits >> from).trailing_ones());
        let start = base + ((first + from) << BLOCK_SHIFT);
        ranges.insert(Range { start, end: start + (run << BLOCK_SHIFT) });
        // A run of all 64 bits would shift by too much.
        bits &= u64::MAX.checked_shl((from + run) as u32).unwrap_or(0);
    }
}

/// An mmapable array of the kernel, mapped.
pub struct Mapped<T> {
    address: NonNull<T>,
    bytes: usize,
    count: usize,
}

// SAFETY: the memory belongs to this value until it is dropped, and whatever
// reaches it does so through atomics.
unsafe impl<T: Sync> Send for Mapped<T> {}

impl Mapped<SharedSlot> {
    pub fn slots(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Self::map(map, count)
    }
}

impl Mapped<AtomicU64> {
    pub fn words(map: BorrowedFd<'_>) -> io::Result<Self> {
        Self::map(map, word::COUNT as usize)
    }
}

impl<T> Mapped<T> {
    fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let bytes = (count * size_of::<T>()).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address of the kernel's choice, of an
        // array that holds `count` elements of this layout.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, bytes, count })
    }
}

impl<T> std::ops::Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds that many elements, aligned to a page,
        // until this value is dropped; every bit pattern is a valid atomic.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this value and nothing borrows it.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use replicator_ebpf::SLOT_CLAIMED;

    fn slot(inode: u64, region: u64) -> SharedSlot {
        SharedSlot {
            state: AtomicU64::new(SLOT_READY),
            queued: AtomicU64::new(1),
            flags: AtomicU64::new(0),
            inode: AtomicU64::new(inode),
            region: AtomicU64::new(region),
            bits: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    proptest! {
        #[test]
        fn collecting_gives_exactly_the_marked_blocks(
            blocks in prop::collection::btree_set(0u64..4096, 0..200),
            region in 0u64..1000,
        ) {
            let slot = slot(7, region);
            for block in &blocks {
                slot.bits[(block / 64) as usize].fetch_or(1 << (block % 64), Ordering::SeqCst);
            }
            let collected = slot.collect().unwrap();
            let base = region << REGION_SHIFT;
            let expected: RangeSet = blocks
                .iter()
                .map(|block| Range { start: base + block * 4096, end: base + (block + 1) * 4096 })
                .collect();
            prop_assert_eq!(collected.ranges, expected);
            prop_assert!(slot.collect().unwrap().ranges.is_empty());
        }
    }

    #[test]
    fn a_whole_slot_is_one_range() {
        let slot = slot(7, 1);
        slot.bits.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
        let ranges: Vec<_> = slot.collect().unwrap().ranges.iter().collect();
        assert_eq!(ranges, [Range { start: 1 << REGION_SHIFT, end: 2 << REGION_SHIFT }]);
    }

    #[test]
    fn a_retired_slot_gives_its_last_marks_and_then_nothing() {
        let slot = slot(7, 0);
        slot.bits[0].store(1, Ordering::SeqCst);
        let last = slot.retire().unwrap();
        assert_eq!((last.inode, last.ranges.bytes()), (7, 4096));
        assert_eq!(slot.retire(), None);
        assert_eq!(slot.collect(), None);
    }

    /// As a program does: claims the slot for region `owner` of inode `owner`,
    /// marks a block, announces it and looks whether the slot still is its
    /// own. `None` where it was taken.
    fn mark(slot: &SharedSlot, owner: u64) -> Option<bool> {
        let (free, claimed) = (SLOT_FREE, SLOT_CLAIMED);
        slot.state.compare_exchange(free, claimed, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        slot.inode.store(owner, Ordering::Relaxed);
        slot.region.store(owner, Ordering::Relaxed);
        slot.state.swap(SLOT_READY, Ordering::SeqCst);
        slot.bits[owner as usize % SLOT_WORDS].fetch_or(1, Ordering::SeqCst);
        slot.queued.swap(1, Ordering::SeqCst);
        Some(slot.is_ready() && slot.inode.load(Ordering::SeqCst) == owner)
    }

    #[test]
    fn a_slot_that_changes_hands_tells_each_owner_s_marks_of_its_own_region() {
        const OWNERS: u64 = 200_000;
        let slot = slot(0, 0);
        let (mut told, mut misplaced) = (std::collections::BTreeSet::new(), Vec::new());
        let told_itself = std::thread::scope(|scope| {
            let marker = scope.spawn(|| {
                let mut told_itself = Vec::new();
                for owner in 1..=OWNERS {
                    let is_own = std::iter::repeat_with(|| mark(&slot, owner)).flatten().next();
                    told_itself.extend((is_own == Some(false)).then_some(owner));
                }
                told_itself
            });
            let mut last = false;
            while !last {
                last = marker.is_finished();
                // A note may come long after its slot was retired.
                for collected in [slot.collect(), slot.retire()].into_iter().flatten() {
                    for range in collected.ranges.iter() {
                        let region = range.start >> REGION_SHIFT;
                        misplaced.extend((region != collected.inode).then_some(range));
                        told.insert(collected.inode);
                    }
                }
            }
            marker.join().unwrap()
        });
        assert_eq!(misplaced, [], "told of another owner's region");
        told.extend(told_itself);
        assert!(told.into_iter().eq(1..=OWNERS), "some marks were never told");
    }

    #[test]
    fn marks_made_while_collecting_are_never_lost() {
        let slot = slot(7, 0);
        let collected = std::sync::Mutex::new(0);
        std::thread::scope(|scope| {
            let marker = scope.spawn(|| {
                let mut marked = 0;
                for round in 0..100_000u64 {
                    let bit = 1 << (round % 64);
                    let old = slot.bits[0].fetch_or(bit, Ordering::SeqCst);
                    marked += u64::from(old & bit == 0);
                }
                marked
            });
            while !marker.is_finished() {
                *collected.lock().unwrap() += slot.collect().unwrap().ranges.bytes() / 4096;
            }
            let rest = slot.collect().unwrap().ranges.bytes() / 4096;
            assert_eq!(*collected.lock().unwrap() + rest, marker.join().unwrap());
        });
    }
}
