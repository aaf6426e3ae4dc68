//! Capture against the real kernel: a child process changes a folder, and
//! what it changed must have been told.
//!
//! The child matters: what this process does itself is dropped by design.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::path::RelPath;
use crate::range::RangeSet;

/// A folder with a capture that watches it.
pub(super) struct Watched {
    pub capture: Capture,
    pub folder: TempDir,
    changes: Receiver<Vec<Change>>,
    runtime: Runtime,
}

impl Watched {
    /// `None`, with the reason printed, where this machine does not have the
    /// level.
    pub fn start(choice: Choice) -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), choice)
    }

    pub fn start_in(folder: TempDir, choice: Choice) -> Option<Self> {
        let root = folder.path().canonicalize().unwrap();
        let (sender, changes) = tokio::sync::mpsc::channel(64);
        let options = Options { root, choice, memory_bytes: MEMORY_BYTES_MIN };
        match Capture::start(options, sender) {
            Ok(capture) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                Some(Self { capture, folder, changes, runtime })
            }
            Err(error @ (Error::Ebpf { .. } | Error::Fanotify { .. })) => {
                // A verifier that says no is this project's fault.
                assert!(!error.to_string().contains("refused the program"), "{error}");
                eprintln!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Runs a shell script in the folder, from another process.
    pub fn sh(&self, script: &str) {
        sh(self.folder.path(), script);
    }

    pub fn inode(&self, name: &str) -> u64 {
        std::fs::metadata(self.folder.path().join(name)).unwrap().ino()
    }

    /// Everything reported up to now.
    pub fn changes(&mut self) -> Vec<Change> {
        let Self { capture, changes, runtime, .. } = self;
        runtime.block_on(async {
            let mut told = Vec::new();
            let mut flushed = std::pin::pin!(capture.flush());
            loop {
                tokio::select! {
                    biased;
                    Some(batch) = changes.recv() => told.extend(batch),
                    () = &mut flushed => break,
                }
            }
            while let Ok(batch) = changes.try_recv() {
                told.extend(batch);
            }
            told
        })
    }
}

pub(super) fn sh(directory: &Path, script: &str) {
    let status = Command::new("sh").arg("-ec").arg(script).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

fn names(changes: &[Change]) -> BTreeSet<String> {
    let names = changes.iter().filter_map(|change| match change {
        Change::Name(path) => Some(path.to_string()),
        _ => None,
    });
    names.collect()
}

fn contents(changes: &[Change]) -> BTreeSet<String> {
    let contents = changes.iter().filter_map(|change| match change {
        Change::DataAt(path) => Some(path.to_string()),
        _ => None,
    });
    contents.collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

const ALL: [Choice; 3] = [Choice::Ebpf, Choice::Fanotify, Choice::Inotify];

#[test]
fn every_level_names_what_appears_moves_and_goes() {
    for choice in ALL {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        watched.sh("echo a > a; mkdir d; ln -s a s; ln a h; mkfifo p");
        assert!(names(&watched.changes()).is_superset(&set(["a", "d", "s", "h", "p"])), "{choice}");
        watched.sh("mv a b; mv d e; chmod 700 b");
        assert!(names(&watched.changes()).is_superset(&set(["a", "b", "d", "e"])), "{choice}");
        watched.sh("echo x > e/inner; mkdir -p e/1/2");
        let told = names(&watched.changes());
        assert!(told.is_superset(&set(["e/inner", "e/1"])), "{choice}: {told:?}");
        watched.sh("echo y > e/1/2/deep");
        let told = names(&watched.changes());
        assert!(told.contains("e/1/2/deep"), "{choice}: {told:?}");
        watched.sh("rm -r e b");
        assert!(names(&watched.changes()).is_superset(&set(["e", "b"])), "{choice}");
        assert_eq!(watched.capture.counters().lost, Lost::default(), "{choice}");
    }
}

#[test]
fn nothing_outside_and_nothing_private_is_named() {
    for choice in ALL {
        let parent = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir_in(parent.path()).unwrap();
        let Some(mut watched) = Watched::start_in(folder, choice) else {
            continue;
        };
        sh(parent.path(), "echo a > outside; mkdir elsewhere; mv outside elsewhere/o");
        watched.sh("mkdir .replicator; echo b > .replicator/temporary; echo c > inside");
        let told = names(&watched.changes());
        assert_eq!(told, set(["inside"]), "{choice}");
    }
}

#[test]
fn an_entry_that_enters_or_leaves_the_folder_is_named() {
    for choice in ALL {
        let parent = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir_in(parent.path()).unwrap();
        let Some(mut watched) = Watched::start_in(folder, choice) else {
            continue;
        };
        sh(parent.path(), "mkdir out; echo a > out/f");
        let inside = watched.folder.path().display().to_string();
        sh(parent.path(), &format!("mv out '{inside}/in'"));
        assert!(names(&watched.changes()).contains("in"), "{choice}");
        sh(parent.path(), &format!("echo more >> '{inside}/in/f'; mv '{inside}/in' back"));
        assert!(names(&watched.changes()).contains("in"), "{choice}");
    }
}

#[test]
fn the_levels_without_ranges_name_the_file_that_was_written() {
    for choice in [Choice::Fanotify, Choice::Inotify] {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        watched.sh("mkdir d; echo a > d/f");
        watched.changes();
        watched.sh("echo b >> d/f");
        assert_eq!(contents(&watched.changes()), set(["d/f"]), "{choice}");
        watched.sh("truncate -s 1 d/f");
        assert_eq!(contents(&watched.changes()), set(["d/f"]), "{choice}");
        assert_eq!(watched.changes(), [], "{choice}: nothing happened since");
    }
}

#[test]
fn fanotify_sees_a_write_through_a_name_outside() {
    let parent = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir_in(parent.path()).unwrap();
    let Some(mut watched) = Watched::start_in(folder, Choice::Fanotify) else {
        return;
    };
    watched.sh("echo a > f; ln f ../link");
    let inode = watched.inode("f");
    watched.changes();
    sh(parent.path(), "echo b >> link");
    let whole = Change::Data { inode, extent: Extent::Whole, mapped: false };
    assert!(watched.changes().contains(&whole));
}

#[test]
fn own_changes_are_dropped() {
    for choice in [Choice::Ebpf, Choice::Fanotify] {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        std::fs::write(watched.folder.path().join("own"), "by this process").unwrap();
        watched.sh("echo b > foreign");
        assert_eq!(names(&watched.changes()), set(["foreign"]), "{choice}");
        assert!(watched.capture.counters().own_filtered > 0, "{choice}");
    }
}

#[test]
fn a_name_of_any_bytes_is_told() {
    for choice in ALL {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        watched.sh(r#"d=$(printf 'x (deleted)'); mkdir "$d"; f=$(printf 'a\001\377\nb'); echo 1 > "$d/$f""#);
        let told = watched.changes();
        let directory = RelPath::parse(b"x (deleted)").unwrap();
        assert!(told.contains(&Change::Name(directory)), "{choice}");
        watched.sh(r#"echo 2 > "$(printf 'x (deleted)/c\377')""#);
        let file = RelPath::parse(b"x (deleted)/c\xff").unwrap();
        assert!(watched.changes().contains(&Change::Name(file)), "{choice}");
    }
}

#[test]
fn a_bind_mount_of_a_part_of_a_file_system_is_resolved_beneath_itself() {
    let outer = tempfile::tempdir().unwrap();
    sh(outer.path(), "mkdir -p source/sub mounted");
    let mounted = outer.path().join("mounted");
    let mut mount = Command::new("mount");
    mount.arg("--bind").arg(outer.path().join("source")).arg(&mounted);
    if !mount.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: bind mounts need CAP_SYS_ADMIN");
        return;
    }
    let folder = tempfile::Builder::new().prefix("root").tempdir_in(&mounted).unwrap();
    if let Some(mut watched) = Watched::start_in(folder, Choice::Fanotify) {
        watched.sh("mkdir d; echo a > d/f");
        // The same file system under its other name.
        let name = watched.folder.path().file_name().unwrap().to_owned();
        sh(&outer.path().join("source").join(name), "echo b > d/g");
        assert!(names(&watched.changes()).is_superset(&set(["d", "d/f", "d/g"])));
    }
    assert!(Command::new("umount").arg("-l").arg(&mounted).status().unwrap().success());
}

#[test]
fn a_slow_receiver_loses_nothing_and_a_drop_does_not_wait_for_it() {
    let Some(watched) = Watched::start(Choice::Auto) else {
        return;
    };
    let Watched { capture, folder, mut changes, .. } = watched;
    sh(folder.path(), "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); : > f$i; done");
    let mut told = BTreeSet::new();
    while told.len() < 3000 {
        told.extend(names(&changes.blocking_recv().unwrap()));
    }
    assert_eq!(capture.counters().lost, Lost::default());
    sh(folder.path(), "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); : ; done; rm -f f*");
    drop(capture);
}

#[test]
fn flushing_an_idle_capture_returns() {
    for choice in ALL {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        let told = watched.changes();
        // Inodes with several names may be told though they are elsewhere.
        let elsewhere = |change: &Change| matches!(change, Change::Data { .. });
        assert!(told.iter().all(elsewhere), "{choice}: {told:?}");
        let described = watched.capture.describe();
        assert_eq!(described.level.to_string(), choice.to_string());
    }
}

/// Runs the script and gives what was told of `f`'s bytes by inode.
fn written(watched: &mut Watched, script: &str) -> (RangeSet, bool, bool) {
    let inode = watched.inode("f");
    watched.changes();
    watched.sh(script);
    let (mut ranges, mut whole, mut synced) = (RangeSet::new(), false, false);
    for change in watched.changes() {
        if let Change::Data { inode: told, extent, mapped } = change
            && told == inode
        {
            synced |= mapped;
            match extent {
                Extent::Ranges(more) => ranges.extend(&more),
                Extent::Whole => whole = true,
            }
        }
    }
    (ranges, whole, synced)
}

fn covers(told: &(RangeSet, bool, bool), start: u64, end: u64) -> bool {
    told.1 || told.0.iter().any(|range| range.start <= start && end <= range.end)
}

const MIB: u64 = 1 << 20;

#[test]
fn every_way_to_write_tells_the_range() {
    let Some(mut watched) = Watched::start(Choice::Ebpf) else { return };
    write_in_every_way(&mut watched);
}

#[test]
fn every_way_to_write_tells_the_range_on_xfs() {
    let Some(disk) = Disk::make("xfs") else { return };
    let Some(mut watched) = Watched::start_in(disk.folder(), Choice::Ebpf) else { return };
    write_in_every_way(&mut watched);
    watched.sh("dd if=/dev/zero of=g bs=1M count=2 status=none");
    let told = written(&mut watched, "cp --reflink=always g f");
    assert!(covers(&told, 0, 2 * MIB), "{told:?}");
}

#[test]
fn a_file_system_that_hides_writes_gives_a_lower_level_and_says_so() {
    for kind in ["tmpfs", "btrfs"] {
        let Some(disk) = Disk::make(kind) else { continue };
        let Some(mut watched) = Watched::start_in(disk.folder(), Choice::Auto) else { continue };
        let described = watched.capture.describe();
        assert_eq!(described.level, Level::Fanotify, "{kind}");
        assert!(described.why_not_higher.unwrap().contains(kind));
        watched.sh("echo a > f");
        assert_eq!(contents(&watched.changes()), set(["f"]), "{kind}");
        let refused = Watched::start_in(disk.folder(), Choice::Ebpf);
        assert!(refused.is_none(), "{kind}");
    }
}

/// A file system of its own, made for one test.
struct Disk(TempDir);

impl Disk {
    /// `None`, with the reason printed, where this machine cannot have it.
    fn make(kind: &str) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let script = if kind == "tmpfs" {
            "mkdir m; mount -t tmpfs none m".to_owned()
        } else {
            format!("mkdir m; truncate -s 400M image; mkfs.{kind} -q image; mount -o loop image m")
        };
        let mut command = Command::new("sh");
        command.arg("-ec").arg(script).current_dir(place.path());
        if command.output().is_ok_and(|done| done.status.success()) {
            return Some(Self(place));
        }
        eprintln!("skipped: {kind} cannot be mounted here");
        None
    }

    fn folder(&self) -> TempDir {
        tempfile::tempdir_in(self.0.path().join("m")).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path().join("m")).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
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
        ("fallocate -l 4M f", 3_000_000, 4 * MIB),
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
    let Some(mut watched) = Watched::start(Choice::Ebpf) else {
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
fn growing_by_truncation_asks_for_a_look() {
    let Some(mut watched) = Watched::start(Choice::Ebpf) else {
        return;
    };
    watched.sh("echo a > f");
    let inode = watched.inode("f");
    watched.changes();
    watched.sh("truncate -s 1G f");
    let looked =
        |change: &Change| matches!(change, Change::Data { inode: told, .. } if *told == inode);
    assert!(watched.changes().iter().any(looked));
}

/// The part of the tests that writes: another process runs this test alone,
/// with a way to write in its environment.
#[test]
fn writer() {
    let Ok(way) = std::env::var("REPLICATOR_CAPTURE_WRITER") else { return };
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(false).open("f");
    write_in_the_way(&way, &file.unwrap());
}

fn write_in_the_way(way: &str, file: &std::fs::File) {
    use std::io::{Seek, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    let fd = file.as_raw_fd();
    let other = || {
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(&[7; 8192]).unwrap();
        other.rewind().unwrap();
        other
    };
    let mut offset = 40_000i64;
    match way {
        "pwrite" => file.write_all_at(b"bytes", 40_000).unwrap(),
        // SAFETY: all pointers are to locals that outlive the calls, all
        // descriptors are open, and the mapping is written within its bounds.
        _ => unsafe {
            match way {
                "sendfile" => {
                    (&*file).seek(std::io::SeekFrom::Start(40_000)).unwrap();
                    let sent = libc::sendfile(fd, other().as_raw_fd(), std::ptr::null_mut(), 5000);
                    assert_eq!(sent, 5000);
                }
                "copy_file_range" => {
                    let from = other();
                    let copied = libc::copy_file_range(
                        from.as_raw_fd(),
                        std::ptr::null_mut(),
                        fd,
                        &mut offset,
                        5000,
                        0,
                    );
                    assert_eq!(copied, 5000);
                }
                "splice" => {
                    let (reader, mut writer) = std::io::pipe().unwrap();
                    writer.write_all(&[9; 5000]).unwrap();
                    let null = std::ptr::null_mut();
                    let moved = libc::splice(reader.as_raw_fd(), null, fd, &mut offset, 5000, 0);
                    assert_eq!(moved, 5000);
                }
                "io_uring" => {
                    let mut ring = io_uring::IoUring::new(4).unwrap();
                    let bytes = [8; 5000];
                    let entry = io_uring::opcode::Write::new(
                        io_uring::types::Fd(fd),
                        bytes.as_ptr(),
                        bytes.len() as u32,
                    );
                    ring.submission().push(&entry.offset(40_000).build()).unwrap();
                    ring.submit_and_wait(1).unwrap();
                    assert_eq!(ring.completion().next().unwrap().result(), 5000);
                }
                "mmap" | "mmap of a dirty page" => {
                    if way == "mmap of a dirty page" {
                        file.write_all_at(b"dirty", 40_000).unwrap();
                        // The time of the store must be another tick than
                        // that of the write.
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let null = std::ptr::null_mut();
                    let mapping = libc::mmap(null, 1 << 20, protection, libc::MAP_SHARED, fd, 0);
                    assert_ne!(mapping, libc::MAP_FAILED);
                    mapping.cast::<u8>().add(40_000).write_volatile(1);
                }
                _ => panic!("{way}"),
            }
        },
    }
}

fn by_writer(way: &str) -> String {
    let test = std::env::current_exe().unwrap();
    format!(
        "REPLICATOR_CAPTURE_WRITER='{way}' '{}' --exact capture::tests::writer > /dev/null",
        test.display()
    )
}

#[test]
fn every_system_call_that_writes_tells_the_range() {
    let Some(mut watched) = Watched::start(Choice::Ebpf) else { return };
    for way in ["pwrite", "sendfile", "copy_file_range", "splice", "io_uring", "mmap"] {
        watched.sh("rm -f f; dd if=/dev/zero of=f bs=1M count=1 status=none; sync f");
        let told = written(&mut watched, &by_writer(way));
        assert!(covers(&told, 40_000, 40_001), "{way}: {told:?}");
        assert_eq!(told.2, way == "mmap", "{way}: {told:?}");
    }
}

#[test]
fn a_store_into_a_page_that_was_read_dirty_is_told() {
    let Some(mut watched) = Watched::start(Choice::Ebpf) else { return };
    watched.sh("dd if=/dev/zero of=f bs=1M count=1 status=none; sync f");
    let told = written(&mut watched, &by_writer("mmap of a dirty page"));
    assert!(told.2 && covers(&told, 40_000, 40_001), "{told:?}");
}

#[test]
fn writes_outside_the_folder_are_dropped_in_the_kernel() {
    let parent = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir_in(parent.path()).unwrap();
    let Some(mut watched) = Watched::start_in(folder, Choice::Ebpf) else { return };
    sh(
        parent.path(),
        "dd if=/dev/zero of=outside bs=4k count=50 oflag=append conv=notrunc status=none",
    );
    let outside = std::fs::metadata(parent.path().join("outside")).unwrap().ino();
    let tells = |change: &Change| matches!(change, Change::Data { inode, .. } if *inode == outside);
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
