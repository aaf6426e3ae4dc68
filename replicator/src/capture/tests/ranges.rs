//! What the kernel programs tell of written bytes.

use std::os::unix::fs::MetadataExt;

use super::disk::{Disk, on_every_file_system};
use super::writer::{by_writer, step_by_step};
use super::{Watched, sh, skip};
use crate::capture::change::LossCause;
use crate::capture::counters::Lost;
use crate::capture::{Change, Extent};
use crate::choice::CaptureChoice;
use crate::range::RangeSet;

/// Runs the script and gives what was told of `f`'s bytes by inode: ranges,
/// whether all of it, and whether to sync before reading.
pub fn written(watched: &mut Watched, script: &str) -> (RangeSet, bool, bool) {
    watched.changes();
    watched.sh(script);
    told(watched)
}

/// What was told of `f`'s bytes since it was last asked.
pub fn told(watched: &mut Watched) -> (RangeSet, bool, bool) {
    told_of(watched, "f")
}

/// The same of another file.
pub fn told_of(watched: &mut Watched, name: &str) -> (RangeSet, bool, bool) {
    let inode = watched.inode(name);
    told_in(&watched.changes(), inode)
}

fn told_in(changes: &[Change], inode: u64) -> (RangeSet, bool, bool) {
    let (mut ranges, mut whole, mut synced) = (RangeSet::new(), false, false);
    for change in changes {
        if let Change::Data { inode: told, extent, mapped } = change
            && *told == inode
        {
            synced |= mapped;
            match extent {
                Extent::Ranges(more) => ranges.extend(more),
                Extent::Whole => whole = true,
            }
        }
    }
    (ranges, whole, synced)
}

pub fn covers(told: &(RangeSet, bool, bool), start: u64, end: u64) -> bool {
    told.1 || told.0.iter().any(|range| range.start <= start && end <= range.end)
}

pub const MIB: u64 = 1 << 20;

#[test]
fn every_way_to_write_tells_the_range() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    write_in_every_way(&mut watched);
}

#[test]
fn every_way_to_write_tells_the_range_on_xfs() {
    let Some(disk) = Disk::make("xfs") else { return };
    let Some(mut watched) = Watched::start_in(disk.folder(), CaptureChoice::Ebpf) else { return };
    write_in_every_way(&mut watched);
    watched.sh("dd if=/dev/zero of=g bs=1M count=2 status=none");
    let told = written(&mut watched, "cp --reflink=always g f");
    assert!(covers(&told, 0, 2 * MIB), "{told:?}");
}

fn write_in_every_way(watched: &mut Watched) {
    watched.sh("dd if=/dev/zero of=f bs=1M count=8 status=none; sync f");
    let cases = [
        ("dd if=/dev/zero of=f bs=1 seek=5000 count=9 conv=notrunc status=none", 5000, 5009),
        ("printf more >> f", 8 * MIB, 8 * MIB + 4),
        (
            "dd if=/dev/zero of=f bs=8192 seek=3 count=1 oflag=direct conv=notrunc status=none",
            24576,
            32768,
        ),
        ("truncate -s 3000000 f", 3_000_000, 8 * MIB),
        ("dd if=/dev/zero of=f bs=1M seek=3 count=1 conv=notrunc status=none", 3 * MIB, 4 * MIB),
        ("fallocate -p -o 100000 -l 50000 f", 100_000, 150_000),
        ("fallocate -z -o 200000 -l 9000 f", 200_000, 209_000),
        ("fallocate -c -o 4096 -l 4096 f", 4096, 4 * MIB),
        ("fallocate -i -o 4096 -l 4096 f", 4096, 4 * MIB),
        ("cat /dev/null > f", 0, 4 * MIB),
    ];
    for (script, start, end) in cases {
        let told = written(watched, script);
        assert!(covers(&told, start, end), "{script}: {told:?}");
    }
    let counters = watched.capture.counters();
    assert_eq!(counters.lost, Lost::default());
}

#[test]
fn a_small_write_into_a_large_file_tells_little() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else {
        return;
    };
    watched.sh("truncate -s 8G f");
    let told = written(
        &mut watched,
        "dd if=/dev/zero of=f bs=4096 seek=1500000 count=1 conv=notrunc status=none",
    );
    assert!(covers(&told, 1_500_000 * 4096, 1_500_001 * 4096), "{told:?}");
    assert!(!told.1 && told.0.bytes() <= 64 << 10, "{told:?}");
    assert!(!told.2, "no mapping, so nothing must be synced: {told:?}");
}

#[test]
fn truncation_tells_what_was_cut_off_and_no_bytes_of_what_grew() {
    on_every_file_system(|watched| {
        watched.sh("dd if=/dev/urandom of=f bs=1000 count=9000 status=none; sync f");
        let cases = [
            ("truncate -s 1G f", None),
            ("truncate -s 5000001 f", Some(5_000_001)),
            ("truncate -s 6000000 f", None),
            ("truncate -s 7000001 f; truncate -s 5000000 f", Some(5_000_000)),
            ("truncate -s 100 f; truncate -s 2G f", Some(100)),
            ("truncate -s 0 f", Some(0)),
            ("truncate -s 1G f", None),
            ("truncate -s 0 f; truncate -s 1M f", Some(0)),
            ("fallocate -l 8M f", None),
            ("fallocate -n -o 16M -l 1M f", None),
        ];
        for (script, cut_at) in cases {
            let inode = watched.inode("f");
            watched.changes();
            watched.sh(script);
            let changes = watched.changes();
            let looked =
                |change: &Change| matches!(change, Change::Data { inode: of, .. } if *of == inode);
            assert!(changes.iter().any(looked), "{script}");
            let (ranges, whole, _) = told_in(&changes, inode);
            // Whoever cuts off everything most often writes it anew.
            assert_eq!(whole, cut_at == Some(0), "{script}");
            match cut_at {
                None | Some(0) => assert!(whole || ranges.is_empty(), "{script}: {ranges:?}"),
                Some(at) => {
                    let first = ranges.iter().next().unwrap();
                    assert_eq!((first.start / 4096, first.end), (at / 4096, u64::MAX), "{script}");
                }
            }
        }
    });
}

#[test]
fn every_system_call_that_writes_tells_the_range() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    for way in ["pwrite", "sendfile", "copy_file_range", "splice", "io_uring", "mmap"] {
        watched.sh("rm -f f; dd if=/dev/zero of=f bs=1M count=1 status=none; sync f");
        let told = written(&mut watched, &by_writer(way));
        assert!(covers(&told, 40_000, 40_001), "{way}: {told:?}");
        assert_eq!(told.2, way == "mmap", "{way}: {told:?}");
    }
}

#[test]
fn writes_outside_the_folder_are_dropped_in_the_kernel() {
    let parent = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir_in(parent.path()).unwrap();
    let Some(mut watched) = Watched::start_in(folder, CaptureChoice::Ebpf) else { return };
    sh(
        parent.path(),
        "dd if=/dev/zero of=outside bs=4k count=50 oflag=append conv=notrunc status=none",
    );
    let outside = std::fs::metadata(parent.path().join("outside")).unwrap().ino();
    let tells = |change: &Change| matches!(change, Change::Data { inode, .. } if *inode == outside);
    assert!(!watched.changes().iter().any(tells));
    // Directories have many links and one name.
    sh(parent.path(), "mkdir -p far/child; chmod 700 far; touch -d yesterday far");
    let far = std::fs::metadata(parent.path().join("far")).unwrap().ino();
    let tells = |change: &Change| matches!(change, Change::Data { inode, .. } if *inode == far);
    assert!(!watched.changes().iter().any(tells));
    // The verdict about a file does not outlive its move into the folder.
    let inside = watched.folder.path().display().to_string();
    sh(parent.path(), &format!("mv outside '{inside}/f'"));
    let told = written(&mut watched, &by_writer("pwrite"));
    assert!(covers(&told, 40_000, 40_005), "{told:?}");
    // Through a name outside as well.
    sh(parent.path(), &format!("ln '{inside}/f' link; mkdir other; mv link other/f"));
    let other = parent.path().join("other");
    let inode = watched.inode("f");
    watched.changes();
    sh(&other, &by_writer("pwrite"));
    let told = watched.changes();
    assert!(
        told.iter().any(|change| matches!(change, Change::Data { inode: of, .. } if *of == inode))
    );
}

/// Whoever holds the file open by a name outside that is gone must not make it
/// count as being outside.
#[test]
fn writes_are_told_though_a_name_outside_that_is_gone_is_open() {
    let parent = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir_in(parent.path()).unwrap();
    let Some(mut watched) = Watched::start_in(folder, CaptureChoice::Ebpf) else { return };
    watched.sh("dd if=/dev/zero of=f bs=1M count=1 status=none; sync f");
    let told = written(
        &mut watched,
        "ln f ../gone; exec 3<>../gone; rm ../gone; printf bytes >&3
        dd if=/dev/zero of=f bs=1 seek=500000 count=9 conv=notrunc status=none
        exec 3>&-
        dd if=/dev/zero of=f bs=1 seek=900000 count=9 conv=notrunc status=none",
    );
    for at in [0, 500_000, 900_000] {
        assert!(covers(&told, at, at + 5), "{at}: {told:?}");
    }
}

/// What was announced is over when its operation is.
#[test]
fn writes_after_an_allocation_tell_little() {
    on_every_file_system(|watched| {
        for way in ["an allocation, then writes", "a hole, then writes", "a collapse, then writes"]
        {
            watched.sh("rm -f f; dd if=/dev/zero of=f bs=1M count=64 status=none; sync f");
            watched.changes();
            let folder = watched.folder.path().to_owned();
            step_by_step(way, &folder, |step| {
                let (ranges, whole, _) = told(watched);
                // The first step is the operation. On its way to the bytes the
                // first write touches the inode, and may tell it once more.
                let little = step <= 1 || !whole && ranges.bytes() <= 64 << 10;
                assert!(little, "{way}, step {step}: {ranges:?}");
            });
        }
    });
}

/// Databases and virtual machines read past the page cache from files that
/// they have opened to write.
#[test]
fn direct_reads_of_a_file_opened_to_write_are_not_told() {
    on_every_file_system(|watched| {
        watched.sh("dd if=/dev/urandom of=f bs=1M count=1 status=none; sync f");
        watched.changes();
        let folder = watched.folder.path().to_owned();
        step_by_step("direct reads", &folder, |step| {
            let told = told(watched);
            match step {
                1 => assert!(covers(&told, 4096, 12_288), "the write: {told:?}"),
                _ => assert_eq!(told, (RangeSet::new(), false, false), "step {step}"),
            }
        });
    });
}

#[test]
fn more_operations_than_the_tables_hold_are_a_loss() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    if watched.capture.describe().hook_set != "raw tracepoints" {
        return skip("the hooks of this kernel announce nothing");
    }
    watched.sh("dd if=/dev/zero of=f bs=1M count=1 status=none; sync f");
    assert_eq!(watched.capture.counters().lost, Lost::default());
    watched.sh(&by_writer("holes of many threads"));
    // The programs are asked what they could not do a moment later.
    let start = std::time::Instant::now();
    let lost = |change: &Change| {
        matches!(change, Change::Lost { cause: LossCause::TableFull, since: Some(_), .. })
    };
    while !watched.changes().iter().any(lost) {
        assert!(start.elapsed().as_secs() < 20, "{:?}", watched.capture.counters());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(watched.capture.counters().lost.table_full > 0);
}

#[test]
fn more_files_than_slots_are_all_told() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    // Some four times the slots of the smallest memory.
    watched.sh("for d in 1 2 3 4; do mkdir $d; ( cd $d; seq 1000 | xargs touch ); done; sync -f .");
    let files = || {
        let directories = (1..=4).map(|number| watched.folder.path().join(number.to_string()));
        directories.flat_map(|directory| std::fs::read_dir(directory).unwrap().flatten())
    };
    let inodes: std::collections::BTreeSet<u64> =
        files().map(|file| file.metadata().unwrap().ino()).collect();
    assert_eq!(inodes.len(), 4000);
    for round in 0..3 {
        watched.changes();
        let folder = watched.folder.path().to_owned();
        let writing =
            std::thread::spawn(move || sh(&folder, "for f in */*; do echo bytes >> $f; done"));
        let (mut told, mut lost) = (std::collections::BTreeSet::new(), false);
        let mut running = true;
        while running {
            running = !writing.is_finished();
            for change in watched.changes() {
                match change {
                    Change::Data { inode, .. } => {
                        told.insert(inode);
                    }
                    // On a busy machine so small a ring may overflow.
                    Change::Lost { .. } => lost = true,
                    _ => {}
                }
            }
        }
        writing.join().unwrap();
        let missing = inodes.difference(&told).count();
        assert!(missing == 0 || lost, "round {round}: {missing} files were never told");
    }
}
