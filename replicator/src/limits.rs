//! Every limit of the program, by name.
//!
//! A queue, frame, list or retry without a bound is a way to run out of
//! memory or time; each bound stands here, with its reason, so that they can
//! be read against each other. Nothing else lives in this module.

use std::time::Duration;

/// Longest name of one directory entry, in bytes (`NAME_MAX` of Linux).
pub const NAME_BYTES_MAX: usize = 255;

/// Longest path below a folder's root, in bytes (`PATH_MAX` less the NUL).
pub const PATH_BYTES_MAX: usize = 4095;

/// Former actors of a node that it remembers: one for each unclean end. What
/// an older one wrote is like what another node wrote.
pub const LIVES_MAX: usize = 1024;

/// Largest frame on a message stream, in bytes. A batch of records stays
/// below it; a peer that announces more is cut off before anything is
/// allocated.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Longest datagram, in bytes: fits a QUIC packet of the smallest MTU (1200)
/// after headers and the authentication tag.
pub const DATAGRAM_BYTES_MAX: usize = 1100;

/// Smallest leaf of a file's hash list, in bytes: one BLAKE3 subtree.
pub const LEAF_BYTES_MIN: u64 = 64 << 10;

/// Largest leaf, in bytes: what a four-byte edit costs to read and hash again
/// in the largest files.
pub const LEAF_BYTES_MAX: u64 = 4 << 20;

/// Leaves a file has before its leaves double in size.
pub const LEAVES_TARGET: u64 = 1024;

/// Target of a symbolic link, in bytes (`PATH_MAX`).
pub const LINK_TARGET_BYTES_MAX: usize = 4096;

/// Extended attributes of one entry, names and values together, in bytes. A
/// kernel holds up to 64 KiB a value; more than this is not replicated and is
/// reported.
pub const XATTR_BYTES_MAX: usize = 256 << 10;

/// Items of one fetch request. A thousand small files share one round trip.
pub const FETCH_ITEMS_MAX: usize = 1024;

/// Records in one message.
pub const RECORDS_MAX: usize = 1000;

/// Bytes of records and of their patches in one message. The last of them may
/// go beyond by one record and one patch, which stays well below
/// [`FRAME_BYTES_MAX`].
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Changes in which two nodes differ before one tells the other in outline
/// what it may show itself: records of fewer are soon sent.
pub const MEETING_MIN: u64 = 1000;

/// Entries told in outline in one message: read, hashed and merged in one
/// turn, in a few milliseconds.
pub const STRETCH_ROWS_MAX: usize = 1024;

/// Entries of a stretch that differs and is not taken apart any further:
/// their records are not much longer than another outline of each.
pub const STRETCH_ROWS_MIN: usize = 4;

/// Stretches in one message: the parts of one that differs.
pub const STRETCHES_MAX: usize = 16;

/// Rows of names gone through for one message of outlines, with those of what
/// was deleted: some ten milliseconds.
pub const STRETCH_READS_MAX: usize = 16 << 10;

/// Bytes of the records that the outlines of one stretch stand for. What goes
/// beyond is told as it is.
pub const STRETCH_BYTES_MAX: usize = 16 << 20;

/// Numbers of one entry's outline, and of all in one message: the past of an
/// entry that has more is told as it is. A number takes ten bytes at most, and
/// an entry of which sixty nodes had copies a thousand.
pub const OUTLINE_NUMBERS_MAX: usize = 1 << 10;
pub const OFFER_NUMBERS_MAX: usize = 256 << 10;

/// Messages with outlines that a peer has not answered yet.
pub const OFFERS_OPEN_MAX: usize = 8;

/// Bytes of one change that ride with its announcement; more is fetched by
/// those who need it.
pub const INLINE_BYTES_MAX: u64 = 256 << 10;

/// Bytes that one look brings along of a file that is written all the time.
pub const BUSY_LOOK_BYTES_MAX: u64 = 16 << 20;

/// Ranges and holes of one step from version to version that is remembered.
pub const DELTA_RANGES_MAX: usize = 1024;

/// Ranges and holes of one answer to what differs: every second block of as
/// many bytes as an answer has. What is more scattered is compared leaf by
/// leaf.
pub const ANSWER_RANGES_MAX: usize = 8 << 10;

/// Bytes of patches kept for peers that have not been told yet, and for
/// records that wait to be applied. The oldest go first and are fetched.
pub const PATCH_CACHE_BYTES_MAX: usize = 64 << 20;

/// Messages given to the transport for one peer and not yet taken by it.
pub const SENDS_IN_FLIGHT_MAX: usize = 4;

/// Jobs being applied at once: enough that fetching one overlaps placing
/// another. They begin in pairs, one that needs bytes and one that needs none.
pub const JOBS_MAX: usize = 5;

/// Jobs at once, beside those, that bring files of more than
/// [`WHOLE_BYTES_MAX`]. They take as long as a line needs for terabytes, and
/// nothing that is small waits for them.
pub const BULK_JOBS_MAX: usize = 3;

/// Actions of one job.
pub const JOB_ACTIONS_MAX: usize = 512;

/// Bytes to be fetched by one job, unless a single file is larger.
pub const JOB_BYTES_MAX: u64 = 16 << 20;

/// Smallest file that is looked for on the own disk before it is fetched: the
/// record of a smaller one takes as many bytes as its content.
pub const COPIED_BYTES_MIN: u64 = 1 << 10;

/// Nodes a large file is fetched from at once.
pub const SOURCES_MAX: usize = 8;

/// Threads that wait for the file system, beside those that never do. Many
/// more queue up at the lock of the one directory in which files are made.
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Looks in flight at once: bounds what the engine holds in memory.
pub const LOOKS_MAX: usize = 2048;

const _: () = assert!(RECORD_BYTES_MAX * 2 < FRAME_BYTES_MAX);
const _: () = assert!(OFFER_NUMBERS_MAX * 16 < FRAME_BYTES_MAX);
const _: () = assert!(INLINE_BYTES_MAX <= RECORD_BYTES_MAX as u64);
const _: () = assert!(JOB_ACTIONS_MAX <= FETCH_ITEMS_MAX);

/// Largest file that passes through memory as a whole. Larger ones are
/// written to the disk while they arrive.
pub const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Most bytes written in place by one redo record. A larger change is made
/// in a copy that takes the file's place.
pub const PATCH_IN_PLACE_BYTES_MAX: u64 = 32 << 20;

/// Moves remembered until what was moved has been looked for.
pub const MOVES_TOLD_MAX: usize = 16_384;

/// Shallow looks carried out by one task.
pub const LOOKS_TOGETHER_MAX: usize = 128;

/// Deletions that nobody saw happen and that are believed though they are
/// most of a folder.
pub const UNSEEN_DELETIONS_MAX: usize = 100;

/// What a verification may take, and who waits for it: it reads every byte,
/// and terabytes take days. A command that goes away ends it before.
pub const VERIFY_TIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Entries that a verification names; more are counted.
pub const DIFFERING_MAX: usize = 1000;

/// Members of a cluster that are remembered, those that left included.
pub const MEMBERS_MAX: usize = 4096;

/// Longest name of a node or cluster, in bytes (`HOST_NAME_MAX` of Linux is
/// 64; DNS allows 253).
pub const NODE_NAME_BYTES_MAX: usize = 253;

/// Bodies asked for in one message by a node that has forgotten them.
pub const BODIES_ASKED_MAX: usize = 256;

/// Log places gone through in one turn for tombstones to forget.
pub const SWEEP_PLACES_MAX: usize = 512;

/// How long before the index was last written a write may lie that was told
/// and never read, beyond the time it was to wait: looks that take their time.
pub const UNREAD_MARGIN: Duration = Duration::from_secs(10);

/// How long before a clean end a write may lie whose bytes came after the last
/// look at its file and are told by no time: file systems count in ticks, and
/// set the time of a write before they write.
pub const LAST_MOMENTS: Duration = Duration::from_secs(2);
