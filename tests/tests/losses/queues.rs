//! Queues of the kernel that overflow while a daemon is held: the tree is listed
//! again, and only what changed since the queue was last read is read again.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use replicator_tests::random::Random;
use replicator_tests::{Cluster, Node, Stopped, Volume, binary, machine, poll, sample, tree};
use rustix::fs::{FlockOperation, flock};

use super::{
    FILES, LARGE_BYTES, REPAIR_BYTES_MAX, REPAIR_LIMIT, UNTOUCHED_BYTES, file_path, loss, prepared,
};

/// Large files of which some bytes change.
const LARGE_FILES: u64 = 4;

/// With room for fewer names than the system allows others.
const SMALL: &str = "1MiB";

/// What the system allows everybody, whatever a daemon that starts raises it to.
fn limit(queue: &str) -> u64 {
    let setting = File::open(format!("/proc/sys/fs/{queue}/max_queued_events")).unwrap();
    flock(&setting, FlockOperation::LockShared).unwrap();
    io::read_to_string(setting).unwrap().trim().parse().unwrap()
}

/// Two nodes with a large file nobody touches, many small ones and some large
/// ones, at a level that has a queue of fanotify.
fn prepared_at(level: &str, memory: &str) -> Option<(Cluster, Volume)> {
    if !machine::is_root() {
        machine::skip("only root can mark file systems");
        return None;
    }
    let (cluster, volume) = prepared(&["--capture", level, "--capture-memory", memory])?;
    for number in 0..LARGE_FILES {
        sample::random_file(&large(&cluster, number), LARGE_BYTES, number).unwrap();
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert_eq!(loss(&cluster[0], "fanotify_overflow"), 0);
    Some((cluster, volume))
}

fn large(cluster: &Cluster, number: u64) -> PathBuf {
    cluster[0].path(format!("large-{number}"))
}

/// So many names come and go, with at least as many events.
fn fill_queue(node: &Node, names: u64) {
    let folder = node.path("full");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..names {
        File::create(folder.join(number.to_string())).unwrap();
    }
    fs::remove_dir_all(folder).unwrap();
}

/// Some bytes, and neither length nor times.
fn change_secretly(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"changed", 1).unwrap();
    file.set_modified(modified).unwrap();
}

/// All kinds of change that a queue tells of, and that this one has no room for.
fn change_untold(cluster: &Cluster) {
    let at = |name: &str| cluster[0].path(name);
    change_secretly(&large(cluster, 1));
    change_secretly(&file_path(cluster, 7));
    fs::set_permissions(file_path(cluster, 8), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(file_path(cluster, 9), at("another name")).unwrap();
    fs::remove_file(file_path(cluster, 10)).unwrap();
    fs::rename(file_path(cluster, 11), at("moved file")).unwrap();
    // An older file into the place of another, and one of a name that stays.
    fs::rename(file_path(cluster, 12), file_path(cluster, 13)).unwrap();
    // Directories: one moved and then written in, one moved into another, two
    // that change places, one removed, one made anew.
    fs::rename(at("20"), at("moved")).unwrap();
    fs::write(at("moved/made"), "unseen").unwrap();
    change_secretly(&at("moved/60"));
    fs::rename(at("21"), at("22/below")).unwrap();
    fs::rename(at("23"), at("aside")).unwrap();
    fs::rename(at("24"), at("23")).unwrap();
    fs::rename(at("aside"), at("24")).unwrap();
    fs::remove_dir_all(at("25")).unwrap();
    fs::remove_dir_all(at("26")).unwrap();
    fs::create_dir(at("26")).unwrap();
    fs::write(at("26/made"), "unseen").unwrap();
    // Out of the folder, changed there, and back.
    let outside = cluster[0].root().with_file_name("outside");
    fs::rename(at("27"), &outside).unwrap();
    change_secretly(&outside.join("67"));
    fs::rename(&outside, at("27")).unwrap();
    change_secretly(&at("27/107"));
}

fn names_that_no_queue_holds(level: &str) {
    let Some((cluster, _volume)) = prepared_at(level, SMALL) else { return };
    let node = &cluster[0];
    let before = node.bytes_read().unwrap();
    {
        let _stopped = Stopped::new(node);
        change_secretly(&large(&cluster, 0));
        fill_queue(node, limit("fanotify"));
        change_untold(&cluster);
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert!(loss(node, "fanotify_overflow") > 0, "{}", node.status().unwrap());
    let read = node.bytes_read().unwrap() - before;
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read to repair some files");
    // What came from elsewhere unseen is seen now.
    for name in ["27/107", "moved/made", "22/below/61", "26/made"] {
        let mut file = OpenOptions::new().append(true).open(node.path(name)).unwrap();
        file.write_all(b"and seen").unwrap();
    }
    cluster.assert_same();
}

#[test]
fn names_that_no_queue_holds_where_ranges_are_told() {
    names_that_no_queue_holds("ebpf");
}

#[test]
fn names_that_no_queue_holds_where_files_are_told() {
    names_that_no_queue_holds("fanotify");
}

/// No file is where it was, and none is gone.
#[test]
fn most_of_a_folder_that_moves_untold() {
    let Some((cluster, _volume)) = prepared_at("ebpf", SMALL) else { return };
    let node = &cluster[0];
    {
        let _stopped = Stopped::new(node);
        fill_queue(node, limit("fanotify"));
        fs::create_dir(node.path("below")).unwrap();
        for number in 0..40 {
            let to = node.path(format!("below/{number}"));
            fs::rename(node.path(number.to_string()), to).unwrap();
        }
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert!(loss(node, "fanotify_overflow") > 0, "{}", node.status().unwrap());
}

/// One loss follows the other as soon as it is noticed, before it is repaired.
#[test]
fn a_queue_that_overflows_again_and_again() {
    const ROUNDS: u64 = 5;
    let Some((cluster, _volume)) = prepared_at("ebpf", SMALL) else { return };
    let node = &cluster[0];
    let before = node.bytes_read().unwrap();
    let mut random = Random::new(5);
    for round in 0..ROUNDS {
        let stopped = Stopped::new(node);
        fill_queue(node, limit("fanotify"));
        change_secretly(&large(&cluster, round % LARGE_FILES));
        for _ in 0..10 {
            let path = file_path(&cluster, random.below(FILES));
            fs::write(path, random.bytes(20)).unwrap();
        }
        drop(stopped);
        poll::eventually(REPAIR_LIMIT, "the loss is noticed", || {
            loss(node, "fanotify_overflow") > round
        });
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    let read = node.bytes_read().unwrap() - before;
    assert!(read < UNTOUCHED_BYTES, "{read} bytes were read in {ROUNDS} rounds");
}

/// The words that start a daemon where the system's limits are only to be read,
/// as in a container. `None`, and a word about why, where that is not to be had.
fn unable_to_raise() -> Option<Vec<OsString>> {
    let Some(unshare) = machine::program("unshare").filter(|_| machine::is_root()) else {
        machine::skip("only root with unshare can hide a setting from one daemon");
        return None;
    };
    let script = "mount --bind /proc/sys/fs /proc/sys/fs && \
                  mount -o remount,bind,ro /proc/sys/fs && exec \"$0\" \"$@\"";
    let words = ["--mount", "sh", "-c", script].map(OsString::from);
    Some(std::iter::once(unshare.into_os_string()).chain(words).collect())
}

/// Then the system's own limit counts, and the doctor says so.
#[test]
fn a_queue_that_may_not_be_made_longer() {
    let Some(prefix) = unable_to_raise() else { return };
    let mut cluster = Cluster::new(2).with_options(&["--capture", "fanotify"]);
    cluster.nodes_mut().iter_mut().for_each(|node| node.settings.prefix = prefix.clone());
    cluster.start();
    let node = &cluster[0];
    {
        let _stopped = Stopped::new(node);
        fill_queue(node, limit("fanotify"));
        fs::create_dir(node.path("made-unseen")).unwrap();
        fs::write(node.path("made-unseen/file"), "unseen").unwrap();
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert!(loss(node, "fanotify_overflow") > 0, "{}", node.status().unwrap());
    assert!(node.log().contains("cannot be changed from here"), "{}", node.log());
    let mut doctor = Command::new(&prefix[0]);
    doctor.args(&prefix[1..]).arg(binary()).arg("doctor").arg("--root").arg(node.root());
    // Something else may be missing here, and lines are wrapped.
    let told = String::from_utf8(doctor.output().unwrap().stdout).unwrap();
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&format!("names wait in a queue of {}", limit("fanotify"))), "{told}");
}

/// What is allowed by default holds more than the system's own limit, which
/// stays what it was.
#[test]
fn as_many_names_as_the_memory_that_is_allowed_holds() {
    let before = limit("fanotify");
    let Some((cluster, _volume)) = prepared_at("ebpf", "64MiB") else { return };
    let node = &cluster[0];
    // A quarter of it, at 256 bytes each.
    let room = (16 << 20) / 256;
    if before > room / 4 {
        return machine::skip("the system allows longer queues than this one");
    }
    {
        let _stopped = Stopped::new(node);
        // Each is made, and removed with two events.
        fill_queue(node, before * 5 / 6);
        fs::rename(node.path("20"), node.path("moved")).unwrap();
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert_eq!(loss(node, "fanotify_overflow"), 0, "{}", node.status().unwrap());
    assert_eq!(limit("fanotify"), before);
}

#[test]
fn an_inotify_queue_that_overflows() {
    let Some((cluster, _volume)) = prepared(&["--capture", "inotify"]) else { return };
    let node = &cluster[0];
    let limit = limit("inotify");
    let before = node.bytes_read().unwrap();
    {
        let _stopped = Stopped::new(node);
        let mut events = 0;
        while events <= limit {
            for number in 0..FILES {
                let mut file =
                    OpenOptions::new().append(true).open(file_path(&cluster, number)).unwrap();
                file.write_all(b".").unwrap();
                // Written and closed.
                events += 2;
            }
        }
        fs::create_dir(node.path("made-unseen")).unwrap();
        fs::write(node.path("made-unseen/file"), "unseen").unwrap();
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert!(loss(node, "inotify_overflow") > 0, "{}", node.status().unwrap());
    let read = node.bytes_read().unwrap() - before;
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read to repair {FILES} small files");
    // What was made meanwhile is watched by now.
    fs::write(node.path("made-unseen/file"), "seen").unwrap();
    cluster.assert_same();
}

/// Which is not the end of the folder, though nobody saw them go.
#[test]
fn few_files_that_are_all_deleted_while_notes_are_lost() {
    let mut cluster = Cluster::new(2).with_options(&["--capture", "inotify"]);
    for name in ["one", "other"] {
        fs::write(cluster[0].path(name), "before").unwrap();
    }
    cluster.start();
    cluster.assert_same();
    let node = &cluster[0];
    let limit = limit("inotify");
    {
        let _stopped = Stopped::new(node);
        let files = ["one", "other"].map(|name| File::create(node.path(name)).unwrap());
        // In turn, or the kernel would merge them.
        for number in 0..=limit {
            (&files[number as usize % 2]).write_all(b".").unwrap();
        }
        for name in ["one", "other"] {
            fs::remove_file(node.path(name)).unwrap();
        }
    }
    cluster.assert_same();
    assert!(loss(node, "inotify_overflow") > 0, "{}", node.status().unwrap());
    assert_eq!(tree::count(cluster[1].root()).unwrap().0, 0);
}
