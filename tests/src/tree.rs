//! Comparing two trees without the daemon's code: everything promise 1 names.
//!
//! It never trusts a size or a time to say that bytes are equal: it reads both
//! files. `rsync` is the second judge, where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, SeekFrom, StatxAttributes, StatxFlags, seek, statx};

use crate::machine;

/// The daemon's own directory below a root, which is no part of the tree.
pub const PRIVATE_DIR: &str = ".replicator";

/// Differences shown; a tree that is wrong everywhere needs no more to tell.
const SHOWN_MAX: usize = 20;

/// Data that may lie where the other side has a hole: file systems round
/// holes to their blocks and preallocate a little.
const HOLE_SLACK_BYTES: u64 = 1 << 20;

/// What distinguishes the trees at `a` and `b`, one line each; nothing when
/// they are the same. Names raw, kind, size, content, holes roughly, mode,
/// owner, times to the nanosecond (directories and the root too), file flags,
/// extended attributes, link targets and hard link groups.
pub fn differences(a: &Path, b: &Path) -> io::Result<Vec<String>> {
    let (left, right) = (scan(a)?, scan(b)?);
    let mut lines = Vec::new();
    let names: BTreeSet<&OsString> = left.keys().chain(right.keys()).collect();
    for name in names {
        match (left.get(name), right.get(name)) {
            (Some(one), Some(other)) => {
                let why = entry_difference(&a.join(name), one, &b.join(name), other)?;
                lines.extend(why.map(|why| format!("{}: {why}", Path::new(name).display())));
            }
            (Some(_), None) => lines.push(format!("{name:?} only in {}", a.display())),
            _ => lines.push(format!("{name:?} only in {}", b.display())),
        }
        if lines.len() >= SHOWN_MAX {
            lines.push("and perhaps more".to_string());
            return Ok(lines);
        }
    }
    let (one, other) = (link_groups(&left), link_groups(&right));
    lines.extend(
        one.symmetric_difference(&other)
            .map(|group| format!("hard links only on one side: {group:?}")),
    );
    Ok(lines)
}

/// What `rsync -aHAXnic --delete a/ b/` would change; `None` where rsync is
/// not installed.
pub fn rsync_differences(a: &Path, b: &Path) -> anyhow::Result<Option<String>> {
    let Some(rsync) = machine::program("rsync") else { return Ok(None) };
    let folder = |path: &Path| {
        let mut text = path.as_os_str().to_owned();
        text.push("/");
        text
    };
    let mut command = Command::new(rsync);
    command.args(["-aHAXnic", "--delete", "--exclude=/.replicator"]).arg(folder(a)).arg(folder(b));
    machine::run(&mut command).map(Some)
}

/// Names below `root`, files and all, in order: for looking at what is there.
pub fn names(root: &Path) -> io::Result<Vec<OsString>> {
    Ok(scan(root)?.into_keys().filter(|name| !name.is_empty()).collect())
}

/// Regular files and their bytes below `root`.
pub fn count(root: &Path) -> io::Result<(u64, u64)> {
    let sizes = scan(root)?.into_values().filter(Metadata::is_file);
    Ok(sizes.fold((0, 0), |(files, bytes), file| (files + 1, bytes + file.len())))
}

/// Everything below and including `root` (as the empty name) that replicates:
/// not sockets and devices, which mean something only where they were made.
fn scan(root: &Path) -> io::Result<BTreeMap<OsString, Metadata>> {
    let mut entries = BTreeMap::new();
    entries.insert(OsString::new(), fs::symlink_metadata(root)?);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            if name.as_os_str() == PRIVATE_DIR {
                continue;
            }
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if metadata.is_dir() {
                folders.push(name.clone());
            }
            let kind = metadata.file_type();
            if !kind.is_socket() && !kind.is_block_device() && !kind.is_char_device() {
                entries.insert(name.into_os_string(), metadata);
            }
        }
    }
    Ok(entries)
}

fn entry_difference(
    a: &Path,
    one: &Metadata,
    b: &Path,
    other: &Metadata,
) -> io::Result<Option<String>> {
    let kind = |metadata: &Metadata| metadata.mode() & libc::S_IFMT;
    let differs = |what: &str, one: String, other: String| {
        Ok((one != other).then(|| format!("{what} {one} and {other}")))
    };
    if kind(one) != kind(other) {
        return differs(
            "kind",
            format!("{:?}", one.file_type()),
            format!("{:?}", other.file_type()),
        );
    }
    if one.is_file() {
        if one.len() != other.len() {
            return differs("size", one.len().to_string(), other.len().to_string());
        }
        if let Some(at) = first_different_byte(a, b)? {
            return Ok(Some(format!("content from byte {at}")));
        }
        let (data, other_data) = (data_bytes(a)?, data_bytes(b)?);
        if data.abs_diff(other_data) > HOLE_SLACK_BYTES.max(data / 4) {
            return differs("bytes outside holes", data.to_string(), other_data.to_string());
        }
    }
    if one.is_symlink() {
        let targets = (fs::read_link(a)?, fs::read_link(b)?);
        if targets.0 != targets.1 {
            return differs("target", format!("{:?}", targets.0), format!("{:?}", targets.1));
        }
    }
    let summary = |metadata: &Metadata, path: &Path| -> io::Result<String> {
        Ok(format!(
            "mode {:04o} owner {}:{} mtime {}.{:09} flags {:?} xattrs {:?}",
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            file_flags(path)?,
            xattrs(path)?
        ))
    };
    differs("metadata", summary(one, a)?, summary(other, b)?)
}

fn first_different_byte(a: &Path, b: &Path) -> io::Result<Option<u64>> {
    let (mut one, mut other) = (File::open(a)?, File::open(b)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let (length, other_length) = (fill(&mut one, &mut left)?, fill(&mut other, &mut right)?);
        let (left, right) = (&left[..length], &right[..other_length]);
        if left != right {
            let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
            return Ok(Some(offset + same as u64));
        }
        if length == 0 {
            return Ok(None);
        }
        offset += length as u64;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// Bytes of the file that are not holes.
fn data_bytes(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let (mut total, mut offset) = (0, 0);
    loop {
        let start = match seek(&file, SeekFrom::Data(offset)) {
            Err(rustix::io::Errno::NXIO) => return Ok(total),
            other => other?,
        };
        offset = seek(&file, SeekFrom::Hole(start))?;
        total += offset - start;
    }
}

/// Those that say what may be done to an entry.
fn file_flags(path: &Path) -> io::Result<StatxAttributes> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    let told = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND | StatxAttributes::NODUMP;
    Ok(found.stx_attributes & told)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
        value.truncate(length);
        found.insert(OsStr::from_bytes(name).to_owned(), value);
    }
    Ok(found)
}

/// The sets of names that are one inode.
fn link_groups(entries: &BTreeMap<OsString, Metadata>) -> BTreeSet<BTreeSet<&OsString>> {
    let mut groups: BTreeMap<(u64, u64), BTreeSet<&OsString>> = BTreeMap::new();
    for (name, metadata) in entries.iter().filter(|(_, metadata)| !metadata.is_dir()) {
        groups.entry((metadata.dev(), metadata.ino())).or_default().insert(name);
    }
    groups.into_values().filter(|names| names.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, OpenOptions, Permissions};
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::flags;

    /// Two equal trees with one of everything.
    fn twins() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("folder")).unwrap();
        fs::write(a.join("file"), "content").unwrap();
        fs::write(a.join(OsStr::from_bytes(b"raw\xff")), "x").unwrap();
        fs::hard_link(a.join("file"), a.join("folder/linked")).unwrap();
        fs::write(a.join("twin"), "content").unwrap();
        symlink("nowhere", a.join("link")).unwrap();
        File::create(a.join("sparse")).unwrap().set_len(64 << 20).unwrap();
        machine::run(Command::new("cp").arg("-a").arg(&a).arg(&b)).unwrap();
        assert_eq!(differences(&a, &b).unwrap(), Vec::<String>::new());
        (dir, a, b)
    }

    /// Makes one change to the second tree and demands that it be reported.
    #[track_caller]
    fn reports(what: &str, change: impl FnOnce(&Path)) {
        let (_dir, a, b) = twins();
        change(&b);
        let lines = differences(&a, &b).unwrap();
        assert!(lines.iter().any(|line| line.contains(what)), "{what} not in {lines:?}");
    }

    /// Keeps the time of the root, which most changes touch as well.
    fn set_time(path: &Path, time: SystemTime) {
        File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        reports("only in", |b| fs::write(b.join("new"), "").unwrap());
        reports("only in", |b| fs::remove_file(b.join("link")).unwrap());
        reports("size", |b| fs::write(b.join("twin"), "longer content").unwrap());
        reports("mode", |b| {
            fs::set_permissions(b.join("twin"), Permissions::from_mode(0o600)).unwrap()
        });
        reports("mtime", |b| set_time(&b.join("folder"), SystemTime::UNIX_EPOCH));
        if flags::can_be_set_in(&std::env::temp_dir()) {
            reports("flags", |b| flags::set(&b.join("twin"), "d").unwrap());
        }
        reports("target", |b| {
            fs::remove_file(b.join("link")).unwrap();
            symlink("elsewhere", b.join("link")).unwrap();
        });
        reports("kind", |b| {
            fs::remove_file(b.join("twin")).unwrap();
            fs::create_dir(b.join("twin")).unwrap();
        });
        reports("holes", |b| fs::write(b.join("sparse"), vec![0; 64 << 20]).unwrap());
        reports("hard links", |b| {
            fs::remove_file(b.join("folder/linked")).unwrap();
            fs::copy(b.join("file"), b.join("folder/linked")).unwrap();
        });
    }

    #[test]
    fn a_rewrite_with_the_old_time_is_seen() {
        reports("content from byte 3", |b| {
            let file = OpenOptions::new().write(true).open(b.join("twin")).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(b"T", 3).unwrap();
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        });
    }

    #[test]
    fn one_nanosecond_is_seen() {
        let (_dir, a, b) = twins();
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        set_time(&a.join("twin"), time);
        set_time(&b.join("twin"), time + Duration::from_nanos(1));
        assert_eq!(differences(&a, &b).unwrap().len(), 1);
    }

    #[test]
    fn the_private_directory_is_no_part_of_the_tree() {
        let (_dir, a, b) = twins();
        let time = fs::metadata(&a).unwrap().modified().unwrap();
        fs::create_dir(b.join(PRIVATE_DIR)).unwrap();
        fs::write(b.join(PRIVATE_DIR).join("trash"), "").unwrap();
        set_time(&b, time);
        assert_eq!(differences(&a, &b).unwrap(), Vec::<String>::new());
    }
}
