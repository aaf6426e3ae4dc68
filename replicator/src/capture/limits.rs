//! The bounds of capture, each with its reason.

use std::time::Duration;

/// Changes handed over in one batch. Large enough that a burst costs few
/// channel operations, small enough that one batch of long paths stays below
/// a few MiB.
pub const BATCH_CHANGES_MAX: usize = 1024;

/// Room for one read of fanotify or inotify events: some 500 events with
/// names of usual length, and always more than one event of the longest name.
pub const EVENT_BUFFER_BYTES: usize = 64 << 10;

/// What a queued fanotify event takes in the kernel. Measured on Linux 6.18: 136
/// bytes with a name of up to 20 bytes, 200 with one of 40 or for a rename from
/// one of 20 to another, 520 with the longest name and 1030 for a rename from one
/// such to another; beside them 192 for each process that has ended since.
pub const QUEUED_EVENT_BYTES: usize = 256;

/// Of the memory allowed, the part of the queue of names beside the kernel
/// programs: one in so many. Without them all of it is for the queue. By default
/// that is two events for each file that the programs remember, and three times
/// what was queued when 300,000 files were unpacked, chmodded and removed on two
/// busy cores (18,000 at most).
pub const QUEUE_ONE_IN: usize = 4;

/// How often another process that changes the limit of queues is waited for,
/// which takes it some microseconds: a second in all.
pub const QUEUE_LOCK_TRIES: usize = 100;

/// Directories whose path is remembered between fanotify events.
pub const DIRECTORY_CACHE_MAX: usize = 8192;

/// How often a directory is resolved again when it moves while it is being
/// resolved, before everything is looked at again instead.
pub const RESOLVE_TRIES: usize = 4;

/// How often a handle is opened while an inode of its number is being made, and
/// the time in between: some hundred times as long as that takes.
pub const CREATION_TRIES: usize = 50;
pub const CREATION_WAIT: Duration = Duration::from_micros(100);

/// Directories gone through upwards from one whose path is too long to be told:
/// thirty times as many as a path of names of one byte has.
pub const ANCESTORS_MAX: usize = 64 << 10;

/// Shortest time between two drains. It lets a million writes to one block
/// cost a thousand wake-ups a second at most, and adds this much latency only
/// to a write that follows another one closely.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(1);

/// How often directories that inotify could not watch are tried and looked at
/// again.
pub const UNWATCHED_RETRY: Duration = Duration::from_secs(60);

/// Less than this is not worth the programs.
pub const MEMORY_BYTES_MIN: usize = 1 << 20;

/// Largest kernel type description read; the largest ones known have some
/// 10 MiB.
pub const BTF_BYTES_MAX: u64 = 256 << 20;

/// Anonymous members within anonymous members in a kernel structure.
pub const BTF_DEPTH_MAX: usize = 16;

/// Inodes gathered in one drain before they are handed over: with the ranges
/// of a whole slot each, some tens of MiB at the very worst.
pub const PENDING_INODES_MAX: usize = 1024;

/// How long after an activity the kernel is asked whether it skipped a
/// program.
pub const MISS_CHECK_DELAY: Duration = Duration::from_secs(1);

/// How often it is asked without any: a program that was skipped while another
/// one had nothing to tell leaves no trace but a count. A thousandth of what
/// keep-alives cost.
pub const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Type descriptions of loaded modules that are looked through.
pub const MODULES_MAX: usize = 65_536;

/// How far the time a file system gives a change may be behind the clock:
/// many ticks of any kernel.
pub const LOSS_MARGIN: Duration = Duration::from_secs(2);
