//! Where things lie in a state directory, and the note a running node leaves
//! for commands that work without it.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A state directory, by the names of what is in it.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory where there is none, closed to strangers: it holds
    /// the node's identity.
    pub fn create(&self) -> Result<(), Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.0)
            .map_err(|source| Error::Create { path: self.0.clone(), source })
    }

    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    pub fn log_file(&self) -> PathBuf {
        self.0.join("replicator.log")
    }

    pub fn status_file(&self) -> PathBuf {
        self.0.join("replicator.status")
    }

    /// The facts behind the status file, for programs.
    pub fn report_file(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// Leaves the note.
    pub fn write_note(&self, note: &NodeNote) -> Result<(), Error> {
        let path = self.note_file();
        let text = serde_json::to_vec_pretty(note).map_err(io::Error::other);
        text.and_then(|text| super::file::replace(&path, &text))
            .map_err(|source| Error::Write { path, source })
    }

    /// Reads the note of the last run.
    pub fn read_note(&self) -> Result<NodeNote, Error> {
        let path = self.note_file();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NeverRan { path: self.0.clone() });
            }
            Err(source) => return Err(Error::Read { path, source }),
        };
        serde_json::from_slice(&text)
            .map_err(|source| Error::Read { path, source: io::Error::other(source) })
    }

    /// The number of the user as whom the node runs, or ran last: it writes its
    /// note anew at each start.
    pub fn owner(&self) -> Result<u32, Error> {
        let path = self.note_file();
        match std::fs::metadata(&path) {
            Ok(facts) => Ok(facts.uid()),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    fn note_file(&self) -> PathBuf {
        self.0.join("node.json")
    }
}

/// What a command must know of a node that is not running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNote {
    pub name: String,
    /// The folder `default`, the only one for now.
    pub root: PathBuf,
    pub version: String,
}

/// Trouble with the state directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot make the state directory {}: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("no replicator ever ran on the state directory {}: is it the right one?", path.display())]
    NeverRan { path: PathBuf },
}

impl Error {
    /// What the process exits with: 77 where permission is missing, else 78.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Create { source, .. }
            | Self::Write { source, .. }
            | Self::Read { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                77
            }
            _ => 78,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_outlives_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let place = StateDir::new(folder.path().join("a/b"));
        place.create().unwrap();
        assert!(matches!(place.read_note(), Err(Error::NeverRan { .. })));
        let note = NodeNote { name: "n".into(), root: "/srv".into(), version: "1".into() };
        place.write_note(&note).unwrap();
        assert_eq!(place.read_note().unwrap(), note);
        std::fs::write(folder.path().join("a/b/node.json"), "{").unwrap();
        assert!(matches!(place.read_note(), Err(Error::Read { .. })));
    }
}
