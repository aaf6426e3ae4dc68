//! The index beside a store of maps, and what is left of it after a kill.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::entry::{Fingerprint, Kind, Metadata, Timestamp};
use crate::hash::{Digest, FILE_BYTES_MAX, Leaves, leaf_bytes};
use crate::limits::COPIED_BYTES_MIN;
use crate::sync::record::{Binding, Content, Disk, Held, Key, Replaced};
use crate::sync::register::Register;
use crate::sync::store::{MemoryStore, Store};
use crate::sync::version::{Dot, VersionVector};

const CACHE_BYTES: usize = 4 << 20;

fn open(dir: &TempDir, fresh_actor: u64) -> Opened {
    try_open(dir.path(), fresh_actor).unwrap()
}

fn try_open(dir: &Path, fresh_actor: u64) -> Result<Opened, Error> {
    Index::open(dir, options(fresh_actor, Box::new(|| Ok(()))))
}

fn options(fresh_actor: u64, before_commit: BeforeCommit) -> Options {
    Options { fresh_actor: Actor(fresh_actor), cache_bytes: CACHE_BYTES, before_commit }
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn dot(counter: u64) -> Dot {
    Dot { actor: Actor(counter % 2 + 1), counter }
}

fn body(counter: u64) -> BodyId {
    BodyId { origin: Actor(counter % 3 + 1), counter }
}

fn name_row(stamp: Dot, id: u64, is_gone: bool) -> NameRow {
    let binding = if is_gone {
        let seen = VersionVector::new();
        let was = Replaced { body: body(id), seen, moved: id.is_multiple_of(2) };
        Binding::Gone { was, kind: Kind::File }
    } else {
        Binding::Bound { body: body(id), kind: Kind::File, over: None }
    };
    NameRow { stamp, binding: Register::new(stamp, 7, binding), held: Held::Winner }
}

/// `inode`: its number, and when it was born.
fn body_row(stamp: Dot, paths: &[RelPath], inode: Option<(u64, i64)>) -> BodyRow {
    // One in three is not worth finding by its content.
    let size = COPIED_BYTES_MIN - 1 + stamp.counter % 3;
    let content = Content::File { size, digest: content_of(stamp.counter % 2) };
    let mtime = Timestamp { seconds: -5, nanos: 9 };
    let metadata = Metadata { mode: 0o644, uid: 1, gid: 2, mtime, ..Metadata::default() };
    let disk = inode.map(|(inode, seconds)| Disk {
        fingerprint: Fingerprint {
            inode,
            size,
            mtime,
            ctime: mtime,
            birth: Timestamp { seconds, nanos: 0 },
        },
        names: paths.into(),
        content: Held::Winner,
        metadata: Held::Winner,
    });
    BodyRow {
        stamp,
        content: Register::new(stamp, 1, content),
        metadata: Register::new(stamp, 1, metadata),
        bound: paths.into(),
        grave: None,
        disk,
    }
}

fn content_of(number: u64) -> Digest {
    Digest::of(&number.to_be_bytes())
}

/// A list of a file of `size` bytes whose hashes say `mark`.
fn list(size: u64, mark: u8) -> Leaves {
    let mut leaves = Leaves::new(size).unwrap();
    (0..leaves.count()).for_each(|index| leaves.set_hash(index, [mark; 32]));
    leaves
}

#[derive(Clone, Debug)]
enum Step {
    Name { path: usize, id: u64, is_gone: bool },
    Body { id: u64, inode: Option<(u64, i64)> },
    Leaves { id: u64, leaves: Option<(u64, u8)> },
    Have,
    EndTurn { late: bool },
    Flush,
    Reopen,
}

/// Paths that lie close to one another: `a-b` sorts between `a` and `a/x`.
const PATHS: [&str; 9] = ["", "a", "a-b", "a/x", "a/x/y", "a0", "b", "a/y", "a-b/z"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..PATHS.len(), 0..6u64, any::<bool>())
            .prop_map(|(path, id, is_gone)| Step::Name { path, id, is_gone }),
        6 => (0..6u64, prop::option::of((0..4u64, 0..3i64)))
            .prop_map(|(id, inode)| Step::Body { id, inode }),
        2 => (0..3u64, prop::option::of((0..300u64, 0..3u8))).prop_map(|(id, leaves)| {
            let leaves = leaves.map(|(count, mark)| (count * (64 << 10), mark));
            Step::Leaves { id, leaves }
        }),
        1 => Just(Step::Have),
        3 => any::<bool>().prop_map(|late| Step::EndTurn { late }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

/// Applies one step to a store; `counter` is new for every step.
fn write(store: &mut impl Store, step: &Step, counter: u64) {
    match step {
        Step::Name { path: at, id, is_gone } => {
            store.put_name(&path(PATHS[*at]), name_row(dot(counter), *id, *is_gone));
        }
        Step::Body { id, inode } => {
            let bound = path(PATHS[(*id as usize) % PATHS.len()]);
            store.put_body(body(*id), body_row(dot(counter), &[bound], *inode));
        }
        Step::Leaves { id, leaves } => {
            store.put_leaves(body(*id), leaves.map(|(size, mark)| list(size, mark)));
        }
        Step::Have => {
            let mut have = store.have();
            have.advance(dot(counter));
            store.put_have(have);
        }
        Step::EndTurn { .. } | Step::Flush | Step::Reopen => {}
    }
}

/// Everything a store can be asked, asked.
fn assert_same(index: &impl Store, model: &MemoryStore, last: u64) {
    for within in PATHS.map(path) {
        assert_eq!(index.name(&within), model.name(&within));
        for limit in [0, 1, 3, 100] {
            let all = model.names_within(&within, None, limit);
            assert_eq!(index.names_within(&within, None, limit), all, "{within} {limit}");
            for (after, _) in &all {
                let here = index.names_within(&within, Some(after), limit);
                assert_eq!(here, model.names_within(&within, Some(after), limit));
            }
        }
    }
    for id in (0..6).map(body) {
        assert_eq!(index.body(id), model.body(id));
        assert_eq!(index.leaves(id), model.leaves(id));
    }
    for inode in 0..4 {
        assert_eq!(index.body_of_inode(inode), model.body_of_inode(inode), "inode {inode}");
    }
    for mark in 0..3 {
        let leaf = [mark; 32];
        assert_eq!(index.bodies_beginning_with(&leaf), model.bodies_beginning_with(&leaf));
    }
    for content in [0, 1].map(content_of) {
        assert_eq!(index.bodies_of_content(content), model.bodies_of_content(content));
    }
    for actor in [1, 2].map(Actor) {
        for (after, up_to, limit) in [(0, last, 99), (last / 2, last, 2), (0, last / 2, 99)] {
            let here: Vec<(u64, Key)> = index.log(actor, after, up_to, limit);
            assert_eq!(here, model.log(actor, after, up_to, limit));
        }
    }
    assert_eq!(index.have(), model.have());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_index_answers_as_a_store_of_maps_does(script in steps()) {
        let dir = TempDir::new().unwrap();
        let mut index = open(&dir, 1).index;
        let mut model = MemoryStore::default();
        let mut now = Instant::now();
        let script: Vec<_> = (1..).zip(&script).collect();
        for &(counter, step) in &script {
            write(&mut index, step, counter);
            write(&mut model, step, counter);
            match step {
                Step::EndTurn { late } => {
                    now += if *late { BATCH_AGE_MAX } else { Duration::from_millis(1) };
                    index.end_turn(now);
                }
                Step::Flush => index.flush().unwrap(),
                Step::Reopen => {
                    index.close(counter).unwrap();
                    let opened = open(&dir, 2);
                    assert_eq!((opened.actor, opened.next_counter), (Actor(1), counter));
                    index = opened.index;
                }
                _ => {}
            }
            assert_same(&index, &model, counter);
        }
        let stats = index.stats();
        prop_assert_eq!(stats.names, model.names_within(&RelPath::root(), None, 99).len() as u64);
        prop_assert_eq!(stats.bodies, (0..6).filter_map(|id| model.body(body(id))).count() as u64);
        prop_assert_eq!(index.failure(), None);
    }
}

/// A lost lead loses writes: what is told of a number that leads nowhere is
/// taken for a file outside of the folder.
#[test]
fn an_inode_number_leads_to_the_body_that_was_born_last() {
    let dir = TempDir::new().unwrap();
    let mut index = open(&dir, 1).index;
    let mut counter = 0;
    let mut put = |id, inode| {
        counter += 1;
        index.put_body(body(id), body_row(dot(counter), &[path("a")], inode));
        index.body_of_inode(7)
    };
    assert_eq!(put(1, Some((7, 1))), Some(body(1)));
    assert_eq!(put(2, Some((7, 2))), Some(body(2)), "its number was given to another");
    assert_eq!(put(1, Some((7, 1))), Some(body(2)), "nobody has noticed yet");
    assert_eq!(put(2, None), None);
    assert_eq!(put(1, Some((7, 3))), Some(body(1)), "made anew in the same number");
    assert_eq!(put(3, Some((7, 2))), Some(body(1)), "met by a look that took long");
    assert_eq!(put(3, None), Some(body(1)), "which is gone at last");
    assert_eq!(put(1, Some((8, 3))), None);
}

#[test]
fn a_clean_end_keeps_the_actor_and_any_other_makes_a_new_one() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(&dir, 11);
    assert_eq!((opened.actor, opened.next_counter, opened.unclean), (Actor(11), 1, false));
    opened.index.put_note("root", b"marker".to_vec());
    opened.index.close(42).unwrap();

    let opened = open(&dir, 12);
    assert_eq!((opened.actor, opened.next_counter, opened.unclean), (Actor(11), 42, false));
    assert_eq!(opened.index.note("root"), Some(b"marker".to_vec()));
    drop(opened);

    let opened = open(&dir, 13);
    assert_eq!((opened.actor, opened.next_counter, opened.unclean), (Actor(13), 1, true));
    assert_eq!(opened.former, [Actor(11)]);
    assert_eq!(opened.index.note("root"), Some(b"marker".to_vec()));
    drop(opened);

    assert_eq!(open(&dir, 14).former, [Actor(11), Actor(13)]);
}

#[test]
fn the_first_change_that_nobody_was_told_of_is_remembered() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(&dir, 11);
    assert_eq!(opened.index.unmet(), None);
    let dot = Dot { actor: Actor(11), counter: 7 };
    for unmet in [Some(dot), None] {
        opened.index.put_unmet(unmet);
        assert_eq!(opened.index.unmet(), unmet);
        opened.index.close(42).unwrap();
        opened = open(&dir, 12);
        assert_eq!(opened.index.unmet(), unmet);
    }
}

/// Rows that each turn of [`a_killed_node_finds_whole_turns`] writes anew.
const ROWS_PER_TURN: u64 = 40;

#[test]
fn a_killed_node_finds_whole_turns() {
    if let Some(dir) = std::env::var_os("REPLICATOR_INDEX_KILL_DIR") {
        write_until_killed(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    let file = dir.path().join("turn");
    for round in 0..3 {
        // The former writer told of turns that were lost with it.
        let _ = fs::remove_file(&file);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index::tests::a_killed_node_finds_whole_turns"])
            .env("REPLICATOR_INDEX_KILL_DIR", dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let reached = |turn: &[u8]| turn.get(..8).is_some_and(|_| count_of(turn) >= last + 500);
        while !fs::read(&file).is_ok_and(|turn| reached(&turn)) {
            assert!(child.try_wait().unwrap().is_none(), "the writer ended by itself");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let opened = open(&dir, 77 + round);
        assert!(opened.unclean);
        assert_eq!((opened.actor, opened.next_counter), (Actor(77 + round), 1));
        let turn = count_of(&opened.index.note("turn").unwrap());
        assert!(turn > last, "something was durable");
        let rows = opened.index.names_within(&RelPath::root(), None, usize::MAX);
        assert_eq!(rows.len() as u64, ROWS_PER_TURN);
        assert!(rows.iter().all(|(_, row)| row.stamp.counter / ROWS_PER_TURN == turn));
        let log = opened.index.log(Actor(5), 0, u64::MAX, usize::MAX);
        assert_eq!(log.len() as u64, ROWS_PER_TURN);
        last = turn;
        drop(opened);
    }
}

fn count_of(note: &[u8]) -> u64 {
    u64::from_be_bytes(note[..8].try_into().unwrap())
}

fn write_until_killed(dir: &Path) -> ! {
    let mut index = try_open(dir, 1).unwrap().index;
    let first = index.note("turn").map_or(1, |turn| count_of(&turn) + 1);
    for turn in first.. {
        index.put_note("turn", turn.to_be_bytes().to_vec());
        for row in 0..ROWS_PER_TURN {
            let stamp = Dot { actor: Actor(5), counter: turn * ROWS_PER_TURN + row };
            index.put_name(&path(&format!("file {row}")), name_row(stamp, row, false));
        }
        index.end_turn(Instant::now());
        // Nobody kills before something is durable.
        if index.stats().commits >= 2 {
            fs::write(dir.join("turn"), turn.to_be_bytes()).unwrap();
        }
    }
    unreachable!("a test does not last for 2^64 turns")
}

#[test]
fn an_edit_in_a_large_file_writes_one_chunk_of_its_list() {
    let dir = TempDir::new().unwrap();
    let mut index = open(&dir, 1).index;
    let size = 8 << 30;
    let mut leaves = list(size, 1);
    index.put_leaves(body(1), Some(leaves.clone()));
    index.flush().unwrap();
    let chunks = index.stats().entries_written;
    // And who has its first leaf.
    assert_eq!(chunks, (size / leaf_bytes(size)).div_ceil(120) + 1);

    leaves.set_hash(1000, [2; 32]);
    index.put_leaves(body(1), Some(leaves.clone()));
    index.flush().unwrap();
    assert_eq!(index.stats().entries_written, chunks + 1);
    assert_eq!(index.leaves(body(1)), Some(leaves));

    index.put_leaves(body(1), None);
    index.flush().unwrap();
    assert_eq!(index.stats().entries_written, chunks + 1 + chunks);
    assert_eq!(index.leaves(body(1)), None);
}

#[test]
fn an_empty_list_is_not_the_same_as_none() {
    let dir = TempDir::new().unwrap();
    let mut index = open(&dir, 1).index;
    index.put_leaves(body(1), Leaves::new(0));
    index.flush().unwrap();
    assert_eq!(index.leaves(body(1)), Leaves::new(0));
    assert!(Leaves::new(FILE_BYTES_MAX + 1).is_none());
}

#[test]
fn a_batch_is_durable_by_its_deadline_and_then_nothing_is_due() {
    let dir = TempDir::new().unwrap();
    let mut index = open(&dir, 1).index;
    let start = Instant::now();
    index.end_turn(start);
    assert_eq!(index.deadline(), None, "an idle index wakes nobody");
    index.put_name(&path("a"), name_row(dot(1), 1, false));
    index.end_turn(start);
    let mut wakes = 0;
    let mut now = start;
    while let Some(deadline) = index.deadline() {
        assert!(deadline > now, "no busy loop");
        now = deadline;
        index.end_turn(now);
        wakes += 1;
        std::thread::yield_now();
        assert!(wakes < 1_000_000);
    }
    assert_eq!(index.stats().commits, 1);
    drop(index);
    assert!(open(&dir, 2).index.name(&path("a")).is_some());
}

#[test]
fn a_flood_of_rows_waits_for_the_disk_instead_of_taking_memory() {
    let dir = TempDir::new().unwrap();
    let mut index = open(&dir, 1).index;
    for counter in 1..=5 * BATCH_ROWS_MAX as u64 {
        index.put_name(&path(&format!("f{counter}")), name_row(dot(counter), counter, false));
        index.end_turn(Instant::now());
        assert!(index.stats().uncommitted_rows <= 2 * BATCH_ROWS_MAX as u64);
    }
    assert!(index.stats().uncommitted_rows > 0);
    index.flush().unwrap();
    assert_eq!(index.stats().uncommitted_rows, 0);
    assert_eq!(index.stats().names, 5 * BATCH_ROWS_MAX as u64);
    assert!(index.stats().commits >= 5);
}

#[test]
fn what_cannot_be_opened_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir, 1);
    let second = try_open(dir.path(), 2).err().unwrap();
    assert!(matches!(second, Error::Locked), "{second:?}");
    first.index.close(1).unwrap();

    let file = dir.path().join("index.redb");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, b"these bytes are no database, whatever they are named").unwrap();
    let damaged = try_open(dir.path(), 2).err().unwrap();
    assert!(matches!(damaged, Error::Corrupt(_)), "{damaged:?}");
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let cut = try_open(dir.path(), 2).err().unwrap();
    assert!(matches!(cut, Error::Corrupt(_)), "{cut:?}");
    fs::write(&file, &whole).unwrap();
    assert!(!open(&dir, 2).unclean);
}

#[test]
fn a_file_of_another_schema_is_left_alone() {
    let dir = TempDir::new().unwrap();
    open(&dir, 1).index.close(3).unwrap();
    let db = Database::create(dir.path().join("index.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    let newer = tables::encode(&(SCHEMA + 1));
    txn.open_table(META).unwrap().insert(META_SCHEMA, newer.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);
    let refused = try_open(dir.path(), 2).err().unwrap();
    assert!(matches!(refused, Error::Schema { found } if found == SCHEMA + 1), "{refused:?}");
}

#[test]
fn after_a_failed_read_nothing_more_is_written() {
    let dir = TempDir::new().unwrap();
    open(&dir, 1).index.close(3).unwrap();
    let db = Database::create(dir.path().join("index.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::NAMES).unwrap().insert(&b"a"[..], &b"\xff"[..]).unwrap();
    txn.commit().unwrap();
    drop(db);

    let mut index = open(&dir, 2).index;
    assert_eq!(index.failure(), None);
    assert_eq!(index.name(&path("a")), None);
    assert!(index.failure().is_some_and(|failure| failure.reason.contains("damaged")));
    index.put_name(&path("b"), name_row(dot(1), 1, false));
    index.end_turn(Instant::now() + BATCH_AGE_MAX);
    assert!(matches!(index.flush(), Err(Error::Stopped(_))));
    assert_eq!(index.stats().commits, 0);
    assert!(index.close(9).is_err());
    assert!(open(&dir, 3).unclean);
}

#[test]
fn rows_are_not_kept_where_what_they_speak_of_is_not_durable() {
    let dir = TempDir::new().unwrap();
    let before_commit: BeforeCommit = Box::new(|| Err("the disk cannot be flushed".into()));
    let mut index = Index::open(dir.path(), options(1, before_commit)).unwrap().index;
    index.put_name(&path("a"), name_row(dot(1), 1, false));
    assert!(index.flush().is_err());
    let failure = index.failure().unwrap();
    assert_eq!(failure.reason, "the disk cannot be flushed");
    assert!(!failure.lacks_room);
    drop(index);
    assert_eq!(open(&dir, 2).index.name(&path("a")), None);
}

#[test]
fn the_index_moves_between_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Index>();
}
