//! Did the machine go down under the last life?
//!
//! A daemon that is killed leaves behind what the kernel still writes out. A
//! machine that loses its power, or crashes, does not: what the folder shows
//! afterwards may be older than what this node read and told of.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::entry::Timestamp;
use crate::index::{Index, Opened};
use crate::status::StateDir;
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
/// last life ended with another one. A node that lives says so in its status file
/// `status_every` so often.
pub(super) fn noticed(
    opened: &mut Opened,
    place: &StateDir,
    status_every: Duration,
) -> Option<Outage> {
    let boot = fs::read(BOOT_ID).ok()?;
    let former = opened.index.note(BOOT_NOTE);
    let is_other = former.is_some_and(|former| former != boot);
    opened.index.put_note(BOOT_NOTE, boot);
    let known = opened.index.note(OUTAGE_NOTE).and_then(|note| postcard::from_bytes(&note).ok());
    let last_written = opened.last_written.filter(|_| opened.unclean && is_other);
    let last = last_written.map(|last_written| {
        let alive =
            written_at(&place.status_file()).map_or(last_written, |at| at.max(last_written));
        let since = last_written.before(UNWRITTEN_MAX);
        Outage { since, until: over_at(alive.after(status_every)) }
    });
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

/// When the machine that took this node with it was up again. The node may have
/// ended long before its machine did: what users did from then on nobody cut short.
fn over_at(alive: Timestamp) -> Timestamp {
    let ended = alive.after(UNWRITTEN_MAX);
    // A clock that went back with the power says nothing.
    booted_at().filter(|booted| *booted > alive).map_or(ended, |booted| booted.min(ended))
}

fn written_at(path: &Path) -> Option<Timestamp> {
    fs::metadata(path).and_then(|found| found.modified()).ok().map(Timestamp::from)
}

fn booted_at() -> Option<Timestamp> {
    let words = fs::read_to_string(UPTIME).ok()?;
    let seconds = words.split_whitespace().next()?.parse().ok()?;
    let uptime = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::now().checked_sub(uptime).map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Actor;
    use crate::index;

    const STATUS_EVERY: Duration = Duration::from_secs(10);
    const DAY: Duration = Duration::from_secs(86_400);

    /// A life of a node that is killed: gives the outage that it noticed.
    fn live(place: &Path, live: impl FnOnce(&mut Opened)) -> Option<Outage> {
        let before_commit = Box::new(|| Ok(()));
        let options = index::Options { fresh_actor: Actor(1), cache_bytes: 1 << 20, before_commit };
        let mut opened = Index::open(place, options).unwrap();
        let noticed = noticed(&mut opened, &StateDir::new(place), STATUS_EVERY);
        live(&mut opened);
        opened.index.flush().unwrap();
        noticed
    }

    fn go_down(opened: &mut Opened) {
        opened.index.put_note(BOOT_NOTE, b"another".to_vec());
    }

    fn nothing(_: &mut Opened) {}

    #[test]
    fn an_outage_is_noticed_until_it_is_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        assert!(live(place, nothing).is_none(), "in its first life");
        assert!(live(place, go_down).is_none(), "in the same boot");
        let first = live(place, nothing).unwrap();
        assert!(first.since < first.until);
        // Killed before it had looked at all, and once more with its machine.
        let again = live(place, go_down).unwrap();
        assert_eq!((again.since, again.until), (first.since, first.until));
        let both = live(place, |opened| forget(&mut opened.index)).unwrap();
        assert_eq!(both.since, first.since);
        assert!(live(place, nothing).is_none(), "forgotten");
    }

    /// Else all that users did since would count for less than what they did
    /// before.
    #[test]
    fn an_outage_is_no_longer_than_the_node_may_have_lived() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        live(place, go_down);
        let ended = SystemTime::now() - DAY;
        for file in fs::read_dir(place).unwrap() {
            let file = fs::File::options().write(true).open(file.unwrap().path()).unwrap();
            file.set_modified(ended).unwrap();
        }
        let outage = live(place, go_down).unwrap();
        let ended = Timestamp::from(ended);
        assert!(outage.since < ended && ended < outage.until);
        assert!(outage.until <= ended.after(UNWRITTEN_MAX + STATUS_EVERY), "{outage:?}");

        // It did nothing, and lived.
        fs::write(StateDir::new(place).status_file(), "alive").unwrap();
        let outage = live(place, nothing).unwrap();
        assert!(outage.until > ended.after(DAY / 2), "{outage:?}");
    }
}
