//! What is done to names faster than anybody can look: storms of folders,
//! folders that come and go, exchanges, removals beside a writer. At every
//! capture level.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Stopped, Volume, levels, machine};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};

const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Two running nodes at this level, or a word about why not.
fn at_level(level: &str) -> Option<Cluster> {
    at_level_in(Cluster::new(2), level)
}

/// Their folders are where the story put them.
fn at_level_in(cluster: Cluster, level: &str) -> Option<Cluster> {
    if level != "auto"
        && let Some(lack) = levels::lacks(cluster[0].root(), level)
    {
        machine::skip(lack);
        return None;
    }
    let mut cluster = cluster.with_options(&["--capture", level]);
    cluster.start();
    let had = cluster[0].status().unwrap().capture().to_owned();
    let wanted = if level == "auto" { levels::best(cluster[0].root()) } else { level };
    assert_eq!(had, wanted);
    Some(cluster)
}

#[track_caller]
fn assert_followed(cluster: &Cluster) {
    cluster.assert_same_within(SETTLE_LIMIT);
    cluster.assert_rsync_agrees();
}

/// Folders within folders, each filled before anybody can have looked at it,
/// some renamed at once and some removed.
fn storm(root: &Path, seed: usize) -> io::Result<()> {
    for round in 0..30 {
        let top = root.join(format!("storm-{seed}-{round}"));
        let deep = top.join("a/b/c/d/e");
        fs::create_dir_all(&deep)?;
        fs::write(deep.join("file"), format!("{seed} {round}"))?;
        fs::write(top.join("a/b/file"), "half way")?;
        symlink("a/b/file", top.join("link"))?;
        fs::hard_link(deep.join("file"), top.join("a/linked"))?;
        rustix::fs::mknodat(CWD, deep.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        match round % 5 {
            0 => fs::rename(top.join("a/b"), top.join("moved"))?,
            1 => fs::remove_dir_all(top.join("a/b/c"))?,
            2 => {
                fs::rename(&top, root.join(format!("renamed-{seed}-{round}")))?;
                // Another one in its place.
                fs::create_dir(&top)?;
                fs::write(top.join("new"), "the second of this name")?;
            }
            3 => {
                fs::remove_dir_all(&top)?;
                fs::write(&top, "a file where a folder was")?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn storms_at(level: &str) {
    let Some(cluster) = at_level(level) else { return };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|seed| {
                let root = cluster[seed % 2].root();
                scope.spawn(move || storm(root, seed))
            })
            .collect();
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
    });
    assert_followed(&cluster);
}

#[test]
fn storms_of_folders() {
    storms_at("auto");
}

#[test]
fn storms_of_folders_through_fanotify() {
    storms_at("fanotify");
}

#[test]
fn storms_of_folders_through_inotify() {
    storms_at("inotify");
}

/// Who changes a file by one of its names changes it for all, though that name
/// lies outside of the folder, or is gone before anybody can look at it.
fn metadata_by_another_name_at(level: &str) {
    let Some(cluster) = at_level(level) else { return };
    let mode = |mode| fs::Permissions::from_mode(mode);
    let (served, outside) = (cluster[0].path("served"), cluster.dir().join("outside"));
    fs::write(&served, "served").unwrap();
    fs::hard_link(&served, &outside).unwrap();
    fs::create_dir(cluster[0].path("kept")).unwrap();
    for number in 0..50 {
        let folder = cluster[0].path(format!("folder-{number}/deep"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), "linked").unwrap();
        let kept = cluster[0].path(format!("kept/{number}"));
        fs::hard_link(folder.join("file"), kept).unwrap();
    }
    assert_followed(&cluster);

    for number in 0..50 {
        let folder = cluster[0].path(format!("folder-{number}"));
        fs::set_permissions(folder.join("deep/file"), mode(0o600)).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
    // A watch of a directory sees nothing of what is done elsewhere.
    if cluster[0].status().unwrap().capture() != "inotify" {
        fs::set_permissions(&outside, mode(0o640)).unwrap();
    }
    assert_followed(&cluster);
}

#[test]
fn metadata_by_another_name() {
    metadata_by_another_name_at("auto");
}

#[test]
fn metadata_by_another_name_through_fanotify() {
    metadata_by_another_name_at("fanotify");
}

#[test]
fn metadata_by_another_name_through_inotify() {
    metadata_by_another_name_at("inotify");
}

/// Out of the root, changed there, and back again; under a writer that does
/// not notice.
fn moves_at(level: &str) {
    let Some(cluster) = at_level(level) else { return };
    moves(&cluster, cluster.dir());
}

/// `beside` lies on the same file system.
fn moves(cluster: &Cluster, beside: &Path) {
    let (inside, outside) = (cluster[0].path("folder"), beside.join("outside"));
    fs::create_dir_all(inside.join("deep/er")).unwrap();
    for number in 0..40 {
        fs::write(inside.join(format!("deep/er/{number}")), format!("{number}")).unwrap();
    }
    cluster.assert_same();

    let mut writer = OpenOptions::new().append(true).open(inside.join("deep/er/7")).unwrap();
    fs::rename(&inside, &outside).unwrap();
    writer.write_all(b" written outside").unwrap();
    assert_followed(cluster);
    assert!(!cluster[1].path("folder").exists());

    fs::write(outside.join("deep/er/8"), "changed outside").unwrap();
    fs::remove_file(outside.join("deep/er/9")).unwrap();
    fs::rename(&outside, cluster[0].path("again")).unwrap();
    writer.write_all(b", and inside again").unwrap();
    assert_followed(cluster);
    let seven = fs::read_to_string(cluster[1].path("again/deep/er/7")).unwrap();
    assert_eq!(seven, "7 written outside, and inside again");

    // Two folders change places, and a name that is taken stays.
    fs::create_dir(cluster[0].path("other")).unwrap();
    fs::write(cluster[0].path("other/own"), "own").unwrap();
    let (one, other) = (cluster[0].path("again"), cluster[0].path("other"));
    rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
    writer.write_all(b" after an exchange").unwrap();
    let taken = rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::NOREPLACE);
    assert_eq!(taken, Err(rustix::io::Errno::EXIST));
    let free = cluster[0].path("free");
    rustix::fs::renameat_with(CWD, &one, CWD, &free, RenameFlags::NOREPLACE).unwrap();
    assert_followed(cluster);
    assert!(cluster[1].path("free/own").exists());
}

#[test]
fn folders_that_leave_and_come_back() {
    moves_at("auto");
}

#[test]
fn folders_that_leave_and_come_back_through_fanotify() {
    moves_at("fanotify");
}

#[test]
fn folders_that_leave_and_come_back_through_inotify() {
    moves_at("inotify");
}

#[test]
fn folders_that_leave_and_come_back_on_btrfs() {
    let Some(volume) = Volume::or_skip(FileSystem::Btrfs) else { return };
    let cluster = at_level_in(Cluster::new(2).with_roots_in(volume.path()), "auto");
    moves(&cluster.expect("every machine has some level"), volume.path());
}

#[test]
fn folders_that_leave_and_come_back_on_xfs() {
    let Some(volume) = Volume::or_skip(FileSystem::Xfs) else { return };
    let cluster = at_level_in(Cluster::new(2).with_roots_in(volume.path()), "auto");
    moves(&cluster.expect("every machine has some level"), volume.path());
}

/// Out of the folder, other bytes of the same length and the time set back, and
/// in again before anybody looked.
fn out_and_back_at(level: &str) {
    let Some(cluster) = at_level(level) else { return };
    let beside = cluster.dir().join("beside");
    fs::create_dir(&beside).unwrap();
    let files = [("small", 100), ("large", 3 << 20), ("renamed", 100), ("renamed-large", 3 << 20)];
    for (name, bytes) in files {
        fs::write(cluster[0].path(name), vec![b'.'; bytes]).unwrap();
    }
    assert_followed(&cluster);
    // After a rename the kernel programs ask anew where a file lies.
    fs::write(cluster[0].path("other"), "other").unwrap();
    fs::rename(cluster[0].path("other"), cluster[0].path("another")).unwrap();
    assert_followed(&cluster);
    let stopped = Stopped::new(&cluster[0]);
    for (name, _) in files {
        let (inside, outside) = (cluster[0].path(name), beside.join(name));
        let time = fs::metadata(&inside).unwrap().modified().unwrap();
        fs::rename(&inside, &outside).unwrap();
        let mut file = OpenOptions::new().write(true).open(&outside).unwrap();
        file.write_all(b"other").unwrap();
        file.set_modified(time).unwrap();
        let back = name.replace("renamed", "otherwise");
        fs::rename(&outside, cluster[0].path(back)).unwrap();
    }
    drop(stopped);
    assert_followed(&cluster);
    for name in ["small", "large", "otherwise", "otherwise-large"] {
        let there = fs::read(cluster[1].path(name)).unwrap();
        assert!(there.starts_with(b"other."), "{name}");
    }
}

#[test]
fn files_that_are_rewritten_outside() {
    out_and_back_at("auto");
}

#[test]
fn files_that_are_rewritten_outside_through_fanotify() {
    out_and_back_at("fanotify");
}

#[test]
fn files_that_are_rewritten_outside_through_inotify() {
    out_and_back_at("inotify");
}

#[test]
fn a_removal_beside_a_writer() {
    let cluster = Cluster::running(2);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (root, over) = (cluster[0].root(), &over);
        let writer = scope.spawn(move || {
            let mut number = 0u64;
            while !over.load(Ordering::SeqCst) {
                number += 1;
                let folder = root.join(format!("tree/{}/{}", number % 7, number % 3));
                // The other one takes them away between any two calls.
                let _ = fs::create_dir_all(&folder);
                let _ = fs::write(folder.join(format!("{}", number % 50)), format!("{number}"));
            }
        });
        for _ in 0..25 {
            // Fails where the writer fills it again meanwhile.
            let _ = fs::remove_dir_all(root.join("tree"));
            thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
        writer.join().unwrap();
    });
    assert_followed(&cluster);
}

#[test]
fn what_lies_beside_the_bytes() {
    let cluster = Cluster::running(2);
    let path = cluster[0].path("file");
    fs::write(&path, "bytes").unwrap();
    fs::create_dir(cluster[0].path("folder")).unwrap();
    cluster.assert_same();
    let run = |program: &str, words: &[&str]| match machine::program(program) {
        Some(program) => {
            let mut command = Command::new(program);
            match machine::run(command.current_dir(cluster[0].root()).args(words)) {
                Ok(_) => true,
                Err(error) if format!("{error:#}").contains("not supported") => {
                    machine::skip(&format!("{words:?}: {error:#}"));
                    false
                }
                Err(error) => panic!("{error:#}"),
            }
        }
        None => {
            machine::skip(&format!("{program} is not installed"));
            false
        }
    };
    run("setfacl", &["-m", "u:33:rw,g:4:r", "file"]);
    run("setfacl", &["-d", "-m", "u:33:rwx", "folder"]);
    cluster.assert_same();
    // Made with what the folder says is the rule.
    fs::write(cluster[0].path("folder/heir"), "heir").unwrap();
    run("setfacl", &["-x", "u:33", "file"]);
    cluster.assert_same();
    run("setfacl", &["-b", "file"]);
    let large = vec![7; 3000];
    rustix::fs::setxattr(&path, "user.large", &large, XattrFlags::CREATE).unwrap();
    rustix::fs::setxattr(&path, "user.small", b"", XattrFlags::CREATE).unwrap();
    cluster.assert_same();
    rustix::fs::setxattr(&path, "user.small", b"more", XattrFlags::REPLACE).unwrap();
    rustix::fs::removexattr(&path, "user.large").unwrap();
    cluster.assert_same();
    assert_followed(&cluster);
    // Flags stay where they were set, and keep nothing else from following.
    if run("chattr", &["+A", "file"]) {
        fs::write(&path, "more bytes").unwrap();
        assert_followed(&cluster);
        let lsattr = machine::program("lsattr").unwrap();
        let flags = machine::run(Command::new(lsattr).arg(cluster[1].path("file"))).unwrap();
        assert!(!flags.split(' ').next().unwrap().contains('A'), "{flags}");
    }
}
