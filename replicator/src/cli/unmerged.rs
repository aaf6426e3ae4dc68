//! The faces of rooms that are written at the same time as this one. To be
//! deleted when they are merged: each `use super::unmerged::X` then becomes
//! `use crate::X`.

pub mod node {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use tokio::sync::watch;

    use crate::config::Config;
    use crate::id::NodeId;

    /// What a node can say once it serves.
    pub struct Ready {
        pub root: PathBuf,
        pub listen: SocketAddr,
        pub id: NodeId,
        pub name: String,
        pub capture: String,
        pub engine: String,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("this build serves nothing yet")]
    pub struct Error;

    impl Error {
        pub fn exit_code(&self) -> u8 {
            2
        }
    }

    pub async fn run(
        _config: Config,
        _stop: watch::Receiver<bool>,
        _ready: impl FnOnce(&Ready),
    ) -> Result<(), Error> {
        Err(Error)
    }
}

pub mod apply {
    pub mod conflicts {
        use std::path::Path;

        use crate::path::RelPath;
        use crate::root::Root;

        #[derive(Debug, serde::Serialize)]
        pub struct Conflict {
            pub id: String,
            pub path: RelPath,
            pub bytes: u64,
            pub kept_ms: u64,
        }

        #[derive(Debug, thiserror::Error)]
        #[error("this build keeps no conflicts yet")]
        pub struct Error;

        pub fn list(_root: &Root) -> Result<Vec<Conflict>, Error> {
            Err(Error)
        }

        pub fn restore(_root: &Root, _id: &str, _to: Option<&Path>) -> Result<(), Error> {
            Err(Error)
        }

        pub fn drop(_root: &Root, _id: &str) -> Result<(), Error> {
            Err(Error)
        }
    }
}

pub mod capture {
    use std::path::Path;

    pub struct Finding {
        pub what: String,
        pub available: bool,
        pub detail: String,
    }

    pub fn probe(_root: &Path) -> Vec<Finding> {
        Vec::new()
    }
}
