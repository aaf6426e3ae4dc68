//! No folder that is served may lie in another one.
//!
//! Two replicators that serve one file under two names would take each
//! other's work for a user's. The later one to come is refused. A folder is
//! served where somebody holds the lock in its private directory; a mere copy
//! of a private directory is of no interest, and is not replicated.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::Error;
use crate::path::PRIVATE_DIR;

/// Is there another folder above this one that is served?
pub(super) fn check_above(root: &Path) -> Result<(), Error> {
    match root.ancestors().skip(1).find(|above| is_served(above)) {
        Some(other) => Err(Error::Nested { root: root.to_path_buf(), other: other.to_path_buf() }),
        None => Ok(()),
    }
}

/// Does a running replicator serve exactly this directory? It may not be the
/// folder of the caller.
pub(super) fn is_served(directory: &Path) -> bool {
    let Ok(lock) = File::open(directory.join(PRIVATE_DIR).join("lock")) else {
        return false;
    };
    // Shared, and given back at once: two that look do not see each other.
    let free = flock(&lock, FlockOperation::NonBlockingLockShared);
    free == Err(rustix::io::Errno::WOULDBLOCK)
}
