//! Did the machine go down under the last life?
//!
//! A daemon that is killed leaves behind what the kernel still writes out. A
//! machine that loses its power, or crashes, does not: what the folder shows
//! afterwards may be older than what this node read and told of.

use std::fs;
use std::time::Duration;

use crate::entry::Timestamp;
use crate::index::Opened;

/// Where the index remembers the boot in which it was written.
const NOTE: &str = "boot";

/// A number the kernel draws at each boot (proc_sys_kernel(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long bytes and names may wait in memory before they are written out:
/// 30 s for bytes (`dirty_expire_centisecs`), 5 to 30 s for the log of a file
/// system, and what a busy disk adds.
const UNWRITTEN_MAX: Duration = Duration::from_secs(120);

/// Notes this boot. Gives since when changes may not have reached the disk,
/// where the last life ended with another one.
pub(super) fn unwritten_since(opened: &mut Opened) -> Option<Timestamp> {
    let boot = fs::read(BOOT_ID).ok()?;
    let former = opened.index.note(NOTE);
    let is_other = former.is_some_and(|former| former != boot);
    opened.index.put_note(NOTE, boot);
    let since = opened.last_written.filter(|_| opened.unclean && is_other)?;
    tracing::warn!(
        "the machine went down while this node ran: what its disk lost comes back from the peers"
    );
    Some(since.before(UNWRITTEN_MAX))
}
