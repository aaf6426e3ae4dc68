//! `replicator.status`: the state of a node as a file anyone can open.
//!
//! Its first lines have the shape of lsyncd's status file, so that checks made
//! for that keep working; unlike lsyncd's it is replaced by a rename, so a
//! reader never meets half of it, and it is rewritten when nothing happens,
//! so its age tells whether the node lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::clock::{ctime, from_ms};
use super::{Snapshot, StateDir, printable, render};

/// Replaces the status file of a state directory.
pub fn write(place: &StateDir, snapshot: &Snapshot) -> io::Result<()> {
    replace(&place.status_file(), report(snapshot).as_bytes())
}

/// Rewrites the status file every `interval` until the future is dropped.
/// `snapshot` is asked each time. A failed write is logged once, and once more
/// when it works again.
pub async fn keep(
    place: StateDir,
    interval: std::time::Duration,
    mut snapshot: impl FnMut() -> Snapshot,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        ticks.tick().await;
        match write(&place, &snapshot()) {
            Ok(()) if failed => tracing::info!("the status file is written again"),
            Err(error) if !failed => {
                tracing::warn!("cannot write {}: {error}", place.status_file().display());
                failed = true;
                continue;
            }
            Err(_) => continue,
            Ok(()) => {}
        }
        failed = false;
    }
}

/// The text of the status file.
pub fn report(snapshot: &Snapshot) -> String {
    let folder = &snapshot.folder;
    let root = printable(folder.root.trim_end_matches('/'));
    let delays = folder.pending_in.saturating_add(folder.pending_out);
    format!(
        "Replicator status report at {}\n\nSync1 source={root}/\nThere are {delays} delays\n\
         Filtering:\n  nothing.\n\n\n{}",
        ctime(from_ms(snapshot.taken_ms)),
        render(snapshot)
    )
}

/// The last report of a node that may be gone, and when it was written.
pub fn read(place: &StateDir) -> io::Result<(String, SystemTime)> {
    let path = place.status_file();
    let written = std::fs::metadata(&path)?.modified()?;
    Ok((std::fs::read_to_string(path)?, written))
}

/// Writes a file beside `path` and renames it over it. It is not flushed to
/// the disk: after a power loss the next report replaces what is left.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&beside)?;
    file.write_all(content)?;
    drop(file);
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::status::FolderFacts;

    fn snapshot() -> Snapshot {
        Snapshot {
            taken_ms: 1_795_350_948_000,
            folder: FolderFacts {
                root: "/srv/a".into(),
                pending_in: 4,
                pending_out: 2,
                state: "syncing".into(),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn the_first_lines_have_lsyncds_shape() {
        let text = report(&snapshot());
        let lines: Vec<_> = text.lines().collect();
        let when = lines[0].strip_prefix("Replicator status report at ").unwrap();
        // "Sun Nov 22 12:35:48 2026": 24 characters, as ctime(3).
        assert_eq!(when.len(), 24, "{when}");
        assert_eq!(&lines[1..4], ["", "Sync1 source=/srv/a/", "There are 6 delays"]);
        assert!(text.contains("syncing"));
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let mut snapshot = snapshot();
        snapshot.folder.root = "/srv/a\nThere are 0 delays".into();
        let text = report(&snapshot);
        assert!(!text.lines().any(|line| line == "There are 0 delays"));
    }

    #[tokio::test]
    async fn it_is_rewritten_when_nothing_happens() {
        let folder = tempfile::tempdir().unwrap();
        let place = StateDir::new(folder.path());
        let mut rounds = 0;
        let (done, wait) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        let kept = keep(place.clone(), Duration::from_millis(1), move || {
            rounds += 1;
            if rounds == 3 {
                done.take().unwrap().send(()).unwrap();
            }
            snapshot()
        });
        tokio::select! {
            () = kept => unreachable!("it never ends by itself"),
            result = wait => result.unwrap(),
        }
        let (text, _) = read(&place).unwrap();
        assert_eq!(text, report(&snapshot()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
