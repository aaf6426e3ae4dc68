//! Everything an application can do to a tree, on either node.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use replicator_tests::{Cluster, FileSystem, Volume, levels, machine, poll, sample};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, RenameFlags, Timespec, Timestamps, XattrFlags,
};

/// How long one operation may take to arrive; a hundred times what it should.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);

/// One operation, in a folder that [`prepare`] filled.
type Operation = (&'static str, fn(&Path) -> io::Result<()>);

const OPERATIONS: [Operation; 27] = [
    ("create", |dir| fs::write(dir.join("new"), "new")),
    ("create empty", |dir| File::create(dir.join("empty")).map(drop)),
    ("append", |dir| {
        OpenOptions::new().append(true).open(dir.join("file"))?.write_all(b" and more")
    }),
    ("overwrite", |dir| fs::write(dir.join("file"), "something else entirely")),
    ("overwrite a part", |dir| {
        OpenOptions::new().write(true).open(dir.join("file"))?.write_all_at(b"PART", 2)
    }),
    ("truncate", |dir| OpenOptions::new().write(true).open(dir.join("file"))?.set_len(3)),
    ("grow by a hole", |dir| {
        OpenOptions::new().write(true).open(dir.join("file"))?.set_len(8 << 20)
    }),
    ("punch a hole", |dir| {
        let file = OpenOptions::new().write(true).open(dir.join("large"))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&file, flags, 64 << 10, 128 << 10)?)
    }),
    ("replace as editors do", |dir| {
        fs::write(dir.join(".file.swp"), "the next version")?;
        fs::rename(dir.join(".file.swp"), dir.join("file"))
    }),
    ("rename a file", |dir| fs::rename(dir.join("file"), dir.join("folder/renamed"))),
    ("rename a folder", |dir| fs::rename(dir.join("folder"), dir.join("moved"))),
    ("rename to a name that is free", |dir| {
        let (from, to) = (dir.join("file"), dir.join("free"));
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }),
    ("exchange two files", |dir| {
        let (one, other) = (dir.join("file"), dir.join("large"));
        Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    }),
    ("chmod", |dir| fs::set_permissions(dir.join("file"), Permissions::from_mode(0o2751))),
    ("chmod a folder", |dir| {
        fs::set_permissions(dir.join("folder"), Permissions::from_mode(0o700))
    }),
    ("touch", |dir| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
        File::open(dir.join("file"))?.set_times(FileTimes::new().set_modified(time))
    }),
    ("touch a folder", |dir| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_034_567_890_123_456_789);
        File::open(dir.join("folder"))?.set_times(FileTimes::new().set_modified(time))
    }),
    ("touch a symlink", |dir| {
        let time = Timespec { tv_sec: 1_134_567_890, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, dir.join("pointer"), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }),
    ("symlink", |dir| symlink("folder/inner", dir.join("link"))),
    ("hard link", |dir| fs::hard_link(dir.join("file"), dir.join("folder/linked"))),
    ("write through a hard link", |dir| {
        fs::hard_link(dir.join("file"), dir.join("linked"))?;
        OpenOptions::new().append(true).open(dir.join("linked"))?.write_all(b"both names")
    }),
    ("delete", |dir| fs::remove_file(dir.join("file"))),
    ("delete a folder", |dir| fs::remove_dir_all(dir.join("folder"))),
    ("a folder where a file was", |dir| {
        fs::remove_file(dir.join("file"))?;
        fs::create_dir(dir.join("file"))?;
        fs::write(dir.join("file/inside"), "a file became a folder")
    }),
    ("fifo", |dir| {
        let fifo = rustix::fs::FileType::Fifo;
        Ok(rustix::fs::mknodat(CWD, dir.join("pipe"), fifo, Mode::from_raw_mode(0o640), 0)?)
    }),
    ("set xattr", |dir| {
        let value = b"\x00binary\xff";
        Ok(rustix::fs::setxattr(dir.join("file"), "user.comment", value, XattrFlags::empty())?)
    }),
    ("remove xattr", |dir| Ok(rustix::fs::removexattr(dir.join("large"), "user.old")?)),
];

fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir.join("folder/deeper"))?;
    fs::write(dir.join("file"), "the first version")?;
    symlink("folder/inner", dir.join("pointer"))?;
    fs::write(dir.join("folder/inner"), "inner")?;
    fs::write(dir.join("folder/deeper/innermost"), "innermost")?;
    fs::write(dir.join("large"), vec![b'x'; 1 << 20])?;
    Ok(rustix::fs::setxattr(dir.join("large"), "user.old", b"value", XattrFlags::empty())?)
}

/// Where operation `name` is done on node `writer`.
fn place(name: &str, writer: usize) -> PathBuf {
    PathBuf::from(format!("{writer}-{}", name.replace(' ', "-")))
}

#[test]
fn every_operation_on_either_node_lands_on_the_other() {
    every_operation_lands(Cluster::new(2));
}

#[test]
fn every_operation_lands_through_fanotify() {
    through("fanotify");
}

#[test]
fn every_operation_lands_through_inotify() {
    through("inotify");
}

#[test]
fn every_operation_lands_on_xfs() {
    on(FileSystem::Xfs);
}

#[test]
fn every_operation_lands_on_btrfs() {
    on(FileSystem::Btrfs);
}

fn through(level: &str) {
    let cluster = Cluster::new(2).with_options(&["--capture", level]);
    match levels::lacks(cluster.dir(), level) {
        Some(lack) => machine::skip(lack),
        None => every_operation_lands(cluster),
    }
}

fn on(kind: FileSystem) {
    let Some(volume) = Volume::or_skip(kind) else { return };
    every_operation_lands(Cluster::new(2).with_roots_in(volume.path()));
}

fn every_operation_lands(mut cluster: Cluster) {
    for writer in 0..2 {
        for (name, _) in OPERATIONS {
            prepare(&cluster[0].path(place(name, writer))).unwrap();
        }
    }
    cluster.start();
    cluster.assert_same();

    let mut failures = String::new();
    for (name, operation) in OPERATIONS {
        for writer in 0..2 {
            operation(&cluster[writer].path(place(name, writer)))
                .unwrap_or_else(|error| panic!("cannot {name}: {error}"));
            let mut why = String::new();
            let landed = poll::until(ARRIVAL_LIMIT, || {
                why = cluster.differences();
                why.is_empty()
            });
            if !landed {
                failures += &format!("{name}, done on {}: {why}", cluster[writer].name());
                // Not to blame the operations that follow.
                let lost = place(name, writer);
                cluster.nodes().iter().for_each(|node| drop(fs::remove_dir_all(node.path(&lost))));
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    cluster.assert_same();
    cluster.assert_rsync_agrees();
}

#[test]
fn owners_follow() {
    if !machine::is_root() {
        return machine::skip("only root can give files away");
    }
    let cluster = Cluster::running(2);
    fs::write(cluster[0].path("file"), "owned").unwrap();
    cluster.assert_same();
    chown(cluster[1].path("file"), Some(33), Some(65534)).unwrap();
    cluster.assert_same();
    symlink("file", cluster[0].path("link")).unwrap();
    std::os::unix::fs::lchown(cluster[0].path("link"), Some(33), None).unwrap();
    cluster.assert_same();
    cluster.assert_rsync_agrees();
}

#[test]
fn names_are_bytes() {
    let cluster = Cluster::running(2);
    let long = [b'n'; 255];
    let names: [&[u8]; 9] = [
        b"caf\xe9 latin-1",
        b"\xff\xfe",
        b"line\nbreak",
        b"-rf",
        b" leading and trailing ",
        b"back\\slash * ? \"quoted\"",
        "\u{202e}\u{1f4be} right to left".as_bytes(),
        b"\x1b[2J",
        &long,
    ];
    for name in names {
        fs::write(cluster[0].path(OsStr::from_bytes(name)), name).unwrap();
    }
    cluster.assert_same();
    for name in names {
        let (from, to) = (OsStr::from_bytes(name), [b"\xfe", &name[1..]].concat());
        fs::rename(cluster[1].path(from), cluster[1].path(OsStr::from_bytes(&to))).unwrap();
    }
    cluster.assert_same();
    cluster.assert_rsync_agrees();
}

#[test]
fn deep_folders_made_at_once_follow() {
    let cluster = Cluster::running(2);
    // 50 levels and more than 2,000 bytes of path, with a file in each.
    let mut path = PathBuf::new();
    for level in 0..50 {
        path.push(format!("level-{level:02}-{}", "d".repeat(32)));
    }
    fs::create_dir_all(cluster[0].path(&path)).unwrap();
    for folder in path.ancestors() {
        fs::write(cluster[0].path(folder.join("file")), "deep").unwrap();
    }
    cluster.assert_same();
    let top = path.components().next().unwrap();
    fs::rename(cluster[1].path(top), cluster[1].path("renamed")).unwrap();
    cluster.assert_same();
}

#[test]
fn a_renamed_folder_is_renamed_there_not_made_again() {
    use std::os::unix::fs::MetadataExt;
    let mut cluster = Cluster::new(2);
    let folder = cluster[0].path("before");
    fs::create_dir(&folder).unwrap();
    for number in 0..500 {
        fs::write(folder.join(format!("{number}")), vec![number as u8; 4000]).unwrap();
    }
    cluster.start();
    cluster.assert_same();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let file = inode(&cluster[1].path("before/123"));
    let traffic = cluster[0].status().unwrap().traffic();

    fs::rename(&folder, cluster[0].path("after")).unwrap();
    cluster.assert_same();
    assert_eq!(inode(&cluster[1].path("after/123")), file, "the file was made again");
    let wire = cluster[0].status().unwrap().traffic().since(traffic);
    assert!(wire < 500 * 1000, "{wire} bytes to rename a folder: its content went again");
}

#[test]
fn a_renamed_site_leaves_no_folder_behind() {
    let mut cluster = Cluster::new(2);
    sample::site(&cluster[0].path("before")).unwrap();
    cluster.start();
    cluster.assert_same();
    fs::rename(cluster[0].path("before"), cluster[0].path("after")).unwrap();
    poll::eventually(ARRIVAL_LIMIT, "the new name arrives", || cluster[1].path("after").exists());
    cluster.assert_same();
    for node in cluster.nodes() {
        assert!(!node.path("before").exists(), "the old folder is there again on {}", node.name());
    }
}

#[test]
fn a_burst_of_writes_to_one_file_ends_right() {
    let cluster = Cluster::running(2);
    let file =
        OpenOptions::new().create_new(true).append(true).open(cluster[0].path("log")).unwrap();
    for number in 0..20_000 {
        writeln!(&file, "line {number}").unwrap();
    }
    cluster.assert_same();
}

#[test]
fn writers_on_both_nodes_do_not_disturb_each_other() {
    let cluster = Cluster::running(2);
    std::thread::scope(|scope| {
        for node in cluster.nodes() {
            scope.spawn(|| {
                for number in 0..300 {
                    let path = node.path(format!("{}-{}", node.name(), number % 60));
                    fs::write(path, format!("version {number}")).unwrap();
                }
            });
        }
    });
    cluster.assert_same();
}

/// It means something on this machine only, and is no reason to wait.
#[test]
fn a_socket_stays_where_it_is_and_holds_nobody_up() {
    let cluster = Cluster::running(2);
    let _socket = UnixListener::bind(cluster[0].path("socket")).unwrap();
    fs::write(cluster[0].path("file"), "beside it").unwrap();
    let waited = cluster[0].wait(ARRIVAL_LIMIT).unwrap();
    assert_eq!(waited.code, 0, "{waited:?}");
    assert!(cluster[1].path("file").exists() && !cluster[1].path("socket").exists());
    let errors = cluster[0].status().unwrap().json()["errors"].to_string();
    assert!(errors.contains("is a socket and is not replicated"), "{errors}");
}
