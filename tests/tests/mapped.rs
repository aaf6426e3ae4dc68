//! Stores through shared mappings are not lost: writers hammer one file
//! through mappings and system calls while the daemons follow, and whenever
//! they pause the other node must come to hold the same bytes.
//!
//! `REPLICATOR_STORES` is how many stores a story makes; without it the three
//! file systems see a million.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use replicator_tests::mapping::{Mapping, PAGE_BYTES};
use replicator_tests::random::Random;
use replicator_tests::{Cluster, FileSystem, Stopped, Volume, levels, machine, poll, tree};

const FILE_BYTES: u64 = 4 << 20;

/// Two processes with two mappings each.
const WRITERS: u64 = 2;

const STORES: u64 = 350_000;

/// How often the writers pause. The last store before a pause is the one that
/// a scheme with a hole in it loses.
const EPOCHS: u64 = 40;

/// Stores between two short sleeps, so that an epoch outlasts some reads.
const STORES_AT_ONCE: u64 = 64;

/// Every so many stores comes a system call that writes.
const STORES_PER_WRITE: u64 = 7;

/// Where in its first page a file is patched, and stored to by a mapping made
/// for that; the one that is held stores to its first byte.
const PATCHED: u64 = 1000;
const FRESH: u64 = 3000;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn no_store_is_lost_on_ext4() {
    story(FileSystem::Ext4);
}

#[test]
fn no_store_is_lost_on_xfs() {
    story(FileSystem::Xfs);
}

#[test]
fn no_store_is_lost_on_btrfs() {
    story(FileSystem::Btrfs);
}

/// Two nodes on file systems of their own, not started: what one writes back of
/// its file system must not protect the other's pages.
fn apart(kind: FileSystem) -> Option<(Cluster, Volume, Volume)> {
    let (here, there) = (Volume::or_skip(kind)?, Volume::or_skip(FileSystem::Tmpfs)?);
    let mut cluster = Cluster::new(2).with_roots_in(here.path());
    cluster[1].settings.root = there.path().join("b");
    std::fs::create_dir(&cluster[1].settings.root).unwrap();
    Some((cluster, here, there))
}

fn story(kind: FileSystem) {
    let Some((mut cluster, volume, _other)) = apart(kind) else { return };
    let (here, there) = (cluster[0].path("mapped"), cluster[1].path("mapped"));
    std::fs::write(&here, Random::new(1).bytes(FILE_BYTES as usize)).unwrap();
    cluster.start();
    cluster.assert_same();
    // Lower levels are told of stores when the mapping is closed: there the
    // writers close it before each pause.
    let (status, level) = (cluster[0].status().unwrap(), levels::best(volume.path()));
    assert_eq!((status.capture(), status.hooks()), (level, levels::hooks(level)));
    let stays = level == "ebpf";
    let stores = std::env::var("REPLICATOR_STORES").map_or(STORES, |text| text.parse().unwrap());
    let of_epoch = stores / WRITERS / EPOCHS;

    let mut writers = Vec::new();
    for epoch in 0..EPOCHS {
        while writers.len() < WRITERS as usize {
            let seed = epoch * WRITERS + writers.len() as u64;
            writers.push(Writer::start(&here, seed, of_epoch).unwrap());
        }
        writers.iter_mut().for_each(|writer| writer.begin().unwrap());
        writers.iter_mut().for_each(|writer| writer.pause().unwrap());
        if !stays {
            writers.clear();
        }
        let mut why = None;
        let same = poll::until(ARRIVAL_LIMIT, || {
            why = first_difference(&here, &there);
            why.is_none()
        });
        assert!(same, "epoch {epoch} on {kind}: bytes at {why:?} are not there");
    }
    let method = format!("{stores} stores through mappings");
    machine::row(&kind.to_string(), status.hooks(), &method, "same");
    drop(writers);
    cluster.assert_same();
    let differences = tree::differences(cluster[0].root(), cluster[1].root()).unwrap();
    assert_eq!(differences, [""; 0]);
}

/// The same, where stores are told one by one.
fn told(kind: FileSystem) -> Option<(Cluster, Volume, Volume)> {
    let (cluster, here, there) = apart(kind)?;
    if levels::best(here.path()) != "ebpf" {
        machine::skip(&format!("on {kind} nobody tells of a store while the mapping lasts"));
        return None;
    }
    Some((cluster, here, there))
}

/// Files whose pages are written to one after the other, so that one of them is
/// read at the worst of moments.
const FILES: usize = 20;

/// A file whose page has been stored to since it was written back.
fn mapped(path: &Path) -> Mapping {
    let mut file = File::create_new(path).unwrap();
    file.write_all(&[b'.'; PAGE_BYTES]).unwrap();
    file.sync_all().unwrap();
    let mapping = Mapping::of(path).unwrap();
    mapping.store(b'0');
    mapping
}

/// No look is under way that would meet the next store by chance. Trees are not
/// compared: to ask a file for its holes may write it back.
#[track_caller]
fn all_is_read(cluster: &Cluster) {
    let waited = cluster[0].wait(ARRIVAL_LIMIT).unwrap();
    assert_eq!(waited.code, 0, "{waited:?}");
}

/// Every file is stored to, and then once more in the same place.
#[track_caller]
fn assert_told(cluster: &Cluster, files: &[(String, Mapping)]) {
    for byte in *b"123" {
        files.iter().for_each(|(_, mapping)| mapping.store(byte));
        for (name, _) in files {
            let there = cluster[1].path(name);
            let arrives = || std::fs::read(&there).is_ok_and(|bytes| bytes.first() == Some(&byte));
            let said = format!("store {:?} to {name} arrives", byte as char);
            poll::eventually(ARRIVAL_LIMIT, &said, arrives);
        }
        all_is_read(cluster);
    }
}

fn mapped_at_birth(kind: FileSystem) {
    let Some((mut cluster, _here, _there)) = told(kind) else { return };
    cluster.start();
    cluster.assert_same();
    let map = |number| {
        let name = format!("born-{number}");
        let path = cluster[0].path(&name);
        File::create_new(&path).unwrap().set_len(PAGE_BYTES as u64).unwrap();
        let mapping = Mapping::of(&path).unwrap();
        mapping.store(b'0');
        (name, mapping)
    };
    let files: Vec<_> = (0..FILES).map(map).collect();
    all_is_read(&cluster);
    assert_told(&cluster, &files);
}

#[test]
fn files_that_are_mapped_from_their_birth_on_ext4() {
    mapped_at_birth(FileSystem::Ext4);
}

#[test]
fn files_that_are_mapped_from_their_birth_on_xfs() {
    mapped_at_birth(FileSystem::Xfs);
}

#[test]
fn files_that_are_mapped_from_their_birth_on_btrfs() {
    mapped_at_birth(FileSystem::Btrfs);
}

#[test]
fn files_that_were_mapped_outside_of_the_folder_on_ext4() {
    mapped_outside(FileSystem::Ext4);
}

#[test]
fn files_that_were_mapped_outside_of_the_folder_on_xfs() {
    mapped_outside(FileSystem::Xfs);
}

#[test]
fn files_that_were_mapped_outside_of_the_folder_on_btrfs() {
    mapped_outside(FileSystem::Btrfs);
}

fn mapped_outside(kind: FileSystem) {
    let Some((mut cluster, here, _there)) = told(kind) else { return };
    cluster.start();
    cluster.assert_same();
    let beside = here.path().join("beside");
    std::fs::create_dir_all(beside.join("folder")).unwrap();
    let map = |name: String| {
        let mapping = mapped(&beside.join(&name));
        (name, mapping)
    };
    let mut files: Vec<_> = (0..FILES).map(|number| map(format!("alone-{number}"))).collect();
    for (name, _) in &files {
        std::fs::rename(beside.join(name), cluster[0].path(name)).unwrap();
    }
    files.extend((0..FILES).map(|number| map(format!("folder/{number}"))));
    std::fs::rename(beside.join("folder"), cluster[0].path("folder")).unwrap();
    all_is_read(&cluster);
    assert_told(&cluster, &files);
}

#[test]
fn files_that_were_mapped_before_their_node_started_on_ext4() {
    mapped_before(FileSystem::Ext4);
}

#[test]
fn files_that_were_mapped_before_their_node_started_on_xfs() {
    mapped_before(FileSystem::Xfs);
}

#[test]
fn files_that_were_mapped_before_their_node_started_on_btrfs() {
    mapped_before(FileSystem::Btrfs);
}

fn mapped_before(kind: FileSystem) {
    let Some((mut cluster, _here, _there)) = told(kind) else { return };
    let map =
        |number| (format!("early-{number}"), mapped(&cluster[0].path(format!("early-{number}"))));
    let files: Vec<_> = (0..FILES).map(map).collect();
    cluster.start();
    all_is_read(&cluster);
    assert_told(&cluster, &files);
    cluster[0].stop().unwrap();
    files.iter().for_each(|(_, mapping)| mapping.store(b'4'));
    cluster[0].start().unwrap();
    all_is_read(&cluster);
    assert_told(&cluster, &files);
    // Nor by a look that comes late.
    let stopped = Stopped::new(&cluster[0]);
    files.iter().for_each(|(_, mapping)| mapping.store(b'5'));
    drop(stopped);
    assert_told(&cluster, &files);
}

/// Rounds in which a patch and two stores meet in one page.
const ROUNDS: u64 = 300;

/// The first of so many stores follows the patch at once, each of the others
/// so much later: before the patch is durable, while it is given its time, and
/// when it is over.
const STEPS: u64 = 20;
const STEP: Duration = Duration::from_micros(100);

/// The daemon's own write leaves the page dirty, so that the first store of
/// somebody else to it is no news to the kernel's memory.
fn stores_to_a_page_just_patched(kind: FileSystem) {
    let Some((mut cluster, _here, _there)) = told(kind) else { return };
    let (here, there) = (cluster[0].path("mapped"), cluster[1].path("mapped"));
    std::fs::write(&here, Random::new(1).bytes(FILE_BYTES as usize)).unwrap();
    cluster.start();
    cluster.assert_same();
    let inode = std::fs::metadata(&here).unwrap().ino();
    let held = Mapping::of(&here).unwrap();
    let at_byte = |file: &File, at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).map(|()| byte[0])
    };
    for round in 0..ROUNDS {
        let byte = (round % 251) as u8 + 1;
        // Where two patches in a row are outrun by the stores, all of the file
        // comes anew, and is another one.
        let other = File::options().read(true).write(true).open(&there).unwrap();
        other.write_all_at(&[byte], PATCHED).unwrap();
        // Nothing sleeps: the stores are to meet the patch before it is over.
        let start = Instant::now();
        while held.load(PATCHED as usize) != byte {
            let limit = ARRIVAL_LIMIT * poll::patience();
            assert!(start.elapsed() < limit, "round {round}: the patch does not arrive");
        }
        let met = Instant::now();
        while met.elapsed() < STEP * (round % STEPS) as u32 {
            std::hint::spin_loop();
        }
        held.store(byte);
        let fresh = Mapping::of(&here).unwrap();
        fresh.store_at(FRESH as usize, byte);
        poll::eventually(ARRIVAL_LIMIT, &format!("round {round} on {kind} arrives"), || {
            let there = File::open(&there).unwrap();
            [0, FRESH].iter().all(|at| at_byte(&there, *at).is_ok_and(|found| found == byte))
        });
    }
    assert_eq!(std::fs::metadata(&here).unwrap().ino(), inode, "it was not patched in place");
    all_is_read(&cluster);
    assert_eq!(first_difference(&here, &there), None);
}

#[test]
fn stores_to_a_page_just_patched_on_ext4() {
    stores_to_a_page_just_patched(FileSystem::Ext4);
}

#[test]
fn stores_to_a_page_just_patched_on_xfs() {
    stores_to_a_page_just_patched(FileSystem::Xfs);
}

#[test]
fn stores_to_a_page_just_patched_on_btrfs() {
    stores_to_a_page_just_patched(FileSystem::Btrfs);
}

fn first_difference(here: &Path, there: &Path) -> Option<usize> {
    let (one, other) = (std::fs::read(here).unwrap(), std::fs::read(there).unwrap_or_default());
    let differs = |(one, other)| one != other;
    one.iter().zip(&other).position(differs).or((one.len() != other.len()).then_some(other.len()))
}

/// What a writer is told.
const GO: &[u8; 1] = b".";
const END: &[u8; 1] = b"x";

/// A process that stores when it is told to.
struct Writer {
    pid: i32,
    go: PipeWriter,
    done: PipeReader,
}

impl Writer {
    fn start(path: &Path, seed: u64, stores: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let (wait, go) = io::pipe()?;
        let (done, tell) = io::pipe()?;
        // SAFETY: the child only makes system calls and stores to memory of
        // its own and to the file; it neither allocates nor takes a lock.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: one system call; a story that was killed leaves none.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let result = hammer(&file, wait, tell, seed, stores);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(result.is_err())) };
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { pid, go, done })
    }

    fn begin(&mut self) -> io::Result<()> {
        self.go.write_all(GO)
    }

    fn pause(&mut self) -> io::Result<()> {
        self.done.read_exact(&mut [0])
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Not by closing the pipe: another child may hold it as well.
        let _ = self.go.write_all(END);
        // SAFETY: the child is this value's own and was not waited for.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// The child: maps the file twice and stores in turns until it is told to end.
fn hammer(
    file: &File,
    mut wait: PipeReader,
    mut tell: PipeWriter,
    seed: u64,
    stores: u64,
) -> io::Result<()> {
    let maps = [map(file)?, map(file)?];
    let mut random = Random::new(seed);
    let mut bytes = [0; 600];
    let mut word = [0];
    while wait.read(&mut word)? == 1 && word == *GO {
        for number in 0..stores {
            let at = random.below(FILE_BYTES) as usize;
            let value = random.number() as u8;
            // SAFETY: the place is within the mapping, which stays.
            unsafe { maps[(number % 2) as usize].add(at).write_volatile(value) };
            if number % STORES_PER_WRITE == 0 {
                random.fill(&mut bytes);
                let at = random.below(FILE_BYTES - bytes.len() as u64);
                file.write_all_at(&bytes, at)?;
            }
            if number % STORES_AT_ONCE == 0 {
                let time = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
                // SAFETY: the time is a local.
                unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
            }
        }
        tell.write_all(b".")?;
    }
    Ok(())
}

fn map(file: &File) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address =
        unsafe { libc::mmap(null, FILE_BYTES as usize, protection, libc::MAP_SHARED, fd, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}
