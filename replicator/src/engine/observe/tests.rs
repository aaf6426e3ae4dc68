use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::*;
use crate::engine::EngineChoice;
use crate::engine::look::FileContent;
use crate::hash::Digest;
use crate::limits::{INLINE_BYTES_MAX, LEAF_BYTES_MIN};
use crate::look::Known;
use crate::range::{Range, RangeSet};
use crate::writes::spans;

const LEAF: u64 = LEAF_BYTES_MIN;

/// A folder, and both engines to look at it with.
struct Folder {
    dir: tempfile::TempDir,
    root: Arc<Root>,
    engines: Vec<Engine>,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(dir.path()).unwrap());
        let choices = [EngineChoice::Threads, EngineChoice::Auto];
        let engines = choices.map(|choice| Engine::start(choice).unwrap()).into();
        Self { dir, root, engines }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What both engines see, which must be the same.
    async fn look(&self, name: &str, depth: Depth, known: Option<&Known>) -> Entry {
        let path = RelPath::parse(name.as_bytes()).unwrap();
        let known = known.cloned();
        let request = Look { depth, sync: true, wait: true, known, ..whole(path) };
        let mut entries = Vec::new();
        for engine in &self.engines {
            let observation = observe(&self.root, engine, request.clone()).await;
            entries.push(observation.result.unwrap().expect("nothing is there"));
        }
        let last = entries.pop().unwrap();
        for entry in entries {
            assert_eq!(format!("{entry:?}"), format!("{last:?}"));
        }
        last
    }

    async fn known(&self, name: &str) -> Known {
        let entry = self.look(name, Depth::Whole, None).await;
        let leaves = file(&entry).leaves.clone();
        Known { kind: Kind::File, fingerprint: entry.stat.fingerprint, leaves: Some(leaves) }
    }
}

fn file(entry: &Entry) -> &FileContent {
    match &entry.content {
        Content::File(content) => content,
        other => panic!("not the content of a file: {other:?}"),
    }
}

fn pattern(size: u64) -> Vec<u8> {
    (0..size as u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn ranges(list: &[(u64, u64)]) -> RangeSet {
    list.iter().filter_map(|(start, end)| Range::new(*start, *end)).collect()
}

fn writer(path: &PathBuf) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// The known content with what an observation brought along put into it.
fn patched(mut content: Vec<u8>, seen: &FileContent) -> Vec<u8> {
    content.resize(seen.leaves.size() as usize, 0);
    for hole in seen.holes.iter() {
        content[hole.start as usize..hole.end as usize].fill(0);
    }
    for (offset, bytes) in seen.bytes.as_ref().expect("too much to come along") {
        content[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    content
}

fn whole(path: RelPath) -> Look {
    Look { path, depth: Depth::Whole, sync: false, wait: false, busy: false, known: None }
}

/// Looks at one entry.
async fn observe(root: &Arc<Root>, engine: &Engine, request: Look) -> Observation {
    observe_many(root, engine, vec![request]).await.pop().unwrap()
}

#[tokio::test]
async fn a_new_small_file_comes_whole() {
    let folder = Folder::new();
    for size in [0, 1, 5000, LEAF, LEAF + 1, INLINE_BYTES_MAX] {
        let content = pattern(size);
        fs::write(folder.path("a"), &content).unwrap();
        let entry = folder.look("a", Depth::Changed, None).await;
        let seen = file(&entry);
        assert!(seen.stable);
        assert_eq!(seen.leaves.digest(), Digest::of(&content));
        assert_eq!(seen.changed.bytes(), size);
        assert!(patched(Vec::new(), seen) == content, "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_hashed_and_only_what_differs_comes_along() {
    let folder = Folder::new();
    let mut content = pattern((70 << 20) + 5);
    fs::write(folder.path("large"), &content).unwrap();
    let known = folder.known("large").await;
    assert_eq!(known.leaves.as_ref().unwrap().digest(), Digest::of(&content));

    writer(&folder.path("large")).write_all_at(b"new", 30 << 20).unwrap();
    let before = content.clone();
    content[30 << 20..(30 << 20) + 3].copy_from_slice(b"new");
    let entry = folder.look("large", Depth::Changed, Some(&known)).await;
    let seen = file(&entry);
    assert_eq!(seen.leaves.digest(), Digest::of(&content));
    assert_eq!(seen.changed, ranges(&[(30 << 20, (30 << 20) + (128 << 10))]));
    assert!(patched(before, seen) == content);

    let entry = folder.look("large", Depth::Whole, None).await;
    assert!(file(&entry).bytes.is_none());
    let entry = folder.look("large", Depth::Changed, None).await;
    assert!(matches!(entry.content, Content::NotRead), "it may be one that was renamed");
}

/// Thousands of files are looked at at once, and reading is faster than
/// hashing.
#[tokio::test]
async fn nothing_is_read_before_there_is_room_to_hash_it() {
    let folder = Folder::new();
    fs::write(folder.path("a"), pattern(1 << 20)).unwrap();
    for engine in &folder.engines {
        let room = engine.room_to_hash(u64::MAX).await.unwrap();
        let all = room.num_permits();
        let path = RelPath::parse(b"a").unwrap();
        let request = whole(path);
        let mut look = std::pin::pin!(observe(&folder.root, engine, request));
        let waited = tokio::time::timeout(Duration::from_millis(100), &mut look).await;
        assert!(waited.is_err());
        assert_eq!(engine.stats().reads, 0);
        drop(room);
        look.await.result.unwrap().expect("nothing is there");
        assert_eq!(engine.stats().read_bytes, 1 << 20);
        assert_eq!(engine.room_to_hash(u64::MAX).await.unwrap().num_permits(), all);
    }
}

#[tokio::test]
async fn told_ranges_bring_their_bytes_and_no_others_are_read() {
    let folder = Folder::new();
    let content = pattern(8 << 20);
    fs::write(folder.path("a"), &content).unwrap();
    let known = folder.known("a").await;
    let before: Vec<_> = folder.engines.iter().map(|engine| engine.stats().read_bytes).collect();

    let other = writer(&folder.path("a"));
    other.write_all_at(b"told", 3_000_000).unwrap();
    other.write_all_at(b"not told", 5_000_000).unwrap();
    let depth = Depth::Ranges(ranges(&[(3_000_000, 3_000_004)]));
    let entry = folder.look("a", depth, Some(&known)).await;
    let seen = file(&entry);
    assert_eq!(seen.bytes, Some(vec![(3_000_000, Bytes::from_static(b"told"))]));
    let mut told = content.clone();
    told[3_000_000..3_000_004].copy_from_slice(b"told");
    assert_eq!(seen.leaves.digest(), Digest::of(&told), "a leaf that was not told was read");
    let after: Vec<_> = folder.engines.iter().map(|engine| engine.stats().read_bytes).collect();
    assert_eq!(before, after, "one leaf needs no engine");
}

#[tokio::test]
async fn a_size_that_moved_is_noticed_though_no_range_tells() {
    let folder = Folder::new();
    for (before, after) in
        [(3 * LEAF, 5 * LEAF + 9), (3 * LEAF, LEAF + 1), (LEAF, 7), (7, 3 * LEAF)]
    {
        let mut content = pattern(before);
        fs::write(folder.path("a"), &content).unwrap();
        let known = folder.known("a").await;
        writer(&folder.path("a")).set_len(after).unwrap();
        let entry = folder.look("a", Depth::Ranges(RangeSet::new()), Some(&known)).await;
        let old = content.clone();
        content.resize(after as usize, 0);
        assert_eq!(file(&entry).leaves.digest(), Digest::of(&content), "{before} to {after}");
        assert!(patched(old, file(&entry)) == content);
    }
}

#[tokio::test]
async fn appended_bytes_come_alone() {
    let folder = Folder::new();
    let mut content = pattern(2 * LEAF + 100);
    fs::write(folder.path("log"), &content).unwrap();
    let known = folder.known("log").await;
    writer(&folder.path("log")).write_all_at(b"line", 2 * LEAF + 100).unwrap();
    content.extend_from_slice(b"line");
    // As capture tells it: in whole blocks, so beyond the end too.
    let depth = Depth::Ranges(ranges(&[(2 * LEAF, 2 * LEAF + 4096)]));
    let entry = folder.look("log", depth, Some(&known)).await;
    assert_eq!(file(&entry).changed, ranges(&[(2 * LEAF, 2 * LEAF + 104)]));
    assert_eq!(file(&entry).leaves.digest(), Digest::of(&content));
}

#[tokio::test]
async fn a_rewrite_with_its_old_mtime_is_seen() {
    let folder = Folder::new();
    fs::write(folder.path("a"), b"one").unwrap();
    let known = folder.known("a").await;
    let mtime = fs::metadata(folder.path("a")).unwrap().modified().unwrap();
    loop {
        writer(&folder.path("a")).write_all_at(b"two", 0).unwrap();
        File::open(folder.path("a")).unwrap().set_modified(mtime).unwrap();
        let meta = fs::metadata(folder.path("a")).unwrap();
        let ctime = known.fingerprint.ctime;
        if (meta.ctime(), meta.ctime_nsec()) != (ctime.seconds, i64::from(ctime.nanos)) {
            break;
        }
    }
    let entry = folder.look("a", Depth::Changed, Some(&known)).await;
    assert_eq!(file(&entry).bytes, Some(vec![(0, Bytes::from_static(b"two"))]));
}

#[tokio::test]
async fn what_is_as_known_is_not_read() {
    let folder = Folder::new();
    fs::write(folder.path("a"), b"content").unwrap();
    let known = folder.known("a").await;
    let entry = folder.look("a", Depth::Changed, Some(&known)).await;
    assert!(matches!(entry.content, Content::NotRead));
    fs::write(folder.path("a"), b"changed").unwrap();
    let entry = folder.look("a", Depth::Metadata, Some(&known)).await;
    assert!(matches!(entry.content, Content::NotRead));
}

#[tokio::test]
async fn a_file_in_place_of_another_is_read_at_any_depth() {
    let folder = Folder::new();
    fs::write(folder.path("a"), b"content").unwrap();
    let known = folder.known("a").await;
    fs::write(folder.path("b"), b"other bytes").unwrap();
    fs::rename(folder.path("b"), folder.path("a")).unwrap();
    for depth in [Depth::Changed, Depth::Metadata, Depth::Ranges(ranges(&[(0, 1)]))] {
        let entry = folder.look("a", depth, Some(&known)).await;
        assert_eq!(file(&entry).leaves.digest(), Digest::of(b"other bytes"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_are_told_and_not_sent() {
    let folder = Folder::new();
    for size in [64 << 20, 200_000] {
        let sparse = File::create(folder.path("sparse")).unwrap();
        sparse.set_len(size).unwrap();
        sparse.write_all_at(&[7; 4096], 131_072).unwrap();
        let mut content = vec![0; size as usize];
        content[131_072..131_072 + 4096].fill(7);
        let entry = folder.look("sparse", Depth::Whole, None).await;
        let seen = file(&entry);
        assert_eq!(seen.leaves.digest(), Digest::of(&content));
        assert!(patched(Vec::new(), seen) == content);
        assert_eq!(seen.holes, ranges(&[(0, 131_072), (131_072 + 4096, size)]));
    }
}

/// Who asks for all that is read writes it elsewhere, holes and all.
#[tokio::test]
async fn of_all_that_is_read_all_holes_are_told() {
    let folder = Folder::new();
    let size = 1 << 20;
    let sparse = File::create(folder.path("sparse")).unwrap();
    sparse.set_len(size).unwrap();
    sparse.write_all_at(&[7; 4096], 131_072).unwrap();
    let known = folder.known("sparse").await;
    sparse.write_all_at(&[8; 4096], 131_072).unwrap();
    let path = RelPath::parse(b"sparse").unwrap();
    for engine in &folder.engines {
        let (path, known) = (path.clone(), Some(known.clone()));
        let request = Look { busy: true, known, ..whole(path) };
        let entry = observe(&folder.root, engine, request).await.result.unwrap().unwrap();
        let seen = file(&entry);
        assert_eq!(seen.changed, ranges(&[(131_072, 196_608)]));
        assert_eq!(seen.holes, ranges(&[(0, 131_072), (131_072 + 4096, size)]));
        assert_eq!(spans(seen.bytes.as_ref().unwrap()), ranges(&[(0, size)]));
    }
}

#[tokio::test]
async fn a_file_beyond_reason_is_refused() {
    let folder = Folder::new();
    let huge = File::create(folder.path("huge")).unwrap();
    if huge.set_len((16 << 40) + 1).is_err() {
        // ext4 holds none that large.
        return;
    }
    let path = RelPath::parse(b"huge").unwrap();
    let request = whole(path);
    let observation = observe(&folder.root, &folder.engines[0], request).await;
    assert!(matches!(observation.result, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn every_kind_of_entry_is_told() {
    let folder = Folder::new();
    fs::create_dir(folder.path("dir")).unwrap();
    symlink("/etc/passwd", folder.path("link")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.path("fifo"), mode).unwrap();
    let _socket = UnixListener::bind(folder.path("socket")).unwrap();

    let entry = folder.look("dir", Depth::Changed, None).await;
    assert!(matches!(entry.content, Content::Directory));
    let entry = folder.look("link", Depth::Changed, None).await;
    assert!(matches!(entry.content, Content::Symlink(target) if target == b"/etc/passwd"));
    let entry = folder.look("fifo", Depth::Whole, None).await;
    assert!(matches!(entry.content, Content::Fifo));

    let requests = ["socket", "nothing", "link/x"].map(|name| {
        let path = RelPath::parse(name.as_bytes()).unwrap();
        Look { depth: Depth::Changed, ..whole(path) }
    });
    let seen = observe_many(&folder.root, &folder.engines[0], requests.into()).await;
    assert!(matches!(seen[0].result, Err(Error::Root(crate::root::Error::Unsupported { .. }))));
    assert!(matches!(seen[1].result, Ok(None)));
    assert!(matches!(seen[2].result, Ok(None)), "a link was followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_entries_come_in_their_order() {
    let folder = Folder::new();
    let mut requests = Vec::new();
    for at in 0..1000u32 {
        let mut name = at.to_string().into_bytes();
        name.push(0xff);
        let path = RelPath::parse(&name).unwrap();
        // Every hundredth goes through the engine.
        let size = if at % 100 == 0 { 1 << 20 } else { u64::from(at) };
        fs::write(folder.dir.path().join(path.as_path()), pattern(size)).unwrap();
        requests.push(whole(path));
    }
    for engine in &folder.engines {
        let seen = observe_many(&folder.root, engine, requests.clone()).await;
        assert_eq!(seen.len(), requests.len());
        for (request, seen) in requests.iter().zip(seen) {
            assert_eq!(request.path, seen.path);
            let entry = seen.result.unwrap().unwrap();
            let content = fs::read(folder.dir.path().join(seen.path.as_path())).unwrap();
            assert_eq!(file(&entry).leaves.digest(), Digest::of(&content));
        }
    }
}

/// While a file is written all the time that is said, with a list that fits
/// the size it is said to have; once it is quiet, its last content is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_under_a_racing_writer_is_not_called_stable() {
    let folder = Folder::new();
    let path = folder.path("busy");
    fs::write(&path, vec![0; 4 << 20]).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let racing = std::thread::spawn({
        let (path, is_done) = (path.clone(), Arc::clone(&is_done));
        move || {
            let file = writer(&path);
            let mut turn = 0u8;
            while !is_done.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                file.set_len(u64::from(turn % 5) << 20).unwrap();
                file.write_all_at(&vec![turn; 4 << 20], 0).unwrap();
            }
        }
    });
    for engine in &folder.engines {
        let is_caught = async {
            loop {
                let path = RelPath::parse(b"busy").unwrap();
                let request = whole(path);
                match observe(&folder.root, engine, request).await.result {
                    Ok(Some(entry)) => {
                        assert_eq!(file(&entry).leaves.size(), entry.stat.fingerprint.size);
                        if !file(&entry).stable {
                            return;
                        }
                    }
                    Err(Error::Unsettled { .. }) => return,
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_caught).await.expect("always stable");
    }
    is_done.store(true, Ordering::Relaxed);
    racing.join().unwrap();
    let entry = folder.look("busy", Depth::Whole, None).await;
    assert!(file(&entry).stable);
    assert_eq!(file(&entry).leaves.digest(), Digest::of(&fs::read(&path).unwrap()));
}

#[tokio::test]
async fn only_bytes_that_were_written_make_the_size_lag() {
    let folder = Folder::new();
    fs::write(folder.path("file"), [1; 5000]).unwrap();
    let stat = folder.root.stat(&RelPath::parse(b"file").unwrap()).unwrap().unwrap();
    let lags = |start, end| {
        is_size_lagging(&Depth::Ranges(Range::new(start, end).into_iter().collect()), &stat)
    };
    assert!(lags(8192, 12_288));
    assert!(!lags(4096, 8192));
    // Cut off at this place: there is nothing to wait for.
    assert!(!lags(8192, u64::MAX));
    assert!(!is_size_lagging(&Depth::Whole, &stat));
}
