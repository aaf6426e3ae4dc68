//! Who is no peer, and why: nodes that were refused, and configured addresses
//! where nobody became one.
//!
//! It is for people to read and decides nothing. What is over is forgotten: a
//! mistake that was mended must not look like one that is still there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::status::{PeerFacts, clock};
use crate::transport::Unreached;

/// Refused nodes that are shown; the one that was silent for longest makes
/// room.
const REFUSED_MAX: usize = 16;

/// Who was not refused again for so long has stopped trying: a node that is
/// refused tries again within twenty seconds.
const REFUSED_FOR: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Unmet {
    refused: BTreeMap<SocketAddr, Refused>,
}

struct Refused {
    reason: String,
    since: Instant,
    last: Instant,
}

impl Unmet {
    pub fn refused(&mut self, now: Instant, address: SocketAddr, reason: String) {
        self.refused.retain(|_, refused| refused.is_fresh(now));
        let address = canonical(address);
        let before = self.refused.remove(&address);
        if self.refused.len() >= REFUSED_MAX {
            let silent = self.refused.iter().min_by_key(|(_, refused)| refused.last);
            if let Some(silent) = silent.map(|(address, _)| *address) {
                self.refused.remove(&silent);
            }
        }
        let since = before.map_or(now, |before| before.since);
        self.refused.insert(address, Refused { reason, since, last: now });
    }

    /// Whoever is at this address is a peer now.
    pub fn joined(&mut self, address: SocketAddr) {
        self.refused.remove(&canonical(address));
    }

    /// Why the node at this address is refused, if it still is.
    pub fn why_refused(&self, now: Instant, address: SocketAddr) -> Option<&str> {
        let refused = self.refused.get(&canonical(address))?;
        refused.is_fresh(now).then_some(refused.reason.as_str())
    }

    /// What to show of them: `unreached` are the configured addresses where
    /// nobody is a peer, `met` those of peers that are shown anyway.
    pub fn facts(
        &self,
        now: Instant,
        unreached: &[(Address, Unreached)],
        met: impl Iterator<Item = SocketAddr>,
    ) -> Vec<PeerFacts> {
        let met: BTreeSet<SocketAddr> = met.map(canonical).collect();
        let is_met = |why: &Unreached| why.tried.iter().any(|one| met.contains(&canonical(*one)));
        let unreached: Vec<_> = unreached.iter().filter(|(_, why)| !is_met(why)).collect();
        let tried: BTreeSet<SocketAddr> =
            unreached.iter().flat_map(|(_, why)| &why.tried).copied().map(canonical).collect();
        let refused = self.refused.iter().filter(|(address, refused)| {
            refused.is_fresh(now) && !tried.contains(address) && !met.contains(address)
        });
        let given = unreached.iter().map(|(address, why)| {
            let state = match why.is_refused {
                true => refused_for(&why.reason),
                false => "not reached".to_owned(),
            };
            facts(now, address.to_string(), state, &why.reason, why.since)
        });
        let strangers = refused.map(|(address, refused)| {
            let state = refused_for(&refused.reason);
            facts(now, address.to_string(), state, &refused.reason, refused.since)
        });
        given.chain(strangers).collect()
    }
}

impl Refused {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.last) < REFUSED_FOR
    }
}

fn facts(now: Instant, address: String, state: String, error: &str, since: Instant) -> PeerFacts {
    let ago_ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
    PeerFacts {
        address,
        state,
        since_ms: clock::now_ms().saturating_sub(ago_ms),
        last_error: Some(error.to_owned()),
        ..PeerFacts::default()
    }
}

/// The state of a node that is refused.
pub(super) fn refused_for(reason: &str) -> String {
    format!("refused: {reason}")
}

/// One address has one form, however the socket writes it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn shown(unmet: &Unmet, now: Instant, unreached: &[(Address, Unreached)]) -> Vec<String> {
        let facts = unmet.facts(now, unreached, std::iter::empty());
        facts.into_iter().map(|peer| format!("{}: {}", peer.address, peer.state)).collect()
    }

    fn unreached(since: Instant, name: &str, tried: &[&str]) -> (Address, Unreached) {
        let tried = tried.iter().map(|one| at(one)).collect();
        let reason = "no answer".to_owned();
        (name.parse().unwrap(), Unreached { since, tried, reason, is_refused: false })
    }

    #[test]
    fn a_refusal_goes_when_the_node_joins_and_when_it_stops_trying() {
        let (mut unmet, now) = (Unmet::default(), Instant::now());
        unmet.refused(now, at("[::ffff:192.0.2.1]:7400"), "the password differs".into());
        assert_eq!(shown(&unmet, now, &[]), ["192.0.2.1:7400: refused: the password differs"]);
        // It tries again, and again.
        unmet.refused(now + REFUSED_FOR / 2, at("192.0.2.1:7400"), "the version differs".into());
        let later = now + REFUSED_FOR;
        assert_eq!(shown(&unmet, later, &[]), ["192.0.2.1:7400: refused: the version differs"]);
        let why = |now| unmet.why_refused(now, at("192.0.2.1:7400"));
        assert_eq!(why(later), Some("the version differs"));
        assert_eq!(why(now + REFUSED_FOR * 2), None);
        assert_eq!(shown(&unmet, now + REFUSED_FOR * 2, &[]), [""; 0]);
        unmet.joined(at("192.0.2.1:7400"));
        assert_eq!(shown(&unmet, later, &[]), [""; 0]);
    }

    #[test]
    fn strangers_cannot_fill_the_status() {
        let (mut unmet, now) = (Unmet::default(), Instant::now());
        for port in 1..=100 {
            let address = SocketAddr::new(at("192.0.2.1:1").ip(), port);
            unmet.refused(now + Duration::from_millis(port.into()), address, "no".into());
        }
        let shown = shown(&unmet, now + Duration::from_secs(1), &[]);
        assert_eq!(shown.len(), REFUSED_MAX);
        assert!(shown.contains(&"192.0.2.1:100: refused: no".to_owned()), "{shown:?}");
    }

    #[test]
    fn a_configured_address_is_shown_once_and_not_beside_its_peer() {
        let (mut unmet, now) = (Unmet::default(), Instant::now());
        let since = now - Duration::from_secs(5);
        let given = [
            unreached(since, "typo.invalid:7400", &[]),
            unreached(since, "app2:7400", &["192.0.2.2:7400"]),
        ];
        unmet.refused(now, at("192.0.2.2:7400"), "the password differs".into());
        let both = ["typo.invalid:7400: not reached", "app2:7400: not reached"];
        assert_eq!(shown(&unmet, now, &given), both);
        let met = [at("[::ffff:192.0.2.2]:7400")];
        let facts = unmet.facts(now, &given, met.into_iter());
        assert_eq!(facts.len(), 1, "{facts:?}");
        assert_eq!(facts[0].last_error.as_deref(), Some("no answer"));
        let ago_ms = clock::now_ms() - facts[0].since_ms;
        assert!((5000..60_000).contains(&ago_ms), "{ago_ms}");
    }
}
