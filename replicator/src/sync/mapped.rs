//! Stores through mappings of files that nobody knows yet.
//!
//! A page that was stored to stays writable until it is written back, and until
//! then no further store is told. So who reads a file that is mapped writes
//! its pages back before. Of a file without a row nobody knows at its first look
//! that it is mapped; what was told of it is kept here for a second one.

use std::collections::{HashMap, VecDeque};

use super::settle::Dirt;

/// Inodes that are remembered. Each is met within milliseconds, or has no name
/// in the folder; the oldest of more is let go.
const INODES_MAX: usize = 4096;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    inodes: HashMap<u64, Dirt>,
    /// In the order they were first told of.
    order: VecDeque<u64>,
}

impl Mapped {
    pub fn note(&mut self, inode: u64, dirt: Dirt) {
        if let Some(known) = self.inodes.get_mut(&inode) {
            known.merge(&dirt);
            return;
        }
        while self.order.len() >= INODES_MAX {
            let oldest = self.order.pop_front();
            oldest.and_then(|oldest| self.inodes.remove(&oldest));
        }
        self.inodes.insert(inode, dirt);
        self.order.push_back(inode);
    }

    pub fn take(&mut self, inode: u64) -> Option<Dirt> {
        let dirt = self.inodes.remove(&inode)?;
        self.order.retain(|one| *one != inode);
        Some(dirt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_too_many_goes() {
        let mut mapped = Mapped::default();
        let stored = || Dirt { mapped: true, bytes: true, ..Dirt::default() };
        (0..=INODES_MAX as u64).for_each(|inode| mapped.note(inode, stored()));
        assert_eq!(mapped.take(0), None);
        assert_eq!(mapped.take(1), Some(stored()));
        assert_eq!(mapped.take(1), None);
        mapped.note(1, stored());
        mapped.note(2, Dirt { whole: true, ..stored() });
        assert_eq!(mapped.take(2), Some(Dirt { whole: true, ..stored() }));
        assert_eq!(mapped.order.len(), mapped.inodes.len());
    }
}
