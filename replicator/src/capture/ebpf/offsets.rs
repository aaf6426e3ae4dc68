//! The constants of this kernel that the programs are given.
//!
//! Owns the list of structure members the programs look at. What a hook needs
//! and this kernel lacks makes that hook missing, not capture fail.

use super::btf::{Btf, BtfError};
use super::hooks::FileSystem;

/// Global of the programs, structure, member.
type Member = (&'static str, &'static str, &'static str);

/// Without these nothing works.
const COMMON: &[Member] = &[
    ("INODE_MODE", "inode", "i_mode"),
    ("INODE_NUMBER", "inode", "i_ino"),
    ("INODE_GENERATION", "inode", "i_generation"),
    ("INODE_LINKS", "inode", "i_nlink"),
    ("INODE_SIZE", "inode", "i_size"),
    ("INODE_SUPER", "inode", "i_sb"),
    ("INODE_DENTRIES", "inode", "i_dentry"),
    ("INODE_MAPPING", "inode", "i_mapping"),
    ("SUPER_DEVICE", "super_block", "s_dev"),
    ("SUPER_ROOT", "super_block", "s_root"),
    ("SUPER_MAGIC", "super_block", "s_magic"),
    ("DENTRY_INODE", "dentry", "d_inode"),
    ("DENTRY_PARENT", "dentry", "d_parent"),
    ("DENTRY_HASHED", "dentry", "d_hash.pprev"),
    ("DENTRY_NAME", "dentry", "d_name.name"),
    ("MAPPING_HOST", "address_space", "host"),
    ("MAPPING_WRITABLE", "address_space", "i_mmap_writable"),
    ("FOLIO_INDEX", "folio", "index"),
    ("FOLIO_FLAGS", "folio", "flags"),
    ("KIOCB_FILE", "kiocb", "ki_filp"),
    ("KIOCB_POSITION", "kiocb", "ki_pos"),
    ("FILE_INODE", "file", "f_inode"),
    ("FILE_MODE", "file", "f_mode"),
    ("VECTOR_SOURCE", "iov_iter", "data_source"),
    ("VECTOR_BYTES", "iov_iter", "count"),
];

const EXITS: &[Member] = &[
    ("ATTRIBUTES_VALID", "iattr", "ia_valid"),
    ("ATTRIBUTES_SIZE", "iattr", "ia_size"),
    ("DIRECT_KIOCB", "iomap_dio", "iocb"),
    ("DIRECT_FLAGS", "iomap_dio", "flags"),
    ("FAULT_AREA", "vm_fault", "vma"),
    ("FAULT_PAGE", "vm_fault", "pgoff"),
    ("AREA_FILE", "vm_area_struct", "vm_file"),
];

/// An inode of btrfs has its number within a tree, and trees are told apart
/// by their devices.
const BTRFS: &[Member] = &[
    ("BTRFS_INODE_VFS", "btrfs_inode", "vfs_inode"),
    ("BTRFS_INODE_ROOT", "btrfs_inode", "root"),
    ("BTRFS_ROOT_DEVICE", "btrfs_root", "anon_dev"),
];

const XFS: &[Member] = &[
    ("XFS_INODE_VFS", "xfs_inode", "i_vnode"),
    ("TRANSACTION_ITEMS", "xfs_trans", "t_items"),
    ("ITEM_LINKS", "xfs_log_item", "li_trans"),
    ("ITEM_KIND", "xfs_log_item", "li_type"),
    // The item is its first member.
    ("ITEM_INODE", "xfs_inode_log_item", "ili_inode"),
];

/// What was found in the kernel's description of itself.
pub struct Offsets {
    /// Global of the programs and its value.
    pub values: Vec<(&'static str, u32)>,
    /// Why the hooks of xfs cannot be used, if so.
    pub xfs: Result<(), String>,
    /// Why the programs on functions cannot be used, if so.
    pub exits: Result<(), String>,
}

impl Offsets {
    /// `module` describes the module of the file system, where it is one.
    pub fn of(
        file_system: FileSystem,
        kernel: &Btf<'_>,
        module: Option<&Btf<'_>>,
    ) -> Result<Self, BtfError> {
        let mut values = Vec::new();
        look_up(kernel, COMMON, &mut values)?;
        values.push(("DENTRY_ALIAS", either(kernel, "dentry", ["d_u.d_alias", "d_alias"])?));
        // Until Linux 6.5 the order of a large folio had a member.
        values.push(("FOLIO_ORDER", either(kernel, "folio", ["_folio_order", "_flags_1"])?));
        values.push(("PAGE_HEAD_BIT", kernel.enumerator("PG_head")? as u32));
        let own = module.unwrap_or(kernel);
        match file_system {
            FileSystem::Ext4 | FileSystem::Xfs => {}
            FileSystem::Btrfs => look_up(own, BTRFS, &mut values)?,
        }
        let xfs = look_up(own, XFS, &mut values);
        let exits = look_up(kernel, EXITS, &mut values);
        Ok(Self {
            values,
            xfs: xfs.map_err(|error| error.to_string()),
            exits: exits.map_err(|error| error.to_string()),
        })
    }
}

fn look_up(
    btf: &Btf<'_>,
    members: &[Member],
    values: &mut Vec<(&'static str, u32)>,
) -> Result<(), BtfError> {
    for &(global, structure, member) in members {
        values.push((global, btf.offset(structure, member)?));
    }
    Ok(())
}

fn either(btf: &Btf<'_>, structure: &str, members: [&str; 2]) -> Result<u32, BtfError> {
    btf.offset(structure, members[0]).or_else(|_| btf.offset(structure, members[1]))
}
