//! Nodes without the password.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use replicator_tests::{Cluster, binary, copy_program, poll, tree, write_password};

const SECRET: &str = "the-name-is-a-secret-already";

#[test]
fn a_wrong_password_is_refused_and_learns_nothing() {
    let mut cluster = Cluster::new(2);
    let wrong = write_password(cluster.dir(), "wrong", "not the password\n");
    cluster[1].settings.password = wrong;
    fs::write(cluster[0].path(SECRET), "secret content").unwrap();
    fs::write(cluster[1].path("from-the-stranger"), "unwanted").unwrap();
    cluster.start();

    for node in cluster.nodes() {
        poll::eventually(Duration::from_secs(15), "both logs say what is wrong", || {
            node.log().contains("password")
        });
    }
    // Long enough for further attempts to have been made.
    poll::holds_for(Duration::from_secs(3), "no file crosses, no peer is connected", || {
        tree::names(cluster[0].root()).unwrap() == [SECRET]
            && tree::names(cluster[1].root()).unwrap() == ["from-the-stranger"]
            && cluster.nodes().iter().all(|node| node.status().unwrap().peers_connected() == 0)
    });
    assert!(!mentions(cluster[1].state(), SECRET), "the stranger knows a file's name");
    assert!(!cluster[1].log().contains(SECRET));
    assert!(!cluster[1].log().contains("panicked"));
}

#[test]
fn the_right_password_is_let_in_after_a_wrong_one() {
    let mut cluster = Cluster::new(2);
    let right = cluster[1].settings.password.clone();
    cluster[1].settings.password = write_password(cluster.dir(), "wrong", "mistyped\n");
    fs::write(cluster[0].path("file"), "content").unwrap();
    cluster.start();
    poll::eventually(Duration::from_secs(15), "the mistake is told", || {
        cluster[1].log().contains("password")
    });
    cluster[1].stop().unwrap();
    cluster[1].settings.password = right;
    cluster[1].start().unwrap();
    poll::eventually(Duration::from_secs(20), "the node is let in", || {
        cluster[1].path("file").exists()
    });
    cluster.assert_same();
}

#[test]
fn another_cluster_name_is_another_cluster() {
    let mut cluster = Cluster::new(2);
    cluster[1].settings.options = vec!["--cluster".into(), "staging".into()];
    fs::write(cluster[0].path(SECRET), "production").unwrap();
    cluster.start();
    poll::holds_for(Duration::from_secs(4), "the clusters stay apart", || {
        tree::names(cluster[1].root()).unwrap().is_empty()
    });
    assert_eq!(cluster[0].status().unwrap().peers_connected(), 0);
}

#[test]
fn another_protocol_version_is_refused_on_both_sides() {
    let mut cluster = Cluster::new(2);
    let next = cluster.dir().join("replicator-of-next-year");
    speak_another_version(&next);
    cluster[1].settings.program = Some(next);
    fs::write(cluster[0].path(SECRET), "secret content").unwrap();
    cluster.start();
    for node in cluster.nodes() {
        poll::eventually(Duration::from_secs(15), "both logs say what to do", || {
            let log = node.log();
            log.contains("another protocol version") && log.contains("upgrade the older")
        });
    }
    poll::holds_for(Duration::from_secs(3), "no file crosses", || {
        tree::names(cluster[1].root()).unwrap().is_empty()
    });
    assert!(!mentions(cluster[1].state(), SECRET), "the other version knows a file's name");
    assert!(cluster.nodes().iter().all(|node| !node.log().contains("panicked")));

    // The upgrade is all it takes.
    cluster[1].stop().unwrap();
    cluster[1].settings.program = None;
    cluster[1].start().unwrap();
    cluster.assert_same();
}

/// Copies the program under test and lets the copy speak the version that
/// comes after `replicator/7`: the compiler keeps the name in a piece or as
/// numbers of eight and of four bytes.
fn speak_another_version(copy: &Path) {
    const END: &[u8] = b"or/7";
    let mut program = fs::read(binary()).unwrap();
    let places: Vec<usize> =
        (0..program.len() - END.len()).filter(|&at| program[at..].starts_with(END)).collect();
    assert!(!places.is_empty(), "the program does not name its protocol");
    for at in places {
        program[at + END.len() - 1] += 1;
    }
    let beside = copy.with_extension("written");
    fs::write(&beside, program).unwrap();
    fs::set_permissions(&beside, Permissions::from_mode(0o755)).unwrap();
    copy_program(&beside, copy).unwrap();
}

/// Is `word` in any file of this folder?
fn mentions(folder: &Path, word: &str) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let bytes = fs::read(entry.path()).unwrap_or_default();
        bytes.windows(word.len()).any(|window| window == word.as_bytes())
    })
}
