//! What the folder's file system can do, tried out.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use super::Check;
use crate::root::{self, Trial, Workshop};
use crate::status::human_bytes;

/// Names of file systems by their magic number (`statfs(2)`).
const FILE_SYSTEMS: [(u64, &str); 12] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x4d44, "vfat"),
];

/// Those whose writes the capture was measured on.
const MEASURED: [&str; 5] = ["ext4", "xfs", "btrfs", "tmpfs", "overlayfs"];

pub fn checks(root: &Path) -> Vec<Check> {
    let mut checks = vec![kind(root), free_space(root)];
    match Workshop::open(root) {
        Ok(workshop) => {
            checks.extend(workshop.trials().into_iter().map(asked_by_run));
            checks.extend([reflink(&workshop), xattr(&workshop)]);
        }
        Err(error @ root::Error::Untried { .. }) => {
            checks.push(Check::new("trials", false, error.to_string(), ""));
        }
        Err(error) => checks.push(Check::refused("folder", error.to_string())),
    }
    checks
}

/// Without it the daemon does not start, and says this.
fn asked_by_run(trial: Trial) -> Check {
    match trial.outcome {
        Ok(()) => Check::new(trial.name, true, trial.works, ""),
        Err(error) => Check::refused(trial.name, error.to_string()),
    }
}

fn kind(root: &Path) -> Check {
    let advice = "capture and repair were not measured on it: prefer ext4, xfs or btrfs";
    match rustix::fs::statfs(root) {
        Ok(facts) => {
            // The type of the field differs between machines; magic numbers
            // have 32 bits.
            let magic = facts.f_type as u64 & 0xffff_ffff;
            let name =
                FILE_SYSTEMS.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name);
            let found = name.map_or_else(|| format!("unknown, number {magic:#x}"), str::to_owned);
            let measured = name.is_some_and(|name| MEASURED.contains(&name));
            Check::new("file system", measured, format!("{found} at {}", root.display()), advice)
        }
        Err(error) => Check::new("file system", false, error.to_string(), advice),
    }
}

fn free_space(root: &Path) -> Check {
    let advice = "a node that is full applies nothing until there is room: free some";
    match rustix::fs::statvfs(root) {
        Ok(facts) => {
            let (free, total) = (facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize);
            // 1 % is the default of min_free. Some file systems have no size.
            let ok = total == 0 || free > total / 100;
            Check::new(
                "free space",
                ok,
                format!("{} of {}", human_bytes(free), human_bytes(total)),
                advice,
            )
        }
        Err(error) => Check::new("free space", false, error.to_string(), advice),
    }
}

fn reflink(workshop: &Workshop) -> Check {
    let advice = "copies within the folder take space and time; no harm: xfs and btrfs have it";
    let tried = two_files(workshop).and_then(|(a, b)| {
        let (from, to) = (File::open(a)?, File::options().write(true).open(b)?);
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    });
    verdict("reflink", tried, "files can share their blocks", advice).harmless()
}

fn xattr(workshop: &Workshop) -> Check {
    let advice = "extended attributes and ACLs of other nodes cannot be kept here: \
                  mount with user_xattr and acl";
    let tried = two_files(workshop).and_then(|(a, _)| {
        Ok(rustix::fs::setxattr(a, "user.replicator", b"1", XattrFlags::empty())?)
    });
    verdict("xattr", tried, "extended attributes can be set", advice)
}

fn verdict(what: &str, tried: io::Result<()>, works: &str, advice: &str) -> Check {
    match tried {
        Ok(()) => Check::new(what, true, works, advice),
        Err(error) => Check::new(what, false, error.to_string(), advice),
    }
}

fn two_files(workshop: &Workshop) -> io::Result<(PathBuf, PathBuf)> {
    let (a, b) = (workshop.path().join("a"), workshop.path().join("b"));
    fs::write(&a, "content of a")?;
    fs::write(&b, "")?;
    Ok((a, b))
}
