//! Other people's programs work in one node's folder while the cluster
//! follows, and other people's judges look at what came of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use replicator_tests::tree::PRIVATE_DIR;
use replicator_tests::{Cluster, FileSystem, Volume, end_with_this_thread, machine, poll};

/// These trees are larger than those of other stories.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// The program, or a word about why the story is not told.
fn program(name: &str) -> Option<PathBuf> {
    let found = machine::program(name);
    if found.is_none() {
        machine::skip(&format!("{name} is not installed"));
    }
    found
}

/// Runs a program in a folder and demands success.
#[track_caller]
fn run<I, S>(program: &Path, folder: &Path, arguments: I) -> String
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments);
    machine::run(&mut command).unwrap_or_else(|error| panic!("{error:#}"))
}

#[track_caller]
fn assert_followed(cluster: &Cluster) {
    cluster.assert_same_within(SETTLE_LIMIT);
    cluster.assert_rsync_agrees();
}

/// Random writes, truncations, holes, copies and mapped stores, each checked
/// by `fsx` itself.
#[test]
fn fsx() {
    fsx_in(Cluster::new(2));
}

#[test]
fn fsx_on_xfs() {
    let Some(volume) = Volume::or_skip(FileSystem::Xfs) else { return };
    fsx_in(Cluster::new(2).with_roots_in(volume.path()));
}

#[test]
fn fsx_on_btrfs() {
    let Some(volume) = Volume::or_skip(FileSystem::Btrfs) else { return };
    fsx_in(Cluster::new(2).with_roots_in(volume.path()));
}

fn fsx_in(mut cluster: Cluster) {
    let Some(fsx) = program("fsx") else { return };
    cluster.start();
    let configuration = cluster.dir().join("fsx.toml");
    let weights = "[weights]\nread = 5\nwrite = 10\nmapread = 5\nmapwrite = 10\ntruncate = 3\n\
                   fsync = 1\nfdatasync = 1\ncopy_file_range = 3\nsendfile = 1\n\
                   punch_hole = 3\nposix_fallocate = 1\nclose_open = 1\ninvalidate = 1\n";
    // Stores that nobody syncs are the hard case.
    for (seed, unsynced) in [("1", true), ("2", true), ("3", false)] {
        let length = format!("flen = 1048576\nnomsyncafterwrite = {unsynced}\n");
        fs::write(&configuration, length + weights).unwrap();
        let file = cluster[0].path(format!("fsx-{seed}"));
        let options = ["-N", "3000", "-S", seed, "-f"].map(OsStr::new);
        let places = [configuration.as_os_str(), file.as_os_str()];
        run(&fsx, cluster.dir(), options.into_iter().chain(places));
        assert_followed(&cluster);
    }
}

/// stress-ng's file-system class, and what else of it writes files: names,
/// inodes, bytes. Left out is what mounts (bind-mount, binderfs), what writes
/// no file (dup, eventfd, fstat, getdent, handle, io, ioprio, procfs), flags
/// that are not replicated (inode-flags, verity), and copy-file, whose file
/// has 256 MiB.
const STRESSORS: [&str; 3] = [
    "chdir dentry dir dirdeep dirmany dnotify fanotify filename inotify mknod open rename touch",
    "access chattr chmod chown fcntl file-ioctl flock lease utime xattr",
    "fallocate fiemap fpunch fsize hdd iomix locka lockf lockofd mmap seek sync-file",
];

/// These make 8192 names each, whatever they are told: once is enough.
const LONG_STRESSORS: &str = "link symlink";

/// Keeps them from making as much as they can.
const MODERATION: &str = "--chdir-dirs 256 --dentries 256 --dir-dirs 256 --dirdeep-inodes 500 \
    --fallocate-bytes 8m --fiemap-bytes 8m --hdd-bytes 8m --iomix-bytes 8m --mmap-bytes 8m \
    --mmap-file --sync-file-bytes 8m";

/// The words that make it stress the root of the first node.
fn stressing(cluster: &Cluster, stressors: &str, seconds: &str) -> Vec<String> {
    let place = cluster[0].root().display().to_string();
    let each = stressors.split_whitespace().flat_map(|name| [format!("--{name}"), "1".into()]);
    let mut words: Vec<String> = each.collect();
    words.extend(MODERATION.split_whitespace().map(String::from));
    words.extend(["--temp-path".into(), place, "--timeout".into(), seconds.into()]);
    words
}

/// Names that come and go by the ten thousand, where each is told and looked
/// for by itself.
#[test]
fn stress_ng_through_inotify() {
    let Some(stress) = program("stress-ng") else { return };
    let mut cluster = Cluster::new(2).with_options(&["--capture", "inotify"]);
    cluster.start();
    let stressors = format!("{} {LONG_STRESSORS}", STRESSORS[0]);
    run(&stress, cluster.dir(), stressing(&cluster, &stressors, "3"));
    assert_followed(&cluster);
}

#[test]
fn stress_ng() {
    let Some(stress) = program("stress-ng") else { return };
    let cluster = Cluster::running(2);
    let words = |stressors: &str, seconds: &str| stressing(&cluster, stressors, seconds);
    // To the end, where each takes away what it made.
    for stressors in STRESSORS {
        run(&stress, cluster.dir(), words(stressors, "3"));
        assert_followed(&cluster);
    }
    // Killed in the midst of it, so that there is something left; without
    // devices, which are not replicated.
    let all = format!("{} {LONG_STRESSORS}", STRESSORS.join(" ").replace("mknod ", ""));
    let mut command = Command::new(&stress);
    // Some of it writes where it was started.
    command.current_dir(cluster.dir()).args(words(&all, "60")).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    end_with_this_thread(&mut command);
    let mut killed = command.spawn().unwrap();
    poll::eventually(SETTLE_LIMIT, "there is something", || {
        fs::read_dir(cluster[0].root()).unwrap().count() > 12
    });
    let (moment, stressed) = (Instant::now(), Duration::from_secs(2));
    poll::until(2 * stressed, || moment.elapsed() > stressed);
    let group = rustix::process::Pid::from_child(&killed);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    killed.wait().unwrap();
    if !machine::is_root() {
        // What a user may not read, no program of that user can follow.
        let left = fs::read_dir(cluster[0].root()).unwrap().map(|entry| entry.unwrap().path());
        let left = left.filter(|path| !path.ends_with(PRIVATE_DIR)).map(PathBuf::into_os_string);
        let words = ["-R".into(), "u+rwX".into()].into_iter().chain(left);
        run(Path::new("chmod"), cluster.dir(), words);
    }
    assert_followed(&cluster);
}

#[test]
fn fio() {
    let Some(fio) = program("fio") else { return };
    let cluster = Cluster::running(2);
    let engines: [(&str, &[&str]); 12] = [
        ("sync", &[]),
        ("psync", &["--direct=1"]),
        ("vsync", &[]),
        ("pvsync", &[]),
        ("pvsync2", &[]),
        ("splice", &[]),
        ("libaio", &["--iodepth=8"]),
        ("libaio", &["--iodepth=8", "--direct=1"]),
        ("io_uring", &["--iodepth=8"]),
        ("io_uring", &["--iodepth=8", "--direct=1", "--sqthread_poll=1"]),
        ("posixaio", &["--iodepth=4"]),
        ("mmap", &[]),
    ];
    for (number, (engine, options)) in engines.into_iter().enumerate() {
        let common = [
            format!("--name={number}-{engine}"),
            format!("--ioengine={engine}"),
            format!("--directory={}", cluster[0].root().display()),
            format!("--randseed={number}"),
        ];
        let fixed =
            ["--rw=randrw", "--bssplit=4k/50:512/25:20k/25", "--size=4m", "--verify=crc32c"];
        let direct = options.contains(&"--direct=1");
        let fixed = if direct { ["--rw=randrw", "--bs=4k", fixed[2], fixed[3]] } else { fixed };
        let fixed = fixed.iter().chain(options).map(|option| option.to_string());
        run(&fio, cluster.dir(), common.into_iter().chain(fixed));
    }
    // These move no bytes that could be verified: they allocate, punch holes
    // and cut off.
    for (engine, kind) in
        [("falloc", "randwrite"), ("falloc", "randtrim"), ("ftruncate", "randwrite")]
    {
        let file = cluster[0].path(format!("{engine}-{kind}"));
        fs::write(&file, [b'x'; 1 << 20]).unwrap();
        let words = ["--name=space", "--bs=4k", "--size=1m", "--io_size=512k"].map(str::to_owned);
        let of_kind = [
            format!("--ioengine={engine}"),
            format!("--rw={kind}"),
            format!("--filename={}", file.display()),
        ];
        run(&fio, cluster.dir(), words.into_iter().chain(of_kind));
    }
    assert_followed(&cluster);
}

#[test]
fn sqlite() {
    let Some(sqlite) = program("sqlite3") else { return };
    let cluster = Cluster::running(2);
    let place = |node: usize| cluster[node].path("data.db").into_os_string();
    let ask =
        |node: usize, words: &str| run(&sqlite, cluster.dir(), [&*place(node), words.as_ref()]);
    ask(0, "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);");
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let ask = &ask;
            scope.spawn(move || {
                for _ in 0..15 {
                    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
                                  WHERE i < 50) INSERT INTO t (body) SELECT randomblob(700) FROM n;";
                    let other = ["UPDATE t SET body = zeroblob(900) WHERE id % 17 = 3;",
                                 "DELETE FROM t WHERE id % 23 = 5;"][writer];
                    ask(0, &format!("PRAGMA busy_timeout = 20000; {insert} {other}"));
                }
            });
        }
    });
    ask(0, "VACUUM;");
    assert_followed(&cluster);
    // The judge may write beside the database: it is shown a copy.
    let count = |node: usize| {
        let copy = cluster.dir().join(format!("copy-{node}.db"));
        fs::copy(place(node), &copy).unwrap();
        let words = "PRAGMA integrity_check; SELECT count(*), sum(length(body)) FROM t;";
        run(&sqlite, cluster.dir(), [copy.as_os_str(), words.as_ref()])
    };
    let here = count(0);
    assert!(here.starts_with("ok\n"), "{here}");
    assert_eq!(count(1), here);
}

#[test]
fn git() {
    let Some(git) = program("git") else { return };
    let cluster = Cluster::running(2);
    let origin = cluster.dir().join("origin");
    fs::create_dir(&origin).unwrap();
    let git_in = |folder: &Path, words: &[&str]| {
        let identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"];
        let safe = ["-c", "safe.directory=*", "-c", "gc.auto=0"];
        run(&git, folder, identity.iter().chain(&safe).chain(words).copied())
    };
    git_in(&origin, &["init", "-q"]);
    for commit in 0..30 {
        for file in 0..10 {
            let folder = origin.join(format!("{}", file % 3));
            fs::create_dir_all(&folder).unwrap();
            let text = format!("{commit} {file}\n").repeat(50 + commit);
            fs::write(folder.join(format!("{file}")), text).unwrap();
        }
        git_in(&origin, &["add", "-A"]);
        git_in(&origin, &["commit", "-q", "-m", &format!("commit {commit}")]);
    }
    let (from, clone) = (format!("file://{}", origin.display()), cluster[0].path("clone"));
    git_in(cluster[0].root(), &["clone", "-q", &from, "clone"]);
    git_in(&clone, &["checkout", "-q", "HEAD~15"]);
    git_in(&clone, &["checkout", "-q", "-b", "side"]);
    for commit in 0..10 {
        fs::write(clone.join("new"), format!("{commit}").repeat(3000)).unwrap();
        git_in(&clone, &["add", "-A"]);
        git_in(&clone, &["commit", "-q", "-m", "more"]);
    }
    git_in(&clone, &["gc", "-q", "--aggressive", "--prune=now"]);
    assert_followed(&cluster);
    let there = cluster[1].path("clone");
    git_in(&there, &["fsck", "--full", "--strict"]);
    assert_eq!(
        git_in(&there, &["log", "--all", "--format=%H"]),
        git_in(&clone, &["log", "--all", "--format=%H"])
    );
    assert_eq!(git_in(&there, &["status", "--porcelain"]), "");
    // What the judge refreshed there comes back here.
    cluster.assert_same_within(SETTLE_LIMIT);
}
