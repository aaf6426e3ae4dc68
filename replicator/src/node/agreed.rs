//! Takes conflicts out of the store about which all agree by now, at a pace of
//! its own: to compare two large files may take minutes, and nothing waits for
//! that.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::report::Report;
use crate::apply::Agreed;
use crate::root::Root;

/// The least time between two passes.
const PAUSE: Duration = Duration::from_secs(1);

/// The same, as many times the duration of the pass before: a store of thousands
/// takes a twentieth of one core at most.
const PAUSE_PASSES: u32 = 20;

/// The thread ends by itself some time after the node, which it does not hold.
pub(super) fn watch(root: &Arc<Root>, reports: mpsc::Sender<Report>) -> io::Result<()> {
    let root = Arc::downgrade(root);
    thread::Builder::new().name("agreed".into()).spawn(move || agree(&root, &reports)).map(drop)
}

fn agree(root: &Weak<Root>, reports: &mpsc::Sender<Report>) {
    let mut agreed = Agreed::default();
    let mut pause = PAUSE;
    loop {
        thread::sleep(pause);
        let Some(root) = root.upgrade().filter(|_| !reports.is_closed()) else { return };
        let begun = Instant::now();
        match agreed.remove(&root) {
            Ok(removed) => removed.iter().for_each(|conflict| {
                let (path, id) = (&conflict.path, &conflict.id);
                tracing::info!(path, id, "no conflict any more: the folder shows what was kept");
            }),
            Err(error) => tracing::debug!("conflicts are not compared: {error}"),
        }
        pause = PAUSE.max(begun.elapsed() * PAUSE_PASSES);
    }
}
