//! Is this inode in the folder?
//!
//! Decided by a walk from a name of the inode up to the folder's root, and
//! remembered in the [`table`]. A verdict holds for one generation:
//! the daemon starts a new one whenever a name came to be or moved. What
//! cannot be decided counts as inside, so that nothing is missed; the daemon
//! knows its inodes and drops the rest.

use replicator_ebpf::word;

use crate::kernel::{View, Words, count, get, read, words};
use crate::table::{self, Basis, Known, OUTSIDE};

/// Directories between an inode and the root before the walk gives up.
const DEPTH_MAX: u32 = 64;
/// Names of an inode that are looked through for one that it still has.
const ALIASES_MAX: u32 = 8;
/// Words at the beginning of an inode with all that is asked about it.
const INODE_WORDS: usize = 10;
const PRIVATE: [u8; 12] = *b".replicator\0";
const BTRFS_MAGIC: u64 = 0x9123_683e;
const MODE_TYPE: u16 = 0o170_000;
const MODE_REGULAR: u16 = 0o100_000;
const MODE_DIRECTORY: u16 = 0o040_000;

/// An inode that is in the folder, or may be.
#[derive(Clone, Copy)]
pub struct Subject {
    pub number: u64,
    /// Its page cache.
    pub mapping: u64,
    pub known: Known,
}

#[derive(PartialEq)]
enum Verdict {
    Inside,
    Outside,
    /// In the private directory, which is not replicated.
    Private,
    /// Just being made, or just being removed: nobody has it open.
    Nameless,
    Undecided,
}

/// `None` where the inode is outside.
#[inline(never)]
pub fn subject(inode: u64) -> Option<Subject> {
    subject_inline(inode)
}

/// The same for programs that run at every write: a return from a function
/// costs 10 ns where the processor is guarded against guessing its target.
#[inline(always)]
pub fn subject_inline(inode: u64) -> Option<Subject> {
    let words = words()?;
    let mut view = View::<INODE_WORDS>::at(inode);
    view.fill()?;
    let super_block: u64 = view.get(get::INODE_SUPER())?;
    if !is_same_file_system(words, inode, super_block)? {
        return None;
    }
    let number: u64 = view.get(get::INODE_NUMBER())?;
    let mapping: u64 = view.get(get::INODE_MAPPING())?;
    let links: u32 = view.get(get::INODE_LINKS())?;
    let basis = Basis { generation: words.get(word::GENERATION) as u32, links };
    let known = table::find(number, Some(basis));
    if !known.is_nothing() {
        let outside = known.state() & OUTSIDE != 0;
        return if outside { None } else { Some(Subject { number, mapping, known }) };
    }
    // Of a directory only the attributes are told; its entries are names.
    let kind = view.get::<u16>(get::INODE_MODE())? & MODE_TYPE;
    if kind != MODE_REGULAR && kind != MODE_DIRECTORY || is_outside(inode, number) {
        return None;
    }
    // Where that is undecided there is no verdict, but what is known of it holds.
    Some(Subject { number, mapping, known: table::find(number, None) })
}

/// Is the inode on the file system of the root, and where one has several
/// trees with inode numbers of their own, in the same tree?
#[inline(always)]
fn is_same_file_system(words: Words, inode: u64, super_block: u64) -> Option<bool> {
    if get::SUBVOLUME() == 0 {
        let known = words.get(word::SUPER);
        if known != 0 {
            return Some(super_block == known);
        }
        let same = read::<u32>(super_block, get::SUPER_DEVICE())? == get::ROOT_DEVICE();
        if same {
            words.set(word::SUPER, super_block);
        }
        return Some(same);
    }
    if read::<u64>(super_block, get::SUPER_MAGIC())? != BTRFS_MAGIC {
        return Some(false);
    }
    let own = inode - u64::from(get::BTRFS_INODE_VFS());
    let tree: u64 = read(own, get::BTRFS_INODE_ROOT())?;
    Some(read::<u32>(tree, get::BTRFS_ROOT_DEVICE())? == get::ROOT_DEVICE())
}

/// Remembers where the inode is, and says whether that is outside. A call that
/// asks everything anew, and about what is remembered only in the end: the
/// verifier follows the walk once for each state in which it can begin.
#[inline(never)]
fn is_outside(inode: u64, number: u64) -> bool {
    try_decide(inode, number).unwrap_or(false)
}

#[inline(always)]
fn try_decide(inode: u64, number: u64) -> Option<bool> {
    // Before the walk: a move during it makes a newer one.
    let mut generation = words()?.get(word::GENERATION) as u32;
    let links: u32 = read(inode, get::INODE_LINKS())?;
    let verdict = walk(inode, links);
    count(word::DECIDED);
    // What counts as links of a directory are its children: it has one name.
    let named_once = links <= 1 || is_directory(inode);
    // Otherwise another name may be inside.
    if verdict == Verdict::Nameless || verdict == Verdict::Private && named_once {
        // Not remembered: it gets a name, or the daemon renames it into the
        // folder.
        return Some(true);
    }
    if verdict == Verdict::Undecided {
        count(word::UNDECIDED);
        // What is known of its mappings holds; that it is inside is no verdict.
        generation = generation.wrapping_sub(1);
    }
    let outside = verdict == Verdict::Outside && named_once;
    let inode_generation: u32 = read(inode, get::INODE_GENERATION())?;
    table::remember(number, inode_generation, Basis { generation, links }, outside);
    Some(outside)
}

#[inline(always)]
fn is_directory(inode: u64) -> bool {
    read::<u16>(inode, get::INODE_MODE()).is_some_and(|mode| mode & MODE_TYPE == MODE_DIRECTORY)
}

#[inline(always)]
fn walk(inode: u64, links: u32) -> Verdict {
    try_walk(inode, links).unwrap_or(Verdict::Undecided)
}

#[inline(always)]
fn try_walk(inode: u64, links: u32) -> Option<Verdict> {
    let first: u64 = read(inode, get::INODE_DENTRIES())?;
    if first == 0 {
        return Some(Verdict::Nameless);
    }
    let mut dentry = name(first, links);
    if dentry == 0 {
        return None;
    }
    // The list may change meanwhile, and lead elsewhere.
    if read::<u64>(dentry, get::DENTRY_INODE())? != inode {
        return None;
    }
    let mut below = 0;
    for _ in 0..DEPTH_MAX {
        let at: u64 = read(dentry, get::DENTRY_INODE())?;
        if read::<u64>(at, get::INODE_NUMBER())? == get::ROOT_INODE() {
            return Some(if below != 0 && is_private(below)? {
                Verdict::Private
            } else {
                Verdict::Inside
            });
        }
        let parent: u64 = read(dentry, get::DENTRY_PARENT())?;
        if parent == dentry {
            // The top: of the file system, or of a part that a file handle
            // brought in and that has no place yet.
            let super_block: u64 = read(inode, get::INODE_SUPER())?;
            let top: u64 = read(super_block, get::SUPER_ROOT())?;
            return (top == dentry).then_some(Verdict::Outside);
        }
        below = dentry;
        dentry = parent;
    }
    None
}

/// A name that the inode has now, of a list of those that are known. One that
/// was removed stays in the list while somebody has it open: it tells where
/// the inode is only where there is no other. 0 where it has none. A call, since
/// the verifier else follows the walk once for every name.
#[inline(never)]
fn name(first: u64, links: u32) -> u64 {
    let to_dentry = u64::from(get::DENTRY_ALIAS());
    let mut alias = first;
    for _ in 0..ALIASES_MAX {
        if alias == 0 {
            break;
        }
        let dentry = alias - to_dentry;
        // The top of a file system is in no directory that would list it.
        let is_listed = read::<u64>(dentry, get::DENTRY_HASHED()).unwrap_or(0) != 0;
        if is_listed || read::<u64>(dentry, get::DENTRY_PARENT()) == Some(dentry) {
            return dentry;
        }
        // What cannot be read ends the list.
        alias = read(alias, 0).unwrap_or(0);
    }
    if links == 0 { first - to_dentry } else { 0 }
}

#[inline(always)]
fn is_private(dentry: u64) -> Option<bool> {
    let name: u64 = read(dentry, get::DENTRY_NAME())?;
    // A shorter name at the very end of readable memory is no private one.
    let Some(name) = read::<[u8; 12]>(name, 0) else { return Some(false) };
    let mut same = true;
    for at in 0..12 {
        same &= name[at] == PRIVATE[at];
    }
    Some(same)
}
