//! Which functions of the kernel show what when they return, on which file
//! system, and whether this kernel has them.
//!
//! A function that was renamed, inlined or given other parameters is missing,
//! and the reason says so; nothing is attached to what merely has its name.

use super::btf::{Btf, BtfError};
use super::hooks::{FLAGS, FileSystem};
use crate::capture::describe::MissingHook;

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Entry,
    Exit,
}

/// One program and the function it is attached to.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub program: &'static str,
    pub function: &'static str,
    pub moment: Moment,
    /// What its first parameters point to.
    takes: &'static [&'static str],
    /// Whose own function it is: it lies in a module, or in the kernel.
    file_system: Option<FileSystem>,
    /// What goes unseen without it.
    pub shows: &'static str,
    /// A function above those of the file systems, which shows the same but
    /// where the kernel itself calls these.
    instead: Option<&'static str>,
}

const ANY: Exit = Exit {
    program: "",
    function: "",
    moment: Moment::Exit,
    takes: &[],
    file_system: None,
    shows: "",
    instead: None,
};
const WRITES: Exit =
    Exit { program: "write_iter", takes: &["kiocb", "iov_iter"], shows: "writes", ..ANY };
const COPIES: Exit = Exit { program: "copied", takes: &["file", "", "file"], ..ANY };
const HOLES: Exit = Exit {
    program: "fallocate",
    takes: &["file", "", "", ""],
    shows: "holes",
    instead: Some("vfs_fallocate"),
    ..ANY
};
const DIRECT: Exit =
    Exit { function: "iomap_dio_complete", takes: &["iomap_dio"], shows: "direct writes", ..ANY };

/// Without any of these that serves the folder's file system, the set cannot
/// be had.
const EXITS: &[Exit] = &[
    Exit { function: "ext4_file_write_iter", file_system: Some(FileSystem::Ext4), ..WRITES },
    Exit { function: "xfs_file_write_iter", file_system: Some(FileSystem::Xfs), ..WRITES },
    Exit { function: "btrfs_file_write_iter", file_system: Some(FileSystem::Btrfs), ..WRITES },
    Exit { program: "direct_ended", ..DIRECT },
    Exit { program: "direct_ends", moment: Moment::Entry, ..DIRECT },
    Exit {
        program: "attributes",
        function: "notify_change",
        takes: &["", "dentry", "iattr"],
        shows: "truncation",
        ..ANY
    },
    Exit { function: "ext4_fallocate", file_system: Some(FileSystem::Ext4), ..HOLES },
    Exit { function: "xfs_file_fallocate", file_system: Some(FileSystem::Xfs), ..HOLES },
    Exit { function: "btrfs_fallocate", file_system: Some(FileSystem::Btrfs), ..HOLES },
    Exit { function: "vfs_clone_file_range", shows: "clones", ..COPIES },
    Exit { function: "vfs_copy_file_range", shows: "copies", ..COPIES },
];

/// Often inlined; the tracepoints of dirty pages can stand in for it.
const FAULTS: Exit = Exit {
    program: "page_dirtied",
    function: "fault_dirty_shared_page",
    takes: &["vm_fault"],
    shows: "stores through a mapping",
    ..ANY
};

const FILE_FLAGS: Exit =
    Exit { program: "file_flags", takes: &["", "dentry", ""], shows: FLAGS, ..ANY };

/// What happens rarely, and is found by a verification without these.
const RARE: &[Exit] = &[
    // What a restored snapshot is written with; it passes the other writes by.
    Exit {
        program: "encoded_write",
        function: "btrfs_do_encoded_write",
        takes: &["kiocb", "iov_iter", ""],
        file_system: Some(FileSystem::Btrfs),
        shows: "writes of compressed extents",
        ..ANY
    },
    Exit { function: "ext4_fileattr_set", file_system: Some(FileSystem::Ext4), ..FILE_FLAGS },
    Exit { function: "xfs_fileattr_set", file_system: Some(FileSystem::Xfs), ..FILE_FLAGS },
    Exit { function: "btrfs_fileattr_set", file_system: Some(FileSystem::Btrfs), ..FILE_FLAGS },
];

/// The tracepoints that belong to this set: the first two tell of pages that
/// somebody dirtied without a fault of his own, as a debugger or a device
/// does; the third of what no function with a known face does.
pub const TRACEPOINTS: [&str; 3] =
    ["writeback_mark_inode_dirty", "writeback_dirty_folio", "xfs_exchrange_after"];

/// A function that this kernel has.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub exit: Exit,
    /// Its number in the type description.
    pub number: u32,
    pub in_module: bool,
}

/// What is to be attached for a folder.
#[derive(Debug)]
pub struct Plan {
    pub found: Vec<Found>,
    pub missing: Vec<MissingHook>,
    /// Every fault that makes a page writable is told.
    pub faults_told: bool,
}

impl Plan {
    /// `module` describes the module of the file system, where it is one.
    pub fn of(
        file_system: FileSystem,
        kernel: &Btf<'_>,
        module: Option<&Btf<'_>>,
    ) -> Result<Self, BtfError> {
        let mut plan = Self { found: Vec::new(), missing: Vec::new(), faults_told: true };
        let serves = |exit: &&Exit| exit.file_system.is_none_or(|own| own == file_system);
        for &exit in EXITS.iter().filter(serves) {
            match (find(exit, kernel, module), exit.instead) {
                (Err(error), Some(function)) => {
                    let other = Exit { function, file_system: None, ..exit };
                    plan.found.push(find(other, kernel, module)?);
                    let shows =
                        format!("{} made by the kernel itself (for a loop device)", exit.shows);
                    plan.missing.push(MissingHook::unseen(exit.function, &shows, error));
                }
                (found, _) => plan.found.push(found?),
            }
        }
        for &exit in RARE.iter().filter(serves) {
            match find(exit, kernel, module) {
                Ok(found) => plan.found.push(found),
                Err(error) => {
                    plan.missing.push(MissingHook::unseen(exit.function, exit.shows, error));
                }
            }
        }
        match find(FAULTS, kernel, module) {
            Ok(found) => plan.found.push(found),
            Err(error) => {
                plan.faults_told = false;
                let costs = format!(
                    "{} are told by folio, and a file that becomes mapped is read once more: {error}",
                    FAULTS.shows
                );
                let Exit { function, shows, .. } = FAULTS;
                plan.missing.push(MissingHook::stood_in_for(function, shows, costs));
            }
        }
        Ok(plan)
    }
}

fn find(exit: Exit, kernel: &Btf<'_>, module: Option<&Btf<'_>>) -> Result<Found, BtfError> {
    let module = module.filter(|_| exit.file_system.is_some());
    let number = module.unwrap_or(kernel).function(exit.function, exit.takes)?;
    Ok(Found { exit, number, in_module: module.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::ebpf::btf::doctored;
    use crate::capture::tests::skip;

    /// A plan for a kernel that is the running one but for a function.
    fn plan_without(blob: &[u8], name: &str) -> Result<Plan, String> {
        let kernel = Btf::parse(doctored::without(blob.to_vec(), name), None).unwrap();
        Plan::of(FileSystem::Ext4, &kernel, None).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_kernel_lacks_ends_the_set_or_is_stood_in_for() {
        let Some(blob) = doctored::running_kernel() else { return };
        let kernel = Btf::parse(blob.clone(), None).unwrap();
        if let Err(error) = Plan::of(FileSystem::Ext4, &kernel, None) {
            return skip(&format!("ext4 is a module here: {error}"));
        }
        for name in ["ext4_file_write_iter", "notify_change", "vfs_clone_file_range"] {
            let reason = plan_without(&blob, name).unwrap_err();
            assert!(reason.ends_with(&format!("lacks the function {name}")), "{reason}");
        }
        // Another structure where the programs look into a `kiocb`.
        let reason = plan_without(&blob, "kiocb").unwrap_err();
        assert!(
            reason.ends_with("lacks ext4_file_write_iter with the known parameters"),
            "{reason}"
        );
        let plan = plan_without(&blob, "fault_dirty_shared_page").unwrap();
        assert!(!plan.faults_told);
        assert_eq!(plan.missing.len(), 1);
        assert!(plan.missing[0].costs.contains("by folio"), "{:?}", plan.missing);
        assert_eq!(plan.missing[0].seen_late(), None);
        // What the kernel calls for others, and what it calls by itself.
        for (lack, had) in
            [("vfs_fallocate", "ext4_fallocate"), ("ext4_fallocate", "vfs_fallocate")]
        {
            let plan = plan_without(&blob, lack).unwrap();
            let holes = plan.found.iter().filter(|found| found.exit.program == "fallocate");
            assert_eq!(holes.map(|found| found.exit.function).collect::<Vec<_>>(), [had]);
            let told = plan.missing.iter().any(|missing| missing.name == lack);
            assert_eq!(told, lack == "ext4_fallocate", "{:?}", plan.missing);
        }
        // What is rare, and then is learnt late.
        let of_ext4 = |exit: &&Exit| exit.file_system == Some(FileSystem::Ext4);
        for exit in RARE.iter().filter(of_ext4) {
            let missing = plan_without(&blob, exit.function).unwrap().missing;
            let late: Vec<_> = missing.iter().filter_map(MissingHook::seen_late).collect();
            assert!(late.len() == 1 && late[0].starts_with(exit.shows), "{missing:?}");
        }
    }

    #[test]
    fn every_file_system_has_writes_and_no_pair_twice() {
        for file_system in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
            let own = EXITS.iter().filter(|exit| exit.file_system == Some(file_system));
            let programs = own.map(|exit| exit.program).collect::<Vec<_>>();
            assert_eq!(programs, ["write_iter", "fallocate"]);
        }
        let mut pairs: Vec<_> = EXITS.iter().map(|exit| (exit.program, exit.function)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), EXITS.len());
        for exit in EXITS.iter().chain(RARE).chain([&FAULTS]) {
            assert!(!exit.program.is_empty() && !exit.shows.is_empty(), "{exit:?}");
        }
    }
}
