//! Did the machine go down under the last life?
//!
//! A daemon that is killed leaves behind what the kernel still writes out. A
//! machine that loses its power, or crashes, does not: what the folder shows
//! afterwards may be older than what this node read and told of.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::entry::Timestamp;
use crate::index::{Index, Opened};
use crate::sync::Outage;

/// Where the index remembers the boot in which it was written.
const BOOT_NOTE: &str = "boot";

/// And an outage, until all is known of what it left.
const OUTAGE_NOTE: &str = "outage";

/// A number the kernel draws at each boot (proc_sys_kernel(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// For how long the machine has been up, in seconds (proc_uptime(5)).
const UPTIME: &str = "/proc/uptime";

/// How long bytes and names may wait in memory before they are written out:
/// 30 s for bytes (`dirty_expire_centisecs`), 5 to 30 s for the log of a file
/// system, and what a busy disk adds.
const UNWRITTEN_MAX: Duration = Duration::from_secs(120);

/// Notes this boot. Gives when changes may not have reached the disk, where the
/// last life ended with another one.
pub(super) fn noticed(opened: &mut Opened) -> Option<Outage> {
    let boot = fs::read(BOOT_ID).ok()?;
    let former = opened.index.note(BOOT_NOTE);
    let is_other = former.is_some_and(|former| former != boot);
    opened.index.put_note(BOOT_NOTE, boot);
    let known = opened.index.note(OUTAGE_NOTE).and_then(|note| postcard::from_bytes(&note).ok());
    let last = opened.last_written.filter(|_| opened.unclean && is_other).map(after);
    let outage = known.into_iter().chain(last).reduce(Outage::and)?;
    tracing::warn!(
        "the machine went down while this node ran: what its disk lost comes back from the peers"
    );
    opened.index.put_note(OUTAGE_NOTE, postcard::to_stdvec(&outage).unwrap_or_default());
    Some(outage)
}

/// All is known of what it left.
pub(super) fn forget(index: &mut Index) {
    index.put_note(OUTAGE_NOTE, Vec::new());
}

fn after(last_written: Timestamp) -> Outage {
    // A clock that went back with the power says nothing of when that was.
    let until = booted_at().filter(|booted| *booted > last_written).unwrap_or(Timestamp::END);
    Outage { since: last_written.before(UNWRITTEN_MAX), until }
}

fn booted_at() -> Option<Timestamp> {
    let words = fs::read_to_string(UPTIME).ok()?;
    let seconds = words.split_whitespace().next()?.parse().ok()?;
    let uptime = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::now().checked_sub(uptime).map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::id::Actor;
    use crate::index;

    fn open(place: &Path) -> Opened {
        let before_commit = Box::new(|| Ok(()));
        let options = index::Options { fresh_actor: Actor(1), cache_bytes: 1 << 20, before_commit };
        Index::open(place, options).unwrap()
    }

    /// What follows is noted, and the node is killed.
    fn live(place: &Path, live: impl FnOnce(&mut Opened)) {
        let mut opened = open(place);
        live(&mut opened);
        opened.index.flush().unwrap();
    }

    #[test]
    fn an_outage_is_noticed_until_it_is_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        live(place, |opened| assert!(noticed(opened).is_none(), "in its first life"));
        live(place, |opened| assert!(noticed(opened).is_none(), "in the same boot"));
        live(place, |opened| opened.index.put_note(BOOT_NOTE, b"another".to_vec()));
        let mut first = None;
        live(place, |opened| first = noticed(opened));
        let first = first.unwrap();
        assert!(first.since < first.until);
        // Killed before it had looked at all.
        live(place, |opened| {
            let again = noticed(opened).unwrap();
            assert_eq!((again.since, again.until), (first.since, first.until));
            // In the next boot as well, from the first on.
            opened.index.put_note(BOOT_NOTE, b"another".to_vec());
        });
        live(place, |opened| {
            let both = noticed(opened).unwrap();
            assert_eq!(both.since, first.since);
            forget(&mut opened.index);
        });
        live(place, |opened| assert!(noticed(opened).is_none(), "forgotten"));
    }
}
