//! One program per function of the kernel, run when it returned: the change
//! is done, the size is the new one, and a reader who looks now sees it.
//!
//! A program may serve several functions with the same arguments; the daemon
//! says which. Arguments are fetched through a helper, because it gives plain
//! numbers: the verifier would forbid to calculate with typed pointers.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_func_arg, bpf_get_func_ret};
use aya_ebpf::macros::{fentry, fexit, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::{FEntryContext, FExitContext};
use core::hint::black_box;
use replicator_ebpf::{FLAG_MAPPED, word};

use crate::event::{Pending, changed, mapped, set, written};
use crate::kernel::{count, get, is_own, read};
use crate::{mark, place};

const EINTR: i64 = -4;
const EIO: i64 = -5;
const ENOMEM: i64 = -12;
const ENOSPC: i64 = -28;
const EDQUOT: i64 = -122;
const IOMAP_DIO_WRITE: u32 = 1 << 30;
const ATTR_SIZE: u32 = 1 << 3;
const FALLOC_KEEP_SIZE: u32 = 1;
const FALLOC_COLLAPSE: u32 = 1 << 3;
const FALLOC_INSERT: u32 = 1 << 5;

/// Direct writes between the end of their transfer and the end of their
/// bookkeeping, by the address of what the kernel keeps of them. None is ever
/// pushed out by others: one that finds no room is counted.
#[map]
static DIRECT: HashMap<u64, Pending> = HashMap::with_max_entries(8192, 0);

macro_rules! programs {
    ($($(#[$note:meta])* $kind:ident $name:ident($context:ident: $type:ty) $body:block)*) => {$(
        $(#[$note])*
        #[$kind]
        pub fn $name($context: $type) -> i32 {
            #[inline(always)]
            fn body($context: &$type) -> Option<()> {
                $body;
                Some(())
            }
            let _ = body(&$context);
            0
        }
    )*};
}

programs! {
    /// `(kiocb, iter)` of a file system's `write_iter`: what every way to
    /// write through a descriptor ends in. Of an asynchronous write only the
    /// start is over, and what it was given may be gone: told when complete.
    fexit write_iter(context: FExitContext) {
        let written_bytes = returned(context)?;
        let kiocb = argument(context, 0)?;
        if written_bytes > 0 {
            let inode = file_inode(read(kiocb, get::KIOCB_FILE())?)?;
            let end: u64 = read(kiocb, get::KIOCB_POSITION())?;
            written(inode, end.saturating_sub(written_bytes as u64), end);
        } else if may_have_changed(written_bytes) {
            // It does not say how far it got.
            changed(file_inode(read(kiocb, get::KIOCB_FILE())?)?, 0, u64::MAX);
        }
    }

    /// `(dio)`, of writes and reads, before the size is set and pages are
    /// dropped that show what was there before. The last chance to learn
    /// whose write it is.
    fentry direct_ends(context: FEntryContext) {
        let direct = argument(context, 0)?;
        let flags: u32 = read(direct, get::DIRECT_FLAGS())?;
        if flags & IOMAP_DIO_WRITE == 0 || is_own() {
            return None;
        }
        let kiocb: u64 = read(direct, get::DIRECT_KIOCB())?;
        let inode = file_inode(read(kiocb, get::KIOCB_FILE())?)?;
        let subject = place::subject(inode)?;
        let flags = mapped(&subject);
        let start: u64 = read(kiocb, get::KIOCB_POSITION())?;
        let pending = Pending { inode: subject.number, start, end: u64::MAX, flags };
        if DIRECT.insert(&direct, &pending, 0).is_err() {
            count(word::UNREMEMBERED);
            // Wakes the daemon, which then sees the count.
            mark::note_range(pending.inode, pending.start, pending.end, pending.flags);
        }
    }

    /// The same, when all is done.
    fexit direct_ended(context: FExitContext) {
        let direct = argument(context, 0)?;
        // SAFETY: the address is that of one write at a time.
        let pending = unsafe { DIRECT.get(&direct) }.copied()?;
        let _ = DIRECT.remove(&direct);
        // After an error a part may have been written.
        let written_bytes = returned(context)?;
        let end = if written_bytes > 0 {
            pending.start.saturating_add(written_bytes as u64)
        } else {
            pending.end
        };
        mark::range(pending.inode, pending.start, end, pending.flags);
    }

    /// `(file, mode, offset, length)`
    fexit fallocate(context: FExitContext) {
        let inode = file_inode(argument(context, 0)?)?;
        let mode = argument(context, 1)? as u32;
        let (start, length) = (argument(context, 2)?, argument(context, 3)?);
        if mode & (FALLOC_COLLAPSE | FALLOC_INSERT) != 0 {
            changed(inode, start, u64::MAX);
        } else if mode & !FALLOC_KEEP_SIZE != 0 {
            changed(inode, start, start.saturating_add(length));
        } else {
            set(inode);
        }
    }

    /// `(idmap, dentry, attributes, …)`: truncation, times, owner, mode.
    fexit attributes(context: FExitContext) {
        let inode: u64 = read(argument(context, 1)?, get::DENTRY_INODE())?;
        let attributes = argument(context, 2)?;
        let valid: u32 = read(attributes, get::ATTRIBUTES_VALID())?;
        if valid & ATTR_SIZE != 0 {
            changed(inode, read(attributes, get::ATTRIBUTES_SIZE())?, u64::MAX);
        } else {
            set(inode);
        }
    }

    /// `(idmap, dentry, flags)` of a file system's `fileattr_set`.
    fexit file_flags(context: FExitContext) {
        set(read(argument(context, 1)?, get::DENTRY_INODE())?);
    }

    /// `(from, offset, to, offset, length, flags)` of clones and copies.
    fexit copied(context: FExitContext) {
        let copied_bytes = returned(context)?;
        let start = argument(context, 3)?;
        if copied_bytes > 0 {
            let inode = file_inode(argument(context, 2)?)?;
            changed(inode, start, start.saturating_add(copied_bytes as u64));
        } else if may_have_changed(copied_bytes) {
            changed(file_inode(argument(context, 2)?)?, start, u64::MAX);
        }
    }

    /// `(kiocb, iter, encoded)`: extents that come compressed, as a restored
    /// snapshot's do. What is returned is their compressed size.
    fexit encoded_write(context: FExitContext) {
        if returned(context)? > 0 {
            changed(file_inode(read(argument(context, 0)?, get::KIOCB_FILE())?)?, 0, u64::MAX);
        }
    }

    /// `(fault)`, of a first store to a page of a shared mapping since it was
    /// last written out. The page is tagged as dirty and the store is about to
    /// happen: whoever syncs the range and then reads has it, or is told of
    /// it again.
    fexit page_dirtied(context: FExitContext) {
        let fault = argument(context, 0)?;
        let area: u64 = read(fault, get::FAULT_AREA())?;
        let inode = file_inode(read(area, get::AREA_FILE())?)?;
        let subject = place::subject(inode)?;
        let flags = mapped(&subject) | FLAG_MAPPED;
        let page: u64 = read(fault, get::FAULT_PAGE())?;
        let shift = get::PAGE_SHIFT() & 63;
        mark::range(subject.number, page << shift, (page + 1) << shift, flags);
    }
}

/// Errors after which a part of the work may have been done.
#[inline(always)]
fn may_have_changed(result: i64) -> bool {
    result == EIO || result == ENOSPC || result == EDQUOT || result == EINTR || result == ENOMEM
}

#[inline(always)]
fn file_inode(file: u64) -> Option<u64> {
    read(file, get::FILE_INODE())
}

#[inline(always)]
fn argument(context: &impl EbpfContext, number: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the helper writes into the variable.
    let error = unsafe { bpf_get_func_arg(context.as_ptr(), number, &raw mut value) };
    if black_box(error) == 0 { Some(value) } else { None }
}

#[inline(always)]
fn returned(context: &impl EbpfContext) -> Option<i64> {
    let mut value = 0;
    // SAFETY: the helper writes into the variable.
    let error = unsafe { bpf_get_func_ret(context.as_ptr(), &raw mut value) };
    if black_box(error) == 0 { Some(value as i64) } else { None }
}
