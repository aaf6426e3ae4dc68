//! What can be wrong with an index, and what to do about it.

use std::io;

use super::SCHEMA;

/// Why the index cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "another process uses index.redb of this state directory: stop it, or give each node a \
         state directory of its own"
    )]
    Locked,
    #[error(
        "index.redb of this state directory is damaged ({0}): move it away and start again, the \
         folder is then read anew and nothing of it is lost"
    )]
    Corrupt(String),
    #[error("no space left for index.redb: make room where the state directory lies, then start")]
    NoSpace,
    #[error(
        "index.redb was written by another version of this program (schema {found}, this one has \
         {SCHEMA}): run that version, or move the file away and let the folder be read anew"
    )]
    Schema { found: u32 },
    #[error("index.redb of this state directory: {0}")]
    Io(#[source] io::Error),
    /// Who met that says what it was.
    #[error("index.redb of this state directory could not be read or written before")]
    FailedBefore,
    /// What was met first; said again to everyone who asks later.
    #[error(transparent)]
    Stopped(Fault),
}

/// What ended an index: nothing more is made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    pub reason: String,
    /// It would go on if there were room.
    pub lacks_room: bool,
}

impl Fault {
    /// Room would not help.
    pub(super) fn of(reason: String) -> Self {
        Self { reason, lacks_room: false }
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        match error {
            Error::Stopped(fault) => fault.clone(),
            other => Fault { reason: other.to_string(), lacks_room: other.lacks_room() },
        }
    }
}

impl Error {
    /// Is room all that is missing?
    pub fn lacks_room(&self) -> bool {
        match self {
            Self::NoSpace => true,
            Self::Stopped(fault) => fault.lacks_room,
            _ => false,
        }
    }

    /// What a process exits with that cannot start for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io(source) if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Locked | Self::Schema { .. } => 78,
            _ => 2,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
            // redb's word for a file that is none of its own.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::Corrupt(error.to_string())
            }
            _ => Error::Io(error),
        }
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Error::Locked,
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo => Error::FailedBefore,
            redb::Error::UpgradeRequired(version) => Error::Schema { found: version.into() },
            redb::Error::Corrupted(reason) => Error::Corrupt(reason),
            other => Error::Corrupt(other.to_string()),
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

from_redb!(
    redb::CommitError,
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);
