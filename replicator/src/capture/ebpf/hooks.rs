//! Which tracepoint shows what, on which file system.

/// File systems whose writes the programs see completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// From the type that `statfs` tells.
    pub fn from_magic(magic: i64) -> Result<Self, &'static str> {
        const EXT4: i64 = 0xef53;
        const XFS: i64 = 0x5846_5342;
        const BTRFS: i64 = 0x9123_683e;
        const TMPFS: i64 = 0x0102_1994;
        const OVERLAYFS: i64 = 0x794c_7630;
        match magic {
            EXT4 => Ok(Self::Ext4),
            XFS => Ok(Self::Xfs),
            BTRFS => Ok(Self::Btrfs),
            TMPFS => Err("tmpfs does not tell of stores through a mapping"),
            OVERLAYFS => Err("overlayfs raises its events on another file system"),
            _ => Err("written ranges are known for ext4, xfs and btrfs only"),
        }
    }

    /// The name of its module.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Do its tracepoints tell of a write before it is done, with the inode
    /// locked against other writers?
    pub fn tells_early(self) -> bool {
        self == Self::Xfs
    }

    /// Why its tracepoints do not suffice, if so.
    pub fn lacks_tracepoints(self) -> Option<&'static str> {
        match self {
            Self::Ext4 | Self::Xfs => None,
            Self::Btrfs => Some("btrfs has no tracepoints for truncation, allocation and clones"),
        }
    }
}

/// One program and the tracepoint of the same name.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    pub name: &'static str,
    /// `None`: of any.
    pub file_system: Option<FileSystem>,
    /// Without it the level cannot be had.
    pub essential: bool,
    /// It came with what it shows: a kernel without it has nothing to show.
    pub with_cause: bool,
    /// Another one that tells the same on other kernels.
    pub stands_for: Option<&'static str>,
    /// What goes unseen without it.
    pub shows: &'static str,
}

impl Hook {
    pub fn serves(&self, file_system: FileSystem) -> bool {
        self.file_system.is_none_or(|own| own == file_system)
    }
}

const EXT4: Hook = Hook {
    name: "",
    file_system: Some(FileSystem::Ext4),
    essential: false,
    with_cause: false,
    stands_for: None,
    shows: "",
};
const XFS: Hook = Hook { file_system: Some(FileSystem::Xfs), ..EXT4 };
const ANY: Hook = Hook { file_system: None, ..EXT4 };

/// Nothing but kernel programs tells of these.
pub const FLAGS: &str = "file flags";

/// In the order of attaching: what is told a second time first.
pub const HOOKS: &[Hook] = &[
    Hook {
        name: "writeback_mark_inode_dirty",
        essential: true,
        shows: "stores through a mapping, grown files",
        ..ANY
    },
    Hook {
        name: "writeback_dirty_folio",
        essential: true,
        shows: "stores through a mapping",
        ..ANY
    },
    // Without it direct reads of files opened to write count as writes.
    Hook { name: "iomap_dio_rw_begin", with_cause: true, shows: "direct reads", ..ANY },
    Hook { name: "iomap_dio_complete", essential: true, shows: "direct writes", ..ANY },
    Hook {
        name: "ext4_mark_inode_dirty",
        essential: true,
        shows: "holes, as they are done",
        ..EXT4
    },
    Hook { name: "ext4_da_write_end", essential: true, shows: "writes", ..EXT4 },
    Hook {
        name: "ext4_write_end",
        essential: true,
        shows: "writes without delayed allocation",
        ..EXT4
    },
    Hook { name: "ext4_journalled_write_end", shows: "writes with data=journal", ..EXT4 },
    Hook { name: "ext4_truncate_exit", essential: true, shows: "truncation", ..EXT4 },
    Hook { name: "ext4_fallocate_exit", shows: "allocation", ..EXT4 },
    Hook { name: "ext4_punch_hole", essential: true, shows: "punched holes", ..EXT4 },
    Hook { name: "ext4_zero_range", essential: true, shows: "zeroed ranges", ..EXT4 },
    Hook { name: "ext4_collapse_range", essential: true, shows: "collapsed ranges", ..EXT4 },
    Hook { name: "ext4_insert_range", essential: true, shows: "inserted ranges", ..EXT4 },
    Hook { name: "ext4_journal_start_inode", shows: FLAGS, ..EXT4 },
    Hook { name: "jbd2_handle_stats", shows: FLAGS, ..EXT4 },
    Hook { name: "xfs_trans_commit", essential: true, shows: "sizes, as they are set", ..XFS },
    Hook { name: "xfs_file_buffered_write", essential: true, shows: "writes", ..XFS },
    Hook { name: "xfs_file_dax_write", shows: "writes past the page cache", ..XFS },
    Hook { name: "xfs_write_fault", with_cause: true, shows: "new mappings", ..XFS },
    // Before Linux 6.12.
    Hook {
        name: "xfs_filemap_fault",
        stands_for: Some("xfs_write_fault"),
        shows: "new mappings",
        ..XFS
    },
    Hook { name: "xfs_setattr", essential: true, shows: "grown files", ..XFS },
    Hook { name: "xfs_ioctl_setattr", shows: FLAGS, ..XFS },
    Hook { name: "xfs_itruncate_extents_end", essential: true, shows: "truncation", ..XFS },
    Hook { name: "xfs_alloc_file_space", shows: "allocation", ..XFS },
    Hook { name: "xfs_free_file_space", essential: true, shows: "punched holes", ..XFS },
    Hook { name: "xfs_zero_file_space", shows: "zeroed ranges", ..XFS },
    Hook { name: "xfs_collapse_file_space", essential: true, shows: "collapsed ranges", ..XFS },
    Hook { name: "xfs_insert_file_space", essential: true, shows: "inserted ranges", ..XFS },
    Hook { name: "xfs_reflink_remap_range", essential: true, shows: "clones", ..XFS },
    Hook { name: "xfs_exchrange_after", with_cause: true, shows: "exchanged ranges", ..XFS },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_is_named_and_says_what_it_shows() {
        for hook in HOOKS {
            assert!(!hook.name.is_empty() && !hook.shows.is_empty(), "{hook:?}");
        }
        let mut names: Vec<_> = HOOKS.iter().map(|hook| hook.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), HOOKS.len());
    }

    #[test]
    fn what_a_hook_stands_for_is_tried_before_it() {
        for (at, hook) in HOOKS.iter().enumerate() {
            let is_first = |other| HOOKS[..at].iter().any(|hook| hook.name == other);
            assert!(hook.stands_for.is_none_or(is_first), "{hook:?}");
        }
    }
}
