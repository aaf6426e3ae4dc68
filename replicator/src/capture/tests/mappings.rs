//! What the kernel programs tell of large folios and of stores through
//! mappings.
//!
//! A store is seen by the folio it dirties, a write by its range: the tests
//! hold that neither is lost, and that a folio is not taken for a write.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::disk::on_every_file_system;
use super::ranges::{MIB, covers, told, told_of, written};
use super::writer::{STORES, by_writer, step_by_step};
use super::{Watched, sh};
use crate::capture::{Change, Extent};
use crate::choice::CaptureChoice;
use crate::range::{Range, RangeSet};

/// Makes `f` of 64 MiB and reads it front to back, so that readahead fills
/// the cache with the largest folios there are.
const LARGE_FOLIOS: &str = "dd if=/dev/urandom of=f bs=1M count=64 conv=fsync status=none
    dd of=f oflag=nocache conv=notrunc count=0 status=none
    cat f > /dev/null";

#[test]
fn a_small_write_into_a_large_folio_tells_little() {
    on_every_file_system(|watched| {
        watched.sh(LARGE_FOLIOS);
        for block in [5000u64, 5001, 9000] {
            let script = format!("dd if=/dev/zero of=f bs=4096 seek={block} count=1 conv=notrunc");
            let told = written(watched, &format!("{script} status=none"));
            assert!(covers(&told, block * 4096, (block + 1) * 4096), "{told:?}");
            assert!(!told.1 && !told.2 && told.0.bytes() <= 64 << 10, "{told:?}");
        }
    });
}

#[test]
fn own_reads_and_patches_of_large_folios_are_told_to_nobody() {
    on_every_file_system(|watched| {
        watched.sh(LARGE_FOLIOS);
        let path = watched.folder.path().join("f");
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        watched.changes();
        let mut all = vec![0; 64 << 20];
        file.read_exact_at(&mut all, 0).unwrap();
        file.write_all_at(&[1; 4096], 20 * MIB).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 4096], 30 * MIB).unwrap();
        watched.sh("sync -f .");
        assert_eq!(told(watched), (RangeSet::new(), false, false));
    });
}

#[test]
fn every_store_is_told_however_its_mapping_ends() {
    let ways = [
        "stores, exit",
        "stores, munmap",
        "stores, each with munmap",
        "stores, each with msync",
        "two mappings",
        "stores and writes",
        "stores of children",
        "process_vm_writev",
    ];
    on_every_file_system(|watched| {
        for way in ways {
            watched.sh(LARGE_FOLIOS);
            watched.changes();
            let folder = watched.folder.path().to_owned();
            let file = std::fs::File::open(folder.join("f")).unwrap();
            step_by_step(way, &folder, |step| {
                let (at, told) = (STORES[step] as u64, told(watched));
                assert!(told.2 && covers(&told, at, at + 1), "{way}: step {step} of {told:?}");
                // As the daemon does before it reads.
                sync_range(&file, 0, 64 * MIB);
            });
        }
    });
}

#[test]
fn a_store_into_a_page_that_was_read_dirty_is_told() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    watched.sh("dd if=/dev/zero of=f bs=1M count=1 status=none; sync f");
    let told = written(&mut watched, &by_writer("mmap of a dirty page"));
    assert!(told.2 && covers(&told, 40_000, 40_001), "{told:?}");
}

/// Deeper than the kernel programs look for the folder: they do not decide
/// where the file is, and must know all the same that it became mapped.
#[test]
fn a_store_far_below_the_folder_into_a_page_that_was_read_dirty_is_told() {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    let below = ["d"; 70].join("/");
    watched
        .sh(&format!("mkdir -p {below}; dd if=/dev/zero of={below}/f bs=1M count=1 status=none"));
    watched.sh("sync -f .");
    let name = format!("{below}/f");
    let folder = watched.folder.path().join(&below);
    watched.changes();
    let mut steps = 0;
    step_by_step("mmap of a dirty page", &folder, |_| {
        steps += 1;
        let told = told_of(&mut watched, &name);
        assert!(!told.2 && covers(&told, 40_000, 40_005), "the write: {told:?}");
    });
    assert_eq!(steps, 1);
    let told = told_of(&mut watched, &name);
    assert!(told.2 && covers(&told, 40_000, 40_001), "the store: {told:?}");
}

#[test]
fn stores_of_a_busy_mapping_are_never_missed() {
    never_missed("mapping under fire");
}

#[test]
fn stores_of_mappings_that_come_and_go_are_never_missed() {
    never_missed("mappings that come and go");
}

/// Reads what it is told of, as the daemon does, while another process
/// writes; in the end it must have read everything.
fn never_missed(way: &str) {
    let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) else { return };
    watched.sh("dd if=/dev/zero of=f bs=1M count=4 status=none; sync f");
    let file = std::fs::File::open(watched.folder.path().join("f")).unwrap();
    let inode = watched.inode("f");
    let mut copy = vec![0; 4 << 20];
    let mut read = |watched: &mut Watched| {
        for change in watched.changes() {
            let Change::Data { inode: told, extent, mapped } = change else { continue };
            if told != inode {
                continue;
            }
            let ranges = match extent {
                Extent::Ranges(ranges) => ranges,
                Extent::Whole => [Range { start: 0, end: 4 << 20 }].into_iter().collect(),
            };
            for range in ranges.iter() {
                let end = range.end.min(4 << 20);
                let (start, end) = (range.start.min(end), end);
                if mapped {
                    sync_range(&file, start, end - start);
                }
                file.read_exact_at(&mut copy[start as usize..end as usize], start).unwrap();
            }
        }
        copy.clone()
    };
    read(&mut watched);
    for epoch in 0..20 {
        let folder = watched.folder.path().to_owned();
        let command = by_writer(way);
        let writing = std::thread::spawn(move || sh(&folder, &command));
        while !writing.is_finished() {
            read(&mut watched);
        }
        writing.join().unwrap();
        let copy = read(&mut watched);
        let truth = std::fs::read(watched.folder.path().join("f")).unwrap();
        assert!(copy == truth, "{way}, epoch {epoch}");
    }
}

fn sync_range(file: &std::fs::File, start: u64, length: u64) {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (start, length) = (start as i64, length as i64);
    // SAFETY: the call takes an open descriptor and numbers.
    let synced = unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, flags) };
    assert_eq!(synced, 0);
}
