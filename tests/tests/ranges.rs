//! Small changes of large files cost what changed, not what exists.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::ptr;
use std::time::Duration;

use replicator_tests::random::Random;
use replicator_tests::{Cluster, machine, poll, sample};
use rustix::mm::{MapFlags, ProtFlags};

/// Large enough that sending or rewriting the whole of it cannot hide.
const FILE_BYTES: u64 = 256 << 20;

const EDIT_BYTES: usize = 4096;

/// What an edit may cost on the wire, both ways, where the kernel names the
/// bytes, and where the leaf that holds them must be found by reading.
const WIRE_LIMIT_BY_RANGE: u64 = 64 << 10;
const WIRE_LIMIT_BY_LEAF: u64 = 1 << 20;

/// What a node may read for an edit where the kernel names the bytes: a few
/// leaves, which are a thousandth of the file.
const READ_LIMIT_BY_RANGE: u64 = 2 << 20;

/// Two running nodes that hold the same large file.
fn with_large_file() -> Cluster {
    let mut cluster = Cluster::new(2);
    sample::random_file(&cluster[0].path("footage"), FILE_BYTES, 1).unwrap();
    sample::copy(cluster[0].root(), cluster[1].root()).unwrap();
    cluster.start();
    cluster.assert_same();
    cluster
}

fn holds(path: &std::path::Path, offset: u64, wanted: &[u8]) -> bool {
    let mut bytes = vec![0; wanted.len()];
    File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset)).is_ok()
        && bytes == wanted
}

#[test]
fn four_kib_in_a_large_file_arrive_in_place_and_alone() {
    let cluster = with_large_file();
    let there = cluster[1].path("footage");
    let inode = fs::metadata(&there).unwrap().ino();
    let before = cluster[0].status().unwrap().traffic();
    let read = || [0, 1].map(|node| cluster[node].bytes_read().unwrap());
    let read_before = read();

    let edit = Random::new(2).bytes(EDIT_BYTES);
    let offset = FILE_BYTES / 2 + 12_345;
    let file = OpenOptions::new().write(true).open(cluster[0].path("footage")).unwrap();
    file.write_all_at(&edit, offset).unwrap();
    poll::eventually(Duration::from_secs(10), "the edit arrives", || holds(&there, offset, &edit));
    cluster.assert_same();

    assert_eq!(fs::metadata(&there).unwrap().ino(), inode, "the file was replaced");
    let status = cluster[0].status().unwrap();
    let by_range = status.capture() == "ebpf";
    let limit = if by_range { WIRE_LIMIT_BY_RANGE } else { WIRE_LIMIT_BY_LEAF };
    let wire = status.traffic().since(before);
    assert!(wire < limit, "{wire} bytes on the wire for {EDIT_BYTES}");
    for (now, before) in read().into_iter().zip(read_before) {
        let bytes = now - before;
        assert!(!by_range || bytes < READ_LIMIT_BY_RANGE, "{bytes} bytes read for {EDIT_BYTES}");
    }
}

/// A running program; and a read-only file, where the daemon is an ordinary
/// user's.
#[test]
fn what_may_not_be_written_to_is_replaced() {
    let cluster = Cluster::running(2);
    let (here, there) = (&cluster[0], &cluster[1]);
    fs::copy("/bin/sleep", here.path("program")).unwrap();
    fs::write(here.path("pack"), [7; 20_000]).unwrap();
    fs::set_permissions(here.path("pack"), Permissions::from_mode(0o444)).unwrap();
    cluster.assert_same();
    // Ends by itself should the story fail.
    let mut running = Command::new(there.path("program")).arg("60").spawn().unwrap();

    for name in ["program", "pack"] {
        let before = fs::metadata(here.path(name)).unwrap().permissions();
        fs::set_permissions(here.path(name), Permissions::from_mode(0o755)).unwrap();
        let mut file = OpenOptions::new().append(true).open(here.path(name)).unwrap();
        file.write_all(b"more").unwrap();
        fs::set_permissions(here.path(name), before).unwrap();
    }
    let arrived = |name| fs::read(there.path(name)).ok() == fs::read(here.path(name)).ok();
    poll::eventually(Duration::from_secs(20), "the edits arrive", || {
        arrived("program") && arrived("pack")
    });
    running.kill().unwrap();
    running.wait().unwrap();
    cluster.assert_same();
}

#[test]
fn scattered_edits_send_what_they_changed() {
    let cluster = with_large_file();
    if cluster[0].status().unwrap().capture() != "ebpf" {
        return machine::skip("this capture level finds edits leaf by leaf");
    }
    let before = cluster[0].status().unwrap().traffic();
    let mut random = Random::new(4);
    let file = OpenOptions::new().write(true).open(cluster[0].path("footage")).unwrap();
    // More than rides along with a record, and in more leaves than are ever
    // patched as a whole.
    for _ in 0..300 {
        let offset = random.below(FILE_BYTES - EDIT_BYTES as u64);
        file.write_all_at(&random.bytes(EDIT_BYTES), offset).unwrap();
    }
    drop(file);
    cluster.assert_same();
    let wire = cluster[0].status().unwrap().traffic().since(before);
    // As leaves they would be 75 MiB.
    let limit = 8 << 20;
    assert!(wire < limit, "{wire} bytes on the wire for 300 edits of {EDIT_BYTES}");
}

/// As a camera writes: the file never falls quiet for long.
#[test]
fn a_growing_file_is_sent_once() {
    let cluster = Cluster::running(2);
    if cluster[0].status().unwrap().capture() != "ebpf" {
        return machine::skip("this capture level finds appends leaf by leaf");
    }
    let before = cluster[0].status().unwrap().traffic();
    let file = File::create(cluster[0].path("recording")).unwrap();
    let (mut random, there) = (Random::new(5), cluster[1].path("recording"));
    let mut written = 0;
    for round in 0..48 {
        let piece = random.bytes(1 << 20);
        file.write_all_at(&piece, written).unwrap();
        written += piece.len() as u64;
        // In step with it now and then, so that both ways of falling behind
        // are met.
        if round % 8 == 7 {
            poll::eventually(Duration::from_secs(20), "the recording follows", || {
                fs::metadata(&there).is_ok_and(|there| there.len() == written)
            });
        }
    }
    drop(file);
    cluster.assert_same();
    let wire = cluster[0].status().unwrap().traffic().since(before);
    assert!(wire < written * 3 / 2, "{wire} bytes on the wire for {written} recorded");
}

/// Receivers serve each other what they have.
#[test]
fn a_large_file_leaves_its_origin_about_once() {
    const RECEIVERS: u64 = 5;
    let cluster = Cluster::running(1 + RECEIVERS as usize);
    let before = cluster[0].status().unwrap().traffic();
    let beside = cluster[0].private("tmp").join("footage");
    sample::random_file(&beside, FILE_BYTES / 2, 6).unwrap();
    fs::rename(beside, cluster[0].path("footage")).unwrap();
    cluster.assert_same();
    let sent = cluster[0].status().unwrap().traffic().sent - before.sent;
    let size = FILE_BYTES / 2;
    println!("{sent} bytes left the origin of a file of {size}");
    assert!(sent < 2 * size, "{sent} bytes left the origin of a file of {size}");
}

#[test]
fn an_append_sends_what_was_appended() {
    let cluster = with_large_file();
    let before = cluster[1].status().unwrap().traffic();
    let file = OpenOptions::new().append(true).open(cluster[1].path("footage")).unwrap();
    std::io::Write::write_all(&mut &file, &Random::new(3).bytes(EDIT_BYTES)).unwrap();
    drop(file);
    cluster.assert_same();
    // A last leaf that grows may have to be sent as a whole.
    let wire = cluster[1].status().unwrap().traffic().since(before);
    assert!(wire < 2 << 20, "{wire} bytes on the wire for an append of {EDIT_BYTES}");
}

#[test]
fn stores_through_a_mapping_follow() {
    let cluster = Cluster::running(2);
    if cluster[0].status().unwrap().capture() != "ebpf" {
        return machine::skip("this capture level sees mapped stores only at a verification");
    }
    fs::write(cluster[0].path("mapped"), vec![b'.'; 1 << 20]).unwrap();
    cluster.assert_same();

    let file = OpenOptions::new().read(true).write(true).open(cluster[0].path("mapped")).unwrap();
    let flags = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice; nothing
    // else in this process refers to it, and the file is not made shorter.
    let map =
        unsafe { rustix::mm::mmap(ptr::null_mut(), 1 << 20, flags, MapFlags::SHARED, &file, 0) };
    let map = map.unwrap().cast::<u8>();
    let there = cluster[1].path("mapped");
    for (round, offset) in [(1, 5_000), (2, 500_000), (3, 5_000)] {
        let mark = format!("store {round}");
        // SAFETY: `offset` and the mark's length lie within the mapping.
        unsafe { ptr::copy_nonoverlapping(mark.as_ptr(), map.add(offset), mark.len()) };
        poll::eventually(Duration::from_secs(10), "a store without msync arrives", || {
            holds(&there, offset as u64, mark.as_bytes())
        });
    }
    // SAFETY: unmaps what was mapped above; `map` is not used again.
    unsafe { rustix::mm::munmap(map.cast(), 1 << 20) }.unwrap();
    cluster.assert_same();
}

#[test]
fn a_rewrite_with_size_and_time_restored_is_seen() {
    let cluster = Cluster::running(2);
    fs::write(cluster[0].path("file"), "before").unwrap();
    cluster.assert_same();
    let file = OpenOptions::new().write(true).open(cluster[0].path("file")).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"behind", 0).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    drop(file);
    cluster.assert_same();
    assert_eq!(fs::read(cluster[1].path("file")).unwrap(), b"behind");
}
