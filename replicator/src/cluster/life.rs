//! The lives of this node: which one it lives now, and when it begins another.
//!
//! To the others a node is as alive as its latest life that they know of.
//! Nobody says which one that is: a refusal carries no news.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Cluster, Member, log};

/// A node that is taken for dead again within so long has not come back: the
/// others know of a later life of it. Far more than a round trip.
const RENEWED_LATELY: Duration = Duration::from_secs(10);

impl Cluster {
    /// Takes the address under which a peer sees us, unless we have a better
    /// one: a neighbour on the same machine sees only the loopback.
    pub(super) fn learn_address(&mut self, seen_from: IpAddr) {
        let me = self.foca.identity();
        let better = me.address.ip().is_unspecified()
            || (me.address.ip().is_loopback() && !seen_from.is_loopback());
        if self.address_is_given || !better {
            return;
        }
        let address = SocketAddr::new(seen_from, me.address.port());
        self.live_on(address, 1);
    }

    /// Taken for dead while alive, this node comes back in a later life. Who
    /// takes it for dead does not say which life of it they know of; where a
    /// clock was set back that may be years ahead. So the steps double while
    /// one refusal follows another.
    pub(super) fn renew(&mut self, now: Instant) {
        let lately = self.renewed.filter(|(at, _)| now.duration_since(*at) < RENEWED_LATELY);
        let step = lately.map_or(1, |(_, step)| step.saturating_mul(2));
        self.renewed = Some((now, step));
        self.live_on(self.me().address, step);
    }

    /// Begins a life that is later by `step` than this one, and than any that
    /// others are heard to speak of.
    fn live_on(&mut self, address: SocketAddr, step: u64) {
        let me = self.foca.identity();
        let known = self.foca.iter_membership_state().map(|member| member.id());
        let lives = known.filter(|member| member.id == me.id).map(|member| member.life);
        let last = lives.fold(me.life, u64::max);
        let later = Member { id: me.id, address, life: last.saturating_add(step) };
        let result = self.foca.change_identity(later, &mut self.runtime);
        log(result);
        self.alarms.drop_stale();
    }
}
