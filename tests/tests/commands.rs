//! What the commands say of a node, and what scripts read from them.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use replicator_tests::mapping::{Mapping, PAGE_BYTES};
use replicator_tests::{
    Cluster, FileSystem, Finished, Stopped, Volume, binary, copy_program, machine, nobody, poll,
    replicator, sample,
};
use serde_json::Value;

fn json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[test]
fn verify_names_what_changed_though_nobody_told_of_it() {
    let mut cluster = Cluster::new(2).with_options(&["--capture", "inotify"]);
    fs::create_dir(cluster[0].path("folder")).unwrap();
    fs::write(cluster[0].path("folder/mapped"), vec![b'.'; PAGE_BYTES]).unwrap();
    fs::write(cluster[0].path("other"), "untouched").unwrap();
    cluster.start();
    cluster.assert_same();
    let same = cluster[0].command(&["verify"]).unwrap();
    assert_eq!(same.code, 0, "{same:?}");
    assert!(same.stdout.starts_with("checked 2 files, 4.0 KiB, in "), "{same:?}");
    assert!(same.stdout.contains("b (") && same.stdout.contains("holds the same tree"), "{same:?}");

    let mapping = Mapping::of(&cluster[0].path("folder/mapped")).unwrap();
    // No event tells the lower capture levels of a store.
    let store = |byte| {
        mapping.store(byte);
        mapping.sync().unwrap();
    };
    store(b'1');
    let differs = cluster[0].command(&["verify"]).unwrap();
    assert_eq!(differs.code, 1, "{differs:?}");
    assert!(differs.stdout.contains(": 1 differ\n"), "{differs:?}");
    let line = "  folder/mapped: changed here, and no event told of it\n";
    assert!(differs.stdout.contains(line), "{differs:?}");
    // It is a change like any other from now on.
    cluster.assert_same();
    assert_eq!(fs::read(cluster[1].path("folder/mapped")).unwrap()[0], b'1');

    store(b'2');
    let differs = cluster[0].command(&["verify", "--json"]).unwrap();
    let found = json(&differs);
    assert_eq!(differs.code, 1, "{found}");
    assert_eq!(found["differing_total"], 1, "{found}");
    assert_eq!(found["differing"][0]["path"], "folder/mapped", "{found}");
    assert_eq!(found["peers"][0]["agrees"], true, "{found}");
    let found = json(&cluster[0].command(&["verify", "--json"]).unwrap());
    assert_eq!(found["files"], 2, "{found}");
    assert_eq!(found["bytes"], 4105, "{found}");
    assert_eq!(found["differing"], Value::Array(vec![]), "{found}");

    // Without the peer that should be there nothing is compared with it.
    cluster[1].stop().unwrap();
    let alone = || cluster[0].command(&["verify"]).unwrap();
    poll::eventually(Duration::from_secs(10), "the peer is missed", || {
        alone().stdout.ends_with("no peer is connected to compare with\n")
    });
    assert_eq!(alone().code, 1);
}

/// Nobody asks for it, and no event tells of the store.
#[test]
fn what_no_event_tells_of_comes_with_the_periodic_verification() {
    let options = ["--capture", "inotify", "--verify-interval", "5s"];
    let mut cluster = Cluster::new(2).with_options(&options);
    fs::write(cluster[0].path("mapped"), vec![b'.'; PAGE_BYTES]).unwrap();
    cluster.start();
    cluster.assert_same();
    let mapping = Mapping::of(&cluster[0].path("mapped")).unwrap();
    for byte in *b"12" {
        mapping.store(byte);
        mapping.sync().unwrap();
        poll::eventually(Duration::from_secs(60), "the store arrives", || {
            fs::read(cluster[1].path("mapped")).unwrap()[0] == byte
        });
    }
}

#[test]
fn wait_says_who_is_silent() {
    let cluster = Cluster::running(2);
    cluster.assert_same();
    let stopped = Stopped::new(&cluster[1]);
    fs::write(cluster[0].path("news"), "not there yet").unwrap();
    // Less than it takes to notice that the peer is gone.
    let waited = cluster[0].command(&["wait", "--timeout", "2s"]).unwrap();
    assert_eq!(waited.code, 1, "{waited:?}");
    assert!(waited.stdout.starts_with("not in sync after 2"), "{waited:?}");
    assert!(waited.stdout.contains("  node b ("), "{waited:?}");
    assert!(waited.stdout.contains("): it gave no answer in time\n"), "{waited:?}");
    drop(stopped);
    cluster.assert_same();
}

#[test]
fn the_first_node_misses_the_others_too() {
    let mut cluster = Cluster::running(2);
    cluster.assert_same();
    cluster[1].stop().unwrap();
    poll::eventually(Duration::from_secs(10), "the peer is missed", || {
        let waited = cluster[0].command(&["wait", "--timeout", "1s"]).unwrap();
        waited.code == 1 && waited.stdout.ends_with("  no peer is connected\n")
    });
    cluster[1].start().unwrap();
    cluster.assert_same();
}

#[test]
fn a_user_who_writes_does_not_make_verify_complain() {
    write_and_verify(&[]);
}

/// inotify tells of one name where a file has several.
#[test]
fn nor_where_only_names_are_told() {
    write_and_verify(&["--capture", "inotify"]);
}

fn write_and_verify(options: &[&str]) {
    let mut cluster = Cluster::new(2).with_options(options);
    cluster.start();
    sample::look_alike(&cluster[0].path("site")).unwrap();
    cluster.assert_same();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let log = File::create(cluster[0].path("log")).unwrap();
            // Ends by itself should the story fail.
            for number in 0u64..3000 {
                log.write_all_at(&number.to_le_bytes(), number * 8).unwrap();
                fs::write(cluster[0].path("site/index.php"), number.to_string()).unwrap();
                fs::write(cluster[0].path(format!("{number}")), "new").unwrap();
                if number % 2 == 1 {
                    fs::remove_file(cluster[0].path(format!("{}", number - 1))).unwrap();
                }
                if done.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let verified: Vec<_> = (0..3).map(|_| cluster[0].command(&["verify"]).unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        for finished in verified {
            assert_eq!(finished.code, 0, "{finished:?}");
        }
    });
    cluster.assert_same();
}

#[test]
fn a_stopped_node_has_a_last_report() {
    let mut cluster = Cluster::new(2).with_options(&["--status-interval", "1s"]);
    cluster.start();
    fs::write(cluster[0].path("file"), "content").unwrap();
    cluster.assert_same();
    let report = || fs::read_to_string(cluster[0].state().join("replicator.status"));
    poll::eventually(Duration::from_secs(20), "the report is written", || {
        report().is_ok_and(|text| text.contains("1 files") && text.contains("in sync"))
    });
    // What a check made for lsyncd reads.
    let text = report().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains(" status report at "), "{text}");
    let source = format!("Sync1 source={}/", cluster[0].root().canonicalize().unwrap().display());
    assert_eq!(lines[1..4], ["", &source, "There are 0 delays"], "{text}");
    assert_eq!(lines[4..7], ["Filtering:", "  nothing.", ""], "{text}");

    cluster[0].stop().unwrap();
    let last = cluster[0].command(&["status"]).unwrap();
    assert_eq!(last.code, 69, "{last:?}");
    assert!(last.stdout.starts_with("Not running. The last report is "), "{last:?}");
    assert!(last.stdout.contains(&source) && last.stdout.contains("1 files"), "{last:?}");
    assert!(last.stderr.contains("no replicator runs on the state directory"), "{last:?}");
    let last = cluster[0].command(&["status", "--json"]).unwrap();
    assert_eq!(last.code, 69, "{last:?}");
    let facts = json(&last);
    assert_eq!(facts["folder"]["state"], "not running", "{facts}");
    assert_eq!(facts["folder"]["files"], 1, "{facts}");
    assert!(facts["taken_ms"].as_u64().unwrap() > 0, "{facts}");

    let never = cluster.dir().join("never-ran");
    fs::create_dir(&never).unwrap();
    let words = ["status", "--json", "--state-dir"].map(OsStr::new);
    let finished = replicator(words.iter().copied().chain([never.as_os_str()])).unwrap();
    assert_eq!((finished.code, finished.stdout.as_str()), (69, ""), "{finished:?}");
}

#[test]
fn the_doctor_does_not_mind_what_does_no_harm() {
    // Which cannot let files share blocks.
    let Some(volume) = Volume::or_skip(FileSystem::Ext4) else { return };
    let words = ["doctor", "--root"].map(OsStr::new);
    let finished = replicator(words.into_iter().chain([volume.path().as_os_str()])).unwrap();
    let starts = |start: &str| finished.stdout.lines().any(|line| line.starts_with(start));
    assert!(starts("absent  reflink"), "{finished:?}");
    assert_eq!(finished.code, i32::from(starts("missing ")), "{finished:?}");
}

/// By the trials that `run` makes, and in its words.
#[test]
fn the_doctor_says_when_a_folder_cannot_be_served() {
    let doctor = |root: &Path| {
        let words = ["doctor", "--root"].map(OsStr::new);
        replicator(words.into_iter().chain([root.as_os_str()])).unwrap()
    };
    let refused = |finished: &Finished, why: &str| {
        let text = finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(finished.code, 1, "{text}");
        assert!(text.contains(why), "{why:?} is not in {text}");
        assert!(text.ends_with("This folder cannot be served: `replicator run` would refuse it."));
    };
    let dir = tempfile::tempdir().unwrap();
    let modified = || fs::metadata(dir.path()).unwrap().modified().unwrap();
    let before = modified();
    let served = doctor(dir.path());
    assert!(!served.stdout.contains("refused"), "{served:?}");
    assert_eq!(modified(), before, "it left a trace");
    fs::write(dir.path().join(".replicator"), "in the way").unwrap();
    refused(&doctor(dir.path()), "refused folder");
    refused(&doctor(Path::new("/proc")), "lies on proc, which lacks files of users");
    // A file system of whole seconds.
    let Some(volume) = Volume::or_skip(FileSystem::Ext2) else { return };
    refused(&doctor(volume.path()), "refused fine times");
    refused(&doctor(volume.path()), "which lacks times finer than a microsecond;");
}

/// Those that the README names, and those that files of others need.
#[test]
fn the_doctor_lacks_nothing_that_sys_admin_stands_for() {
    let given = ["sys_admin", "dac_read_search", "dac_override", "chown", "fowner"];
    let Some(prefix) = nobody::words(&given) else {
        return machine::skip("needs root and setpriv to become a user with some capabilities");
    };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("replicator");
    copy_program(binary(), &program).unwrap();
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).arg(program).args(["doctor", "--root"]).arg(dir.path());
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let line = text.lines().find(|line| line.contains("privileges")).unwrap();
    assert!(line.starts_with("ok "), "{text}");
}

#[test]
fn the_doctor_says_what_is_there_and_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = |root: &Path| {
        let words = ["doctor", "--root"].map(OsStr::new);
        replicator(words.iter().copied().chain([root.as_os_str()])).unwrap()
    };
    // Lines are folded for a terminal.
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let finished = doctor(dir.path());
    let missing = finished.stdout.lines().any(|line| line.starts_with("missing "));
    assert_eq!(finished.code, i32::from(missing), "{finished:?}");
    let told = |name: &str| {
        let starts = |line: &&str| {
            line.strip_prefix("ok")
                .or(line.strip_prefix("missing"))
                .is_some_and(|rest| rest.trim_start().starts_with(name))
        };
        finished.stdout.lines().any(|line| starts(&line))
    };
    for name in ["kernel", "privileges", "io_uring", "capture", "exchange"] {
        assert!(told(name), "{name}: {}", finished.stdout);
    }
    let cluster = Cluster::running(1);
    let status = cluster[0].status().unwrap();
    if status.capture() == "ebpf" {
        assert!(plain(&finished.stdout).contains(status.hooks()), "{}", finished.stdout);
    }
    let nowhere = doctor(&dir.path().join("nowhere"));
    assert_eq!(nowhere.code, 78, "{nowhere:?}");
    assert!(nowhere.stderr.contains("cannot look at the folder"), "{nowhere:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "it left something");

    // Who lacks something is told what that costs.
    let Some(prefix) = nobody::words(&[]) else {
        return machine::skip("needs root and setpriv to become a user who lacks something");
    };
    let program = dir.path().join("replicator");
    copy_program(binary(), &program).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).arg(program).args(["doctor", "--root"]).arg(dir.path());
    let output = command.output().unwrap();
    let text = plain(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("missing privileges") && text.contains("CAP_SYS_ADMIN"), "{text}");
    assert!(text.contains("run as root or grant the capabilities"), "{text}");
}
