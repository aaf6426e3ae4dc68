//! Loading for kernels that lack something.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::capture::change::{Change, Extent};
use crate::capture::ebpf::btf::doctored;
use crate::capture::outbox::Outbox;
use crate::capture::tests::disk::Disk;
use crate::capture::tests::{sh, skip};
use crate::range::RangeSet;

fn refused(types: &Path) -> String {
    let root = File::open(types).unwrap();
    let (memory, tally) = (MEMORY_BYTES_MIN, Arc::default());
    match load_described(types, root.as_fd(), FileSystem::Ext4, memory, tally) {
        Ok(_) => panic!("programs were loaded for a kernel nobody knows"),
        Err(lack) => lack.reason,
    }
}

#[test]
fn a_kernel_without_the_functions_gets_the_tracepoints() {
    let folder = tempfile::tempdir().unwrap();
    let attached = attach_without(&["vfs_fallocate"], folder.path(), FileSystem::Ext4);
    let Some(attached) = attached else { return };
    assert_eq!(attached.hook_set, "raw tracepoints");
    let reason = attached.why_not_exits.unwrap();
    assert!(reason.ends_with("lacks the function vfs_fallocate"), "{reason}");
}

#[test]
fn a_kernel_that_does_not_describe_itself_gets_one_plain_line() {
    let types = tempfile::tempdir().unwrap();
    let reason = refused(types.path());
    assert!(reason.contains("cannot be read: No such file"), "{reason}");
    for garbage in [&b""[..], b"nothing of use", &[0; 4096]] {
        fs::write(types.path().join(KERNEL), garbage).unwrap();
        let reason = refused(types.path());
        assert!(reason.contains("is malformed") && !reason.contains('\n'), "{reason}");
    }
}

#[test]
fn a_kernel_that_lacks_a_member_gets_one_plain_line() {
    let Some(blob) = doctored::running_kernel() else { return };
    let types = tempfile::tempdir().unwrap();
    for (structure, member) in [("inode", "i_generation"), ("dentry", "d_parent")] {
        let lacking = doctored::without(blob.clone(), member);
        fs::write(types.path().join(KERNEL), lacking).unwrap();
        let reason = refused(types.path());
        assert!(reason.ends_with(&format!("lacks {structure}.{member}")), "{reason}");
    }
}

/// What the child of the test does first, and what is looked at.
const CREATE: &str = "printf 12345678 >f; printf 12345678 >../outside; sync f ../outside";
const WRITE: &str = "for file in f ../outside; do
    dd if=/dev/zero of=$file bs=4 seek=4096 count=2 conv=notrunc status=none; done";

/// What programs read in place with.
const CAST: &str = "bpf_rdonly_cast";

/// Attaches the programs for a kernel that lacks these functions.
fn attach_without(lacking: &[&str], folder: &Path, kind: FileSystem) -> Option<Attached> {
    let mut blob = doctored::running_kernel()?;
    let kernel = Btf::parse(blob.clone(), None).unwrap();
    for &function in lacking {
        if function == CAST && code::probe_casts(&kernel).is_none() {
            skip("the programs cannot read in place here");
            return None;
        }
        blob = doctored::without(blob, function);
    }
    let types = tempfile::tempdir().unwrap();
    fs::write(types.path().join(KERNEL), blob).unwrap();
    let root = File::open(folder).unwrap();
    let tally = Arc::default();
    match load_described(types.path(), root.as_fd(), kind, MEMORY_BYTES_MIN, tally) {
        Ok(attached) => Some(attached),
        Err(Lack { reason, .. }) => {
            let lacks = ["it needs root", "has no such tracepoint"];
            assert!(lacks.iter().any(|lack| reason.contains(lack)), "{reason}");
            skip(&reason);
            None
        }
    }
}

/// What the programs tell of written bytes, by inode.
fn told(kernel: &mut Kernel) -> BTreeMap<u64, RangeSet> {
    let (sender, mut changes) = tokio::sync::mpsc::channel(64);
    let mut outbox = Outbox::new(sender, Arc::default(), Arc::default()).unwrap();
    kernel.drain(&mut outbox).unwrap();
    outbox.send().unwrap();
    let mut told: BTreeMap<_, RangeSet> = BTreeMap::new();
    while let Ok(batch) = changes.try_recv() {
        for change in batch {
            if let Change::Data { inode, extent: Extent::Ranges(ranges), .. } = change {
                told.entry(inode).or_default().extend(&ranges);
            }
        }
    }
    told
}

#[test]
fn programs_tell_the_same_where_they_cannot_read_in_place() {
    for (name, kind) in [("ext4", FileSystem::Ext4), ("xfs", FileSystem::Xfs)] {
        let Some(disk) = Disk::make(name) else { continue };
        let lacks: [&[&str]; 2] = [&["vfs_fallocate"], &["vfs_fallocate", CAST]];
        for lacking in lacks {
            let above = disk.folder();
            let folder = above.path().join("folder");
            fs::create_dir(&folder).unwrap();
            let attached = attach_without(lacking, &folder, kind);
            let Some(Attached { mut kernel, .. }) = attached else { return };
            sh(&folder, CREATE);
            told(&mut kernel);
            sh(&folder, WRITE);
            let told = told(&mut kernel);
            let [inside, outside] =
                ["f", "../outside"].map(|name| fs::metadata(folder.join(name)).unwrap().ino());
            let ranges = &told[&inside];
            let marked = [8192, 4 * 4096].map(|at| ranges.contains(at));
            assert_eq!(marked, [false, true], "{name}: {ranges:?}");
            assert!(!told.contains_key(&outside), "{name}: {told:?}");
        }
    }
}
