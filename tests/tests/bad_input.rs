//! What users get wrong: one line that says what to do, the right exit code,
//! never a panic.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use replicator_tests::{
    Cluster, FileSystem, Finished, Volume, binary, copy_program, finish, levels, machine, nobody,
    replicator, write_password,
};
use tempfile::TempDir;

const USAGE: i32 = 64;
const UNREACHABLE: i32 = 69;
const PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

/// Who is refused has ended by then.
const LIMIT: Duration = Duration::from_secs(30);

/// A folder with all that a good command line names.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    write_password(dir.path(), "password", "secret\n");
    dir
}

/// The arguments of a good `run`, with some words replaced.
fn arguments(dir: &Path, changes: &[(&str, OsString)]) -> Vec<OsString> {
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
    std::iter::once("run".into()).chain(words).collect()
}

fn run(dir: &Path, changes: &[(&str, OsString)]) -> Finished {
    replicator(arguments(dir, changes)).unwrap()
}

/// The same with words before the program.
fn run_by(prefix: &[OsString], program: &Path, arguments: Vec<OsString>) -> Finished {
    let mut command = Command::new(&prefix[0]);
    finish(command.args(&prefix[1..]).arg(program).args(arguments), LIMIT).unwrap()
}

/// The same by a user who may do nothing special and owns what the arguments
/// name, save what `closed` takes back; `None` where there is no such user.
fn run_by_nobody(
    dir: &Path,
    changes: &[(&str, OsString)],
    closed: impl FnOnce(),
) -> Option<Finished> {
    let Some(prefix) = nobody::words(&[]) else {
        machine::skip("needs root and setpriv to become a user who may do nothing special");
        return None;
    };
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let program = dir.join("replicator");
    copy_program(binary(), &program).unwrap();
    fs::create_dir_all(dir.join("state")).unwrap();
    for name in ["root", "state", "password"] {
        chown(dir.join(name), Some(nobody::ID), Some(nobody::ID)).unwrap();
    }
    closed();
    Some(run_by(&prefix, &program, arguments(dir, changes)))
}

/// Ends with this code, one complaint that holds `word`, and no panic.
#[track_caller]
fn assert_refused(finished: &Finished, code: i32, word: &str) {
    assert_eq!(finished.code, code, "{finished:?}");
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
    assert_refused(&finished, CONFIGURATION, "no-such-folder");
}

#[test]
fn a_root_that_is_a_file() {
    let dir = folder();
    let file = dir.path().join("a-file");
    fs::write(&file, "content").unwrap();
    let finished = run(dir.path(), &[("--root", file.into())]);
    assert_refused(&finished, CONFIGURATION, "a-file is not a directory");
}

#[test]
fn a_root_on_a_file_system_that_takes_no_files() {
    let dir = folder();
    for (root, name) in [("/proc", "lies on proc"), ("/sys", "lies on sysfs")] {
        let finished = run(dir.path(), &[("--root", root.into())]);
        assert_refused(&finished, CONFIGURATION, name);
    }
}

/// What is said was tried out on the file system itself.
fn unfit(kind: FileSystem, name: &str, lacks: &[&str]) {
    let Some(volume) = Volume::or_skip(kind) else { return };
    let dir = folder();
    let finished = run(dir.path(), &[("--root", volume.path().into())]);
    assert_refused(&finished, CONFIGURATION, &format!("lies on {name}, which lacks "));
    assert!(lacks.iter().any(|lack| finished.stderr.contains(lack)), "{finished:?}");
}

#[test]
fn a_root_on_vfat() {
    unfit(FileSystem::Vfat, "FAT", &["hard links", "RENAME_EXCHANGE"]);
}

#[test]
fn a_root_on_a_file_system_of_whole_seconds() {
    unfit(
        FileSystem::Ext2,
        "ext2, ext3 or ext4",
        &["times finer than a microsecond", "RENAME_EXCHANGE"],
    );
}

/// What is to be moved away is said with where it lies.
#[test]
fn an_index_that_is_none() {
    let dir = folder();
    let state = dir.path().join("state");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("index.redb"), [7; 10_000]).unwrap();
    let finished = run(dir.path(), &[]);
    assert_refused(&finished, 2, &format!("in {}: index.redb", state.display()));
    assert!(finished.stderr.contains("move it away"), "{finished:?}");
}

#[test]
fn a_missing_password_file() {
    let dir = folder();
    let missing = dir.path().join("no-such-file");
    let finished = run(dir.path(), &[("--password-file", missing.into())]);
    assert_refused(&finished, CONFIGURATION, "no-such-file");
}

#[test]
fn an_empty_password_file() {
    let dir = folder();
    let empty = write_password(dir.path(), "empty", "\n");
    let finished = run(dir.path(), &[("--password-file", empty.into())]);
    assert_refused(&finished, CONFIGURATION, "empty");
}

#[test]
fn an_unreadable_password_file() {
    let dir = folder();
    let close = || chown(dir.path().join("password"), Some(0), Some(0)).unwrap();
    let Some(finished) = run_by_nobody(dir.path(), &[], close) else { return };
    assert_refused(&finished, PERMISSION, "password");
}

#[test]
fn a_password_file_that_would_be_replicated() {
    let dir = folder();
    let inside = write_password(&dir.path().join("root"), "password", "secret\n");
    std::os::unix::fs::symlink(&inside, dir.path().join("link")).unwrap();
    for path in [inside, dir.path().join("link")] {
        let finished = run(dir.path(), &[("--password-file", path.into())]);
        assert_refused(&finished, USAGE, "lies inside the root");
        assert!(finished.stderr.contains("--password-file"), "{finished:?}");
    }
}

#[test]
fn an_unreadable_node_key() {
    let dir = folder();
    let make = || drop(write_password(&dir.path().join("state"), "node.key", "another's"));
    let Some(finished) = run_by_nobody(dir.path(), &[], make) else { return };
    assert_refused(&finished, PERMISSION, "node.key");
}

#[test]
fn a_node_key_that_others_can_read() {
    let dir = folder();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let key = write_password(&state, "node.key", "of this node");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    assert_refused(&run(dir.path(), &[]), CONFIGURATION, "chmod 600");
}

#[test]
fn a_port_for_the_privileged() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if !first.is_ok_and(|first| first.trim().parse::<u16>().is_ok_and(|first| first > 80)) {
        return machine::skip("every user may use every port here");
    }
    let dir = folder();
    let changes = [("--listen", "127.0.0.1:80".into())];
    let Some(finished) = run_by_nobody(dir.path(), &changes, || ()) else { return };
    assert_refused(&finished, PERMISSION, "choose a port above 1023");
}

#[test]
fn capture_levels_for_the_privileged() {
    for level in ["ebpf", "fanotify"] {
        let dir = folder();
        let changes = [("--capture", level.into())];
        if levels::lacks(dir.path(), level).is_some_and(|lack| !lack.contains("root")) {
            machine::skip("no user can have this level here");
            continue;
        }
        let Some(finished) = run_by_nobody(dir.path(), &changes, || ()) else { return };
        assert_refused(&finished, PERMISSION, level);
    }
}

#[test]
fn a_filter_of_the_environment_that_means_nothing() {
    let dir = folder();
    let prefix = ["env".into(), OsString::from("RUST_LOG=lod")];
    let finished = run_by(&prefix, binary(), arguments(dir.path(), &[]));
    assert_refused(&finished, CONFIGURATION, "RUST_LOG: 'lod' is none of error warn info");
    // A flag wins, whatever the environment says.
    let changes = [("--log", "info".into()), ("--root", dir.path().join("none").into())];
    let finished = run_by(&prefix, binary(), arguments(dir.path(), &changes));
    assert_refused(&finished, CONFIGURATION, "does not exist");
}

#[test]
fn a_busy_port() {
    let dir = folder();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = run(dir.path(), &[("--listen", address.clone().into())]);
    assert_refused(&finished, CONFIGURATION, &address);
}

#[test]
fn a_state_directory_inside_the_root() {
    let dir = folder();
    let inside = dir.path().join("root/state");
    let finished = run(dir.path(), &[("--state-dir", inside.into())]);
    assert_refused(&finished, USAGE, "state");
    assert_eq!(fs::read_dir(dir.path().join("root")).unwrap().count(), 0, "it wrote to the root");
}

#[test]
fn a_root_inside_the_state_directory() {
    let dir = folder();
    let finished = run(dir.path(), &[("--state-dir", dir.path().into())]);
    assert_refused(&finished, USAGE, "root");
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
        assert_refused(&finished, USAGE, value);
    }
    let finished = replicator(["run", "--rot", "x"]).unwrap();
    assert_refused(&finished, USAGE, "--rot");
    let finished = replicator(["replicate"]).unwrap();
    assert_refused(&finished, USAGE, "replicate");
}

#[test]
fn nothing_but_run() {
    assert_refused(&replicator(["run"]).unwrap(), USAGE, "missing");
}

#[test]
fn an_unknown_key_in_the_configuration_file() {
    let dir = folder();
    let file = dir.path().join("replicator.toml");
    fs::write(&file, "root = \"/srv/www\"\npasword_file = \"/etc/password\"\n").unwrap();
    let finished = replicator(["run".into(), "--config".into(), file.into_os_string()]).unwrap();
    assert_refused(&finished, CONFIGURATION, "did you mean 'password_file'");
    assert!(finished.stderr.contains(":2:"), "the line is not named: {finished:?}");
}

/// Who starts it by hand mends the command line, who starts it by a service
/// the file.
#[test]
fn a_bad_value_beside_a_configuration_file_and_in_it() {
    let dir = folder();
    let file = dir.path().join("replicator.toml");
    let line = |key: &str, name: &str| format!("{key} = {:?}\n", dir.path().join(name));
    let good =
        [line("root", "root"), line("state_dir", "state"), line("password_file", "password")];
    let run_with = |extra: &str, flags: &[&str]| {
        fs::write(&file, good.concat() + extra).unwrap();
        let words = ["run".into(), "--config".into(), file.clone().into_os_string()];
        replicator(words.into_iter().chain(flags.iter().map(OsString::from))).unwrap()
    };
    for (flag, key, value) in [
        ("--listen", "listen", "not an address"),
        ("--peer", "peers", "host:notaport"),
        ("--capture", "capture", "telepathy"),
        ("--delay", "delay", "soon"),
        ("--log", "log", "loud"),
    ] {
        let by_flag = run_with("", &[flag, value]);
        assert_refused(&by_flag, USAGE, &format!("{flag}: '{value}' "));
        let in_file = run_with(&format!("{key} = '{value}'\n"), &[]);
        assert_refused(&in_file, CONFIGURATION, &format!("replicator.toml:4: {key}: '{value}' "));
    }
    let inside = dir.path().join("root/state");
    let by_flag = run_with("", &["--state-dir", inside.to_str().unwrap()]);
    assert_refused(&by_flag, USAGE, "--state-dir");
    // A good flag in its place makes up for a bad value in the file.
    let mended = run_with("delay = 'soon'\n", &["--delay", "0s", "--listen", "not an address"]);
    assert_refused(&mended, USAGE, "not an address");
}

#[test]
fn commands_without_a_daemon() {
    let dir = folder();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    for verb in ["status", "wait", "verify"] {
        let words = [verb.into(), OsString::from("--state-dir"), state.clone().into_os_string()];
        assert_refused(&replicator(words).unwrap(), UNREACHABLE, "state");
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
    assert_refused(&finished, CONFIGURATION, "state");
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
