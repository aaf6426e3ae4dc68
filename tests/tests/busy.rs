//! Files that are written all the time: no look finds them quiet, and a peer
//! holds them nevertheless, those of any size.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::mapping::PAGE_BYTES;
use replicator_tests::random::Random;
use replicator_tests::withheld::Withheld;
use replicator_tests::{Cluster, FileSystem, Stopped, Volume, machine, poll, sample};

/// More than is ever kept in memory of one file.
const LARGE_BYTES: u64 = 64 << 20;

/// How long a change may take where the whole file comes first.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);

/// A story that fails ends nevertheless.
const WRITTEN_TIME_MAX: Duration = Duration::from_secs(120);

const BLOCK: u64 = 4096;

/// Two programs write to the file all the time; what a third one writes must
/// not wait until they end.
#[test]
fn a_file_that_is_never_quiet_is_followed() {
    let Some(cluster) = both_with("database", 8 << 20) else { return };
    while_written(&cluster[0].path("database"), |writer| {
        follow_marks(&cluster, "database", 20, writer);
    });
    cluster.assert_same();
}

/// So it is where they wrote more than can be read at once, since the daemon
/// was held for a while: a loaded server does that.
#[test]
fn a_file_that_is_never_quiet_is_followed_after_a_pause() {
    let Some(cluster) = both_with("database", LARGE_BYTES) else { return };
    while_written(&cluster[0].path("database"), |writer| {
        follow_marks(&cluster, "database", 5, writer);
        let held = Stopped::new(&cluster[0]);
        thread::sleep(Duration::from_secs(1));
        drop(held);
        follow_marks(&cluster, "database", 5, writer);
    });
    cluster.assert_same();
}

/// A peer that has no version to follow from must get one, and must not take
/// what it cannot get in time for lost: that brings back an older one.
#[test]
fn who_joins_gets_a_file_that_is_never_quiet() {
    let mut cluster = Cluster::new(2);
    cluster.nodes_mut()[0].start().unwrap();
    if !follows_ranges(&cluster) {
        return;
    }
    for (name, bytes) in [("small", 512 << 10), ("large", 4 << 20)] {
        let here = cluster[0].path(name);
        sample::random_file(&here, bytes, bytes).unwrap();
        while_written(&here, |writer| {
            if name == "small" {
                cluster.nodes_mut()[1].start().unwrap();
            }
            follow_marks(&cluster, name, 5, writer);
            // Longer than it takes to ask eight times in vain.
            poll::holds_for(Duration::from_secs(4), "nothing goes back", || {
                holds(&here, 7, &mark(4))
            });
        });
        let last = fs::read(&here).unwrap();
        cluster.assert_same();
        assert!(fs::read(&here).unwrap() == last, "{name} was changed by its peer");
    }
}

/// The same of one that no memory is to hold.
#[test]
fn who_joins_gets_a_large_file_that_is_never_quiet() {
    let Some(mut cluster) = alone_with("database", LARGE_BYTES) else { return };
    let here = cluster[0].path("database");
    while_written(&here, |writer| {
        cluster.nodes_mut()[1].start().unwrap();
        follow_marks(&cluster, "database", 5, writer);
        // What it holds by then is of no use as it is.
        cluster.nodes_mut()[1].stop().unwrap();
        thread::sleep(Duration::from_secs(3));
        cluster.nodes_mut()[1].start().unwrap();
        follow_marks(&cluster, "database", 5, writer);
    });
    let last = fs::read(&here).unwrap();
    cluster.assert_same();
    assert!(fs::read(&here).unwrap() == last, "it was changed by its peer");
}

/// A recording goes on while an edit station is switched on.
#[test]
fn who_joins_gets_a_file_that_grows() {
    let Some(mut cluster) = alone_with("recording", LARGE_BYTES) else { return };
    let here = cluster[0].path("recording");
    while_appended(&here, || {
        cluster.nodes_mut()[1].start().unwrap();
        for _ in 0..5 {
            let size = fs::metadata(&here).unwrap().len();
            poll::eventually(ARRIVAL_LIMIT, "what was recorded arrives", || {
                fs::metadata(cluster[1].path("recording")).is_ok_and(|there| there.len() >= size)
            });
        }
    });
    cluster.assert_same();
}

/// A write stands still between its beginning and its bytes, as on a busy
/// disk. The news of it may come at its beginning, and there is no other.
#[test]
fn a_write_that_is_held_up_is_not_lost() {
    for kind in FileSystem::ALL {
        let Some(volume) = Volume::or_skip(kind) else { continue };
        let mut cluster = Cluster::new(2);
        cluster[0].settings.root = volume.path().join("root");
        fs::create_dir(cluster[0].root()).unwrap();
        cluster.start();
        for (name, size, offset) in [("empty", 0, 0), ("longer", 5, 5), ("inside", 5, 2)] {
            let here = cluster[0].path(name);
            sample::random_file(&here, size * PAGE_BYTES as u64, 3).unwrap();
            cluster.assert_same();
            let file = OpenOptions::new().write(true).open(&here).unwrap();
            hold_up(&file, offset * PAGE_BYTES as u64, || {
                let there = || fs::read(cluster[1].path(name)).unwrap();
                let before = there();
                // Ten times as long as a file has to be quiet.
                poll::holds_for(Duration::from_millis(500), "no half write is shown", || {
                    there() == before
                });
            });
            cluster.assert_same();
            assert!(holds(&cluster[1].path(name), offset * PAGE_BYTES as u64, &PAGE), "{kind}");
        }
    }
}

/// Two nodes hold a file.
fn both_with(name: &str, bytes: u64) -> Option<Cluster> {
    let mut cluster = Cluster::new(2);
    sample::random_file(&cluster[0].path(name), bytes, 5).unwrap();
    cluster.start();
    if !follows_ranges(&cluster) {
        return None;
    }
    cluster.assert_same();
    Some(cluster)
}

/// The first of two nodes runs and holds a file, the second is to join.
fn alone_with(name: &str, bytes: u64) -> Option<Cluster> {
    let mut cluster = Cluster::new(2);
    sample::random_file(&cluster[0].path(name), bytes, 8).unwrap();
    cluster.nodes_mut()[0].start().unwrap();
    follows_ranges(&cluster).then_some(cluster)
}

fn follows_ranges(cluster: &Cluster) -> bool {
    let follows = cluster[0].status().unwrap().capture() == "ebpf";
    if !follows {
        machine::skip("this capture level reads such a file every ten seconds");
    }
    follows
}

/// Does something while a program appends to a file, 16 MiB a second.
fn while_appended(path: &Path, act: impl FnOnce()) {
    const PIECE: u64 = 64 << 10;
    let over = AtomicBool::new(false);
    let append = || {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        let mut random = Random::new(10);
        let begun = Instant::now();
        while !over.load(Ordering::Relaxed) && begun.elapsed() < WRITTEN_TIME_MAX {
            file.write_all(&random.bytes(PIECE as usize)).unwrap();
            thread::sleep(Duration::from_millis(4));
        }
    };
    thread::scope(|scope| {
        scope.spawn(append);
        act();
        over.store(true, Ordering::Relaxed);
    });
}

/// Does something while two programs write to a file, about each millisecond,
/// everywhere but in its first block.
fn while_written(path: &Path, act: impl FnOnce(&File)) {
    let blocks = fs::metadata(path).unwrap().len() / BLOCK;
    let over = AtomicBool::new(false);
    let open = || OpenOptions::new().write(true).open(path).unwrap();
    let write = |seed| {
        let (file, mut random) = (open(), Random::new(seed));
        // Where the story fails, too, this ends.
        let begun = Instant::now();
        while !over.load(Ordering::Relaxed) && begun.elapsed() < WRITTEN_TIME_MAX {
            let block = 1 + random.below(blocks - 1);
            file.write_all_at(&random.bytes(BLOCK as usize), block * BLOCK).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| write(6));
        scope.spawn(|| write(7));
        act(&open());
        over.store(true, Ordering::Relaxed);
    });
}

const PAGE: [u8; PAGE_BYTES] = [b'x'; PAGE_BYTES];

/// Does something while a page is on its way into the file.
fn hold_up(file: &File, offset: u64, act: impl FnOnce()) {
    /// Gives the bytes in the end, also where the story fails.
    struct Giving<'a>(&'a Withheld);

    impl Drop for Giving<'_> {
        fn drop(&mut self) {
            self.0.give(PAGE[0]);
        }
    }

    let page = Withheld::new().unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| page.write_to(file, offset));
        let giving = Giving(&page);
        page.wait_until_wanted().unwrap();
        act();
        drop(giving);
        writer.join().unwrap().unwrap();
    });
}

/// What is written near the start of the file on one node arrives on the other.
fn follow_marks(cluster: &Cluster, name: &str, marks: u64, file: &File) {
    let there = cluster[1].path(name);
    let mut slowest = Duration::ZERO;
    for number in 0..marks {
        let begun = Instant::now();
        file.write_all_at(&mark(number), 7).unwrap();
        // The first one waits for a whole file, or for the node itself.
        poll::eventually(ARRIVAL_LIMIT, "a mark arrives", || holds(&there, 7, &mark(number)));
        slowest = slowest.max(begun.elapsed());
    }
    println!("the slowest of {marks} marks in {name} took {slowest:.1?}");
}

fn mark(number: u64) -> Vec<u8> {
    Random::new(100 + number).bytes(100)
}

fn holds(path: &Path, offset: u64, wanted: &[u8]) -> bool {
    let mut bytes = vec![0; wanted.len()];
    File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset)).is_ok()
        && bytes == wanted
}
