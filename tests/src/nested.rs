//! Makes the kernel skip programs.
//!
//! It never runs one that the same processor is in the midst of. Where a
//! process ends direct reads without a pause, the interrupt that ends another
//! one's read often comes while a program is told of the first.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{poll, sample};

/// How long it is tried on each processor: interrupts of a disk come to one of
/// them.
const TRIED: Duration = Duration::from_secs(5);

const FILE_BYTES: u64 = 4 << 20;
const BLOCK_BYTES: usize = 4096;
const READS_AT_ONCE: u32 = 32;

/// Skips programs until enough were skipped, which it says. The directory is to
/// lie on a disk.
pub fn skip_programs(dir: &Path, mut is_enough: impl FnMut() -> bool) -> io::Result<bool> {
    sample::random_file(&dir.join("read directly"), FILE_BYTES, 1).map_err(io::Error::other)?;
    File::create(dir.join("a hole"))?.set_len(FILE_BYTES)?;
    let allowed = sched_getaffinity(None)?;
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
        let over = AtomicBool::new(false);
        let skipped = thread::scope(|scope| {
            let on_cpu = |read: fn(&Path, &AtomicBool) -> io::Result<()>| {
                let over = &over;
                scope.spawn(move || pinned(cpu).and_then(|()| read(dir, over)))
            };
            let readers = [on_cpu(read_a_hole), on_cpu(read_a_disk)];
            let skipped = poll::until(TRIED, || {
                readers.iter().any(|reader| reader.is_finished()) || is_enough()
            });
            over.store(true, Ordering::SeqCst);
            let results = readers.map(|reader| reader.join().expect("no panic"));
            results.into_iter().collect::<io::Result<Vec<()>>>().map(|_| skipped)
        })?;
        if skipped {
            return Ok(true);
        }
    }
    Ok(false)
}

fn pinned(cpu: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    Ok(sched_setaffinity(None, &only)?)
}

/// Not a block of it is fetched, so each read ends where it began.
fn read_a_hole(dir: &Path, over: &AtomicBool) -> io::Result<()> {
    let file = direct(&dir.join("a hole"))?;
    let mut room = vec![0; 2 * BLOCK_BYTES];
    let start = room.as_ptr().align_offset(BLOCK_BYTES);
    while !over.load(Ordering::Relaxed) {
        file.read_exact_at(&mut room[start..start + BLOCK_BYTES], 0)?;
    }
    Ok(())
}

/// Many at once, each of which ends in an interrupt.
fn read_a_disk(dir: &Path, over: &AtomicBool) -> io::Result<()> {
    let file = direct(&dir.join("read directly"))?;
    let mut room = vec![0u8; (READS_AT_ONCE as usize + 1) * BLOCK_BYTES];
    let start = room.as_ptr().align_offset(BLOCK_BYTES);
    let block = room[start..].as_mut_ptr();
    let read = |number: u64| -> Entry {
        let at = number as usize % READS_AT_ONCE as usize * BLOCK_BYTES;
        let offset = number.wrapping_mul(BLOCK_BYTES as u64) % FILE_BYTES;
        let fd = types::Fd(file.as_raw_fd());
        opcode::Read::new(fd, block.wrapping_add(at), BLOCK_BYTES as u32)
            .offset(offset)
            .build()
            .user_data(number)
    };
    let mut ring = IoUring::new(READS_AT_ONCE)?;
    let mut wanted: Vec<u64> = (0..u64::from(READS_AT_ONCE)).collect();
    let (mut under_way, mut failed) = (0, false);
    loop {
        for number in wanted.drain(..) {
            // SAFETY: the room outlives the loop, which ends with no read
            // under way, and each read has a block of its own.
            unsafe { ring.submission().push(&read(number)) }.map_err(io::Error::other)?;
            under_way += 1;
        }
        if under_way == 0 {
            return if failed { Err(io::ErrorKind::Unsupported.into()) } else { Ok(()) };
        }
        ring.submit_and_wait(1)?;
        for ended in ring.completion() {
            under_way -= 1;
            failed |= ended.result() != BLOCK_BYTES as i32;
            if !failed && !over.load(Ordering::Relaxed) {
                wanted.push(ended.user_data() + u64::from(READS_AT_ONCE));
            }
        }
    }
}

fn direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}
