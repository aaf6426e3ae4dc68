//! Why a node does not serve, or no longer.

use std::path::PathBuf;

use crate::config;
use crate::id::NodeId;
use crate::status::{PlaceError, control};
use crate::{apply, capture, engine, index, root, transport};

/// Why a node does not serve, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error(transparent)]
    Root(#[from] root::Error),
    #[error(transparent)]
    Index(#[from] index::Error),
    /// It cannot be opened: what there is to do is done in that directory.
    #[error("in {}: {error}", state_dir.display())]
    Unopened { state_dir: PathBuf, error: index::Error },
    #[error(transparent)]
    Engine(#[from] engine::Error),
    #[error(transparent)]
    Apply(#[from] apply::Error),
    #[error(transparent)]
    Transport(#[from] transport::Error),
    #[error(transparent)]
    Capture(#[from] capture::Error),
    #[error(
        "the folder {} is not the one this state directory belongs to (is it mounted?): nothing was read or deleted; to start anew with it, use an empty state directory",
        root.display()
    )]
    OtherRoot { root: PathBuf },
    #[error("the index failed: {0}")]
    IndexFailed(index::Fault),
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    #[error("cannot watch the folder: {0}")]
    Watch(std::io::Error),
    #[error("a part of the node ended: {0}")]
    Ended(&'static str),
    #[error(
        "this node has left its cluster for good; to join again, start it with another, empty state directory: the folder's files stay and are merged"
    )]
    Retired,
    #[error("this node was away for longer than the retention and begins anew")]
    Rejoin,
    #[error(
        "the state directory is from a backup: this node goes on under a new name for its changes"
    )]
    NewActor,
    #[error(
        "another replicator with this node's identity runs at the same time (told by {told_by}): was the state directory copied? give every node its own, empty one"
    )]
    Twin { told_by: NodeId },
    #[error(
        "the folder {} lies in {}, or holds it, and another replicator serves that: no folder may lie in another",
        root.display(), other.display()
    )]
    Nested { root: PathBuf, other: PathBuf },
}

impl Error {
    /// Would the node serve if there were room for its index?
    pub(super) fn lacks_room(&self) -> bool {
        match self {
            Self::IndexFailed(fault) => fault.lacks_room,
            Self::Index(error) | Self::Unopened { error, .. } => error.lacks_room(),
            _ => false,
        }
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Place(error) => error.exit_code(),
            Self::Control(error) => error.exit_code(),
            Self::Index(error) | Self::Unopened { error, .. } => error.exit_code(),
            Self::Transport(error) => error.exit_code(),
            Self::Capture(error) => error.exit_code(),
            // The setting asks for what is not there.
            Self::Engine(engine::Error::NoUring(_)) => 78,
            Self::OtherRoot { .. } | Self::Nested { .. } => 78,
            // The cluster does not let it, however often it starts: two twins
            // that are started again would end each other for ever.
            Self::Retired | Self::Twin { .. } => 77,
            Self::Root(root::Error::Denied { .. } | root::Error::PrivateOwner { .. }) => 77,
            Self::Root(
                root::Error::Missing { .. }
                | root::Error::NotDirectory { .. }
                | root::Error::ReadOnly { .. }
                | root::Error::FileSystem { .. }
                | root::Error::AlreadyServed { .. }
                | root::Error::PrivateDirectory { .. }
                | root::Error::Replaced { .. }
                | root::Error::MarkerGone { .. },
            ) => 78,
            _ => 2,
        }
    }
}
