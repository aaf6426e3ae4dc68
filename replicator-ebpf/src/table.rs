//! What is remembered of inodes, in a table of bounded size.
//!
//! Owns the entries, and who has which. It is asked at every write on the file
//! system of the folder, and a lookup in a hash table of the kernel cost half
//! of what such a write outside of the folder paid for being watched (40 of 90
//! ns on ext4). So this is an array of sets of four entries, one set a hash.
//!
//! Entries change hands while other processors look at them. Each of their
//! words carries the version that it belongs to, odd while the entry is being
//! written: words with one even version belong together, in whatever order
//! they are read, and a change of a state that has another version by then
//! fails. What cannot be remembered is decided anew at each event.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};
use core::ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile};
use replicator_ebpf::{Entry, Set, WAYS, word};

use crate::kernel::{count, get};

/// In a state: the place is outside of the folder.
pub const OUTSIDE: u64 = 1;
/// A writable shared mapping was there at the last event.
pub const MAPPED: u64 = 2;
/// Ranges were reported while none was there, and so read unsynced.
pub const UNSYNCED: u64 = 4;

const VERSION_BITS: u64 = 0xffff;
/// Numbers of inodes beyond are not remembered; no file system is as large.
const NUMBER_MAX: u64 = 1 << 48;

#[map]
static INODES: Array<Set> = Array::with_max_entries(64, 0);

/// An entry, and its state as it was seen. Nothing is a null pointer: of an
/// option the compiler would copy what the verifier knows was never written.
#[derive(Clone, Copy)]
pub struct Known {
    entry: *mut Entry,
    state: u64,
}

/// What a verdict holds for. The generation of the inode is not asked: one
/// that takes over a number gets a name, and so a new generation of verdicts
/// before the daemon looks at it for the first time.
#[derive(Clone, Copy)]
pub struct Basis {
    pub generation: u32,
    pub links: u32,
}

impl Basis {
    #[inline(always)]
    fn word(self, version: u64) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.links & 0xffff) << 16 | version
    }
}

impl Known {
    pub const NOTHING: Self = Self { entry: null_mut(), state: UNSYNCED << 16 };

    #[inline(always)]
    pub fn is_nothing(&self) -> bool {
        self.entry.is_null()
    }

    /// [`OUTSIDE`], [`MAPPED`] and [`UNSYNCED`].
    #[inline(always)]
    pub fn state(&self) -> u64 {
        self.state >> 16 & 0xffff
    }

    /// False where nothing is remembered, or where the state, or whose entry
    /// this is, has changed meanwhile.
    #[inline(always)]
    pub fn set_state(&self, state: u64) -> bool {
        if self.is_nothing() {
            return false;
        }
        if state == self.state() {
            return true;
        }
        let new = self.state & !(0xffff << 16) | state << 16;
        // SAFETY: the pointer is to an element of the map.
        let (_, done) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                addr_of_mut!((*self.entry).state),
                self.state,
                new,
            )
        };
        done
    }

    /// Remembers the size, and says whether it is another one than before.
    #[inline(always)]
    pub fn set_size(&self, size: u64) -> bool {
        if self.is_nothing() {
            return true;
        }
        // SAFETY: the pointer is to an element of the map.
        unsafe {
            let known = addr_of_mut!((*self.entry).size);
            let changed = read_volatile(known) != size;
            write_volatile(known, size);
            if read_volatile(addr_of!((*self.entry).state)) & VERSION_BITS
                != self.state & VERSION_BITS
            {
                // It was perhaps another inode's.
                write_volatile(known, u64::MAX);
            }
            changed
        }
    }
}

/// What is remembered of the inode; where a basis is given, only if its verdict
/// has that one.
#[inline(always)]
pub fn find(number: u64, basis: Option<Basis>) -> Known {
    let Some(set) = set_of(number) else { return Known::NOTHING };
    for way in 0..WAYS {
        let entry = way_of(set, way);
        // SAFETY: the pointer is to an element of the map.
        unsafe {
            let owner = read_volatile(addr_of!((*entry).owner));
            if owner >> 16 != number {
                continue;
            }
            let version = owner & VERSION_BITS;
            let state = read_volatile(addr_of!((*entry).state));
            let holds =
                |basis: Basis| read_volatile(addr_of!((*entry).basis)) == basis.word(version);
            if version & 1 != 0 || state & VERSION_BITS != version || !basis.is_none_or(holds) {
                return Known::NOTHING;
            }
            if read_volatile(addr_of!((*entry).used)) == 0 {
                write_volatile(addr_of_mut!((*entry).used), 1);
            }
            return Known { entry, state };
        }
    }
    Known::NOTHING
}

/// Is anything remembered of an inode with this number?
#[inline(always)]
pub fn has(number: u64) -> bool {
    let Some(set) = set_of(number) else { return false };
    (0..WAYS).any(|way| owner(way_of(set, way)) >> 16 == number)
}

/// Remembers a verdict, unless somebody else is just at it. What is known of
/// the mappings and the size of the same inode stays; its number may have been
/// another one's before.
#[inline(always)]
pub fn remember(number: u64, inode_generation: u32, basis: Basis, outside: bool) -> Option<()> {
    if number >= NUMBER_MAX {
        return None;
    }
    let set = set_of(number)?;
    let (entry, before) = choose(set, number)?;
    let version = before + 1 & VERSION_BITS;
    if version & 1 == 0 {
        return None;
    }
    if !exchange(entry, before, number << 16 | version) {
        return None;
    }
    let version = version + 1 & VERSION_BITS;
    // Two may have found it nowhere, and chosen differently.
    let twice = (0..WAYS).filter(|&way| owner(way_of(set, way)) >> 16 == number).count() > 1;
    if twice {
        set_owner(entry, version);
        return None;
    }
    let is_new = before >> 16 != number;
    if is_new && before >> 16 != 0 {
        count(word::EVICTED);
    }
    write(entry, is_new, inode_generation, basis.word(version), outside);
    set_owner(entry, number << 16 | version);
    Some(())
}

/// Writes all but the owner, which says that this program alone does so.
#[inline(always)]
fn write(entry: *mut Entry, is_new: bool, inode_generation: u32, basis: u64, outside: bool) {
    let version = basis & VERSION_BITS;
    // SAFETY: the pointer is to an element of the map.
    unsafe {
        // From now on nobody else changes the state.
        let state = addr_of_mut!((*entry).state);
        let before = atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(state, version ^ 1);
        let mut bits = UNSYNCED;
        if !is_new && before >> 32 == u64::from(inode_generation) {
            bits = before >> 16 & (MAPPED | UNSYNCED);
        } else {
            write_volatile(addr_of_mut!((*entry).size), u64::MAX);
            write_volatile(addr_of_mut!((*entry).used), 0);
        }
        if outside {
            bits |= OUTSIDE;
        }
        write_volatile(addr_of_mut!((*entry).basis), basis);
        write_volatile(state, u64::from(inode_generation) << 32 | bits << 16 | version);
    }
}

/// The entry of the inode, or the one to give it, with its owner: one that
/// was not used since the last time that all were.
#[inline(always)]
fn choose(set: *mut Set, number: u64) -> Option<(*mut Entry, u64)> {
    let mut chosen = None;
    for way in 0..WAYS {
        let entry = way_of(set, way);
        let owner = owner(entry);
        if owner >> 16 == number {
            return Some((entry, owner));
        }
        // SAFETY: the pointer is to an element of the map.
        if chosen.is_none() && unsafe { read_volatile(addr_of!((*entry).used)) } == 0 {
            chosen = Some((entry, owner));
        }
    }
    if chosen.is_none() {
        for way in 0..WAYS {
            // SAFETY: as above.
            unsafe { write_volatile(addr_of_mut!((*way_of(set, way)).used), 0) };
        }
        let entry = way_of(set, 0);
        chosen = Some((entry, owner(entry)));
    }
    chosen
}

#[inline(always)]
fn owner(entry: *mut Entry) -> u64 {
    // SAFETY: the pointer is to an element of the map.
    unsafe { read_volatile(addr_of!((*entry).owner)) }
}

#[inline(always)]
fn set_owner(entry: *mut Entry, owner: u64) {
    // SAFETY: as above.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(addr_of_mut!((*entry).owner), owner) };
}

/// Makes this program the only one that writes the entry, if it still has
/// that owner.
#[inline(always)]
fn exchange(entry: *mut Entry, before: u64, owner: u64) -> bool {
    // SAFETY: as above.
    let (_, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            addr_of_mut!((*entry).owner),
            before,
            owner,
        )
    };
    done
}

#[inline(always)]
fn way_of(set: *mut Set, way: usize) -> *mut Entry {
    // SAFETY: a set has so many entries.
    unsafe { addr_of_mut!((*set).ways).cast::<Entry>().add(way) }
}

#[inline(always)]
fn set_of(number: u64) -> Option<*mut Set> {
    let hash = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    INODES.get_ptr_mut(hash & get::SET_MASK())
}
