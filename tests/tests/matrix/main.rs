//! Every way to write to a file, on every file system, at every capture
//! level: the other node must end with the same bytes.
//!
//! One pair of nodes tries all methods, each alone and on a file that others
//! write to at the same time. What a level without kernel programs sees late
//! must be there when the file is closed, or after a verification; the lowest
//! level is tried as a user without any privilege.

mod calls;
mod devices;
mod maps;
mod places;
mod rings;
mod scene;
mod space;

use std::fs;
use std::os::unix::fs::chown;
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Form, Node, Volume, levels, machine, nobody};

use scene::{Due, Method, Outcome, Scene, Seen};

/// Reading everything again takes longer than one change.
const VERIFIED_LIMIT: Duration = Duration::from_secs(60);

/// What a file system does not have, all of them or as some are made;
/// anything else must work there.
fn may_lack(kind: FileSystem, method: &str) -> bool {
    let of_kind: &[&str] = match kind {
        FileSystem::Ext4 => &["FICLONE", "FICLONERANGE", "dedupe"],
        FileSystem::Xfs => &[],
        FileSystem::Btrfs => &["COLLAPSE_RANGE", "INSERT_RANGE"],
        FileSystem::Tmpfs => {
            &["FICLONE", "FICLONERANGE", "dedupe", "ZERO_RANGE", "COLLAPSE_RANGE", "INSERT_RANGE"]
        }
        FileSystem::Ext2 | FileSystem::Vfat => unreachable!("no folder is served on {kind}"),
    };
    of_kind.contains(&method)
        || method == "XFS_IOC_EXCHANGE_RANGE" && kind != FileSystem::Xfs
        || method == "chattr" && kind == FileSystem::Tmpfs
        || method == "BTRFS_IOC_ENCODED_WRITE" && kind != FileSystem::Btrfs
}

/// What ext4 does in another way where it allocates or keeps its journal
/// unlike usual, and a part of all for other forms.
const OF_FORM: [&str; 26] = [
    "write",
    "append",
    "pwrite to dirty pages",
    "pwrite behind the end",
    "a write longer than a slot",
    "RWF_DSYNC",
    "O_DIRECT",
    "O_DIRECT beneath dirty pages",
    "splice",
    "copy_file_range",
    "io_uring, asynchronous",
    "io_uring, direct",
    "libaio",
    "truncate down",
    "truncate up",
    "ftruncate down, up and a write",
    "fallocate",
    "PUNCH_HOLE",
    "ZERO_RANGE",
    "COLLAPSE_RANGE",
    "store to a clean page",
    "store to a dirty page",
    "store to a re-cleaned page",
    "stores and pwrites by turns",
    "munmap of dirty pages",
    "store behind the old end",
];

/// What is tried on a busy file where little else is: each is told of by another
/// program in the kernel.
const BUSY: [&str; 4] = ["write", "O_DIRECT", "PUNCH_HOLE", "stores and pwrites by turns"];

/// How a method is tried: alone, and on a file that others write to.
fn hows(method: &Method) -> &'static [(&'static str, bool)] {
    // For machines on which everything takes long.
    let spares = std::env::var_os("REPLICATOR_ALONE").is_some() && !BUSY.contains(&method.name);
    &[("alone", false), ("while others write", true)][..if spares { 1 } else { 2 }]
}

/// What only late kernels have: not to be tried with others, which is said.
fn of_late_kernels(kind: FileSystem, method: &str) -> bool {
    method == "XFS_IOC_EXCHANGE_RANGE" && kind == FileSystem::Xfs
}

/// Says which methods there are, and how they are tried, to whoever asks for
/// rows, and that a row tells which method it is about.
#[test]
fn every_method_has_a_name_of_its_own() {
    for method in methods() {
        for (how, _) in hows(method) {
            machine::row("any", "any", &format!("{}, {how}", method.name), "listed");
        }
    }
    let mut names: Vec<_> = methods().map(|method| method.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    if std::env::var_os("REPLICATOR_METHODS").is_none() {
        let unknown: Vec<_> =
            OF_FORM.iter().chain(&BUSY).filter(|name| !names.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn on_ext4() {
    story(FileSystem::Ext4, "ebpf");
}

/// Other functions of the kernel write there than elsewhere.
#[test]
fn on_ext4_without_delayed_allocation() {
    in_another_form(&["-b", "1024"], "nodelalloc");
}

#[test]
fn on_ext4_that_keeps_a_journal_of_bytes() {
    in_another_form(&["-b", "1024"], "data=journal");
}

fn in_another_form(made: &'static [&'static str], mounted: &'static str) {
    let form = Form { made, mounted, ..Form::of(FileSystem::Ext4) };
    let Some(volume) = Volume::or_skip_of(form) else { return };
    story_in(&volume, "ebpf", |method| OF_FORM.contains(&method.name));
}

#[test]
fn on_xfs() {
    story(FileSystem::Xfs, "ebpf");
}

#[test]
fn on_btrfs() {
    story(FileSystem::Btrfs, "ebpf");
}

#[test]
fn on_ext4_through_fanotify() {
    story(FileSystem::Ext4, "fanotify");
}

#[test]
fn on_xfs_through_fanotify() {
    story(FileSystem::Xfs, "fanotify");
}

/// As a folder lies on most machines that have Btrfs.
#[test]
fn in_a_subvolume_of_btrfs() {
    let form = Form { subvolume: Some("home"), ..Form::of(FileSystem::Btrfs) };
    let Some(volume) = Volume::or_skip_of(form) else { return };
    let level = levels::best(volume.path());
    story_in(&volume, level, |method| OF_FORM.contains(&method.name));
}

#[test]
fn on_btrfs_through_fanotify() {
    story(FileSystem::Btrfs, "fanotify");
}

#[test]
fn on_tmpfs_through_fanotify() {
    story(FileSystem::Tmpfs, "fanotify");
}

#[test]
fn on_ext4_through_inotify() {
    story(FileSystem::Ext4, "inotify");
}

#[test]
fn on_xfs_through_inotify() {
    story(FileSystem::Xfs, "inotify");
}

#[test]
fn on_btrfs_through_inotify() {
    story(FileSystem::Btrfs, "inotify");
}

#[test]
fn on_tmpfs_through_inotify() {
    story(FileSystem::Tmpfs, "inotify");
}

fn methods() -> impl Iterator<Item = &'static Method> {
    let methods = [calls::METHODS, space::METHODS, rings::METHODS, maps::METHODS];
    methods.into_iter().chain([places::METHODS, devices::METHODS]).flatten().filter(|method| {
        match std::env::var("REPLICATOR_METHODS") {
            Ok(wanted) => method.name.contains(&wanted),
            Err(_) => true,
        }
    })
}

fn story(kind: FileSystem, level: &str) {
    let Some(volume) = Volume::or_skip(kind) else { return };
    story_in(&volume, level, |_| true);
}

/// Of some methods.
fn story_in(volume: &Volume, level: &str, is_told: impl Fn(&Method) -> bool) {
    let kind = volume.kind();
    if let Some(lack) = levels::lacks(volume.path(), level) {
        return machine::skip(&format!("{kind}, {level}: {lack}"));
    }
    let mut cluster =
        Cluster::new(2).with_roots_in(volume.path()).with_options(&["--capture", level]);
    let ordinary = level == "inotify" && nobody::takes(&mut cluster, &[&[], &[]]);
    if level == "inotify" && !ordinary && machine::is_root() {
        machine::skip(&format!("{kind}, {level}: as root, for want of setpriv"));
    }
    cluster.start();
    if ordinary {
        chown(volume.path(), Some(nobody::ID), Some(nobody::ID)).unwrap();
    }
    let _acting = ordinary.then(nobody::Acting::start);
    // Each scene is cleared away: without this a scan that a lost note asks
    // for may find all of the folder gone, and hold that for a disaster.
    fs::write(cluster[0].path("lasting"), "lasting").unwrap();
    cluster.assert_same();
    let status = cluster[0].status().unwrap();
    assert_eq!((status.capture(), status.hooks()), (level, levels::hooks(level)));
    let told_late = status.seen_late();
    let tell = |method: &str, how: &str, outcome: &str| {
        machine::row(&kind.to_string(), status.hooks(), &format!("{method}, {how}"), outcome);
    };
    let outside = volume.path().join("outside");
    fs::create_dir(&outside).unwrap();

    let (mut skipped, mut failures, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for (number, method) in methods().filter(|method| is_told(method)).enumerate() {
        let (due, word) = match method.seen {
            Seen::LateByInotify(word) if level == "inotify" => (Due::Verified, word),
            Seen::Late(word) if level != "ebpf" => (Due::Verified, word),
            Seen::AtClose(word) if level != "ebpf" => (Due::AtClose, word),
            _ => (Due::AtOnce, ""),
        };
        if due != Due::AtOnce && !told_late.iter().any(|line| line.contains(word)) {
            failures.push(format!("{}: the status does not say that it is seen late", method.name));
        }
        for &(how, busy) in hows(method) {
            let number = 2 * number as u64 + u64::from(busy);
            let roots = (cluster[0].root(), cluster[1].root());
            let outside = outside.join(format!("{number}"));
            let scene =
                Scene::new(roots, method.name, &outside, number, busy, due).exact(level == "ebpf");
            scene.prepare().unwrap();
            match scene.play(method) {
                Outcome::Done if due != Due::Verified => {
                    tell(method.name, how, "same");
                    scene.clear();
                }
                Outcome::Done => late.push(scene),
                Outcome::Lacking(why) if of_late_kernels(kind, method.name) => {
                    tell(method.name, how, &format!("lacking: {why}"));
                    if !busy {
                        skipped.push(format!("{} (this kernel has none)", method.name));
                    }
                    scene.clear();
                }
                Outcome::Lacking(why) if may_lack(kind, method.name) => {
                    tell(method.name, how, &format!("lacking: {why}"));
                    scene.clear();
                }
                Outcome::Skipped(why) => {
                    tell(method.name, how, &format!("skipped: {why}"));
                    if !busy {
                        skipped.push(format!("{} ({why})", method.name));
                    }
                    scene.clear();
                }
                Outcome::Lacking(why) | Outcome::Failed(why) => {
                    let status = cluster[0].status().unwrap();
                    let why = format!("{why}; capture: {}", status.json()["capture"]);
                    tell(method.name, how, &why);
                    failures.push(format!("{}, {how}: {why}", method.name));
                    scene.clear();
                }
            }
        }
    }
    if !late.is_empty() {
        let verified = cluster[0].verify().unwrap();
        eprintln!("verify: {verified:?}");
        for scene in late {
            failures.extend(scene.difference().map(|why| format!("after verify: {why}")));
        }
    }
    if !skipped.is_empty() {
        machine::skip(&format!("on {kind}: {}", skipped.join(", ")));
    }
    if level == "ebpf" {
        let lost = lost(&cluster);
        machine::row(
            &kind.to_string(),
            status.hooks(),
            "what was lost meanwhile",
            match &*lost {
                "" => "nothing",
                lost => lost,
            },
        );
        failures.extend((!lost.is_empty()).then(|| format!("lost: {lost}")));
    }
    assert!(failures.is_empty(), "{} methods failed:\n{}", failures.len(), failures.join("\n"));
    cluster.assert_same_within(VERIFIED_LIMIT);
    cluster.assert_rsync_agrees();
}

/// What either node lost track of, by its causes: nothing of so little, but
/// that kernels with no programs on functions skip one when a disk interrupts it.
fn lost(cluster: &Cluster) -> String {
    let of_node = |node: &Node| {
        let status = node.status().unwrap();
        let is_usual =
            |cause: &str| cause == "nested_programs" && status.hooks() == "raw tracepoints";
        let losses = status.losses().into_iter();
        let losses = losses.filter(|(cause, count)| *count > 0 && !is_usual(cause));
        losses.map(|(cause, count)| format!("{count} by {cause}")).collect::<Vec<_>>()
    };
    cluster.nodes().iter().flat_map(of_node).collect::<Vec<_>>().join(", ")
}
