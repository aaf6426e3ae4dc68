//! What outlines tell of a tree, and what they cost.

use super::*;
use crate::entry::Timestamp;
use crate::sync::record::Held;

const ME: Actor = Actor(0x5eed_5eed_5eed);
const YOU: Actor = Actor(0xfeed_feed_feed);

/// What a scan writes of a file; `at` is where it stands in the tree.
fn scanned(actor: Actor, at: u64, counter: u64) -> (Shown, Entry) {
    let dot = |counter| Dot { actor, counter };
    let mtime = Timestamp { seconds: 1000 + at as i64, nanos: 7 };
    let metadata = Metadata { mode: 0o644, uid: 1, gid: 1, mtime, ..Metadata::default() };
    let content = Content::File { size: at, digest: Digest::of(&at.to_le_bytes()) };
    let (id, when) = (BodyId { origin: actor, counter }, mtime.as_nanos());
    let path = RelPath::parse(format!("file {at:06}").as_bytes()).unwrap();
    let bound = Binding::Bound { body: id, kind: Kind::File, over: None };
    let name = NameRow {
        stamp: dot(counter + 1),
        binding: Register::new(dot(counter + 1), when, bound),
        held: Held::Winner,
    };
    let body = BodyRow {
        stamp: dot(counter),
        content: Register::new(dot(counter), when, content),
        metadata: Register::new(dot(counter), when, metadata),
        bound: smallvec::smallvec![path.clone()],
        grave: None,
        disk: None,
    };
    let shown = Shown::of(&path, &name, &body).unwrap();
    (shown, Entry { name: name.record(&path), bodies: vec![body.record(id)] })
}

/// The same, merged with what another node found there.
fn merged(at: u64) -> (Shown, Entry) {
    let (shown, mut entry) = scanned(ME, at, 2 * at + 1);
    let (_, other) = scanned(YOU, at, 2 * (1000 - at));
    entry.name.binding.merge(&other.name.binding);
    entry.name.stamp = Dot { actor: YOU, counter: 5000 + at };
    entry.bodies.extend(other.bodies);
    (shown, entry)
}

fn there_and_back(entries: &[(Shown, Entry)]) -> (usize, Option<Vec<Entry>>) {
    let mut shapes = Shapes::default();
    let (outlines, _) = shapes.outline(entries);
    assert!(shapes.are_well_formed(&[&outlines]));
    let bytes = postcard::to_stdvec(&(&shapes, &outlines)).unwrap();
    let (shapes, outlines): (Shapes, Outlines) = postcard::from_bytes(&bytes).unwrap();
    let shown: Vec<Shown> = entries.iter().map(|(shown, _)| shown.clone()).collect();
    (bytes.len(), shapes.entries(&outlines, &shown))
}

#[test]
fn a_thousand_entries_of_a_scan_take_a_hundred_bytes() {
    let found: Vec<_> = (0..1000).map(|at| scanned(ME, at, 2 * at + 1)).collect();
    let (bytes, entries) = there_and_back(&found);
    assert_eq!(entries.unwrap(), found.into_iter().map(|one| one.1).collect::<Vec<_>>());
    assert!(bytes < 100, "{bytes}");
    let both: Vec<_> = (0..1000).map(merged).collect();
    let (bytes, entries) = there_and_back(&both);
    assert_eq!(entries.unwrap(), both.into_iter().map(|one| one.1).collect::<Vec<_>>());
    assert!(bytes < 200, "{bytes}");
}

#[test]
fn pasts_of_many_kinds_are_told() {
    let found: Vec<_> = (0..200)
        .map(|at| match at % 5 {
            0 => merged(at),
            1 => scanned(YOU, at, 9000 - 3 * at),
            2 => {
                let (shown, mut entry) = scanned(ME, at, 7 * at + 1);
                let binding = entry.name.binding.winner().value.clone();
                let seen = entry.name.binding.context().clone();
                let written = Dot { actor: ME, counter: 70_000 + at };
                let over = Replaced { body: entry.bodies[0].id, seen: seen.clone(), moved: true };
                let Binding::Bound { body, kind, .. } = binding else { unreachable!() };
                let bound = Binding::Bound { body, kind, over: Some(over) };
                entry.name.binding.write(&seen, |_| true, written, 77, bound);
                entry.name.stamp = written;
                (shown, entry)
            }
            _ => scanned(ME, at, 2 * at + 1),
        })
        .collect();
    let (_, entries) = there_and_back(&found);
    assert_eq!(entries.unwrap(), found.into_iter().map(|one| one.1).collect::<Vec<_>>());
}

#[test]
fn what_is_not_shown_is_left_out() {
    let mut found: Vec<_> = (0..9).map(|at| scanned(ME, at, 2 * at + 1)).collect();
    for at in [0, 4, 8] {
        let other = Content::File { size: 3, digest: Digest::of(b"old") };
        let lost = Register::new(Dot { actor: YOU, counter: 3 }, 0, other);
        found[at].1.bodies[0].content.merge(&lost);
    }
    let (_, entries) = there_and_back(&found);
    let told: Vec<Entry> =
        found.into_iter().enumerate().filter(|(at, _)| at % 4 > 0).map(|one| one.1.1).collect();
    assert_eq!(entries.unwrap(), told);
}

#[test]
fn who_shows_something_else_learns_nothing() {
    let found: Vec<_> = (0..9).map(|at| scanned(ME, at, 2 * at + 1)).collect();
    let mut shapes = Shapes::default();
    let (outlines, _) = shapes.outline(&found);
    let shown =
        |found: &[(Shown, Entry)]| found.iter().map(|one| one.0.clone()).collect::<Vec<_>>();
    assert!(shapes.entries(&outlines, &shown(&found)).is_some());
    let mut other = shown(&found);
    other[3].metadata.mode = 0o600;
    assert!(shapes.entries(&outlines, &other).is_none());
    let mut other = shown(&found);
    other[3].content = Content::File { size: 3, digest: Digest::of(b"other") };
    assert!(shapes.entries(&outlines, &other).is_none());
    assert!(shapes.entries(&outlines, &shown(&found[1..])).is_none());
}

#[test]
fn what_no_node_wrote_is_refused() {
    let found: Vec<_> = (0..9).map(|at| scanned(ME, at, 2 * at + 1)).collect();
    let mut shapes = Shapes::default();
    let (outlines, _) = shapes.outline(&found);
    let spoiled = |spoil: &dyn Fn(&mut Shapes, &mut Outlines)| {
        let (mut shapes, mut outlines) = (shapes.clone(), outlines.clone());
        spoil(&mut shapes, &mut outlines);
        !shapes.are_well_formed(&[&outlines])
    };
    assert!(spoiled(&|_, outlines| outlines.runs[0].count = u32::MAX));
    assert!(spoiled(&|_, outlines| outlines.runs[0].shape = 1));
    assert!(spoiled(&|_, outlines| outlines.runs[0].steps.clear()));
    assert!(spoiled(&|shapes, _| shapes.actors.clear()));
    assert!(spoiled(&|shapes, _| shapes.shapes[0].numbers.resize(2000, 0)));
    assert!(spoiled(&|shapes, outlines| {
        shapes.shapes[0].actors.resize(1000, 0);
        outlines.runs[0].first.resize(1000, 0);
        outlines.runs[0].steps.resize(1000, 0);
    }));
    // Numbers of any kind make no entry, and no panic.
    let shown: Vec<Shown> = found.iter().map(|one| one.0.clone()).collect();
    for at in 0..shapes.shapes[0].numbers.len() {
        for number in [-1, 2, i64::MAX, i64::MIN] {
            let mut shapes = shapes.clone();
            if std::mem::replace(&mut shapes.shapes[0].numbers[at], number) == number {
                continue;
            }
            assert!(shapes.entries(&outlines, &shown).is_none());
        }
    }
}
