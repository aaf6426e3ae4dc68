//! The same promises on every capture level and for every user.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::time::Duration;

use replicator_tests::{Cluster, levels, machine, nobody, poll, sample};

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
    if let Some(lack) = levels::lacks(cluster.dir(), level) {
        return machine::skip(lack);
    }
    cluster.start();
    assert_eq!(cluster[0].status().unwrap().capture(), level);
    exercise(&cluster);
}

#[test]
fn the_best_level_of_this_machine() {
    let cluster = Cluster::running(2);
    let status = cluster[0].status().unwrap();
    let level = status.capture();
    assert_eq!(level, levels::best(cluster.dir()));
    assert_eq!(status.hooks(), levels::hooks(level));
    assert!(cluster[0].log().contains(level), "the log does not name the level");
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

/// Runs two nodes that may do nothing special, if there can be any.
fn of_an_ordinary_user() -> Option<Cluster> {
    let mut cluster = Cluster::new(2);
    if machine::is_root() && !nobody::takes(&mut cluster, &[&[], &[]]) {
        machine::skip("setpriv is not installed");
        return None;
    }
    cluster.start();
    Some(cluster)
}

#[test]
fn an_ordinary_user() {
    let Some(cluster) = of_an_ordinary_user() else { return };
    assert_eq!(cluster[0].status().unwrap().capture(), "inotify");
    let _acting = machine::is_root().then(nobody::Acting::start);
    exercise(&cluster);
}

#[test]
fn what_may_not_be_read_is_said_until_it_may() {
    let Some(cluster) = of_an_ordinary_user() else { return };
    cluster.assert_same();
    let _acting = machine::is_root().then(nobody::Acting::start);
    let (closed, open) = (cluster[0].path("closed"), cluster[1].path("open"));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o000).open(&closed).unwrap();
    file.write_all(b"closed").unwrap();
    drop(file);
    fs::write(cluster[0].path("open"), "open").unwrap();
    poll::eventually(Duration::from_secs(10), "the other file arrives", || open.exists());
    let said = cluster[0].wait(Duration::from_secs(1)).unwrap();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("could not be read"), "{said:?}");
    assert!(cluster[0].status().unwrap().json()["errors"].to_string().contains("closed"));

    fs::set_permissions(&closed, Permissions::from_mode(0o600)).unwrap();
    cluster.assert_same();
}

/// What the README says a level needs is enough for it.
#[test]
fn a_user_with_the_stated_capabilities() {
    let mut cluster = Cluster::new(2);
    if let Some(lack) = levels::lacks(cluster.dir(), "fanotify") {
        return machine::skip(lack);
    }
    let stated: [&[&str]; 2] = [&["sys_admin", "dac_read_search"]; 2];
    if !nobody::takes(&mut cluster, &stated) {
        return machine::skip("setpriv is not installed");
    }
    cluster[1].settings.options.extend(["--capture", "fanotify"].map(Into::into));
    cluster.start();
    let had = |node: usize| cluster[node].status().unwrap().capture().to_owned();
    assert_eq!(
        [had(0), had(1)].each_ref().map(String::as_str),
        [levels::best(cluster.dir()), "fanotify"]
    );
    let _acting = nobody::Acting::start();
    exercise(&cluster);
}
