//! What a disk loses of its last moments, with the power of its machine.

use super::Disk;
use crate::entry::{Kind, Timestamp};
use crate::path::RelPath;
use crate::sync::Outage;
use crate::sync::sim::random::Random;

/// Is this what reads where nothing was written out?
pub(super) fn is_unwritten(content: &[u8]) -> bool {
    !content.is_empty() && content.iter().all(|byte| *byte == 0)
}

impl Disk {
    /// The first time that was not given out.
    pub(in crate::sync::sim) fn next_time(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock + 1)
    }

    /// All of it may have been lost.
    pub(in crate::sync::sim) fn outage(&self) -> Outage {
        Outage { since: Timestamp::BEGINNING, until: self.next_time() }
    }

    /// Half of the bytes of a file were not written out.
    pub(in crate::sync::sim) fn lose_bytes(&mut self, path: &RelPath) {
        let inode = self.names.get(path).and_then(|id| self.inodes.get_mut(id));
        inode.into_iter().for_each(|inode| inode.content.truncate(inode.content.len() / 2));
    }

    /// Of some files that changed since the disk was flushed only the rows were
    /// written out, and not the bytes: they read as zeros, or as they were.
    pub(in crate::sync::sim) fn lose_unwritten(&mut self, flushed: &Self, random: &mut Random) {
        for (id, inode) in self.inodes.iter_mut().filter(|(_, inode)| inode.kind == Kind::File) {
            let former = flushed.inodes.get(id).filter(|former| former.birth == inode.birth);
            let former = former.map(|former| &former.content);
            if former == Some(&inode.content) {
                continue;
            }
            let left = match (random.below(6), former) {
                (0, Some(former)) => former.clone(),
                (0 | 1, _) => vec![0; inode.content.len()],
                _ => continue,
            };
            self.had.remove(&inode.content);
            inode.content = left;
        }
    }
}
