//! A folder that is suddenly gone is a disaster here, and must not become one
//! everywhere.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use replicator_tests::{
    Cluster, FileSystem, Form, Node, Volume, levels, machine, nobody, poll, tree,
};

/// More than any brake lets through unseen.
const FILES: u64 = 300;

/// Long enough for deletions to arrive if they were sent.
const WATCHED: Duration = Duration::from_secs(4);

/// What failed is tried again after half a minute at the latest.
const GOES_ON_WITHIN: Duration = Duration::from_secs(45);

/// Three nodes in sync over a folder with files. The second meets with the
/// disaster.
fn in_sync() -> Cluster {
    in_sync_of(Cluster::new(3))
}

fn in_sync_of(mut cluster: Cluster) -> Cluster {
    for number in 0..FILES {
        fs::write(cluster[0].path(format!("{number}")), format!("precious {number}")).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    cluster
}

fn files(folder: &Path) -> u64 {
    tree::count(folder).unwrap().0
}

/// So many files lie on the two nodes that did not meet with the disaster.
fn files_of_peers(cluster: &Cluster) -> [u64; 2] {
    [0, 2].map(|peer| files(cluster[peer].root()))
}

#[track_caller]
fn assert_keeps_all(cluster: &Cluster) {
    assert_keep(cluster, FILES);
}

#[track_caller]
fn assert_keep(cluster: &Cluster, count: u64) {
    poll::holds_for(WATCHED, "the peers keep every file", || files_of_peers(cluster) == [count; 2]);
}

/// It ends by itself and says why.
#[track_caller]
fn assert_ends(node: &mut Node, why: &str) {
    let ended = node.ended_within(Duration::from_secs(20)).expect("it goes on");
    assert_eq!(ended.code(), Some(78), "{}", node.log());
    assert!(node.log().contains(why), "{why:?} is not in {}", node.log());
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn a_root_replaced_while_its_node_was_stopped() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    let away = cluster.dir().join("away");
    fs::rename(cluster[1].root(), &away).unwrap();
    fs::create_dir(cluster[1].root()).unwrap();
    cluster[1].spawn().unwrap();
    assert_ends(&mut cluster[1], "is not the one this state directory belongs to");
    assert_keeps_all(&cluster);

    // Put back, all goes on.
    fs::remove_dir_all(cluster[1].root()).unwrap();
    fs::rename(&away, cluster[1].root()).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
}

/// Puts a copy of its folder into the place of a node's own.
fn copy_root(cluster: &Cluster, node: usize) {
    let (root, away) = (cluster[node].root(), cluster.dir().join("away"));
    fs::rename(root, &away).unwrap();
    let copy = Command::new("cp").arg("-a").arg(&away).arg(root).status().unwrap();
    assert!(copy.success());
    fs::remove_dir_all(&away).unwrap();
}

/// On a new disk, with what an administrator could read of it.
#[test]
fn a_folder_that_was_copied_in_part_deletes_nothing() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    copy_root(&cluster, 1);
    for number in 0..30 {
        fs::remove_file(cluster[1].path(format!("{number}"))).unwrap();
    }
    cluster[1].start().unwrap();
    poll::eventually(Duration::from_secs(20), "what is missing is held", || {
        cluster[1].status().unwrap().number("/folder/deletions_held") == 30
    });
    assert_keeps_all(&cluster);
    assert_eq!(cluster[1].confirm(&["--restore"]).unwrap().code, 0);
    cluster.assert_same();
    assert_eq!(files(cluster[1].root()), FILES);

    // A copy that lacks nothing is served like the folder itself.
    cluster[1].stop().unwrap();
    copy_root(&cluster, 1);
    cluster[1].start().unwrap();
    fs::remove_file(cluster[1].path("7")).unwrap();
    cluster.assert_same();
    assert_eq!(files_of_peers(&cluster), [FILES - 1; 2]);
    let status = cluster[1].status().unwrap();
    assert_eq!(status.number("/folder/conflicts"), 0, "{status}");
}

/// As administrators of web servers do with a whole folder.
fn chown_all(folder: &Path, user: u32) -> bool {
    let words = ["-R".to_owned(), format!("{user}:{user}")];
    Command::new("chown").args(words).arg(folder).status().is_ok_and(|status| status.success())
}

#[test]
fn a_root_given_to_another_user_with_all_that_is_in_it() {
    let mut cluster = in_sync();
    cluster[1].stop().unwrap();
    if !chown_all(cluster[1].root(), nobody::ID) {
        return machine::skip("only root can give files away");
    }
    if !levels::has_capabilities(levels::CAP_SYS_ADMIN) {
        let private = cluster[1].private("");
        let error = cluster[1].start().unwrap_err().to_string();
        assert!(error.contains("chown -R 0 "), "{error}");
        assert!(chown_all(&private, 0));
    }
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(fs::metadata(cluster[0].path("1")).unwrap().uid(), nobody::ID);
    assert_eq!(fs::metadata(cluster[1].private("redo")).unwrap().uid(), 0);
    fs::write(cluster[1].path("new"), "written afterwards").unwrap();
    cluster.assert_same();
}

#[test]
fn a_root_taken_from_the_user_of_its_daemon() {
    let mut cluster = Cluster::new(1);
    if !nobody::takes(&mut cluster, &[&[]]) {
        return machine::skip("needs root and setpriv to become a user who can be taken from");
    }
    cluster.start();
    cluster[0].stop().unwrap();
    assert!(chown_all(cluster[0].root(), 0));
    std::os::unix::fs::chown(cluster[0].root(), Some(nobody::ID), Some(nobody::ID)).unwrap();
    let error = cluster[0].start().unwrap_err().to_string();
    assert!(error.contains("exit status: 77"), "{error}");
    let advice = format!("`chown -R {} {}`", nobody::ID, cluster[0].private("").display());
    assert!(error.contains(advice.replace("/`", "`").as_str()), "{advice}: {error}");
    assert!(chown_all(&cluster[0].private(""), nobody::ID));
    cluster[0].start().unwrap();
}

#[test]
fn a_root_moved_away_under_a_running_node() {
    let mut cluster = in_sync();
    let away = cluster.dir().join("away");
    fs::rename(cluster[1].root(), &away).unwrap();
    fs::create_dir(cluster[1].root()).unwrap();
    assert_ends(&mut cluster[1], "is no longer the directory that was opened");
    assert_keeps_all(&cluster);
    assert_eq!(files(&away), FILES);
    fs::remove_dir_all(cluster[1].root()).unwrap();
    fs::rename(&away, cluster[1].root()).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
}

/// Three nodes in sync over a folder with files; the root of the second is a
/// file system of its own.
fn in_sync_on_a_volume() -> Option<(Cluster, Volume)> {
    let cluster = Cluster::new(3);
    let image = cluster.dir().join("image");
    let form = Form { size: 64 << 20, ..Form::of(FileSystem::Ext4) };
    let mounted = Volume::in_image(form, &image, cluster[1].root());
    let volume = match mounted {
        Ok(volume) => volume,
        Err(error) => {
            machine::skip(&format!("no loop mount: {error:#}"));
            return None;
        }
    };
    // mkfs made it; it is not what these stories are about.
    let _ = fs::remove_dir(cluster[1].path("lost+found"));
    Some((in_sync_of(cluster), volume))
}

#[test]
fn a_root_that_was_unmounted() {
    let Some((mut cluster, mut mount)) = in_sync_on_a_volume() else { return };
    mount.detach().unwrap();
    assert_ends(&mut cluster[1], "is no longer the directory that was opened");
    // As after a boot where the disk did not come.
    cluster[1].spawn().unwrap();
    assert_ends(&mut cluster[1], "is not the one this state directory belongs to");
    assert_keeps_all(&cluster);
    mount.mount().unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    cluster[1].stop().unwrap();
}

/// What covers the folder is empty, and is no deletion. It is restarted by its
/// service until that is gone again.
#[test]
fn a_file_system_mounted_over_the_root() {
    let cluster = Cluster::new(3);
    let form = Form { size: 16 << 20, ..Form::of(FileSystem::Tmpfs) };
    let image = cluster.dir().join("image");
    let mut mount = match Volume::in_image(form, &image, cluster[1].root()) {
        Ok(mount) => mount,
        Err(error) => return machine::skip(&format!("no mount: {error:#}")),
    };
    mount.detach().unwrap();
    let mut cluster = in_sync_of(cluster);

    mount.mount().unwrap();
    assert_eq!(files(cluster[1].root()), 0, "it covers nothing");
    assert_ends(&mut cluster[1], "is no longer the directory that was opened");
    for _ in 0..2 {
        cluster[1].spawn().unwrap();
        assert_ends(&mut cluster[1], "is not the one this state directory belongs to");
    }
    assert_keeps_all(&cluster);
    fs::write(cluster[0].path("1"), "edited meanwhile").unwrap();
    fs::remove_file(cluster[2].path("2")).unwrap();

    mount.detach().unwrap();
    assert_eq!(files(cluster[1].root()), FILES, "what was covered is not there");
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(fs::read_to_string(cluster[1].path("1")).unwrap(), "edited meanwhile");
    assert_eq!(files_of_peers(&cluster), [FILES - 1; 2]);
}

#[test]
fn a_running_root_emptied_with_its_marker_first() {
    emptied_after(0);
}

#[test]
fn a_running_root_emptied_to_its_half_before_its_marker_goes() {
    emptied_after(FILES / 2);
}

/// What a user deletes is deleted; what is missing once the marker of the
/// folder is gone was not.
fn emptied_after(deleted: u64) {
    let mut cluster = in_sync();
    for number in 0..deleted {
        fs::remove_file(cluster[1].path(number.to_string())).unwrap();
    }
    poll::eventually(Duration::from_secs(20), "what a user deletes is deleted", || {
        files_of_peers(&cluster) == [FILES - deleted; 2]
    });
    fs::remove_dir_all(cluster[1].private("")).unwrap();
    empty(cluster[1].root());
    assert_ends(&mut cluster[1], "has lost its marker file: it was emptied or replaced");
    cluster[1].spawn().unwrap();
    assert_ends(&mut cluster[1], "is not the one this state directory belongs to");
    assert_keep(&cluster, FILES - deleted);
    begin_anew(&mut cluster, FILES - deleted);
}

fn empty(folder: &Path) {
    let deleted = Command::new("find").arg(folder).args(["-mindepth", "1", "-delete"]).status();
    assert!(deleted.unwrap().success());
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

/// As the node's last words advise.
#[track_caller]
fn begin_anew(cluster: &mut Cluster, count: u64) {
    fs::remove_dir_all(cluster[1].state()).unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(files(cluster[1].root()), count);
    assert_eq!(files_of_peers(cluster), [count; 2]);
}

/// In the order in which the directory lists them: what went before the marker
/// did is a user's deletion, and rests on the other nodes.
#[test]
fn a_running_root_emptied_in_any_order() {
    let mut cluster = in_sync();
    empty(cluster[1].root());
    assert_ends(&mut cluster[1], "has lost its marker file: it was emptied or replaced");
    for peer in [0, 2] {
        assert_eq!(cluster[peer].wait(Duration::from_secs(20)).unwrap().code, 0);
    }
    let kept = files(cluster[0].root());
    println!("{} of {FILES} files were deleted before the marker was", FILES - kept);
    assert_keep(&cluster, kept);
    for peer in [0, 2] {
        assert_eq!(files(&cluster[peer].private("trash")), FILES - kept, "on node {peer}");
    }
    fs::remove_dir(cluster[1].root()).unwrap();
    let error = cluster[1].start().unwrap_err().to_string();
    assert!(error.contains("does not exist; create it, or mount it, first"), "{error}");
    assert!(error.contains("exit status: 78"), "{error}");
    fs::create_dir(cluster[1].root()).unwrap();
    cluster[1].spawn().unwrap();
    assert_ends(&mut cluster[1], "is not the one this state directory belongs to");
    assert_keep(&cluster, kept);
    begin_anew(&mut cluster, kept);
}

/// What is mounted there is nobody's business here, and what it covers has not
/// been deleted.
#[test]
fn a_file_system_mounted_in_the_folder() {
    let mut cluster = Cluster::new(2);
    let covered = cluster[0].path("covered");
    let image = cluster.dir().join("image");
    let form = Form { size: 16 << 20, ..Form::of(FileSystem::Tmpfs) };
    let mut mount = match Volume::in_image(form, &image, &covered) {
        Ok(mount) => mount,
        Err(error) => return machine::skip(&format!("no mount: {error:#}")),
    };
    mount.detach().unwrap();
    fs::write(covered.join("file"), "beneath").unwrap();
    cluster.start();
    cluster.assert_same();

    mount.mount().unwrap();
    fs::write(covered.join("mounted"), "of another file system").unwrap();
    fs::write(cluster[1].path("covered/file"), "edited").unwrap();
    poll::eventually(Duration::from_secs(10), "the status names it", || {
        let errors = cluster[0].status().unwrap().json()["errors"].to_string();
        errors.contains("mounted below the folder and is not replicated")
    });
    poll::holds_for(WATCHED, "the other keeps its own", || {
        let content = fs::read_to_string(cluster[1].path("covered/file"));
        content.is_ok_and(|content| content == "edited")
            && !cluster[1].path("covered/mounted").exists()
    });
    assert_eq!(cluster[0].wait(Duration::from_secs(1)).unwrap().code, 1);

    mount.detach().unwrap();
    poll::eventually(GOES_ON_WITHIN, "what waited is applied", || {
        fs::read_to_string(covered.join("file")).is_ok_and(|content| content == "edited")
    });
    cluster.assert_same();
}

#[test]
fn a_root_that_becomes_read_only() {
    let Some((mut cluster, volume)) = in_sync_on_a_volume() else { return };
    volume.set_read_only(true).unwrap();
    fs::write(cluster[0].path("new"), "new").unwrap();
    fs::write(cluster[0].path("1"), "edited").unwrap();
    fs::remove_file(cluster[0].path("2")).unwrap();
    poll::eventually(Duration::from_secs(20), "it says why it is behind", || {
        let status = cluster[1].status().unwrap();
        status.state().starts_with("paused: ") && status.pending_in() > 0
    });
    let status = cluster[1].status().unwrap();
    assert!(status.state().contains("remount it read-write"), "{status}");
    poll::holds_for(WATCHED, "nothing else is deleted", || files_of_peers(&cluster) == [FILES; 2]);
    assert_eq!(cluster[0].wait(Duration::from_secs(1)).unwrap().code, 1);
    volume.set_read_only(false).unwrap();
    cluster.assert_same_within(GOES_ON_WITHIN);
    assert_eq!(fs::read_to_string(cluster[1].path("1")).unwrap(), "edited");

    cluster[1].stop().unwrap();
    volume.set_read_only(true).unwrap();
    let error = cluster[1].start().unwrap_err().to_string();
    assert!(error.contains("mounted read-only; remount it read-write"), "{error}");
    assert!(error.contains("exit status: 78"), "{error}");
    assert_keeps_all(&cluster);
    volume.set_read_only(false).unwrap();
    fs::write(cluster[1].path("3"), "edited there").unwrap();
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(fs::read_to_string(cluster[0].path("3")).unwrap(), "edited there");
    // Before its file system goes.
    cluster[1].stop().unwrap();
}
