//! Every way to write to a file, on every file system, at every capture
//! level: the other node must end with the same bytes.
//!
//! One pair of nodes tries all methods, each alone and on a file that others
//! write to at the same time. What a level without kernel programs sees late
//! must be there after a verification.

mod calls;
mod maps;
mod places;
mod rings;
mod scene;
mod space;

use std::fs;
use std::time::Duration;

use replicator_tests::{Cluster, FileSystem, Volume, machine};

use scene::{Method, Outcome, Scene, Seen};

/// Reading everything again takes longer than one change.
const VERIFIED_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn on_ext4() {
    story(FileSystem::Ext4, "ebpf");
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
fn on_tmpfs_through_inotify() {
    story(FileSystem::Tmpfs, "inotify");
}

fn methods() -> impl Iterator<Item = &'static Method> {
    [calls::METHODS, space::METHODS, rings::METHODS, maps::METHODS, places::METHODS]
        .into_iter()
        .flatten()
        .filter(|method| match std::env::var("REPLICATOR_METHODS") {
            Ok(wanted) => method.name.contains(&wanted),
            Err(_) => true,
        })
}

fn story(kind: FileSystem, level: &str) {
    let volume = match Volume::new(kind) {
        Ok(volume) => volume,
        Err(error) => return machine::skip(&format!("{error:#}")),
    };
    let mut cluster =
        Cluster::new(2).with_roots_in(volume.path()).with_options(&["--capture", level]);
    if let Err(error) = cluster[0].start() {
        let refused = format!("{error:#}");
        assert!(refused.contains("is not to be had"), "{refused}");
        return machine::skip(&format!(
            "{kind}, {level}: {}",
            refused.lines().nth(1).unwrap_or("")
        ));
    }
    cluster[1].start().unwrap();
    // Each scene is cleared away: without this a scan that a lost note asks
    // for may find all of the folder gone, and hold that for a disaster.
    fs::write(cluster[0].path("lasting"), "lasting").unwrap();
    cluster.assert_same();
    let status = cluster[0].status().unwrap();
    assert_eq!(status.capture(), level);
    let tell = |method: &str, how: &str, outcome: &str| {
        machine::row(&kind.to_string(), status.hooks(), &format!("{method}, {how}"), outcome);
    };
    // For machines on which everything takes long.
    let tries_busy = std::env::var_os("REPLICATOR_ALONE").is_none();
    let outside = volume.path().join("outside");
    fs::create_dir(&outside).unwrap();

    let (mut lacking, mut failures, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for (number, method) in methods().enumerate() {
        let waits = match method.seen {
            Seen::AtOnce => true,
            Seen::LateByInotify => level != "inotify",
            Seen::Late => level == "ebpf",
        };
        for busy in [false, true].into_iter().take(1 + usize::from(tries_busy)) {
            let number = 2 * number as u64 + u64::from(busy);
            let roots = (cluster[0].root(), cluster[1].root());
            let outside = outside.join(format!("{number}"));
            let scene = Scene::new(roots, method.name, &outside, number, busy, waits);
            scene.prepare().unwrap();
            let how = if busy { "while others write" } else { "alone" };
            match scene.play(method) {
                Outcome::Done if waits => {
                    tell(method.name, how, "same");
                    scene.clear();
                }
                Outcome::Done => late.push(scene),
                Outcome::Lacking(why) => {
                    tell(method.name, how, &format!("lacking: {why}"));
                    if !busy {
                        lacking.push(format!("{} ({why})", method.name));
                    }
                    scene.clear();
                }
                Outcome::Failed(why) => {
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
    if !lacking.is_empty() {
        machine::skip(&format!("{kind} lacks {}", lacking.join(", ")));
    }
    assert!(failures.is_empty(), "{} methods failed:\n{}", failures.len(), failures.join("\n"));
    cluster.assert_same_within(VERIFIED_LIMIT);
    cluster.assert_rsync_agrees();
}
