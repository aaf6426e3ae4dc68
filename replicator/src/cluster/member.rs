//! A member as the cluster knows it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// A node, where it is reached, and which life of it this is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub id: NodeId,
    pub address: SocketAddr,
    /// Rises with each start (the time of it will do, where that is later)
    /// and with each change of address; of two claims about one node the later
    /// life counts.
    pub life: u64,
}

impl foca::Identity for Member {
    type Addr = NodeId;

    /// Taken for dead while alive, a node comes back in a later life; how much
    /// later the cluster knows, not the member.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.life, self.address) > (adversary.life, adversary.address)
    }
}
