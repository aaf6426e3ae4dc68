//! What a program tells of an inode, whichever way it learned of it.
//!
//! The one core under all programs: is the inode in the folder ([`place`]),
//! is it mapped, then mark its range ([`mark`]). Some tracepoints fire before
//! the change they tell of. For these the range is remembered by task and
//! told again when the same task next touches the inode's metadata: by then a
//! reader waits for the locks of the operation, or sees its result. Writes on
//! xfs are told once, before they are done: whoever looks waits for them.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use replicator_ebpf::{FLAG_MAPPED, word};

use crate::kernel::{count, get, is_own, look, read, words};
use crate::mark;
use crate::place::{self, Subject};
use crate::table::{self, MAPPED, UNSYNCED};

/// An operation that was announced this long ago has taken effect, or holds
/// locks that readers wait for; it may have been pushed out of the table.
const ANNOUNCEMENT_NANOS: u64 = 10_000_000_000;

/// A range of an inode that a task is about to change; an empty one stands
/// for its size alone. Once the operation is over the inode is 0, which no
/// inode has for a number, and the place is kept for the next one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    pub inode: u64,
    pub start: u64,
    pub end: u64,
    pub flags: u64,
}

/// In [`Pending::flags`]: a size or attributes were announced as well.
const STEP: u64 = 1 << 32;

#[map]
static ANNOUNCED: LruHashMap<u64, Pending> = LruHashMap::with_max_entries(8192, 0);

/// Is the inode mapped shared and writable? Also notices when it becomes so:
/// what was read unsynced before may then be changed through pages that are
/// dirty already, which no tracepoint tells. Where every fault is told, that
/// leaves the mappings that are older than what is remembered.
#[inline(always)]
pub fn mapped(subject: &Subject) -> u64 {
    let writable: i32 = look(subject.mapping, get::MAPPING_WRITABLE()).unwrap_or(0);
    let known = subject.known.state();
    if writable <= 0 {
        let unsynced = if get::FAULTS_TOLD() == 0 { UNSYNCED } else { 0 };
        let state = known & !(MAPPED | UNSYNCED) | unsynced;
        // What is read unsynced must be remembered as such.
        let remembered = subject.known.set_state(state);
        return if remembered { 0 } else { FLAG_MAPPED };
    }
    if known & MAPPED == 0 {
        let state = known & !UNSYNCED | MAPPED;
        let remembered = subject.known.set_state(state);
        if known & UNSYNCED != 0 || !remembered {
            mark::note_range(subject.number, 0, u64::MAX, FLAG_MAPPED);
        }
    }
    FLAG_MAPPED
}

/// Somebody other than the daemon changed `[start, end)`. Nothing is returned
/// where that is outside of the folder, or was the daemon.
#[inline(never)]
pub fn changed(inode: u64, start: u64, end: u64) -> Option<()> {
    written(inode, start, end)
}

/// The same for programs that run at every write.
#[inline(always)]
pub fn written(inode: u64, start: u64, end: u64) -> Option<()> {
    if start >= end {
        return None;
    }
    let subject = place::subject_inline(inode)?;
    // Most writes add nothing to what the daemon is about to read, and then
    // it does not matter whose they are.
    if let Some(flags) = unchanged(&subject)
        && mark::is_marked(subject.number, start, end, flags)
    {
        return Some(());
    }
    if is_own() {
        return None;
    }
    let flags = mapped(&subject);
    mark::range(subject.number, start, end, flags);
    Some(())
}

/// What [`mapped`] says, where it would notice nothing new.
#[inline(always)]
fn unchanged(subject: &Subject) -> Option<u64> {
    let writable: i32 = look(subject.mapping, get::MAPPING_WRITABLE())?;
    let known = subject.known.state() & (MAPPED | UNSYNCED);
    if writable > 0 {
        (known & MAPPED != 0).then_some(FLAG_MAPPED)
    } else {
        let unsynced = if get::FAULTS_TOLD() == 0 { UNSYNCED } else { 0 };
        (known == unsynced && !subject.known.is_nothing()).then_some(0)
    }
}

/// Somebody other than the daemon set the size or the attributes.
#[inline(always)]
pub fn set(inode: u64) {
    if is_own() {
        return;
    }
    if let Some(subject) = place::subject(inode) {
        let flags = mapped(&subject);
        mark::size(subject.number, flags);
    }
}

/// Somebody other than the daemon is about to change `[start, end)`.
#[inline(always)]
pub fn announced(inode: u64, start: u64, end: u64) {
    if is_own() {
        return;
    }
    let Some(subject) = place::subject(inode) else { return };
    let flags = mapped(&subject);
    let pending = Pending { inode: subject.number, start, end, flags };
    tell(&pending);
    let task = bpf_get_current_pid_tgid();
    let mut is_pending = false;
    if let Some(before) = ANNOUNCED.get_ptr_mut(&task) {
        // SAFETY: the pointer is to an element of the map, and only this task
        // writes that of its key.
        let before = unsafe { &mut *before };
        if before.inode == pending.inode && before.start < before.end && start >= end {
            // A part of the operation that announced its range, most often.
            before.flags |= STEP;
            return;
        }
        is_pending = before.inode != 0;
    } else {
        // Another one may have been pushed out.
        count(word::ANNOUNCERS);
    }
    if ANNOUNCED.insert(&task, &pending, 0).is_err() {
        count(word::UNREMEMBERED);
    } else if !is_pending {
        count(word::PENDING);
    }
    if let Some(words) = words() {
        // SAFETY: the helper has no precondition.
        words.set(word::ANNOUNCED_AT, unsafe { bpf_ktime_get_ns() });
    }
}

/// The task touches the metadata of the inode: tells again what it announced.
#[inline(always)]
pub fn settled(inode: u64) {
    let Some(pending) = pending() else { return };
    if read::<u64>(inode, get::INODE_NUMBER()) == Some(pending.inode) {
        tell(pending);
    }
}

/// May the task have announced something that is not over? Costs little where
/// nobody has.
#[inline(always)]
pub fn is_waiting() -> bool {
    pending().is_some()
}

/// The task is done with a step that names no inode: tells once more whose
/// size or attributes it announced.
#[inline(always)]
pub fn finished() {
    let Some(pending) = pending() else { return };
    if pending.start >= pending.end {
        tell(pending);
        end(pending);
    } else if pending.flags & STEP != 0 {
        pending.flags &= !STEP;
        tell(pending);
    }
}

/// The task does something else: what it announced is over and was told.
#[inline(always)]
pub fn moved_on() {
    if let Some(pending) = pending() {
        end(pending);
    }
}

/// What the task announced and is not over. Mostly there is nothing of
/// anybody's, which costs little to see.
#[inline(always)]
fn pending() -> Option<&'static mut Pending> {
    let words = words()?;
    if words.get(word::PENDING) == 0 {
        return None;
    }
    // SAFETY: the helper has no precondition.
    let age = unsafe { bpf_ktime_get_ns() }.wrapping_sub(words.get(word::ANNOUNCED_AT));
    if age > ANNOUNCEMENT_NANOS {
        return None;
    }
    let task = bpf_get_current_pid_tgid();
    // SAFETY: the pointer is to an element of the map, which stays while a
    // program runs, and only this task writes the element of its key.
    let pending = unsafe { &mut *ANNOUNCED.get_ptr_mut(&task)? };
    (pending.inode != 0).then_some(pending)
}

#[inline(always)]
fn end(pending: &mut Pending) {
    pending.inode = 0;
    if let Some(words) = words() {
        words.add(word::PENDING, u64::MAX);
    }
}

#[inline(always)]
fn tell(pending: &Pending) {
    let flags = pending.flags & !STEP;
    if pending.start < pending.end {
        mark::range(pending.inode, pending.start, pending.end, flags);
    } else {
        mark::size(pending.inode, flags);
    }
}

/// Did the daemon itself touch what nobody else has, as it does with each file
/// that it makes beside its place? Nothing is remembered of that, and to find
/// out where it lies would cost more than all else here.
#[inline(always)]
pub fn is_unmet_work(inode: u64) -> Option<bool> {
    if !is_own() {
        return Some(false);
    }
    let mapping: u64 = read(inode, get::INODE_MAPPING())?;
    let writable: i32 = read(mapping, get::MAPPING_WRITABLE())?;
    Some(writable <= 0 && !table::has(read(inode, get::INODE_NUMBER())?))
}

/// Notices that the size is another one than at the last event, or that the
/// attributes were `set`.
#[inline(always)]
pub fn sized(inode: u64, set: bool) -> Option<()> {
    if is_unmet_work(inode)? {
        return None;
    }
    let subject = place::subject(inode)?;
    let flags = mapped(&subject);
    let size: u64 = read(inode, get::INODE_SIZE())?;
    let changed = subject.known.set_size(size);
    if (changed || set) && !is_own() {
        mark::size(subject.number, flags);
    }
    Some(())
}
