//! A file system of its own for a story: an image behind a loop device, or
//! memory, mounted when it is made and unmounted when it is dropped.
//!
//! Mounts are made in a namespace of the story's own, so that one that was
//! killed leaves none behind.

use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::levels::{CAP_SYS_ADMIN, has_capabilities};
use crate::machine::{self, is_root, program, run};
use crate::{btrfs, poll, xfs};

/// Of a file system for which nobody says otherwise.
const SIZE: u64 = 512 << 20;

/// What a story can be told on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
    /// With the small inodes of old, which hold whole seconds.
    Ext2,
    Vfat,
}

impl FileSystem {
    /// Those that a folder can be served on.
    pub const ALL: [Self; 4] = [Self::Ext4, Self::Xfs, Self::Btrfs, Self::Tmpfs];

    /// What a folder lies on, where it is one of these.
    pub fn of(folder: &Path) -> Option<Self> {
        let magic = rustix::fs::statfs(folder).ok()?.f_type as u64;
        Self::ALL.into_iter().find(|kind| kind.magic() == magic)
    }

    fn magic(self) -> u64 {
        match self {
            Self::Ext4 | Self::Ext2 => 0xef53,
            Self::Xfs => 0x5846_5342,
            Self::Btrfs => 0x9123_683e,
            Self::Tmpfs => 0x0102_1994,
            Self::Vfat => 0x4d44,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
            Self::Ext2 => "ext2",
            Self::Vfat => "vfat",
        }
    }

    /// What this machine lacks to mount one, if anything.
    fn lack(self) -> Option<String> {
        let mkfs = format!("mkfs.{self}");
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !has_capabilities(CAP_SYS_ADMIN) {
            Some(format!("only root can mount {self}"))
        } else if self == Self::Tmpfs {
            None
        } else if program(&mkfs).is_none() {
            Some(format!("{mkfs} is not installed"))
        } else if !Path::new("/dev/loop-control").exists() {
            Some("there are no loop devices".to_owned())
        } else if !known.split_whitespace().any(|name| name == self.name()) {
            Some(format!("this kernel has no {self}"))
        } else {
            None
        }
    }

    /// How its own program makes an image without asking.
    fn mkfs_options(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["-q", "-F", "-m", "0"],
            Self::Ext2 => &["-q", "-F", "-I", "128"],
            Self::Xfs | Self::Btrfs => &["-q", "-f"],
            Self::Tmpfs | Self::Vfat => &[],
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `EXT4_IOC_SHUTDOWN`, which XFS has too, and its word for a shutdown that
/// does not even write the log out.
const SHUTDOWN: libc::Ioctl = 0x8004_587d;
const WITHOUT_LOG: u32 = 2;

/// Until the last user of a file system that was unmounted has let go of it.
const FREE_LIMIT: Duration = Duration::from_secs(20);

/// How a file system is made and mounted, in words of its own programs where
/// it is not as usual.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub kind: FileSystem,
    /// In bytes.
    pub size: u64,
    /// Further words for `mkfs`.
    pub made: &'static [&'static str],
    /// Options of `mount`, with commas between them.
    pub mounted: &'static str,
    /// Of Btrfs: the part that is mounted, as most distributions do, and not
    /// the top of the file system.
    pub subvolume: Option<&'static str>,
}

impl Form {
    pub const fn of(kind: FileSystem) -> Self {
        Self { kind, size: SIZE, made: &[], mounted: "", subvolume: None }
    }
}

/// One mounted file system.
#[derive(Debug)]
pub struct Volume {
    form: Form,
    source: PathBuf,
    target: PathBuf,
    mounted: bool,
    /// Of a volume that lies wholly in a temporary directory.
    _dir: Option<tempfile::TempDir>,
}

impl Volume {
    /// A fresh file system of some hundred MiB in a temporary directory. An
    /// error says what this machine lacks.
    pub fn new(kind: FileSystem) -> Result<Self> {
        Self::of(Form::of(kind))
    }

    /// The same for a story: `None`, with a word about why, where this machine
    /// does not have the file system. What else goes wrong is a failure.
    pub fn or_skip(kind: FileSystem) -> Option<Self> {
        Self::or_skip_of(Form::of(kind))
    }

    pub fn or_skip_of(form: Form) -> Option<Self> {
        match (Self::of(form), form.kind.lack()) {
            (Ok(volume), _) => Some(volume),
            (Err(_), Some(lack)) => {
                machine::skip(&lack);
                None
            }
            (Err(error), None) => panic!("{error:#}"),
        }
    }

    pub fn of(form: Form) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("replicator-volume-").tempdir()?;
        // A story may run its nodes as another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let (image, target) = (dir.path().join("image"), dir.path().join("mounted"));
        let mut volume = Self::in_image(form, &image, &target)?;
        volume._dir = Some(dir);
        Ok(volume)
    }

    /// A fresh file system in `image`, mounted at `target`.
    pub fn in_image(form: Form, image: &Path, target: &Path) -> Result<Self> {
        let kind = form.kind;
        ensure!(is_root(), "only root can mount {kind}");
        keep_mounts_to_this_thread()?;
        fs::create_dir_all(target)?;
        if kind != FileSystem::Tmpfs {
            let name = format!("mkfs.{kind}");
            let mkfs = program(&name).with_context(|| format!("{name} is not installed"))?;
            fs::File::create(image)?.set_len(form.size)?;
            run(Command::new(mkfs).args(kind.mkfs_options()).args(form.made).arg(image))?;
        }
        let plain = Form { subvolume: None, ..form };
        let (source, target) = (image.into(), target.into());
        let mut volume = Self { form: plain, source, target, mounted: false, _dir: None };
        if let Some(name) = form.subvolume {
            volume.mount()?;
            btrfs::make_subvolume(&volume.target, name)?;
            volume.detach()?;
            volume.form = form;
        }
        if kind == FileSystem::Xfs {
            xfs::set_exchange(image, true)?;
            if volume.mount().is_err() {
                xfs::set_exchange(image, false)?;
            }
        }
        if !volume.mounted {
            volume.mount()?;
        }
        Ok(volume)
    }

    pub fn kind(&self) -> FileSystem {
        self.form.kind
    }

    pub fn path(&self) -> &Path {
        &self.target
    }

    pub fn mount(&mut self) -> Result<()> {
        let mut mount = Command::new("mount");
        let Form { kind, mounted, subvolume, .. } = self.form;
        match kind {
            FileSystem::Tmpfs => mount.args(["-t", "tmpfs", "-o", "size=25%"]).arg("tmpfs"),
            _ => mount.args(["-o", "loop"]).arg(&self.source),
        };
        if !mounted.is_empty() {
            mount.args(["-o", mounted]);
        }
        if let Some(name) = subvolume {
            mount.args(["-o", &format!("subvol={name}")]);
        }
        run(mount.arg(&self.target))?;
        self.mounted = true;
        Ok(())
    }

    /// Lets nobody write, or lets them again. An error where a file is open
    /// for writing.
    pub fn set_read_only(&self, is_read_only: bool) -> Result<()> {
        let options = if is_read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", options]).arg(&self.target)).map(drop)
    }

    /// The machine loses its power: what was not written out is lost. `meanwhile`
    /// ends whoever has files open here; then the file system is there again.
    pub fn lose_power(&mut self, meanwhile: impl FnOnce()) -> Result<()> {
        let file = fs::File::open(&self.target)?;
        // SAFETY: the call reads the number it is given, and touches no other
        // memory.
        let shut_down = unsafe { libc::ioctl(file.as_raw_fd(), SHUTDOWN, &WITHOUT_LOG) };
        ensure!(shut_down == 0, "{} does not shut down", self.kind());
        drop(file);
        meanwhile();
        run(Command::new("umount").arg(&self.target))?;
        self.mounted = false;
        // Mounted before that, it would be the one that was shut down.
        let is_free = || {
            let devices = Command::new("losetup").arg("-j").arg(&self.source).output();
            devices.is_ok_and(|devices| devices.stdout.is_empty())
        };
        ensure!(poll::until(FREE_LIMIT, is_free), "{} stays in use", self.source.display());
        self.mount()
    }

    /// Takes the file system away from under whoever has it open.
    pub fn detach(&mut self) -> Result<()> {
        run(Command::new("umount").arg("-l").arg(&self.target))?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            // The story is over; its result must not change here.
            let _ = self.detach();
        }
    }
}

/// From here on what this thread mounts is seen by what it starts, and by
/// nobody else.
pub fn keep_mounts_to_this_thread() -> Result<()> {
    // SAFETY: nobody expects this thread to share its working directory or
    // its descriptors' flags: only mounts are taken apart.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("no mount namespace of its own")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("mounts cannot be kept private")
}
