//! What the promises stand on, tried out on the folder's own file system.
//!
//! `run` asks for all of it before it serves a folder, and `doctor` by the
//! same trials whether it would. Each makes files in a directory that is its
//! caller's alone, and removes them; what a file system says of itself is not
//! asked, since some say what they do not do.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::Error;
use super::resolve::{BENEATH, retrying};

/// One thing that was tried out.
#[derive(Debug)]
pub struct Trial {
    /// In a word or two.
    pub name: &'static str,
    /// What it is good for.
    pub works: &'static str,
    /// Why `run` refuses the folder, if it does.
    pub outcome: Result<(), Error>,
}

/// A thing to try out: its name, what it is good for, what a file system is
/// said to lack, and the trial with two files of the names [`A`] and [`B`], of
/// which the first is open.
type Attempt =
    (&'static str, &'static str, &'static str, fn(BorrowedFd<'_>, &OwnedFd) -> Result<(), Errno>);

const ATTEMPTS: [Attempt; 5] = [
    ("openat2", "paths are followed without leaving the folder", "openat2", resolve),
    ("exchange", "two files can swap names", "RENAME_EXCHANGE", exchange),
    ("no replacing", "a rename can spare what is there", "RENAME_NOREPLACE", no_replace),
    ("hard links", "a file can have several names", "hard links", hard_link),
    ("fine times", "times keep their fractions", "times finer than a microsecond", fine_times),
];

const A: &str = "probe-a";
const B: &str = "probe-b";
const C: &str = "probe-c";

/// Tries all of it in a directory of the folder at `path`.
pub(super) fn trials(path: &Path, dir: BorrowedFd<'_>) -> Vec<Trial> {
    let attempt = |(name, works, lacks, attempt): Attempt| {
        let outcome = with_two_files(dir, |file| {
            attempt(dir, file).map_err(|errno| match errno {
                Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM => {
                    Error::FileSystem { path: path.into(), name: file_system_name(dir), lacks }
                }
                errno => Error::opening(path, errno.into()),
            })
        });
        let outcome = outcome.map_err(|errno| Error::opening(path, errno.into()));
        Trial { name, works, outcome: outcome.flatten() }
    };
    ATTEMPTS.into_iter().map(attempt).collect()
}

/// An open file without a name that could stay behind.
pub(super) fn nameless(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    with_two_files(dir, |file| file.try_clone())
        .and_then(|file| file.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

fn with_two_files<T>(dir: BorrowedFd<'_>, during: impl FnOnce(&OwnedFd) -> T) -> Result<T, Errno> {
    let remove =
        || [A, B, C].iter().for_each(|name| _ = fs::unlinkat(dir, *name, AtFlags::empty()));
    remove();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let make = |name| fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
    let made = make(A).and_then(|file| make(B).map(|_| file));
    let done = made.map(|file| during(&file));
    remove();
    done
}

fn resolve(dir: BorrowedFd<'_>, _: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    retrying(|| fs::openat2(dir, A, flags, Mode::empty(), BENEATH)).map(drop)
}

fn exchange(dir: BorrowedFd<'_>, _: &OwnedFd) -> Result<(), Errno> {
    fs::renameat_with(dir, A, dir, B, RenameFlags::EXCHANGE)
}

fn no_replace(dir: BorrowedFd<'_>, _: &OwnedFd) -> Result<(), Errno> {
    fs::renameat_with(dir, A, dir, C, RenameFlags::NOREPLACE)
}

fn hard_link(dir: BorrowedFd<'_>, _: &OwnedFd) -> Result<(), Errno> {
    fs::linkat(dir, A, dir, C, AtFlags::empty())
}

/// A tree compared by its times would differ for ever after each copy.
fn fine_times(_: BorrowedFd<'_>, file: &OwnedFd) -> Result<(), Errno> {
    let odd = Timespec { tv_sec: 1_000_000_001, tv_nsec: 123_456_789 };
    fs::futimens(file, &Timestamps { last_access: odd, last_modification: odd })?;
    let seen = fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MTIME)?.stx_mtime;
    if seen.tv_nsec / 100 == 1_234_567 { Ok(()) } else { Err(Errno::NOTSUP) }
}

/// What the kernel shows of itself as files.
const PROC: &str = "proc";
const SYSFS: &str = "sysfs";
const CGROUP2: &str = "cgroup2";
const KERNELS_OWN: [&str; 3] = [PROC, SYSFS, CGROUP2];

/// Why nothing can be made in a folder. File systems of the kernel's own
/// refuse it as if the folder were missing, or another's.
pub(super) fn not_made(path: &Path, root: BorrowedFd<'_>, error: Error) -> Error {
    let name = file_system_name(root);
    match KERNELS_OWN.contains(&name.as_str()) {
        true => Error::FileSystem { path: path.into(), name, lacks: "files of users" },
        false => error,
    }
}

/// For a message: how an administrator calls the file system.
fn file_system_name(root: BorrowedFd<'_>) -> String {
    let Ok(stat) = fs::fstatfs(root) else {
        return "an unknown file system".to_owned();
    };
    let name = match stat.f_type as u32 {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x4d44 => "FAT",
        0x2011_bab0 => "exFAT",
        0x7366_746e => "NTFS",
        0x9fa0 => PROC,
        0x6265_6572 => SYSFS,
        0x6367_7270 => CGROUP2,
        0x794c_7630 => "overlayfs",
        0xef53 => "ext2, ext3 or ext4",
        0x5846_5342 => "XFS",
        0x2fc1_2fc1 => "ZFS",
        other => return format!("a file system of type {other:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(C), b"of a trial that was cut off").unwrap();
        let dir = std::fs::File::open(folder.path()).unwrap();
        for trial in trials(folder.path(), dir.as_fd()) {
            trial.outcome.unwrap_or_else(|error| panic!("{}: {error}", trial.name));
        }
        nameless(dir.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_lacking_is_told_as_run_tells_it() {
        // Nobody can make files there.
        let proc = std::fs::File::open("/proc").unwrap();
        for trial in trials(Path::new("/proc"), proc.as_fd()) {
            assert!(trial.outcome.is_err(), "{}", trial.name);
        }
    }
}
