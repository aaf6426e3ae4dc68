//! States and folders that come back from a backup, or twice.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use replicator_tests::{Cluster, Node, poll, tree};

const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

/// Files removed at once, more than a hundred.
const REMOVED: usize = 150;

/// `cp -a`: everything, with times and links.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn write_old(path: &Path, content: &str) {
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
    let old = SystemTime::now() - Duration::from_secs(30 * 86_400);
    File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}

/// Of all files in a folder and in those below.
fn contents_below(folder: &Path) -> Vec<String> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => contents.extend(contents_below(&entry.path())),
            false => contents.push(fs::read_to_string(entry.path()).unwrap_or_default()),
        }
    }
    contents
}

fn reads(node: &Node, name: &str) -> String {
    fs::read_to_string(node.path(name)).unwrap_or_default()
}

fn in_sync() -> Cluster {
    let mut cluster = Cluster::new(2);
    for number in 0..10 {
        write_old(&cluster[0].path(format!("{number}")), &format!("{number}"));
    }
    cluster.start();
    cluster.assert_same();
    cluster
}

/// Both nodes change the folder while both run.
fn go_on(cluster: &Cluster) {
    fs::write(cluster[0].path("1"), "edited by a").unwrap();
    fs::write(cluster[1].path("2"), "edited by b").unwrap();
    fs::remove_file(cluster[1].path("3")).unwrap();
    fs::write(cluster[1].path("new"), "new").unwrap();
    cluster.assert_same();
}

#[track_caller]
fn assert_went_on(cluster: &Cluster) {
    cluster.assert_same();
    assert_eq!(reads(&cluster[0], "1"), "edited by a");
    assert_eq!(reads(&cluster[0], "2"), "edited by b");
    assert_eq!(reads(&cluster[0], "new"), "new");
}

#[test]
fn a_state_directory_from_a_backup() {
    let mut cluster = in_sync();
    let backup = cluster.dir().join("backup");
    cluster[1].stop().unwrap();
    copy(cluster[1].state(), &backup);
    cluster[1].start().unwrap();
    go_on(&cluster);
    cluster[1].stop().unwrap();
    copy(&backup, cluster[1].state());
    fs::write(cluster[1].path("4"), "edited while stopped").unwrap();
    cluster[1].start().unwrap();
    assert_went_on(&cluster);
    assert_eq!(reads(&cluster[0], "4"), "edited while stopped");
    assert!(!cluster[0].path("3").exists(), "it came back");
    assert!(cluster[1].log().contains("state directory was restored"), "nobody noticed");
}

#[test]
fn a_folder_from_a_backup() {
    let mut cluster = in_sync();
    let backup = cluster.dir().join("backup");
    cluster[1].stop().unwrap();
    copy(cluster[1].root(), &backup);
    cluster[1].start().unwrap();
    go_on(&cluster);
    cluster[1].stop().unwrap();
    copy(&backup, cluster[1].root());
    cluster[1].start().unwrap();
    assert_went_on(&cluster);
    assert!(cluster[1].log().contains("the folder was restored"), "nobody noticed");
    // What was deleted since is in the backup, and nothing says it is not
    // wanted back.
    assert_eq!(reads(&cluster[0], "3"), "3");
}

#[test]
fn a_whole_machine_from_a_backup() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    let (index, life) = (cluster[1].state().join("index.redb"), cluster[1].private("life"));
    let (old_index, old_life) = (fs::read(&index).unwrap(), fs::read(&life).unwrap());
    cluster[1].start().unwrap();
    fs::write(cluster[1].path("new"), "new").unwrap();
    cluster.assert_same();
    cluster[1].stop().unwrap();
    // In place, as a snapshot of the disk would do it: only the others know.
    fs::write(&index, old_index).unwrap();
    fs::write(&life, old_life).unwrap();
    fs::remove_file(cluster[1].path("new")).unwrap();
    cluster[1].start().unwrap();
    poll::eventually(ARRIVES_WITHIN, "the others notice", || {
        cluster[1].log().contains("its state is from a backup")
    });
    fs::write(cluster[1].path("5"), "edited after").unwrap();
    cluster.assert_same();
    assert_eq!(reads(&cluster[1], "new"), "new");
    assert_eq!(reads(&cluster[0], "5"), "edited after");
}

#[test]
fn old_files_put_into_the_folder_of_a_stopped_node() {
    let mut cluster = in_sync();
    go_on(&cluster);
    cluster[1].stop().unwrap();
    // As `rsync -a --delete backup/ folder/` does.
    write_old(&cluster[1].path("1"), "1");
    write_old(&cluster[1].path("2"), "2");
    write_old(&cluster[1].path("3"), "3");
    fs::remove_file(cluster[1].path("new")).unwrap();
    cluster[1].start().unwrap();
    poll::eventually(ARRIVES_WITHIN, "the missing file is held", || {
        cluster[1].status().unwrap().number("/folder/deletions_held") == 1
    });
    poll::eventually(ARRIVES_WITHIN, "the later versions are shown", || {
        reads(&cluster[1], "1") == "edited by a" && reads(&cluster[1], "2") == "edited by b"
    });
    assert_eq!(cluster[1].confirm(&["--restore"]).unwrap().code, 0);
    assert_went_on(&cluster);
    assert_eq!(reads(&cluster[0], "3"), "3", "what was deleted since is not back");
    let kept = cluster[1].conflicts().unwrap();
    assert_eq!(kept.as_array().map(Vec::len), Some(2), "{kept}");
}

/// Where files come and none is changed, as uploads do, nothing in a backup is
/// older than it was: what it lacks is held for the times of its directories.
#[test]
fn a_backup_without_the_latest_files_put_into_the_folder_of_a_stopped_node() {
    let latest = ["later", "d/later", "d/e", "d/e/later"];
    let mut cluster = in_sync();
    for name in ["d", "other"] {
        fs::create_dir(cluster[0].path(name)).unwrap();
    }
    fs::write(cluster[0].path("other/deleted"), "by a user").unwrap();
    cluster.assert_same();
    let folders = ["", "d"].map(|name| cluster[1].path(name));
    let times = folders.each_ref().map(|folder| fs::metadata(folder).unwrap().modified().unwrap());
    fs::create_dir(cluster[0].path("d/e")).unwrap();
    for name in ["later", "d/later", "d/e/later"] {
        fs::write(cluster[0].path(name), "an upload").unwrap();
    }
    cluster.assert_same();

    cluster[1].stop().unwrap();
    // As `rsync -a --delete backup/ folder/` does.
    fs::remove_dir_all(cluster[1].path("d/e")).unwrap();
    for name in ["later", "d/later"] {
        fs::remove_file(cluster[1].path(name)).unwrap();
    }
    for (folder, time) in folders.iter().zip(times) {
        File::open(folder).unwrap().set_modified(time).unwrap();
    }
    fs::remove_file(cluster[1].path("other/deleted")).unwrap();
    cluster[1].start().unwrap();
    poll::eventually(ARRIVES_WITHIN, "what a user deleted is deleted", || {
        !cluster[0].path("other/deleted").exists()
    });
    let held = cluster[1].status().unwrap().number("/folder/deletions_held");
    assert_eq!(held, latest.len() as u64);
    for name in latest {
        assert!(cluster[0].path(name).exists(), "{name} was deleted");
    }
    assert_eq!(cluster[1].confirm(&["--restore"]).unwrap().code, 0);
    cluster.assert_same();
    assert_eq!(reads(&cluster[1], "d/e/later"), "an upload");
}

/// It came from a node whose clock is fast, say. What was written in its place
/// bears an earlier time, and is not a backup's for that.
#[test]
fn a_file_of_a_time_to_come_replaced_while_a_node_is_stopped() {
    let mut cluster = in_sync();
    let file = File::create(cluster[0].path("1")).unwrap();
    (&file).write_all(b"of a fast clock").unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(86_400)).unwrap();
    drop(file);
    cluster.assert_same();
    cluster[1].stop().unwrap();
    fs::remove_file(cluster[1].path("1")).unwrap();
    fs::write(cluster[1].path("1"), "by a user").unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(reads(node, "1"), "by a user");
        assert_eq!(node.conflicts().unwrap().as_array().map(Vec::len), Some(0));
    }
}

/// As `cp -a` does: into the file that is there, with all that it is.
#[test]
fn old_bytes_put_into_the_files_of_a_stopped_node() {
    let mut cluster = in_sync();
    let restored = |node: &Node| fs::metadata(node.path("1")).unwrap();
    fs::write(cluster[0].path("1"), "edited by a").unwrap();
    fs::set_permissions(cluster[0].path("1"), Permissions::from_mode(0o640)).unwrap();
    cluster.assert_same();
    let later = restored(&cluster[0]);
    cluster[1].stop().unwrap();
    let file = File::create(cluster[1].path("1")).unwrap();
    (&file).write_all(b"1").unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(30 * 86_400)).unwrap();
    drop(file);
    cluster[1].start().unwrap();
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(reads(node, "1"), "edited by a");
        let shown = restored(node);
        assert_eq!(shown.mode() & 0o777, 0o640);
        assert_eq!(shown.modified().unwrap(), later.modified().unwrap());
    }
    let kept = cluster[1].conflicts().unwrap();
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}");
}

/// As `rsync -a backup/ folder/` does, which leaves what is new, and then
/// `--delete`: somebody's doing, while the node looks on. It is done everywhere,
/// said, and can be undone.
#[test]
fn old_files_put_into_the_folder_of_a_running_node() {
    let cluster = in_sync();
    go_on(&cluster);
    // More than the brake holds back where nobody looks on.
    fs::create_dir(cluster[0].path("later")).unwrap();
    for number in 0..REMOVED {
        fs::write(cluster[0].path(format!("later/{number}")), "newer than the backup").unwrap();
    }
    cluster.assert_same();
    write_old(&cluster[1].path("1"), "as it was");
    write_old(&cluster[1].path("2"), "as that was");
    poll::eventually(ARRIVES_WITHIN, "they are changes like any other", || {
        reads(&cluster[0], "1") == "as it was" && reads(&cluster[0], "2") == "as that was"
    });
    cluster.assert_same();
    assert_eq!(fs::read_dir(cluster[0].path("later")).unwrap().count(), REMOVED);
    assert_eq!(reads(&cluster[0], "new"), "new");
    fs::remove_file(cluster[1].path("new")).unwrap();
    fs::remove_dir_all(cluster[1].path("later")).unwrap();
    poll::eventually(ARRIVES_WITHIN, "what was removed is gone", || {
        !cluster[0].path("new").exists() && !cluster[0].path("later").exists()
    });
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(node.status().unwrap().number("/folder/deletions_held"), 0);
    }
    let trash = contents_below(&cluster[0].private("trash"));
    let rests = |content: &str| trash.iter().filter(|rests| *rests == content).count();
    assert_eq!(rests("newer than the backup"), REMOVED, "what was removed is nowhere");
    for replaced in ["edited by a", "edited by b", "new"] {
        assert_eq!(rests(replaced), 1, "{replaced} is nowhere");
    }
    assert_eq!(cluster[1].status().unwrap().number("/folder/older_files"), 2);
    let said = cluster[1].command(&["status"]).unwrap().stdout;
    assert!(said.contains("Old files"), "{said}");
    assert!(said.contains("2 put over newer ones: see the trash of others"), "{said}");
    poll::eventually(ARRIVES_WITHIN, "the log says so", || {
        cluster[1].log().contains("older files were put over ")
    });
    assert_eq!(cluster[0].status().unwrap().number("/folder/older_files"), 0);
}

/// As `cp -a` and `rsync --inplace` do: the time of a file is set when all of it
/// is written.
#[test]
fn a_file_that_is_copied_with_its_time_is_put_over_none() {
    let cluster = in_sync();
    // The one is later than what lay there before, the other is new.
    for (name, days) in [("1", 1), ("copied", 60)] {
        fs::write(cluster[1].path(name), "the first half").unwrap();
        poll::eventually(ARRIVES_WITHIN, "half of it is read", || {
            reads(&cluster[0], name) == "the first half"
        });
        let mut file = File::options().append(true).open(cluster[1].path(name)).unwrap();
        file.write_all(b" and the other").unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
        drop(file);
        poll::eventually(ARRIVES_WITHIN, "all of it comes", || {
            reads(&cluster[0], name) == "the first half and the other"
        });
    }
    cluster.assert_same();
    assert_eq!(cluster[1].status().unwrap().number("/folder/older_files"), 0);
}

#[test]
fn a_state_directory_copied_to_another_node() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    let (other, root) = (cluster.dir().join("other.state"), cluster.dir().join("other"));
    copy(cluster[1].state(), &other);
    fs::create_dir(&root).unwrap();
    let (state, folder) = (cluster[1].settings.state.clone(), cluster[1].settings.root.clone());
    cluster[1].settings.state = other;
    cluster[1].settings.root = root;
    let error = cluster[1].start().unwrap_err().to_string();
    assert!(error.contains("is not the one this state directory belongs to"), "{error}");
    assert!(error.contains("exit status: 78"), "{error}");
    cluster[1].settings.state = state;
    cluster[1].settings.root = folder;
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, 10);
}

#[test]
fn one_identity_on_two_nodes_at_once() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    let mut twin = cluster[1].settings.clone();
    twin.state = cluster.dir().join("twin.state");
    twin.root = cluster.dir().join("twin");
    copy(cluster[1].state(), &twin.state);
    copy(cluster[1].root(), &twin.root);
    twin.port = replicator_tests::free_port().unwrap();
    cluster[1].start().unwrap();
    fs::write(cluster[1].path("1"), "by the first").unwrap();
    cluster.assert_same();
    let mut twin = Node::new(twin);
    twin.start().unwrap();
    fs::write(twin.path("2"), "by the second").unwrap();
    poll::eventually(ARRIVES_WITHIN, "one of them ends", || {
        !cluster[1].is_running() || !twin.is_running()
    });
    let (ended, mut other) = match twin.is_running() {
        true => (cluster[1].ended_within(Duration::ZERO), twin),
        false => panic!("the one that came later goes on"),
    };
    assert_eq!(ended.and_then(|status| status.code()), Some(77), "{}", cluster[1].log());
    assert!(cluster[1].log().contains("with this node's identity runs at the same time"));
    poll::eventually(ARRIVES_WITHIN, "the other one serves", || {
        other.wait(Duration::from_secs(1)).unwrap().code == 0
            && reads(&cluster[0], "2") == "by the second"
            && reads(&other, "1") == "by the first"
    });
    assert_eq!(tree::count(cluster[0].root()).unwrap().0, 10, "nothing is lost");
    assert!(other.stop().unwrap().success());
}

#[test]
fn a_folder_in_a_folder() {
    let mut cluster = Cluster::new(2);
    let inner = cluster[0].path("inner");
    fs::create_dir(&inner).unwrap();
    cluster[1].settings.root = inner;
    cluster[0].start().unwrap();
    let error = cluster[1].start().unwrap_err().to_string();
    assert!(error.contains("no folder may lie in another"), "{error}");
    assert!(error.contains("exit status: 78"), "{error}");
    assert!(cluster[0].is_running());

    // The other way round.
    cluster[0].stop().unwrap();
    cluster[1].start().unwrap();
    cluster[0].spawn().unwrap();
    let ended = cluster[0].ended_within(ARRIVES_WITHIN).expect("it ends by itself");
    assert_eq!(ended.code(), Some(78), "{}", cluster[0].log());
    assert!(cluster[0].log().contains("no folder may lie in another"));
    assert!(cluster[1].is_running());
}
