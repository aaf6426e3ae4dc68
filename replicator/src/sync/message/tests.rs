//! What is sent, and what is refused.

use super::*;
use crate::entry::Metadata;
use crate::id::{Actor, NodeId};
use crate::limits::NODE_NAME_BYTES_MAX;
use crate::sync::record::Content;
use crate::sync::register::Register;
use crate::sync::version::Dot;

fn path(bytes: &[u8]) -> RelPath {
    RelPath::parse(bytes).expect("a path")
}

fn member(name: &str) -> MemberNews {
    let node = NodeId::from_bytes([3; 16]);
    let have = VersionVector::new().difference_from(&VersionVector::new());
    let (name, retention) = (name.to_owned(), std::time::Duration::from_secs(9));
    MemberNews { node, version: 2, name, retention, retired: false, have }
}

#[test]
fn the_bytes_on_the_wire_do_not_change_by_accident() {
    let mut have = VersionVector::new();
    have.advance(Dot { actor: Actor(7), counter: 300 });
    let greeting = Message::Greeting { actor: Actor(7), have: have.clone() };
    assert_eq!(greeting.encode()[..], [0, 7, 1, 7, 172, 2]);
    assert_eq!(Message::Probe { token: 5 }.encode()[..], [3, 5]);
    let message = Message::Have { have: have.clone(), links: vec![Actor(1)] };
    assert_eq!(message.encode()[..], [2, 1, 7, 172, 2, 1, 1]);
    let base = VersionVector::new();
    let mine = MemberNews { retired: true, have: have.difference_from(&base), ..member("n") };
    let news = [&[3; 16][..], &[2, 1, b'n', 9, 0, 1, 1, 7, 172, 2]].concat();
    let members = Message::Members(vec![mine.clone()]).encode();
    assert_eq!(members[..], [&[6, 1], &news[..]].concat());
    let meet = Message::Meet { floor: base, have, mine }.encode();
    assert_eq!(meet[..], [&[5, 0, 1, 7, 172, 2], &news[..]].concat());
    let refused = Message::Refused { floor: VersionVector::new() };
    assert_eq!(refused.encode()[..], [7, 0]);
    let answer = Message::Answer { id: 300, answers: vec![Answer::Same, Answer::Nothing] };
    assert_eq!(answer.encode()[..], [11, 172, 2, 2, 0, 2]);
    let stretch = Stretch { up_to: path(b"a"), outlines: Outlines::default() };
    let (after, stretches) = (Some(path(b"b")), vec![stretch]);
    let offer = Message::Offer(Offer { id: 5, after, stretches, ..Offer::default() }).encode();
    let head = [10, 5, 1, 1, b'b', 0, 0, 1, 1, b'a', 0, 0];
    assert_eq!(offer[..], [&head, &[0; 16][..]].concat());
    let request = FetchRequest {
        items: vec![FetchItem {
            body: BodyId { origin: Actor(1), counter: 2 },
            digest: Digest::from_bytes([9; 32]),
            size: 4,
            part: Part::Whole,
        }],
    };
    assert_eq!(request.encode()[..4], [1, 1, 2, 9]);
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    for length in 0..64 {
        for byte in 0..=255u8 {
            let _ = Message::decode(&vec![byte; length]);
        }
    }
}

fn refused(message: Message) -> &'static str {
    match Message::decode(&message.encode()) {
        Err(Malformed::Impossible(what)) => what,
        other => panic!("not refused: {other:?}"),
    }
}

fn records(records: Records) -> Message {
    Message::Records(records)
}

fn taken(message: Message) {
    assert!(Message::decode(&message.encode()).is_ok_and(|decoded| decoded == message));
}

fn body(counter: u64) -> BodyRecord {
    let dot = Dot { actor: Actor(1), counter };
    BodyRecord {
        stamp: dot,
        id: BodyId { origin: Actor(1), counter },
        content: Register::new(dot, 1, Content::Fifo),
        metadata: Register::new(dot, 1, Metadata::default()),
    }
}

fn patch(writes: Writes, holes: RangeSet) -> Patch {
    let (body, to) = (BodyId { origin: Actor(1), counter: 1 }, Digest::from_bytes([1; 32]));
    Patch { body, from: None, to, writes, holes }
}

fn with_patch(patch: Patch) -> Message {
    records(Records { bodies: vec![body(1)], patches: vec![patch], ..Records::default() })
}

#[test]
fn longer_lists_than_a_node_sends_are_refused() {
    let bodies: Vec<BodyRecord> = (1..=RECORDS_MAX as u64 + 2).map(body).collect();
    let too_many = Records { bodies: bodies.clone(), ..Records::default() };
    assert_eq!(refused(records(too_many)), "list of records");
    let full = Records { bodies: bodies[..=RECORDS_MAX].to_vec(), ..Records::default() };
    taken(records(full));
    let asked = bodies[..=BODIES_ASKED_MAX].to_vec();
    assert_eq!(refused(Message::Bodies(asked.clone())), "list of bodies");
    let ids = asked.iter().map(|body| body.id).collect();
    assert_eq!(refused(Message::WantBodies(ids)), "request for bodies");
    let two = vec![patch(Writes::new(), RangeSet::new()); 2];
    let doubled = Records { bodies: vec![body(1)], patches: two, ..Records::default() };
    assert_eq!(refused(records(doubled)), "list of patches");
    let links = |count| Message::Have { have: VersionVector::new(), links: vec![Actor(1); count] };
    assert_eq!(refused(links(MEMBERS_MAX + 1)), "list of connections");
    taken(links(MEMBERS_MAX));
    let members = |count| Message::Members(vec![member("n"); count]);
    assert_eq!(refused(members(MEMBERS_MAX + 1)), "list of members");
    taken(members(MEMBERS_MAX));
    let answer = vec![Answer::Same; STRETCHES_MAX + 1];
    assert_eq!(refused(Message::Answer { id: 1, answers: answer }), "answer");
    let stretch = Stretch { up_to: path(b"a"), outlines: Outlines::default() };
    let stretches = vec![stretch; STRETCHES_MAX + 1];
    let offer = Offer { stretches, ..Offer::default() };
    assert_eq!(refused(Message::Offer(offer)), "list of stretches");
}

#[test]
fn a_patch_that_does_not_ride_or_fit_is_refused() {
    let (none, byte) = (RangeSet::new(), Bytes::from_static(b"a"));
    let most = Bytes::from(vec![1; INLINE_BYTES_MAX as usize]);
    taken(with_patch(patch(vec![(0, most.clone())], none.clone())));
    let beyond = patch(vec![(0, most), (1 << 30, byte.clone())], none.clone());
    assert_eq!(refused(with_patch(beyond)), "patch");
    let runs = |count: usize| (0..count as u64).map(|at| (2 * at, byte.clone())).collect();
    taken(with_patch(patch(runs(ANSWER_RANGES_MAX), none.clone())));
    assert_eq!(refused(with_patch(patch(runs(ANSWER_RANGES_MAX + 1), none.clone()))), "patch");
    let at_the_end = patch(vec![(i64::MAX as u64, byte.clone())], none.clone());
    assert_eq!(refused(with_patch(at_the_end)), "patch");
    let far: RangeSet = Range::new(0, 1 << 63).into_iter().collect();
    assert_eq!(refused(with_patch(patch(Writes::new(), far))), "patch");
    // No set can be made like that here: one hole that ends before it begins.
    let backwards = postcard::to_stdvec(&[Range { start: 9, end: 4 }][..]);
    let backwards = postcard::from_bytes(&backwards.expect("bytes")).expect("a set");
    assert_eq!(refused(with_patch(patch(Writes::new(), backwards))), "patch");
}

#[test]
fn a_member_whose_name_is_no_name_is_refused() {
    let long = "n".repeat(NODE_NAME_BYTES_MAX + 1);
    assert_eq!(refused(Message::Members(vec![member(&long)])), "member");
    let meet = Message::Meet {
        floor: VersionVector::new(),
        have: VersionVector::new(),
        mine: member(&long),
    };
    assert_eq!(refused(meet), "member");
}

#[test]
fn the_byte_that_answers_an_item_is_one_of_three() {
    let statuses = [ItemStatus::NotHeld, ItemStatus::Held, ItemStatus::Changing];
    assert_eq!(statuses.map(|status| status.encode()[0]), [0, 1, 2]);
    for byte in 0..=255 {
        let status = ItemStatus::try_from(byte);
        assert_eq!(status.ok(), statuses.get(usize::from(byte)).copied());
    }
}

#[test]
fn a_vector_out_of_order_is_refused() {
    let mut bytes = vec![0, 7, 2];
    bytes.extend([9, 1, 3, 1]);
    assert!(matches!(Message::decode(&bytes), Err(Malformed::Impossible(_))));
}
