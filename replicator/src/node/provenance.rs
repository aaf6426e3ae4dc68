//! Do the index and the folder belong to each other still?
//!
//! Each start leaves the same random token in the index and in the folder,
//! with a number that rises. Where they differ, one of the two is from a
//! backup, or is a copy. An older index may not write under the numbers it
//! used before; an older folder is no deletion of what came after it. What
//! both were restored together is told by the peers (`sync/members`).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::index::{Index, Opened};
use crate::path::PRIVATE_DIR;
use crate::root::{self, Root};

/// Where the index remembers its start.
const LIFE_NOTE: &str = "life";

/// Where the index remembers when its folder was made.
const BIRTH_NOTE: &str = "root-birth";

/// Where the folder remembers it.
const LIFE_FILE: &str = "life";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Life {
    starts: u64,
    token: u64,
    /// Of the index's file: a copy has another.
    inode: u64,
}

/// Opens the index anew where it is from a backup, and drops it where the
/// folder is.
pub(super) fn check(
    mut opened: Opened,
    state_dir: &Path,
    root: &Root,
    open: impl Fn() -> Result<Opened, Error>,
) -> Result<Opened, Error> {
    let ours = opened.index.note(LIFE_NOTE).and_then(|note| postcard::from_bytes(&note).ok());
    let theirs = read(root);
    let inode = Index::inode(state_dir)?;
    let starts = [&ours, &theirs].into_iter().flatten().map(|life: &Life| life.starts).max();
    if let Some(ours) = &ours {
        let older = theirs.as_ref().map(|theirs| (theirs.token != ours.token, theirs.starts));
        let folder_is_older = match older {
            None => true,
            Some((differs, starts)) => differs && starts <= ours.starts,
        };
        let is_copy = ours.inode != inode || older.is_some_and(|(differs, _)| differs);
        if folder_is_older {
            tracing::warn!(
                "the folder was restored from a backup: it is merged like a new node's, nothing in it counts as a deletion"
            );
            let marker = opened.index.note(super::start::MARKER_NOTE);
            drop(opened);
            Index::discard(state_dir)?;
            opened = open()?;
            marker.into_iter().for_each(|it| opened.index.put_note(super::start::MARKER_NOTE, it));
        } else if is_copy && !opened.unclean {
            tracing::warn!(
                "the state directory was restored from a backup or copied: everything is compared"
            );
            // Opened once and not closed, it draws an actor.
            drop(opened);
            opened = open()?;
        }
    }
    let token = getrandom::u64().map_err(|error| Error::Random(error.to_string()))?;
    let inode = Index::inode(state_dir)?;
    let life = Life { starts: starts.unwrap_or(0) + 1, token, inode };
    // The folder first: an index that is behind it only compares everything.
    write(root, &life).map_err(|source| root::Error::opening(root.path(), source))?;
    opened.index.put_note(LIFE_NOTE, encoded(&life));
    Ok(opened)
}

/// Is the folder a copy of the one that this index served last, as on a new
/// disk? What is missing in it may never have been copied. Notes which folder
/// this is: a copy was born later.
pub(super) fn is_copy(opened: &mut Opened, root: &Root) -> bool {
    let Ok(found) = root.glance_fd(root.dir()) else { return false };
    let birth = encoded(&found.fingerprint.birth);
    let is_other = opened.index.note(BIRTH_NOTE).is_some_and(|noted| noted != birth);
    opened.index.put_note(BIRTH_NOTE, birth);
    if is_other {
        tracing::warn!(
            "the folder is a copy of the one that was served: deletions are held back if anything is missing in it"
        );
    }
    is_other
}

fn encoded(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap_or_default()
}

fn place(root: &Root) -> PathBuf {
    root.path().join(PRIVATE_DIR).join(LIFE_FILE)
}

fn read(root: &Root) -> Option<Life> {
    postcard::from_bytes(&fs::read(place(root)).ok()?).ok()
}

fn write(root: &Root, life: &Life) -> std::io::Result<()> {
    let (path, beside) = (place(root), place(root).with_extension("new"));
    let mut file = File::create(&beside)?;
    file.write_all(&encoded(life))?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    File::open(path.parent().unwrap_or(&path))?.sync_all()
}
