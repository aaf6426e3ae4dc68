//! Knowledge that the kernel or the daemon drops is counted by its cause and
//! got back by looking at what it could have been about, not at everything.
//!
//! `REPLICATOR_STOPPED_SECONDS` is how long a daemon is held, a minute otherwise;
//! `REPLICATOR_FILE_SYSTEM` is what the folders lie on, ext4 otherwise.

mod queues;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::random::Random;
use replicator_tests::{
    Cluster, FileSystem, Form, Node, Stopped, Volume, machine, nested, poll, sample,
};

/// Reading a file again takes longer than applying a change.
const REPAIR_LIMIT: Duration = Duration::from_secs(60);

/// More than the smallest kernel memory has slots and notes for.
const FILES: u64 = 3000;

/// What nobody touches, and nobody may read again.
const UNTOUCHED_BYTES: u64 = 96 << 20;

/// More than is read where little was lost.
const REPAIR_BYTES_MAX: u64 = 48 << 20;

/// Twice what is looked at again of the time before a loss: `LOSS_MARGIN` of
/// `replicator::capture`.
const LOSS_MARGIN: Duration = Duration::from_secs(4);

/// More than `UNREAD_MARGIN` of `replicator::node` and the delay of this story.
const UNREAD_MARGIN: Duration = Duration::from_secs(13);

/// A file that is written all over.
const LARGE_BYTES: u64 = 4 << 20;

fn loss(node: &Node, cause: &str) -> u64 {
    node.status().unwrap().number(&format!("/losses/{cause}"))
}

fn counter(node: &Node, name: &str) -> u64 {
    node.status().unwrap().number(&format!("/capture/counters/{name}"))
}

/// What the kernel keeps in tables for the node, as it says of each.
fn kernel_memory(node: &Node) -> u64 {
    let folder = format!("/proc/{}/fdinfo", node.pid().unwrap());
    let infos = fs::read_dir(folder).unwrap();
    let infos = infos.filter_map(|info| fs::read_to_string(info.unwrap().path()).ok());
    let field = |info: &str, name: &str| -> Option<u64> {
        info.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    };
    // One table may have several descriptors.
    let tables: BTreeMap<u64, u64> = infos
        .filter_map(|info| Some((field(&info, "map_id:")?, field(&info, "memlock:")?)))
        .collect();
    tables.into_values().sum()
}

/// Two nodes that share a large file nobody touches and many small ones.
fn prepared(options: &[&str]) -> Option<(Cluster, Volume)> {
    let kind = match std::env::var("REPLICATOR_FILE_SYSTEM") {
        Ok(name) => FileSystem::ALL.into_iter().find(|kind| kind.to_string() == name).unwrap(),
        Err(_) => FileSystem::Ext4,
    };
    let volume = Volume::or_skip_of(Form { size: 2 << 30, ..Form::of(kind) })?;
    let mut cluster = Cluster::new(2).with_roots_in(volume.path()).with_options(options);
    let root = cluster[0].root();
    sample::random_file(&root.join("untouched"), UNTOUCHED_BYTES, 1).unwrap();
    for number in 0..FILES {
        let path = file_path(&cluster, number);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("file {number}\n")).unwrap();
    }
    sample::copy(root, cluster[1].root()).unwrap();
    // What changed within the margin before a loss is rightly read again, and
    // a loss is dated back to when the kernel was heard last: a node that has
    // nothing to hear was heard when it started.
    let_grow_old(&cluster, LOSS_MARGIN);
    cluster.start();
    cluster.assert_same_within(REPAIR_LIMIT);
    Some((cluster, volume))
}

/// Waits until the untouched file is older than this.
fn let_grow_old(cluster: &Cluster, wanted: Duration) {
    let made = fs::metadata(cluster[0].path("untouched")).unwrap().modified().unwrap();
    poll::eventually(REPAIR_LIMIT, "the untouched file has grown old", || {
        made.elapsed().is_ok_and(|age| age > wanted)
    });
}

fn file_path(cluster: &Cluster, number: u64) -> PathBuf {
    cluster[0].path(format!("{}/{number}", number % 40))
}

#[test]
fn tables_and_rings_that_are_too_small() {
    let options = ["--capture", "ebpf", "--capture-memory", "1MiB"];
    if !machine::is_root() {
        return machine::skip("only root can load kernel programs");
    }
    let Some((cluster, _volume)) = prepared(&options) else { return };
    let node = &cluster[0];
    let before = node.bytes_read().unwrap();
    let losses = loss(node, "ring_full");
    {
        let _stopped = Stopped::new(node);
        for round in 0..2 {
            for number in 0..FILES {
                // Old bytes change and the length does not: only ranges tell.
                let path = file_path(&cluster, number);
                let file = OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(&[b'0' + round], 0).unwrap();
            }
        }
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    assert!(counter(node, "no_slot") > 0, "{}", node.status().unwrap());
    assert!(loss(node, "ring_full") > losses, "{}", node.status().unwrap());
    let read = node.bytes_read().unwrap() - before;
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read to repair {FILES} small files");

    // Verdicts and remembered sizes are pushed out by those of other files.
    let before = (node.bytes_read().unwrap(), counter(node, "decided"));
    for round in 0..3 {
        for number in 0..FILES {
            let path = file_path(&cluster, number);
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            writeln!(file, "round {round}").unwrap();
        }
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    let decided = counter(node, "decided") - before.1;
    assert!(decided > FILES * 3 / 2, "{decided} verdicts for {FILES} files");
    assert!(counter(node, "evicted") > 0, "{}", node.status().unwrap());
    let memory = kernel_memory(node);
    assert!(memory > 0 && memory < 3 << 19, "{memory} bytes in the kernel where 1 MiB is allowed");
    let mut empty = Cluster::new(1).with_options(&options);
    empty.start();
    assert_eq!(kernel_memory(&empty[0]), memory, "it depends on the tree");
    let read = node.bytes_read().unwrap() - before.0;
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read for {FILES} small files");
}

#[test]
fn programs_that_the_kernel_skips() {
    let options = ["--capture", "ebpf"];
    if !machine::is_root() {
        return machine::skip("only root can load kernel programs");
    }
    let Some((cluster, _volume)) = prepared(&options) else { return };
    let node = &cluster[0];
    let before = (node.bytes_read().unwrap(), loss(node, "nested_programs"));
    let mut random = Random::new(3);
    let skipped = nested::skip_programs(cluster.dir(), || {
        // Old bytes change and the length does not: only ranges tell.
        let path = file_path(&cluster, random.below(FILES));
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[b'a' + random.below(26) as u8], 0).unwrap();
        loss(node, "nested_programs") > before.1
    });
    cluster.assert_same_within(REPAIR_LIMIT);
    match skipped {
        Ok(true) => {}
        Ok(false) => return machine::skip("no disk interrupts a program here"),
        Err(error) => return machine::skip(&format!("no direct reads here: {error}")),
    }
    let read = node.bytes_read().unwrap() - before.0;
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read to repair some small files");
}

/// Writes all over the tree until it is over.
fn load(cluster: &Cluster, over: &AtomicBool, written: &AtomicU64) -> io::Result<()> {
    let mut random = Random::new(7);
    let mut options = OpenOptions::new();
    let large = options.write(true).create(true).truncate(false).open(cluster[0].path("large"))?;
    // Not full of holes: small ones are filled where a file is sent whole.
    if large.metadata()?.len() == 0 {
        large.write_all_at(&random.bytes(LARGE_BYTES as usize), 0)?;
    }
    while !over.load(Ordering::SeqCst) {
        let number = random.below(FILES);
        let path = file_path(cluster, number);
        match random.below(10) {
            0 => {
                let next = path.with_extension("next");
                fs::write(&next, format!("another {number}\n"))?;
                fs::rename(&next, &path)?;
            }
            1 => fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?,
            2..6 => {
                let at = random.below(LARGE_BYTES - 300);
                large.write_all_at(&random.bytes(300), at)?;
            }
            _ => {
                let mut file = File::options().append(true).create(true).open(&path)?;
                file.write_all(&random.bytes(30))?;
            }
        }
        written.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Tells the story while the load runs.
fn under_load(cluster: &mut Cluster, mut story: impl FnMut(&mut Node, &AtomicU64)) {
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let stand_in = Node::new(cluster[0].settings.clone());
    let mut node = std::mem::replace(&mut cluster.nodes_mut()[0], stand_in);
    thread::scope(|scope| {
        let cluster = &*cluster;
        let writer = scope.spawn(|| load(cluster, &over, &written));
        story(&mut node, &written);
        over.store(true, Ordering::SeqCst);
        writer.join().unwrap().unwrap();
    });
    cluster.nodes_mut()[0] = node;
}

/// So many more writes have been made.
fn await_writes(written: &AtomicU64, more: u64) {
    let wanted = written.load(Ordering::Relaxed) + more;
    poll::eventually(REPAIR_LIMIT, "the load goes on", || {
        written.load(Ordering::Relaxed) >= wanted
    });
}

/// Nothing is lost by a hold, but to the queue of names, which is limited; and
/// the kernel may skip a program whenever a disk interrupts it.
fn assert_only_lost(node: &Node) {
    let status = node.status().unwrap();
    let explained: &[_] = match status.capture() {
        "ebpf" => &["nested_programs", "fanotify_overflow"],
        "inotify" => &["inotify_overflow"],
        _ => &["fanotify_overflow"],
    };
    let losses = status.losses();
    assert!(losses.contains_key("ring_full"), "{status}");
    let others = losses
        .into_iter()
        .filter(|(cause, count)| *count > 0 && !explained.contains(&cause.as_str()));
    assert_eq!(others.collect::<Vec<_>>(), [], "{status}");
}

#[test]
fn a_daemon_that_is_held_under_load() {
    let Some((mut cluster, _volume)) = prepared(&[]) else { return };
    let held = std::env::var("REPLICATOR_STOPPED_SECONDS").map_or(60, |text| text.parse().unwrap());
    let mut before = 0;
    under_load(&mut cluster, |node, written| {
        await_writes(written, 500);
        before = node.bytes_read().unwrap();
        let stopped = Stopped::new(node);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(held) {
            await_writes(written, 100);
        }
        drop(stopped);
        await_writes(written, 500);
    });
    cluster.assert_same_within(REPAIR_LIMIT);
    // The kernel keeps what it has to tell, each block and each name once; where
    // it could not, what was lost is all that is read.
    let node = &cluster[0];
    let read = node.bytes_read().unwrap() - before;
    assert!(read < UNTOUCHED_BYTES, "{read} bytes were read after a hold of {held} s");
    for node in cluster.nodes() {
        assert_only_lost(node);
    }
}

/// Ends and starts the daemon three times under load, which may have been an
/// unclean end.
fn restarts_under_load(unclean_ends: u64, restart: impl Fn(&mut Node, &AtomicU64)) {
    let Some((mut cluster, _volume)) = prepared(&[]) else { return };
    for _ in 0..3 {
        under_load(&mut cluster, |node, written| {
            await_writes(written, 700);
            restart(node, written);
            await_writes(written, 200);
        });
        cluster.assert_same_within(REPAIR_LIMIT);
        assert_eq!(loss(&cluster[0], "unclean_end"), unclean_ends);
    }
}

#[test]
fn a_daemon_that_is_killed_under_load() {
    restarts_under_load(1, |node, written| {
        node.kill9().unwrap();
        await_writes(written, 200);
        node.start().unwrap();
    });
}

#[test]
fn a_daemon_that_is_stopped_under_load() {
    restarts_under_load(0, |node, _| {
        assert!(node.stop().unwrap().success());
        node.start().unwrap();
    });
}

/// What was told and not looked at before the end, is before it is over.
#[test]
fn a_restart_reads_what_changed_last_and_no_more() {
    let Some((mut cluster, _volume)) = prepared(&[]) else { return };
    assert!(cluster[0].bytes_read().unwrap() > 0);
    for number in 0..40 {
        fs::write(file_path(&cluster, number), "changed just now\n").unwrap();
    }
    cluster.nodes_mut()[0].stop().unwrap();
    cluster.nodes_mut()[0].start().unwrap();
    cluster.assert_same_within(REPAIR_LIMIT);
    let read = cluster[0].bytes_read().unwrap();
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read after a clean end");
}

/// A killed daemon cannot say what it had read: whatever changed before its
/// index was last written, for as long as a look may take, is read again.
#[test]
fn a_start_after_a_kill_reads_what_changed_lately_and_no_more() {
    let Some((mut cluster, _volume)) = prepared(&["--max-delay", "1s"]) else { return };
    let_grow_old(&cluster, UNREAD_MARGIN);
    for number in 0..40 {
        fs::write(file_path(&cluster, number), "changed just now\n").unwrap();
    }
    cluster.assert_same_within(REPAIR_LIMIT);
    cluster.nodes_mut()[0].kill9().unwrap();
    fs::write(file_path(&cluster, 41), "changed unseen\n").unwrap();
    cluster.nodes_mut()[0].start().unwrap();
    cluster.assert_same_within(REPAIR_LIMIT);
    assert_eq!(loss(&cluster[0], "unclean_end"), 1);
    let read = cluster[0].bytes_read().unwrap();
    assert!(read < REPAIR_BYTES_MAX, "{read} bytes were read after a kill");
}
