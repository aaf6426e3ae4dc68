//! The same promises on every capture level and for every user.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};

use replicator_tests::{Cluster, binary, machine, sample};

/// The user nobody of Debian.
const NOBODY: u32 = 65534;

/// Names, contents and metadata changed in every way, in both directions.
fn exercise(cluster: &Cluster) {
    let (a, b) = (&cluster[0], &cluster[1]);
    sample::look_alike(&a.path("site")).unwrap();
    cluster.assert_same();
    fs::write(b.path("site/index.php"), "<?php // edited\n").unwrap();
    fs::rename(a.path("site/wp-admin"), a.path("site/admin")).unwrap();
    fs::create_dir_all(b.path("new/deep/folder")).unwrap();
    fs::write(b.path("new/deep/folder/file"), "made at once").unwrap();
    cluster.assert_same();
    let mut log = OpenOptions::new().append(true).open(a.path("new/deep/folder/file")).unwrap();
    log.write_all(b" and appended to").unwrap();
    drop(log);
    fs::set_permissions(b.path("site/index.php"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(a.path("site/wp-includes")).unwrap();
    cluster.assert_same();
    cluster.assert_rsync_agrees();
}

/// Runs two nodes at `level`, unless this machine refuses it.
fn at_level(level: &str) {
    let mut cluster = Cluster::new(2).with_options(&["--capture", level]);
    if let Err(error) = cluster[0].start() {
        let refused = format!("{error:#}");
        assert!(!machine::is_root() && !refused.contains("panicked"), "{refused}");
        return machine::skip("an ordinary user may not use this capture level");
    }
    cluster[1].start().unwrap();
    assert_eq!(cluster[0].status().unwrap().capture(), level);
    exercise(&cluster);
}

#[test]
fn the_best_level_of_this_machine() {
    let cluster = Cluster::running(2);
    let level = cluster[0].status().unwrap().capture().to_string();
    assert!(["ebpf", "fanotify", "inotify"].contains(&level.as_str()), "{level:?}");
    assert!(cluster[0].log().contains(&level), "the log does not name the level");
    exercise(&cluster);
}

#[test]
fn fanotify_alone() {
    at_level("fanotify");
}

#[test]
fn inotify_alone() {
    at_level("inotify");
}

#[test]
fn an_ordinary_user() {
    let mut cluster = Cluster::new(2);
    if machine::is_root() {
        let Some(prefix) = machine::as_nobody() else {
            return machine::skip("setpriv is not installed");
        };
        let program = cluster.dir().join("replicator");
        fs::copy(binary(), &program).unwrap();
        for node in cluster.nodes_mut() {
            let settings = &mut node.settings;
            settings.prefix = prefix.clone();
            settings.program = Some(program.clone());
            for path in [&settings.root, &settings.state, &settings.password] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
    }
    cluster.start();
    assert_eq!(cluster[0].status().unwrap().capture(), "inotify");
    if !machine::is_root() {
        return exercise(&cluster);
    }
    // What root makes here must be nobody's, or nobody could not keep it.
    let source = cluster.dir().join("source");
    fs::create_dir(&source).unwrap();
    sample::look_alike(&source).unwrap();
    let owner = format!("{NOBODY}:{NOBODY}");
    let mut chown_all = std::process::Command::new("chown");
    machine::run(chown_all.args(["-hR", &owner]).arg(&source)).unwrap();
    fs::rename(&source, cluster[0].path("site")).unwrap();
    cluster.assert_same();
    fs::remove_dir_all(cluster[1].path("site/wp-admin")).unwrap();
    fs::write(cluster[1].path("site/index.php"), "edited").unwrap();
    cluster.assert_same();
}
