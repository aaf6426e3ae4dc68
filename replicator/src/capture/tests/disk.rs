//! File systems made for one test.

use std::process::Command;

use tempfile::TempDir;

use super::{Watched, skip};
use crate::choice::CaptureChoice;

/// A file system of its own, made for one test.
pub struct Disk(TempDir);

impl Disk {
    /// `None`, with the reason printed, where this machine cannot have it.
    pub fn make(kind: &str) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let script = if kind == "tmpfs" {
            "mkdir m; mount -t tmpfs none m".to_owned()
        } else {
            format!("mkdir m; truncate -s 400M image; mkfs.{kind} -q image; mount -o loop image m")
        };
        let mut command = Command::new("sh");
        command.arg("-ec").arg(script).current_dir(place.path());
        if command.output().is_ok_and(|done| done.status.success()) {
            return Some(Self(place));
        }
        skip(&format!("{kind} cannot be mounted here"));
        None
    }

    pub fn folder(&self) -> TempDir {
        tempfile::tempdir_in(self.0.path().join("m")).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path().join("m")).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Runs the check on ext4 (where temporary folders are on it) and on xfs.
pub fn on_every_file_system(mut check: impl FnMut(&mut Watched)) {
    if let Some(mut watched) = Watched::start(CaptureChoice::Ebpf) {
        check(&mut watched);
    }
    let Some(disk) = Disk::make("xfs") else { return };
    if let Some(mut watched) = Watched::start_in(disk.folder(), CaptureChoice::Ebpf) {
        check(&mut watched);
    }
}
