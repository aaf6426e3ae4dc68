//! Stores through shared mappings are not lost: writers hammer one file
//! through mappings and system calls while the daemons follow, and whenever
//! they pause the other node must come to hold the same bytes.
//!
//! `REPLICATOR_STORES` is how many stores a story makes in all.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use replicator_tests::random::Random;
use replicator_tests::{Cluster, FileSystem, Volume, levels, machine, poll, tree};

const FILE_BYTES: u64 = 4 << 20;

/// Two processes with two mappings each.
const WRITERS: u64 = 2;

const STORES: u64 = 100_000;

/// How often the writers pause. The last store before a pause is the one that
/// a scheme with a hole in it loses.
const EPOCHS: u64 = 40;

/// Stores between two short sleeps, so that an epoch outlasts some reads.
const STORES_AT_ONCE: u64 = 64;

/// Every so many stores comes a system call that writes.
const STORES_PER_WRITE: u64 = 7;

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

fn story(kind: FileSystem) {
    let Some(volume) = Volume::or_skip(kind) else { return };
    let mut cluster = Cluster::new(2).with_roots_in(volume.path());
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
                std::os::unix::fs::FileExt::write_all_at(file, &bytes, at)?;
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
