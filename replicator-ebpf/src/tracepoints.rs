//! One program per tracepoint. Each takes the inode and the range out of the
//! arguments that the kernel's `TP_PROTO` lists, and calls the core.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use replicator_ebpf::{FLAG_MAPPED, word};

use crate::event::{
    Pending, announced, changed, finished, is_unmet_work, is_waiting, mapped, moved_on, set,
    settled, sized, written,
};
use crate::kernel::{count, get, look, read};
use crate::{mark, place};

const FMODE_WRITE: u32 = 2;
const ENOTBLK: i64 = -15;
const EXT4_HANDLE_INODE: u32 = 1;
const XFS_LI_INODE: u32 = 0x123b;
/// Items of a transaction that are looked through for an inode: it comes first.
const ITEMS_MAX: u32 = 8;

/// Pages between being announced as dirty and being tagged as dirty.
#[map]
static DIRTYING: LruHashMap<u64, Pending> = LruHashMap::with_max_entries(8192, 0);

/// Direct reads under way, by the address of what the kernel keeps of them,
/// of files that may be written to. One that was pushed out by others counts
/// as a write.
#[map]
static READING: LruHashMap<u64, u8> = LruHashMap::with_max_entries(8192, 0);

/// Does nothing: a measurement attaches it to learn what any program costs.
#[raw_tracepoint]
pub fn nothing(_: RawTracePointContext) -> i32 {
    0
}

macro_rules! programs {
    ($($(#[$note:meta])* $name:ident($context:ident) $body:block)*) => {$(
        $(#[$note])*
        #[raw_tracepoint]
        pub fn $name($context: RawTracePointContext) -> i32 {
            #[inline(always)]
            fn body($context: &RawTracePointContext) -> Option<()> {
                $body;
                Some(())
            }
            let _ = body(&$context);
            0
        }
    )*};
}

programs! {
    /// `(inode, pos, len, copied)`
    ext4_da_write_end(context) { write_end(context)? }
    ext4_write_end(context) { write_end(context)? }
    ext4_journalled_write_end(context) { write_end(context)? }

    /// `(inode)`: the size is the new one, nothing behind it is left.
    ext4_truncate_exit(context) {
        let inode: u64 = context.arg(0);
        changed(inode, read(inode, get::INODE_SIZE())?, u64::MAX);
    }

    /// `(inode, offset, blocks, result)`: what was allocated reads as the zeros
    /// that were there before, so only the size is in question.
    ext4_fallocate_exit(context) { set(context.arg(0)) }

    /// `(inode, offset, length, …)`, before it happens.
    ext4_punch_hole(context) { announced_range(context) }
    ext4_zero_range(context) { announced_range(context) }

    /// `(inode, offset, length)`, before it happens; all behind it moves.
    ext4_collapse_range(context) { announced(context.arg(0), context.arg(1), u64::MAX) }
    ext4_insert_range(context) { announced(context.arg(0), context.arg(1), u64::MAX) }

    /// `(inode, caller)`
    ext4_mark_inode_dirty(context) { settled(context.arg(0)) }

    /// `(inode, blocks, …, kind)`: what sets file flags asks the journal for one
    /// block of an inode, as nothing does that happens often.
    ext4_journal_start_inode(context) {
        let (blocks, kind): (u32, u32) = (context.arg(1), context.arg(4));
        if blocks != 1 || kind != EXT4_HANDLE_INODE {
            return None;
        }
        announced(context.arg(0), 0, 0);
    }

    /// `(device, transaction, kind, …)`, when that was done.
    jbd2_handle_stats(context) {
        if context.arg::<u32>(2) == EXT4_HANDLE_INODE {
            finished();
        }
    }

    /// `(kiocb, iter)`, before it happens.
    xfs_file_buffered_write(context) { xfs_write(context)? }
    xfs_file_dax_write(context) { xfs_write(context)? }

    /// `(kiocb, iter, …)`: whether a transfer reads or writes. Its end does not
    /// say, nor do the flags of all that write. One that writes is forgotten to
    /// have read: the same address may have been that of another transfer.
    iomap_dio_rw_begin(context) {
        let kiocb: u64 = context.arg(0);
        // Memory is the source, or it fills memory.
        if read::<u8>(context.arg(1), get::VECTOR_SOURCE()) == Some(0) {
            let file: u64 = read(kiocb, get::KIOCB_FILE())?;
            if read::<u32>(file, get::FILE_MODE())? & FMODE_WRITE != 0 {
                let _ = READING.insert(&kiocb, &1, 0);
            }
        } else {
            let _ = READING.remove(&kiocb);
        }
    }

    /// `(kiocb, error, result)`; reads come here, too. The end of an
    /// asynchronous write runs in a thread of the kernel, so the daemon's own
    /// ones are told; the comparison with the index drops them.
    iomap_dio_complete(context) {
        let (kiocb, result): (u64, i64) = (context.arg(0), context.arg(2));
        let file: u64 = read(kiocb, get::KIOCB_FILE())?;
        if read::<u32>(file, get::FILE_MODE())? & FMODE_WRITE == 0
            || READING.remove(&kiocb).is_ok()
        {
            return None;
        }
        let inode: u64 = read(file, get::FILE_INODE())?;
        let end: u64 = read(kiocb, get::KIOCB_POSITION())?;
        if result > 0 {
            changed(inode, end.saturating_sub(result as u64), end);
        } else if result < 0 && result != ENOTBLK {
            // A part may have been written.
            changed(inode, end, u64::MAX);
        }
    }

    /// `(inode, …)`: somebody stores through a mapping to a page that was not
    /// writable, and may be dirty; the mapping may be a new one.
    xfs_write_fault(context) { xfs_fault(context)? }
    xfs_filemap_fault(context) { xfs_fault(context)? }

    /// `(inode)`, before it happens, with the inode locked.
    xfs_setattr(context) { xfs_size(context) }
    xfs_ioctl_setattr(context) { xfs_size(context) }
    xfs_alloc_file_space(context) { xfs_size(context) }
    xfs_free_file_space(context) { xfs_whole(context) }
    xfs_zero_file_space(context) { xfs_whole(context) }
    xfs_collapse_file_space(context) { xfs_whole(context) }
    xfs_insert_file_space(context) { xfs_whole(context) }

    /// `(inode, new size)`
    xfs_itruncate_extents_end(context) {
        changed(xfs_inode(context.arg(0)), context.arg(1), u64::MAX);
    }

    /// `(source, from, length, target, to)`, before it happens.
    xfs_reflink_remap_range(context) {
        let (length, to): (u64, u64) = (context.arg(2), context.arg(4));
        announced(xfs_inode(context.arg(3)), to, to.saturating_add(length));
    }

    /// `(inode, which of two, …)`, when two files have exchanged ranges; tells
    /// of each.
    xfs_exchrange_after(context) { changed(xfs_inode(context.arg(0)), 0, u64::MAX) }

    /// `(transaction, caller)`, with what it changed of inodes: their size and
    /// attributes are the new ones.
    xfs_trans_commit(context) {
        if !is_waiting() {
            return None;
        }
        let items = context.arg::<u64>(0) + u64::from(get::TRANSACTION_ITEMS());
        let mut at: u64 = read(items, 0)?;
        for _ in 0..ITEMS_MAX {
            if at == items {
                break;
            }
            let item = at - u64::from(get::ITEM_LINKS());
            if read::<u32>(item, get::ITEM_KIND())? == XFS_LI_INODE {
                settled(xfs_inode(read(item, get::ITEM_INODE())?));
            }
            at = read(at, 0)?;
        }
    }

    /// `(folio, mapping)`, before the page is tagged as dirty. A reader that
    /// synced now would skip it: the range waits for the next program.
    ///
    /// Tells stores through writable shared mappings, and nothing else: a
    /// system call that dirties a folio is told by its own tracepoint to the
    /// byte, and a folio may be many times as long as what it wrote. The
    /// kernel unmaps pages, and moves their dirty bits here, before it counts
    /// a mapping down, so the last stores of a mapping are told as well.
    ///
    /// While there is a mapping the daemon's own pages count, because a later
    /// store of somebody else to a page that is dirty already goes untold.
    writeback_dirty_folio(context) {
        let (folio, mapping): (u64, u64) = (context.arg(0), context.arg(1));
        let inode: u64 = read(mapping, get::MAPPING_HOST())?;
        if is_unmet_work(inode)? {
            return None;
        }
        let subject = place::subject(inode)?;
        let flags = mapped(&subject);
        if flags & FLAG_MAPPED == 0 {
            return None;
        }
        let start = read::<u64>(folio, get::FOLIO_INDEX())? << (get::PAGE_SHIFT() & 63);
        let end = start.saturating_add(folio_bytes(folio)?);
        let pending = Pending { inode: subject.number, start, end, flags };
        let task = bpf_get_current_pid_tgid();
        let _ = DIRTYING.insert(&task, &pending, 0);
    }

    /// `(inode, flags)`, after the page was tagged, and for every other
    /// change of the inode: a grown size among them, where nothing else tells
    /// sizes.
    writeback_mark_inode_dirty(context) {
        let inode: u64 = context.arg(0);
        let number: u64 = read(inode, get::INODE_NUMBER())?;
        let task = bpf_get_current_pid_tgid();
        // SAFETY: only this task writes the element of its key.
        if let Some(pending) = unsafe { DIRTYING.get(&task) }.copied()
            && pending.inode == number
        {
            let _ = DIRTYING.remove(&task);
            mark::range(number, pending.start, pending.end, pending.flags);
            return None;
        }
        if is_page(context.arg(1)) {
            forgotten(inode, number)?;
        }
        if get::EXITS() != 0 {
            return None;
        }
        // Older kernels zero the edges of a range after they touched the
        // metadata of the inode.
        settled(inode);
        sized(inode, is_whole_inode(context.arg(1)))?;
    }
}

#[inline(always)]
fn write_end(context: &RawTracePointContext) -> Option<()> {
    let (start, copied): (u64, u64) = (context.arg(1), context.arg::<u32>(3).into());
    written(context.arg(0), start, start.saturating_add(copied))?;
    moved_on();
    Some(())
}

/// With the inode locked against other writers until it is done. What fires
/// behind the bytes, `iomap_iter`, does so twice a write and once more for
/// each read from the disk, and a program that does nothing there costs a write
/// 50 ns each time: so whoever looks waits for that lock instead.
#[inline(always)]
fn xfs_write(context: &RawTracePointContext) -> Option<()> {
    let kiocb: u64 = context.arg(0);
    let start: u64 = look(kiocb, get::KIOCB_POSITION())?;
    let length: u64 = look(context.arg(1), get::VECTOR_BYTES())?;
    let inode: u64 = look(look(kiocb, get::KIOCB_FILE())?, get::FILE_INODE())?;
    written(inode, start, start.saturating_add(length))?;
    moved_on();
    Some(())
}

#[inline(always)]
fn xfs_fault(context: &RawTracePointContext) -> Option<()> {
    let subject = place::subject(xfs_inode(context.arg(0)))?;
    mapped(&subject);
    Some(())
}

#[inline(always)]
fn announced_range(context: &RawTracePointContext) {
    let (start, length): (u64, u64) = (context.arg(1), context.arg(2));
    announced(context.arg(0), start, start.saturating_add(length));
}

/// `mark_inode_dirty` with `I_DIRTY`, as `setattr` calls it; its three bits
/// moved in Linux 6.11. Setting only the mtime is no `FAN_ATTRIB` but a
/// `FAN_MODIFY`, which nobody listens to on this level.
#[inline(always)]
fn is_whole_inode(flags: u64) -> bool {
    flags & 0x70 == 0x70 || flags & 0x07 == 0x07
}

/// `mark_inode_dirty` with nothing but `I_DIRTY_PAGES`.
#[inline(always)]
fn is_page(flags: u64) -> bool {
    flags == 0x40 || flags == 0x04
}

/// A page was tagged, and which one is no longer known: the table was too
/// small, or an interrupt made a page of its own dirty in between. Where that
/// page may be a mapped one, all of the file is told.
#[inline(always)]
fn forgotten(inode: u64, number: u64) -> Option<()> {
    let mapping: u64 = read(inode, get::INODE_MAPPING())?;
    if read::<i32>(mapping, get::MAPPING_WRITABLE())? <= 0 {
        return None;
    }
    place::subject(inode)?;
    count(word::FORGOTTEN);
    mark::note_range(number, 0, u64::MAX, FLAG_MAPPED);
    Some(())
}

#[inline(always)]
fn xfs_inode(inode: u64) -> u64 {
    inode + u64::from(get::XFS_INODE_VFS())
}

#[inline(always)]
fn xfs_whole(context: &RawTracePointContext) {
    announced(xfs_inode(context.arg(0)), 0, u64::MAX);
}

/// Only the size or the attributes are in question: what lies behind the new
/// end is told by `xfs_itruncate_extents_end`, and what is new are zeros.
#[inline(always)]
fn xfs_size(context: &RawTracePointContext) {
    announced(xfs_inode(context.arg(0)), 0, 0);
}

#[inline(always)]
fn folio_bytes(folio: u64) -> Option<u64> {
    let page = 1 << (get::PAGE_SHIFT() & 63);
    let flags: u64 = read(folio, get::FOLIO_FLAGS())?;
    if flags & (1 << (get::PAGE_HEAD_BIT() & 63)) == 0 {
        return Some(page);
    }
    let order: u8 = read(folio, get::FOLIO_ORDER())?;
    Some(page << (order & 31))
}
