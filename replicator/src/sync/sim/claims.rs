//! What a peer claims to hold of logs, and is told nevertheless; and what is
//! claimed only once the peer can have heard it.

use std::time::Duration;

use super::path;
use super::plan::{Plan, RETENTION};
use crate::entry::{Kind, Metadata, Timestamp};
use crate::hash::Digest;
use crate::id::{Actor, BodyId, NodeId};
use crate::sync::Introduction;
use crate::sync::core::{Core, Options};
use crate::sync::effect::{Effect, Now};
use crate::sync::message::{Message, Records};
use crate::sync::record::{Binding, BodyRecord, Content, NameRecord};
use crate::sync::register::Register;
use crate::sync::roster::MemberNews;
use crate::sync::store::{MemoryStore, Store};
use crate::sync::version::{Difference, Dot, VersionVector};

const NOW: Now = Now { monotonic: Duration::ZERO, wall: 0 };

fn dot(actor: u64, counter: u64) -> Dot {
    Dot { actor: Actor(actor), counter }
}

fn up_to(dots: &[Dot]) -> VersionVector {
    let mut vector = VersionVector::new();
    dots.iter().for_each(|dot| vector.advance(*dot));
    vector
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// A file of the first two actors, as somebody merged it under this stamp.
fn told(stamp: Dot) -> Records {
    let body = |actor| BodyId { origin: Actor(actor), counter: 1 };
    let bound = |actor| Binding::Bound { body: body(actor), kind: Kind::File, over: None };
    let mut binding = Register::new(dot(1, 2), 1, bound(1));
    binding.merge(&Register::new(dot(2, 2), 2, bound(2)));
    let content = Content::File { size: 1, digest: Digest::of(b"a") };
    let mtime = Timestamp { seconds: 0, nanos: 0 };
    let metadata = Metadata { mode: 0o644, mtime, ..Metadata::default() };
    let record = |actor| BodyRecord {
        // Merged by the same, too.
        stamp: Dot { counter: stamp.counter + actor, ..stamp },
        id: body(actor),
        content: Register::new(dot(actor, 1), 1, content.clone()),
        metadata: Register::new(dot(actor, 1), 1, metadata.clone()),
    };
    Records {
        bodies: vec![record(1), record(2)],
        names: vec![NameRecord { stamp, path: path("f"), binding }],
        patches: Vec::new(),
        have: Some(up_to(&[Dot { counter: stamp.counter + 2, ..stamp }])),
    }
}

/// Two nodes merged the same, and a third was told all of the log of the one by
/// somebody who had it in the log of the other and left that to its author.
#[test]
fn who_claims_the_log_of_one_of_two_that_merged_the_same_is_told_of_it() {
    for (first, second) in [(3, 4), (4, 3)] {
        let options = Plan::peaceful(0).options(0);
        let mut core = Core::new(options, Actor(9), 1, MemoryStore::default());
        for author in [first, second] {
            core.handle_connected(NOW, node(author));
            core.handle_message(NOW, node(author), Message::Records(told(dot(author.into(), 5))));
        }
        core.handle_connected(NOW, node(5));
        let have = up_to(&[dot(3, 7)]);
        core.handle_message(NOW, node(5), Message::Greeting { actor: Actor(5), have });
        let (mut names, mut bodies) = (Vec::new(), Vec::new());
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Send { peer, message: Message::Records(records) } if peer == node(5) => {
                    names.extend(records.names.into_iter().map(|name| name.stamp));
                    bodies.extend(records.bodies.into_iter().map(|body| body.stamp));
                }
                _ => {}
            }
        }
        bodies.sort();
        assert_eq!((names, bodies), (vec![dot(4, 5)], vec![dot(4, 6), dot(4, 7)]));
        assert_eq!(core.store().have(), up_to(&[dot(3, 7), dot(4, 7)]));
    }
}

const OTHER: u8 = 5;
const TELLING: u8 = 6;

/// Directories that nobody named yet, more than go into the messages that may
/// be on their way to one peer.
const BODIES: u64 = 9;

/// A member that holds nothing, and is connected with both.
fn joining() -> Core<MemoryStore> {
    let options = Options { records_max: 1, ..Plan::peaceful(0).options(0) };
    let mut core = Core::new(options, Actor(9), 1, MemoryStore::default());
    let (name, retention) = ("nine".into(), RETENTION);
    core.introduce(Introduction { node: node(9), name, retention });
    [TELLING, OTHER].into_iter().for_each(|peer| core.handle_connected(NOW, node(peer)));
    core
}

/// It tells one of them so much that it is in the middle of it.
fn in_the_middle_of_a_series() -> Core<MemoryStore> {
    let mut core = joining();
    let body = |counter| BodyRecord {
        stamp: dot(3, counter),
        id: BodyId { origin: Actor(3), counter },
        content: Register::new(dot(3, counter), 1, Content::Directory),
        metadata: Register::new(dot(3, counter), 1, Metadata::default()),
    };
    let bodies = (1..=BODIES).map(body).collect();
    let records = Records { bodies, have: Some(up_to(&[dot(3, BODIES)])), ..Records::default() };
    core.handle_message(NOW, node(TELLING), Message::Records(records));
    core.handle_message(NOW, node(OTHER), greeting());
    assert_eq!(said(&mut core), ["Meet", "Greeting", "Records", "Records", "Records", "Records"]);
    core
}

fn greeting() -> Message {
    Message::Greeting { actor: Actor(5), have: VersionVector::new() }
}

/// It lacks a part of this log.
fn refused() -> Message {
    Message::Refused { floor: up_to(&[dot(4, 1)]) }
}

/// Somebody else tells it that part.
fn is_told_the_rest(core: &mut Core<MemoryStore>) {
    let records = Records { have: Some(up_to(&[dot(4, 1)])), ..Records::default() };
    core.handle_message(NOW, node(TELLING), Message::Records(records));
}

/// What the other peer is about to hear.
fn said(core: &mut Core<MemoryStore>) -> Vec<&'static str> {
    let mut said = Vec::new();
    while let Some(effect) = core.poll_effect() {
        let what = match effect {
            Effect::Send { peer, .. } if peer != node(OTHER) => continue,
            Effect::Send { message: Message::Meet { .. }, .. } => "Meet",
            Effect::Send { message: Message::Greeting { .. }, .. } => "Greeting",
            Effect::Send { message: Message::Records(_), .. } => "Records",
            Effect::Send { message: Message::Refused { .. }, .. } => "Refused",
            _ => continue,
        };
        said.push(what);
    }
    said
}

/// It hears that, and all that follows.
fn hears(core: &mut Core<MemoryStore>) -> Vec<&'static str> {
    let mut heard = said(core);
    for _ in 0..2 * BODIES {
        core.handle_sent(NOW, node(OTHER));
        heard.extend(said(core));
    }
    heard
}

/// What a peer that refuses is told is lost on it. The series had been closed
/// after it listened again, and what it had missed was never told to it.
#[test]
fn who_was_refused_in_the_middle_of_a_series_begins_another() {
    let mut core = in_the_middle_of_a_series();
    core.handle_message(NOW, node(OTHER), refused());
    // It refused before it had looked at its own folder.
    core.handle_message(NOW, node(OTHER), greeting());
    assert!(hears(&mut core).is_empty());
    is_told_the_rest(&mut core);
    assert_eq!(hears(&mut core), ["Meet", "Greeting"]);
    core.handle_message(NOW, node(OTHER), greeting());
    // One closes it.
    assert_eq!(hears(&mut core), ["Records"; BODIES as usize + 1]);
}

/// The same where it hears only later that it is refused there, too.
#[test]
fn who_was_refused_meets_nobody_again_whose_refusal_is_on_its_way() {
    let mut core = in_the_middle_of_a_series();
    core.handle_message(NOW, node(TELLING), refused());
    is_told_the_rest(&mut core);
    assert!(said(&mut core).is_empty());
    core.handle_message(NOW, node(OTHER), refused());
    assert_eq!(hears(&mut core), ["Meet", "Greeting"]);
}

/// Says what it holds; below all of that it may have forgotten deletions.
fn met(peer: u8, holds: Dot) -> Message {
    let (name, have) = (peer.to_string(), Difference::default());
    let (version, retention, retired) = (1, RETENTION, false);
    let mine = MemberNews { node: node(peer), version, name, retention, retired, have };
    Message::Meet { floor: up_to(&[holds]), have: up_to(&[holds]), mine }
}

/// Who joins hears from a second node that the first was away for too long. What
/// it is told next claims a log of which a deletion is forgotten: passed on, it
/// let that node in, with what was deleted.
#[test]
fn who_is_refused_after_it_greeted_is_told_nothing_more() {
    let mut core = joining();
    core.handle_message(NOW, node(OTHER), met(OTHER, dot(4, 1)));
    let have = up_to(&[dot(4, 1)]);
    core.handle_message(NOW, node(OTHER), Message::Greeting { actor: Actor(5), have });
    hears(&mut core);
    core.handle_message(NOW, node(TELLING), met(TELLING, dot(4, 2)));
    assert_eq!(hears(&mut core), ["Refused"]);
    let records = Records { have: Some(up_to(&[dot(4, 2)])), ..Records::default() };
    core.handle_message(NOW, node(TELLING), Message::Records(records));
    assert!(hears(&mut core).is_empty());
}

/// A node died in the middle of a series while others were in the middle of
/// theirs: what it had told went untold for ever when those had ended well.
#[test]
fn what_one_told_in_part_is_told_on_though_another_series_ended_after_it() {
    let mut core = Core::new(Plan::peaceful(0).options(0), Actor(9), 1, MemoryStore::default());
    for author in [3, 4] {
        core.handle_connected(NOW, node(author));
        let records = Records { have: None, ..told(dot(author.into(), 5)) };
        core.handle_message(NOW, node(author), Message::Records(records));
    }
    core.handle_disconnected(NOW, node(4));
    core.handle_message(NOW, node(3), Message::Records(told(dot(3, 5))));
    let stamp = |core: &Core<MemoryStore>| core.store().name(&path("f")).expect("was told").stamp;
    assert_eq!(stamp(&core), dot(4, 5));
    for second in 1..=60 {
        core.handle_timeout(Now { monotonic: Duration::from_secs(second), ..NOW });
    }
    assert_eq!(stamp(&core).actor, Actor(9));
}

/// It was ended in the middle of that series itself, and who told has not come
/// back since: the next series of anybody reminds it.
#[test]
fn what_one_told_in_part_is_told_on_after_a_restart() {
    let new = |life, store| Core::new(Plan::peaceful(0).options(0), Actor(life), 1, store);
    let mut core = new(9, MemoryStore::default());
    core.handle_connected(NOW, node(4));
    let records = Records { have: None, ..told(dot(4, 5)) };
    core.handle_message(NOW, node(4), Message::Records(records));
    let mut core = new(10, core.store().clone());
    core.handle_connected(NOW, node(3));
    let nothing = Records { have: Some(VersionVector::new()), ..Records::default() };
    core.handle_message(NOW, node(3), Message::Records(nothing));
    let stamp = |core: &Core<MemoryStore>| core.store().name(&path("f")).expect("was told").stamp;
    assert_eq!(stamp(&core), dot(4, 5));
    for second in 1..=60 {
        core.handle_timeout(Now { monotonic: Duration::from_secs(second), ..NOW });
    }
    assert_eq!(stamp(&core).actor, Actor(10));
}
