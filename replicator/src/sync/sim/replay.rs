//! What is done once is done again: a seed that failed can be replayed.
//!
//! A map whose order differs from one to the next of the same process would
//! show here, where that order decides anything.

use std::time::Duration;

use super::path;
use super::plan::Plan;
use crate::entry::Kind;
use crate::id::{Actor, BodyId, NodeId};
use crate::limits::BODIES_ASKED_MAX;
use crate::sync::core::Core;
use crate::sync::effect::{Effect, Now};
use crate::sync::members::Introduction;
use crate::sync::message::{Message, Records};
use crate::sync::record::{Binding, NameRecord};
use crate::sync::register::Register;
use crate::sync::store::MemoryStore;
use crate::sync::version::{Dot, VersionVector};

/// Seeds of each plan: the other tests have thousands.
const SEEDS: u64 = 12;

#[test]
fn a_seed_leads_to_the_same_run_again() {
    let plans: [fn(u64) -> Plan; 5] =
        [Plan::deleting, Plan::coming, Plan::leaving, Plan::wild, Plan::alike];
    for seed in 0..SEEDS {
        for plan in plans {
            let plan = Plan { traced: true, ..plan(seed) };
            let trace = || super::run(plan).0.trace;
            let (first, second) = (trace(), trace());
            let parted = first.iter().zip(&second).find(|(one, other)| one != other);
            assert!(parted.is_none(), "{plan:?}\n    {parted:#?}");
            assert_eq!(first.len(), second.len(), "{plan:?}");
        }
    }
}

/// Names of more bodies than can be asked for at once, none of them told.
fn names_alone(author: Actor) -> Records {
    let count = BODIES_ASKED_MAX as u64 + 44;
    let name = |counter| {
        let (stamp, origin) = (Dot { actor: author, counter }, Actor(7));
        // The later the name, the earlier the body.
        let body = BodyId { origin, counter: count - counter + 1 };
        let binding = Binding::Bound { body, kind: Kind::File, over: None };
        let path = path(&format!("file {counter}"));
        NameRecord { stamp, path, binding: Register::new(stamp, 1, binding) }
    };
    let mut have = VersionVector::new();
    have.advance(Dot { actor: author, counter: count });
    let names = (1..=count).map(name).collect();
    Records { bodies: Vec::new(), names, patches: Vec::new(), have: Some(have) }
}

/// Which bodies are asked for first is no matter of chance: more are missing
/// than one message may name.
#[test]
fn missing_bodies_are_asked_for_in_their_order() {
    let (now, peer) = (Now { monotonic: Duration::ZERO, wall: 0 }, NodeId::from_bytes([3; 16]));
    let mut core = Core::new(Plan::peaceful(0).options(0), Actor(9), 1, MemoryStore::default());
    let (node, name) = (NodeId::from_bytes([9; 16]), "node".to_owned());
    core.introduce(Introduction { node, name, retention: Duration::from_secs(3600) });
    core.handle_connected(now, peer);
    core.handle_message(now, peer, Message::Records(names_alone(Actor(3))));
    let mut asked = Vec::new();
    while let Some(effect) = core.poll_effect() {
        if let Effect::Send { message: Message::WantBodies(wanted), .. } = effect {
            asked.push(wanted);
        }
    }
    let first: Vec<BodyId> =
        (1..=BODIES_ASKED_MAX as u64).map(|counter| BodyId { origin: Actor(7), counter }).collect();
    assert!(!asked.is_empty(), "nothing was asked for");
    assert!(asked.iter().all(|wanted| *wanted == first), "{asked:?}");
}
