//! Who connects with whom, and through whom a datagram finds its way.
//!
//! The members stand in a ring, ordered by id. In a large cluster each one
//! connects to those 1, 2, 4, 8, ... places away on both sides. All nodes
//! compute the same from the same members, the wish is mutual, the graph
//! stays connected when any few members fall, and each hop to the connected
//! member nearest to the goal at least halves the distance.

use std::collections::BTreeSet;

use crate::id::NodeId;

/// Largest cluster in which everybody connects to everybody: 15 connections a
/// node, against 8 in the ring; a change reaches all in one step.
pub const MESH_NODES_MAX: usize = 16;

/// Members in the order of their ids, ourselves among them.
pub(super) struct Ring {
    me: NodeId,
    members: Vec<NodeId>,
}

impl Ring {
    pub(super) fn new(me: NodeId, others: impl IntoIterator<Item = NodeId>) -> Self {
        let mut members: Vec<_> = others.into_iter().chain([me]).collect();
        members.sort();
        members.dedup();
        Self { me, members }
    }

    pub(super) fn is_mesh(&self) -> bool {
        self.members.len() <= MESH_NODES_MAX
    }

    /// How many members there are beside ourselves.
    pub(super) fn others(&self) -> usize {
        self.members.len() - 1
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.members.binary_search(&id).is_ok()
    }

    /// The members this node should be connected with.
    pub(super) fn neighbours(&self) -> BTreeSet<NodeId> {
        if self.is_mesh() {
            return self.members.iter().copied().filter(|id| *id != self.me).collect();
        }
        let (count, here) = (self.members.len(), self.place(self.me));
        std::iter::successors(Some(1), |step| Some(step * 2))
            .take_while(|step| *step <= count / 2)
            .flat_map(|step| [(here + step) % count, (here + count - step) % count])
            .map(|place| self.members[place])
            .collect()
    }

    /// The peer to which a datagram for `to` goes: itself, or the one nearest
    /// to it that is nearer than we are. Only where it starts (`came_from` is
    /// none) may it go away from its goal, to get around a pair of nodes that
    /// cannot connect.
    pub(super) fn next_hop(
        &self,
        to: NodeId,
        connected: &BTreeSet<NodeId>,
        came_from: Option<NodeId>,
    ) -> Option<NodeId> {
        if connected.contains(&to) {
            return Some(to);
        }
        let nearest = connected
            .iter()
            .copied()
            .filter(|peer| Some(*peer) != came_from && self.contains(*peer))
            .min_by_key(|peer| self.distance(*peer, to))?;
        let nearer = self.distance(nearest, to) < self.distance(self.me, to);
        (nearer || came_from.is_none()).then_some(nearest)
    }

    /// Steps between two members, the short way round.
    fn distance(&self, a: NodeId, b: NodeId) -> usize {
        let apart = self.place(a).abs_diff(self.place(b));
        apart.min(self.members.len() - apart)
    }

    /// Where a member stands, or would stand.
    fn place(&self, id: NodeId) -> usize {
        self.members.partition_point(|member| *member < id) % self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u8) -> Vec<NodeId> {
        (0..count).map(|n| NodeId::from_bytes([n; 16])).collect()
    }

    #[test]
    fn wishes_are_mutual_and_few() {
        for count in [1, 2, 3, 16, 17, 33, 50, 200] {
            let all = ids(count);
            let rings: Vec<_> = all.iter().map(|me| Ring::new(*me, all.clone())).collect();
            for ring in &rings {
                let neighbours = ring.neighbours();
                assert!(!neighbours.contains(&ring.me));
                assert!(neighbours.len() <= 15, "{count} nodes: {}", neighbours.len());
                for neighbour in neighbours {
                    let back = rings.iter().find(|other| other.me == neighbour).unwrap();
                    assert!(back.neighbours().contains(&ring.me));
                }
            }
        }
    }

    #[test]
    fn every_datagram_arrives_in_few_hops() {
        for count in [3u8, 17, 50, 200] {
            let all = ids(count);
            let rings: Vec<_> = all.iter().map(|me| Ring::new(*me, all.clone())).collect();
            for start in &rings {
                for goal in all.iter().filter(|goal| **goal != start.me) {
                    let (mut at, mut came_from, mut hops) = (start, None, 0);
                    while at.me != *goal {
                        let next = at.next_hop(*goal, &at.neighbours(), came_from).unwrap();
                        came_from = Some(at.me);
                        at = rings.iter().find(|ring| ring.me == next).unwrap();
                        hops += 1;
                    }
                    assert!(hops <= 7, "{hops} hops among {count}");
                }
            }
        }
    }

    #[test]
    fn a_pair_that_cannot_connect_is_got_around() {
        let all = ids(3);
        let ring = Ring::new(all[0], all.clone());
        let connected = BTreeSet::from([all[1]]);
        assert_eq!(ring.next_hop(all[2], &connected, None), Some(all[1]));
        // What came from there is not sent back.
        assert_eq!(ring.next_hop(all[2], &connected, Some(all[1])), None);
        assert_eq!(ring.next_hop(all[2], &BTreeSet::new(), None), None);
    }
}
