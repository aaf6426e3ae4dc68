//! What users get wrong: one line that says what to do, the right exit code,
//! never a panic.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use replicator_tests::{Cluster, Finished, binary, machine, nobody, replicator, write_password};
use tempfile::TempDir;

const USAGE: i32 = 64;
const UNREACHABLE: i32 = 69;
const PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

/// A folder with all that a good command line names.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    write_password(dir.path(), "password", "secret\n");
    dir
}

/// A good `run`, with some words replaced.
fn run(dir: &Path, changes: &[(&str, OsString)]) -> Finished {
    let mut words: Vec<(&str, OsString)> = vec![
        ("--root", dir.join("root").into()),
        ("--state-dir", dir.join("state").into()),
        ("--listen", "127.0.0.1:0".into()),
        ("--password-file", dir.join("password").into()),
    ];
    for (name, value) in changes {
        words.retain(|(word, _)| word != name);
        words.push((*name, value.clone()));
    }
    let words = words.into_iter().flat_map(|(name, value)| [name.into(), value]);
    replicator(std::iter::once("run".into()).chain(words)).unwrap()
}

/// Ends with one of the codes, one complaint that holds `word`, and no panic.
#[track_caller]
fn assert_refused(finished: &Finished, codes: &[i32], word: &str) {
    assert!(codes.contains(&finished.code), "exit code not in {codes:?}: {finished:?}");
    let is_complaint =
        |line: &&str| line.starts_with("replicator: ") || line.starts_with("error: ");
    let complaints: Vec<&str> = finished.stderr.lines().filter(is_complaint).collect();
    assert_eq!(complaints.len(), 1, "not one complaint: {finished:?}");
    assert!(complaints[0].contains(word), "{word:?} is not in {finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

#[test]
fn a_missing_root() {
    let dir = folder();
    let missing = dir.path().join("no-such-folder");
    let finished = run(dir.path(), &[("--root", missing.into())]);
    assert_refused(&finished, &[CONFIGURATION], "no-such-folder");
}

#[test]
fn a_root_that_is_a_file() {
    let dir = folder();
    let finished = run(dir.path(), &[("--root", dir.path().join("password").into())]);
    assert_refused(&finished, &[CONFIGURATION], "password");
}

#[test]
fn a_missing_password_file() {
    let dir = folder();
    let missing = dir.path().join("no-such-file");
    let finished = run(dir.path(), &[("--password-file", missing.into())]);
    assert_refused(&finished, &[CONFIGURATION], "no-such-file");
}

#[test]
fn an_empty_password_file() {
    let dir = folder();
    let empty = write_password(dir.path(), "empty", "\n");
    let finished = run(dir.path(), &[("--password-file", empty.into())]);
    assert_refused(&finished, &[CONFIGURATION], "empty");
}

#[test]
fn an_unreadable_password_file() {
    let Some(prefix) = nobody::words(&[]) else {
        return machine::skip("needs root and setpriv to become a user who may not read a file");
    };
    let dir = folder();
    // Open, so that the password file is the only thing out of reach.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("replicator");
    fs::copy(binary(), &program).unwrap();
    let output = Command::new(&prefix[0])
        .args(&prefix[1..])
        .arg(program)
        .args(["run", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(dir.path().join("state"))
        .arg("--root")
        .arg(dir.path().join("root"))
        .arg("--password-file")
        .arg(dir.path().join("password"))
        .output()
        .unwrap();
    let finished = Finished {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert_refused(&finished, &[PERMISSION], "password");
}

#[test]
fn a_busy_port() {
    let dir = folder();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = run(dir.path(), &[("--listen", address.clone().into())]);
    assert_refused(&finished, &[2, CONFIGURATION], &address);
}

#[test]
fn a_state_directory_inside_the_root() {
    let dir = folder();
    let inside = dir.path().join("root/state");
    let finished = run(dir.path(), &[("--state-dir", inside.into())]);
    assert_refused(&finished, &[USAGE, CONFIGURATION], "state");
    assert_eq!(fs::read_dir(dir.path().join("root")).unwrap().count(), 0, "it wrote to the root");
}

#[test]
fn a_root_inside_the_state_directory() {
    let dir = folder();
    let finished = run(dir.path(), &[("--state-dir", dir.path().into())]);
    assert_refused(&finished, &[USAGE, CONFIGURATION], "root");
}

#[test]
fn words_that_mean_nothing() {
    let dir = folder();
    for (option, value) in [
        ("--listen", "not an address"),
        ("--peer", "host:notaport"),
        ("--capture", "telepathy"),
        ("--delay", "soon"),
    ] {
        let finished = run(dir.path(), &[(option, value.into())]);
        assert_refused(&finished, &[USAGE], value);
    }
    let finished = replicator(["run", "--rot", "x"]).unwrap();
    assert_refused(&finished, &[USAGE], "--rot");
    let finished = replicator(["replicate"]).unwrap();
    assert_refused(&finished, &[USAGE], "replicate");
}

#[test]
fn nothing_but_run() {
    assert_refused(&replicator(["run"]).unwrap(), &[USAGE], "missing");
}

#[test]
fn an_unknown_key_in_the_configuration_file() {
    let dir = folder();
    let file = dir.path().join("replicator.toml");
    fs::write(&file, "root = \"/srv/www\"\npasword_file = \"/etc/password\"\n").unwrap();
    let finished = replicator(["run".into(), "--config".into(), file.into_os_string()]).unwrap();
    assert_refused(&finished, &[CONFIGURATION], "did you mean 'password_file'");
    assert!(finished.stderr.contains(":2:"), "the line is not named: {finished:?}");
}

#[test]
fn commands_without_a_daemon() {
    let dir = folder();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    for verb in ["status", "wait", "verify"] {
        let words = [verb.into(), OsString::from("--state-dir"), state.clone().into_os_string()];
        assert_refused(&replicator(words).unwrap(), &[UNREACHABLE], "state");
    }
}

#[test]
fn a_second_daemon_on_the_same_state() {
    let cluster = Cluster::running(1);
    let settings = &cluster[0].settings;
    let root = cluster.dir().join("another-root");
    fs::create_dir(&root).unwrap();
    let words: [OsString; 9] = [
        "run".into(),
        "--root".into(),
        root.into(),
        "--state-dir".into(),
        settings.state.clone().into(),
        "--listen".into(),
        "127.0.0.1:0".into(),
        "--password-file".into(),
        settings.password.clone().into(),
    ];
    let finished = replicator(words).unwrap();
    assert_refused(&finished, &[CONFIGURATION], "state");
    assert!(cluster[0].status().is_ok(), "the first daemon suffered");
}

#[test]
fn a_peer_that_does_not_answer_is_no_reason_to_end() {
    let mut cluster = Cluster::new(2);
    cluster[0].start().unwrap();
    fs::write(cluster[0].path("file"), "alone for now").unwrap();
    // The other one comes late.
    cluster[1].start().unwrap();
    cluster.assert_same();
}
