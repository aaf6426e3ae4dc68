//! Capture against the real kernel: a child process changes a folder, and
//! what it changed must have been told.
//!
//! The child matters: what this process does itself is dropped by design.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

use super::counters::Lost;
use super::*;
use crate::choice::CaptureChoice;
use crate::path::RelPath;

pub(super) mod disk;
mod mappings;
mod ranges;
mod writer;

use self::disk::Disk;

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
    pub fn start(choice: CaptureChoice) -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), choice)
    }

    pub fn start_in(folder: TempDir, choice: CaptureChoice) -> Option<Self> {
        let root = folder.path().canonicalize().unwrap();
        let (sender, changes) = tokio::sync::mpsc::channel(64);
        let options = Options { root, choice, memory_bytes: MEMORY_BYTES_MIN };
        match Capture::start(options, sender) {
            Ok(capture) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                Some(Self { capture, folder, changes, runtime })
            }
            Err(error @ (Error::Ebpf { .. } | Error::Fanotify { .. })) => {
                // Anything but a lack of privileges or a file system without
                // hooks is this project's fault.
                let text = error.to_string();
                let lacks = [
                    "it needs",
                    "has no tracepoints",
                    "does not tell",
                    "are known for",
                    "overlayfs",
                    "handles",
                ];
                assert!(lacks.iter().any(|lack| text.contains(lack)), "{error}");
                skip(&error.to_string());
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

/// Says on the real standard error, which the test runner does not swallow,
/// and in the file of `REPLICATOR_SKIPPED`, that the running test is skipped.
pub(super) fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("unnamed"));
    // A closed standard error must not fail a test that does not apply.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("REPLICATOR_SKIPPED") {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

pub(super) fn sh(directory: &Path, script: &str) {
    let status = Command::new("sh").arg("-ec").arg(script).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

fn names(changes: &[Change]) -> BTreeSet<String> {
    let names = changes.iter().flat_map(|change| match change {
        Change::Name(path) | Change::Came(path) => vec![path.to_string()],
        Change::Moved(from, to) => vec![from.to_string(), to.to_string()],
        _ => Vec::new(),
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

const ALL: [CaptureChoice; 3] =
    [CaptureChoice::Ebpf, CaptureChoice::Fanotify, CaptureChoice::Inotify];

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
        let came = Change::Came(RelPath::parse(b"in").unwrap());
        assert!(watched.changes().contains(&came), "{choice}");
        sh(parent.path(), &format!("echo more >> '{inside}/in/f'; mv '{inside}/in' back"));
        assert!(names(&watched.changes()).contains("in"), "{choice}");
    }
}

#[test]
fn the_levels_without_ranges_name_the_file_that_was_written() {
    for choice in [CaptureChoice::Fanotify, CaptureChoice::Inotify] {
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
    let Some(mut watched) = Watched::start_in(folder, CaptureChoice::Fanotify) else {
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
    for choice in [CaptureChoice::Ebpf, CaptureChoice::Fanotify] {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        std::fs::write(watched.folder.path().join("own"), "by this process").unwrap();
        watched.sh("echo b > foreign");
        assert_eq!(names(&watched.changes()), set(["foreign"]), "{choice}");
        assert!(watched.capture.counters().own_filtered > 0, "{choice}");
    }
}

/// Who looked at the directory before it was watched may have found less.
#[test]
fn what_a_directory_held_before_it_was_watched_is_told() {
    let Some(mut watched) = Watched::start(CaptureChoice::Inotify) else {
        return;
    };
    watched.sh("mkdir empty");
    let unlisted = |change: &Change| matches!(change, Change::Unlisted(_));
    assert!(!watched.changes().iter().any(unlisted));
    let mut told = Vec::new();
    for number in 0..100 {
        watched.sh(&format!("mkdir -p {number}/a/b && echo x > {number}/a/b/file"));
        told.extend(watched.changes());
    }
    for number in 0..100 {
        let file = RelPath::parse(format!("{number}/a/b/file").as_bytes()).unwrap();
        let is_told = told.iter().any(|change| match change {
            Change::Name(path) => *path == file,
            Change::Unlisted(directory) => file.is_within(directory),
            _ => false,
        });
        assert!(is_told, "{file}: {told:?}");
    }
    watched.sh("d=$(mktemp -d ../replicator-outside.XXXXXX) && echo x > $d/f && mv $d inside");
    let inside = RelPath::parse(b"inside").unwrap();
    assert!(watched.changes().contains(&Change::Unlisted(inside)));
}

#[test]
fn a_rename_tells_where_from_and_where_to() {
    for choice in ALL {
        let Some(mut watched) = Watched::start(choice) else {
            continue;
        };
        watched.sh("echo one > one; mkdir folder");
        watched.changes();
        watched.sh("mv one folder/two; mv folder elsewhere");
        let told = watched.changes();
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        assert!(told.contains(&Change::Moved(path("folder"), path("elsewhere"))), "{choice}");
        // By the time it is told of the first, the second may have happened.
        let is_first = |change: &Change| {
            let Change::Moved(from, to) = change else { return false };
            *from == path("one") && to.name() == Some(b"two")
        };
        assert!(told.iter().any(is_first), "{choice}: {told:?}");
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
        return skip("bind mounts need CAP_SYS_ADMIN");
    }
    let folder = tempfile::Builder::new().prefix("root").tempdir_in(&mounted).unwrap();
    if let Some(mut watched) = Watched::start_in(folder, CaptureChoice::Fanotify) {
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
    let Some(watched) = Watched::start(CaptureChoice::Auto) else {
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

#[test]
fn a_file_system_that_hides_writes_gives_a_lower_level_and_says_so() {
    for kind in ["tmpfs", "btrfs"] {
        let Some(disk) = Disk::make(kind) else { continue };
        let Some(mut watched) = Watched::start_in(disk.folder(), CaptureChoice::Auto) else {
            continue;
        };
        let described = watched.capture.describe();
        if kind == "btrfs" && described.hook_set == "function exits" {
            continue;
        }
        assert_eq!(described.level, Level::Fanotify, "{kind}");
        assert!(described.why_not_higher.unwrap().contains(kind));
        watched.sh("echo a > f");
        assert_eq!(contents(&watched.changes()), set(["f"]), "{kind}");
        let refused = Watched::start_in(disk.folder(), CaptureChoice::Ebpf);
        assert!(refused.is_none(), "{kind}");
        let findings = probe(disk.folder().path());
        let level = findings.iter().find(|finding| finding.what == "capture level").unwrap();
        assert!(!level.available && level.detail.starts_with("fanotify"), "{level:?}");
        assert!(level.advice.contains("memory mapping"), "{level:?}");
    }
}
