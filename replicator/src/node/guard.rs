//! Is the folder still what was opened? A directory that was unmounted, or
//! moved away with another in its place, tells nobody who holds it open: the
//! node would go on with a tree that no application sees. So the path is
//! looked at whenever a mount changes, and from time to time.

use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;

use super::report::Report;
use crate::root::Root;

/// How often to look where no mount changes.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// The least time between two looks: on a host of containers mounts change
/// all the time.
const CHECK_PAUSE: Duration = Duration::from_millis(200);

/// Reports once when the folder is not what it was. The thread ends by itself
/// some seconds after the node, which it does not hold.
pub(super) fn watch(root: &Arc<Root>, reports: mpsc::Sender<Report>) -> io::Result<()> {
    let root = Arc::downgrade(root);
    thread::Builder::new().name("guard".into()).spawn(move || guard(&root, &reports)).map(drop)
}

fn guard(root: &Weak<Root>, reports: &mpsc::Sender<Report>) {
    // Where it cannot be watched the clock is left.
    let mounts = File::open("/proc/self/mountinfo").ok();
    loop {
        wait_for_mounts(mounts.as_ref());
        if reports.is_closed() {
            return;
        }
        let Some(root) = root.upgrade() else { return };
        if let Err(error) = root.check() {
            // Nobody listens any more: the node is ending.
            let _ = reports.blocking_send(Report::RootGone(error));
            return;
        }
        drop(root);
        thread::sleep(CHECK_PAUSE);
    }
}

/// Returns when a mount has changed, at the latest after a while.
fn wait_for_mounts(mounts: Option<&File>) {
    let Some(mounts) = mounts else { return thread::sleep(CHECK_EVERY) };
    let limit = Timespec { tv_sec: CHECK_EVERY.as_secs() as i64, tv_nsec: 0 };
    // The kernel tells of a changed mount as of urgent data, once.
    let told = poll(&mut [PollFd::new(mounts, PollFlags::PRI)], Some(&limit));
    if told.is_err() {
        // A signal, at most.
        thread::sleep(CHECK_PAUSE);
    }
}
