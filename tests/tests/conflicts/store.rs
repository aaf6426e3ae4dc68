//! The commands about what lost: listed, restored, dropped, with and without a
//! running node, by its user, by root and by a stranger.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use replicator_tests::{Cluster, Finished, Node, finish, machine, nobody, poll};

use super::scene::AGREED_WITHIN;

/// Two nodes with `file` in common, of which the second is stopped.
fn parted() -> Cluster {
    let mut cluster = Cluster::running(2);
    fs::write(cluster[0].path("file"), "common").unwrap();
    cluster.assert_same();
    cluster[1].stop().unwrap();
    cluster
}

/// Writes with a time of its own, so that who is later does not depend on the
/// test's pace.
fn write_at(path: &Path, content: &str, seconds: u64) {
    fs::write(path, content).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds);
    File::options().write(true).open(path).unwrap();
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// Every file in the daemon's own folder below a root.
fn kept_files(node: &Node) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![node.private("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}

fn keeps(node: &Node, content: &str) -> bool {
    kept_files(node).iter().any(|path| fs::read(path).is_ok_and(|it| it == content.as_bytes()))
}

fn listed(node: &Node) -> usize {
    node.conflicts().unwrap().as_array().map_or(0, Vec::len)
}

#[test]
fn what_lost_is_listed_restored_and_dropped() {
    let mut cluster = parted();
    write_at(&cluster[0].path("file"), "the earlier edit", 1);
    write_at(&cluster[1].path("file"), "the later edit", 2);
    cluster[1].start().unwrap();
    cluster.assert_same();
    let keeper = usize::from(listed(&cluster[0]) == 0);
    let command = |cluster: &Cluster, words: &[&str]| {
        let words: Vec<&str> = std::iter::once(&"conflicts").chain(words).copied().collect();
        cluster[keeper].command(&words).unwrap()
    };
    let shown = command(&cluster, &["list"]);
    assert_eq!(shown.code, 1, "{shown:?}");
    assert!(shown.stdout.ends_with("16 B  file\n"), "{shown:?}");
    let id = shown.stdout.split_whitespace().next().unwrap().to_owned();
    // Until somebody deals with it, whoever looks.
    cluster[keeper].stop().unwrap();
    cluster[keeper].start().unwrap();
    cluster.assert_same();
    assert_eq!(cluster[keeper].status().unwrap().conflicts(), 1);
    let kept = &cluster[keeper].conflicts().unwrap()[0];
    assert_eq!(kept["id"], *id, "{kept}");
    assert_eq!(kept["path"], "file", "{kept}");

    for words in [["restore", "20000101T000000"], ["drop", "20000101T000000"]] {
        let unknown = command(&cluster, &words);
        assert_eq!((unknown.code, unknown.stdout.as_str()), (2, ""), "{unknown:?}");
        assert!(unknown.stderr.contains("there is no conflict 20000101T000000"), "{unknown:?}");
        assert_eq!(unknown.stderr.lines().count(), 1, "{unknown:?}");
    }

    // What is restored is a change like any other.
    let restored = command(&cluster, &["restore", &id]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(restored.stdout, format!("restored {id} to file\n"));
    cluster.assert_same();
    for node in cluster.nodes() {
        assert_eq!(fs::read_to_string(node.path("file")).unwrap(), "the earlier edit");
    }
    assert!(keeps(&cluster[keeper], "the later edit"), "what it replaced is in no trash");
    let none = command(&cluster, &["list"]);
    assert_eq!((none.code, none.stdout.as_str()), (0, "no conflicts\n"), "{none:?}");
    assert_eq!(cluster[keeper].status().unwrap().conflicts(), 0);

    // All of it works without a running node.
    cluster[1].stop().unwrap();
    write_at(&cluster[0].path("file"), "earlier once more", 3);
    write_at(&cluster[1].path("file"), "later once more", 4);
    cluster[1].start().unwrap();
    cluster.assert_same();
    let keeper = usize::from(listed(&cluster[0]) == 0);
    let id = cluster[keeper].conflicts().unwrap()[0]["id"].as_str().unwrap().to_owned();
    cluster[keeper].stop().unwrap();
    let to = cluster.dir().join("elsewhere");
    let words = ["conflicts", "restore", &id, "--json", "--to", to.to_str().unwrap()];
    let restored = cluster[keeper].command(&words).unwrap();
    let said: serde_json::Value = serde_json::from_str(&restored.stdout).unwrap();
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(said["id"], *id, "{restored:?}");
    assert_eq!(fs::read_to_string(to).unwrap(), "earlier once more");
    let dropped = cluster[keeper].command(&["conflicts", "drop", "--all", "--json"]).unwrap();
    assert_eq!((dropped.code, dropped.stdout.as_str()), (0, "[]\n"), "{dropped:?}");
}

/// What is dropped is that one, and no other.
#[test]
fn one_of_several_is_dropped_by_its_id() {
    let mut cluster = Cluster::running(2);
    let names = ["one", "two", "three"];
    names.iter().for_each(|name| fs::write(cluster[0].path(name), "common").unwrap());
    cluster.assert_same();
    cluster[1].stop().unwrap();
    for name in names {
        write_at(&cluster[0].path(name), &format!("{name} of a"), 1);
        write_at(&cluster[1].path(name), &format!("{name} of b"), 2);
    }
    cluster[1].start().unwrap();
    cluster.assert_same();
    let all = cluster[0].conflicts().unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), names.len(), "{all:?}");
    let wanted = all.iter().find(|kept| kept["path"] == "two").unwrap();

    let id = wanted["id"].as_str().unwrap();
    let dropped = cluster[0].command(&["conflicts", "drop", id, "--json"]).unwrap();
    assert_eq!(dropped.code, 0, "{dropped:?}");
    let said: serde_json::Value = serde_json::from_str(&dropped.stdout).unwrap();
    assert_eq!(said, serde_json::json!([wanted]));
    assert!(!keeps(&cluster[0], "two of a"), "it lies there still");

    let others: Vec<_> = all.iter().filter(|kept| kept["id"] != id).cloned().collect();
    assert_eq!(cluster[0].conflicts().unwrap(), serde_json::json!(others));
    assert!(keeps(&cluster[0], "one of a") && keeps(&cluster[0], "three of a"));
    assert_eq!(cluster[0].status().unwrap().conflicts(), 2);
    let again = cluster[0].command(&["conflicts", "drop", id, "--json"]).unwrap();
    assert_eq!((again.code, again.stdout.as_str()), (2, ""), "{again:?}");
    assert_eq!(listed(&cluster[0]), 2);
}

/// A file that two users make at once may be seen before all of it is written.
#[test]
fn what_becomes_the_same_is_no_conflict_any_more() {
    let mut cluster = Cluster::running(2);
    cluster[1].stop().unwrap();
    for name in ["file", "other"] {
        write_at(&cluster[0].path(name), "the release", 1);
        write_at(&cluster[1].path(name), "", 2);
    }
    cluster[1].start().unwrap();
    cluster.assert_same();
    assert_eq!(listed(&cluster[0]), 2);
    assert_eq!(cluster[0].status().unwrap().conflicts(), 2);

    write_at(&cluster[1].path("file"), "the release", 3);
    write_at(&cluster[1].path("other"), "the RELEASE", 3);
    cluster.assert_same();
    let is_one = || cluster[0].status().unwrap().conflicts() == 1;
    poll::eventually(AGREED_WITHIN, "what both show is no conflict", is_one);
    let left = cluster[0].conflicts().unwrap();
    assert_eq!(left[0]["path"], "other", "{left}");
    assert!(keeps(&cluster[0], "the release"));
}

/// A user who is neither root nor runs a node.
const STRANGER: u32 = 12345;

/// Two nodes of nobody with `file` in common, of which the second is stopped;
/// `None` where this process cannot become another user.
fn parted_of_nobody(file: &str) -> Option<Cluster> {
    let mut cluster = Cluster::new(2);
    if !nobody::takes(&mut cluster, &[&[], &[]]) {
        machine::skip("needs root and setpriv to run nodes as another user");
        return None;
    }
    cluster.start();
    let _acting = nobody::Acting::start();
    fs::create_dir_all(cluster[0].path(file).parent().unwrap()).unwrap();
    fs::write(cluster[0].path(file), "common").unwrap();
    cluster.assert_same();
    cluster[1].stop().unwrap();
    Some(cluster)
}

#[test]
fn root_lists_restores_and_drops_on_a_node_of_another_user() {
    // Too long for a name in the trash: it has a file beside it there.
    let file = ["d".repeat(200), "file".repeat(30)].join("/");
    let Some(mut cluster) = parted_of_nobody(&file) else { return };
    let id = |cluster: &Cluster| cluster[0].conflicts().unwrap()[0]["id"].to_string();
    let lose = |cluster: &mut Cluster, seconds: u64| {
        write_at(&cluster[0].path(&file), &format!("earlier {seconds}"), seconds);
        write_at(&cluster[1].path(&file), &format!("later {seconds}"), seconds + 1);
        cluster[1].start().unwrap();
        cluster.assert_same();
    };
    let all_is_nobodys = |cluster: &Cluster| {
        let kept = kept_files(&cluster[0]);
        assert!(kept.iter().any(|path| path.ends_with("marker")), "{kept:?}");
        for path in kept.iter().chain([&cluster[0].path(&file)]) {
            let owner = fs::symlink_metadata(path).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (nobody::ID, nobody::ID), "{path:?}");
        }
    };
    let command = |cluster: &Cluster, words: &[&str]| {
        let words: Vec<&str> = std::iter::once(&"conflicts").chain(words).copied().collect();
        cluster[0].command(&words).unwrap()
    };
    lose(&mut cluster, 1);
    let listed = command(&cluster, &["list"]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (1, 1), "{listed:?}");
    let first = id(&cluster);
    let restored = command(&cluster, &["restore", first.trim_matches('"')]);
    assert_eq!(restored.code, 0, "{restored:?}");
    cluster.assert_same();
    assert_eq!(fs::read_to_string(cluster[1].path(&file)).unwrap(), "earlier 1");
    assert!(keeps(&cluster[0], "later 1"), "what it replaced is in no trash");
    assert!(keeps(&cluster[0], &file), "its path is not told");
    all_is_nobodys(&cluster);

    // With nobody running, too, and the daemon starts after it.
    cluster[1].stop().unwrap();
    lose(&mut cluster, 3);
    cluster[0].stop().unwrap();
    fs::remove_file(cluster[0].private("lock")).unwrap();
    let second = id(&cluster);
    let dropped = command(&cluster, &["drop", second.trim_matches('"')]);
    assert_eq!((dropped.code, dropped.stdout.as_str()), (0, "dropped 1\n"), "{dropped:?}");
    all_is_nobodys(&cluster);
    cluster[0].start().unwrap();
    cluster.assert_same();
    assert_eq!(command(&cluster, &["list"]).code, 0);
}

#[test]
fn a_stranger_is_told_whom_the_conflicts_belong_to() {
    let Some(mut cluster) = parted_of_nobody("folder/file") else { return };
    cluster[0].stop().unwrap();
    let words = nobody::words_of(STRANGER, &[]).unwrap();
    let by_stranger = |arguments: &[&str]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(cluster[0].settings.program.as_ref().unwrap());
        command.arg("conflicts").args(arguments).arg("--state-dir").arg(cluster[0].state());
        finish(&mut command, Duration::from_secs(10)).unwrap()
    };
    let refused = |finished: &Finished, said: &str| {
        assert_eq!(finished.code, 77, "{finished:?}");
        assert_eq!((finished.stdout.as_str(), finished.stderr.lines().count()), ("", 1));
        assert!(finished.stderr.contains(said), "{finished:?}");
        assert!(!finished.stderr.contains("chown"), "{finished:?}");
    };
    let open = |path: &Path, mode: u32| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let note = cluster[0].state().join("node.json");
    refused(&by_stranger(&["list"]), "node.json");
    open(&note, 0o644);
    for mode in [0o700, 0o755] {
        open(&cluster[0].private(""), mode);
        for arguments in [&["list"][..], &["restore", "x"], &["drop", "--all"]] {
            refused(&by_stranger(arguments), "is private to user 65534");
        }
    }
    open(cluster[0].root(), 0o700);
    refused(&by_stranger(&["list"]), "run as its owner or as root");
}

#[test]
fn different_files_of_one_name_at_the_first_meeting() {
    let mut cluster = Cluster::new(2);
    write_at(&cluster[0].path("file"), "from a, later", 2);
    write_at(&cluster[1].path("file"), "from b, earlier", 1);
    cluster.start();
    cluster.assert_same();
    assert_eq!(fs::read_to_string(cluster[1].path("file")).unwrap(), "from a, later");
    assert!(cluster.nodes().iter().any(|node| keeps(node, "from b, earlier")));
}
