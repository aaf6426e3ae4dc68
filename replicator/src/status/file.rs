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
use super::{Snapshot, StateDir, printable, render, state};

/// Replaces the status file of a state directory, and the facts beside it.
pub fn write(place: &StateDir, snapshot: &Snapshot) -> io::Result<()> {
    replace(&place.report_file(), &serde_json::to_vec(snapshot)?)?;
    replace(&place.status_file(), report(snapshot).as_bytes())
}

/// The text of the status file.
pub fn report(snapshot: &Snapshot) -> String {
    let folder = &snapshot.folder;
    let root = printable(folder.root.trim_end_matches('/'));
    let delays = folder.pending_in.saturating_add(folder.pending_out);
    let waiting = folder.pending_paths.iter();
    let waiting = waiting.map(|path| format!("wait   Modify {}\n", printable(path)));
    format!(
        "Replicator status report at {}\n\nSync1 source={root}/\nThere are {delays} delays\n\
         {}Filtering:\n  nothing.\n\n\n{}",
        ctime(from_ms(snapshot.taken_ms)),
        waiting.collect::<String>(),
        render(snapshot)
    )
}

/// The last report of a node that may be gone, and when it was written.
pub fn read(place: &StateDir) -> io::Result<(String, SystemTime)> {
    let path = place.status_file();
    let written = std::fs::metadata(&path)?.modified()?;
    Ok((std::fs::read_to_string(path)?, written))
}

/// The facts of the last report of a node that runs no more.
pub fn read_facts(place: &StateDir) -> io::Result<Snapshot> {
    let mut snapshot: Snapshot = serde_json::from_slice(&std::fs::read(place.report_file())?)?;
    snapshot.folder.state = state::NOT_RUNNING.to_owned();
    Ok(snapshot)
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
    use super::*;
    use crate::status::FolderFacts;

    fn snapshot() -> Snapshot {
        Snapshot {
            taken_ms: 1_795_350_948_000,
            folder: FolderFacts {
                root: "/srv/a".into(),
                pending_in: 4,
                pending_paths: vec!["a/b".into(), "c\nd".into()],
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
        // As lsyncd's: state in 7 columns, kind of event, path.
        assert_eq!(&lines[4..6], ["wait   Modify a/b", "wait   Modify c\\nd"]);
        assert_eq!(&lines[6..8], ["Filtering:", "  nothing."]);
        assert!(text.contains("syncing"));
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let mut snapshot = snapshot();
        snapshot.folder.root = "/srv/a\nThere are 0 delays".into();
        let text = report(&snapshot);
        assert!(!text.lines().any(|line| line == "There are 0 delays"));
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = StateDir::new(folder.path());
        write(&place, &Snapshot::default()).unwrap();
        write(&place, &snapshot()).unwrap();
        assert_eq!(read(&place).unwrap().0, report(&snapshot()));
        let facts = read_facts(&place).unwrap();
        assert_eq!((facts.folder.pending_in, facts.folder.state.as_str()), (4, "not running"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");
    }
}
