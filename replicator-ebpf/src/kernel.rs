//! What the programs know about this kernel and this folder: offsets and
//! constants that the daemon filled in before it loaded them, and reads of
//! kernel memory.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::MaybeUninit;
use core::ptr::{null, read_volatile, write_volatile};
use replicator_ebpf::word;

macro_rules! given {
    ($($name:ident: $kind:ty),* $(,)?) => {
        $(#[unsafe(no_mangle)] static $name: $kind = 0;)*
        /// Constants of this run. Read through volatile loads, because the
        /// compiler would otherwise take the zeros for the truth.
        pub mod get {
            $(
                #[allow(non_snake_case, reason = "named as the constant it reads")]
                #[inline(always)]
                pub fn $name() -> $kind {
                    // SAFETY: a static is always readable.
                    unsafe { core::ptr::read_volatile(&super::$name) }
                }
            )*
        }
    };
}

given! {
    ROOT_DEVICE: u32,
    ROOT_INODE: u64,
    OWN_TGID: u32,
    SLOT_MASK: u32,
    SET_MASK: u32,
    PAGE_SHIFT: u32,
    EXITS: u32,
    CASTS: u32,
    FAULTS_TOLD: u32,
    SUBVOLUME: u32,
    INODE_MODE: u32,
    INODE_NUMBER: u32,
    INODE_GENERATION: u32,
    INODE_LINKS: u32,
    INODE_SIZE: u32,
    INODE_SUPER: u32,
    INODE_DENTRIES: u32,
    INODE_MAPPING: u32,
    SUPER_DEVICE: u32,
    SUPER_ROOT: u32,
    SUPER_MAGIC: u32,
    DENTRY_ALIAS: u32,
    DENTRY_INODE: u32,
    DENTRY_PARENT: u32,
    DENTRY_HASHED: u32,
    DENTRY_NAME: u32,
    MAPPING_HOST: u32,
    MAPPING_WRITABLE: u32,
    FOLIO_INDEX: u32,
    FOLIO_FLAGS: u32,
    FOLIO_ORDER: u32,
    PAGE_HEAD_BIT: u32,
    KIOCB_FILE: u32,
    KIOCB_POSITION: u32,
    FILE_INODE: u32,
    FILE_MODE: u32,
    VECTOR_SOURCE: u32,
    VECTOR_BYTES: u32,
    XFS_INODE_VFS: u32,
    TRANSACTION_ITEMS: u32,
    ITEM_LINKS: u32,
    ITEM_KIND: u32,
    ITEM_INODE: u32,
    BTRFS_INODE_VFS: u32,
    BTRFS_INODE_ROOT: u32,
    BTRFS_ROOT_DEVICE: u32,
    ATTRIBUTES_VALID: u32,
    ATTRIBUTES_SIZE: u32,
    DIRECT_KIOCB: u32,
    DIRECT_FLAGS: u32,
    FAULT_AREA: u32,
    FAULT_PAGE: u32,
    AREA_FILE: u32,
}

#[map]
static WORDS: Array<[u64; word::COUNT as usize]> = Array::with_max_entries(1, 1 << 10);

/// Kernel memory at `base + offset`.
#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address and fails on one that cannot be
    // read.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// A kernel structure that is there for sure: what a tracepoint was given, or
/// what that holds. Read in place where this kernel lets programs do so, which
/// costs nothing; else with its first words read at once, because a call of the
/// helper costs more than the bytes that it brings.
pub struct View<const WORDS: usize> {
    base: u64,
    place: *const u8,
    words: MaybeUninit<[u64; WORDS]>,
}

impl<const WORDS: usize> View<WORDS> {
    /// To be filled before anything is asked; moved after that, it would be
    /// copied word by word.
    #[inline(always)]
    pub fn at(base: u64) -> Self {
        Self { base, place: null(), words: MaybeUninit::uninit() }
    }

    #[inline(always)]
    pub fn fill(&mut self) -> Option<()> {
        if get::CASTS() != 0 {
            self.place = cast(self.base);
            return Some(());
        }
        let (to, bytes) = (self.words.as_mut_ptr().cast(), WORDS as u32 * 8);
        // SAFETY: there is room for so many bytes, and the helper checks the
        // address it reads from.
        let error = unsafe { generated::bpf_probe_read_kernel(to, bytes, self.base as *const _) };
        (error == 0).then_some(())
    }

    /// A member, of up to 8 bytes. Where one lies is known when the programs
    /// are loaded, so that no branch is left of this.
    #[inline(always)]
    pub fn get<T: Copy>(&self, offset: u32) -> Option<T> {
        let at = offset as usize;
        if get::CASTS() != 0 {
            // SAFETY: the kernel reads 0 where there is nothing.
            return Some(unsafe { self.place.add(at).cast::<T>().read_volatile() });
        }
        if at + size_of::<T>() > WORDS * 8 {
            return read(self.base, offset);
        }
        // SAFETY: it lies within the words, and as the kernel aligned it.
        Some(unsafe { self.words.as_ptr().cast::<u8>().add(at).cast::<T>().read() })
    }
}

/// One member of a structure that is there for sure.
#[inline(always)]
pub fn look<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if get::CASTS() == 0 {
        return read(base, offset);
    }
    // SAFETY: the kernel reads 0 where there is nothing.
    Some(unsafe { cast(base).add(offset as usize).cast::<T>().read_volatile() })
}

/// The address as a pointer to what may be read. The daemon writes the number
/// of the kernel's `bpf_rdonly_cast` into this call, where there is one; the
/// verifier then puts a move in its place.
#[inline(always)]
fn cast(address: u64) -> *const u8 {
    // SAFETY: a call of a number, as those of the helpers are.
    let cast: unsafe extern "C" fn(u64, u64) -> *const u8 =
        unsafe { core::mem::transmute(replicator_ebpf::CAST_CALL as usize) };
    // SAFETY: the function has no precondition. 0 stands for no type.
    unsafe { cast(address, 0) }
}

/// Is the daemon itself running this?
#[inline(always)]
pub fn is_own() -> bool {
    (bpf_get_current_pid_tgid() >> 32) as u32 == get::OWN_TGID()
}

/// The numbered words.
#[derive(Clone, Copy)]
pub struct Words(*mut u64);

/// There always are some: what the verifier does not know.
#[inline(always)]
pub fn words() -> Option<Words> {
    WORDS.get_ptr_mut(0).map(|words| Words(words.cast()))
}

impl Words {
    #[inline(always)]
    pub fn get(self, number: u32) -> u64 {
        // SAFETY: the pointer is to the element of the map.
        unsafe { read_volatile(self.at(number)) }
    }

    #[inline(always)]
    pub fn set(self, number: u32, value: u64) {
        // SAFETY: as above.
        unsafe { write_volatile(self.at(number), value) }
    }

    #[inline(always)]
    pub fn add(self, number: u32, more: u64) {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(self.at(number), more) };
    }

    #[inline(always)]
    fn at(self, number: u32) -> *mut u64 {
        // SAFETY: all numbers are below their count.
        unsafe { self.0.add(number as usize) }
    }
}

#[inline(always)]
pub fn count(number: u32) {
    if let Some(words) = words() {
        words.add(number, 1);
    }
}
