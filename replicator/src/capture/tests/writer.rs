//! The process that writes: this test program again, running one test alone.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::FallocateFlags;

/// A command that writes `f` in this way.
pub fn by_writer(way: &str) -> String {
    let test = std::env::current_exe().unwrap();
    format!(
        "REPLICATOR_CAPTURE_WRITER='{way}' '{}' --exact capture::tests::writer::writer > /dev/null",
        test.display()
    )
}

/// Runs the writer in the directory, and calls `look` after each of its
/// steps, while it waits.
pub fn step_by_step(way: &str, directory: &Path, mut look: impl FnMut(usize)) {
    let mut writer = Command::new("sh")
        .args(["-ec", &by_writer(way)])
        .env(PACED, "yes")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut go, mut done) = (writer.stdin.take().unwrap(), writer.stderr.take().unwrap());
    for step in 0.. {
        // At the end of the writer there is nothing to read.
        if done.read(&mut [0]).unwrap() == 0 {
            break;
        }
        look(step);
        go.write_all(b"\n").unwrap();
    }
    assert!(writer.wait().unwrap().success(), "{way}");
}

/// Set where the writer waits after each step.
const PACED: &str = "REPLICATOR_CAPTURE_PACED";

/// A step is done: where somebody wants to look, waits until they have.
fn step() {
    if std::env::var_os(PACED).is_some() {
        std::io::stderr().write_all(b".").unwrap();
        assert_eq!(std::io::stdin().read(&mut [0]).unwrap(), 1);
    }
}

/// The part of the tests that writes: another process runs this test alone,
/// with a way to write in its environment.
#[test]
fn writer() {
    let Ok(way) = std::env::var("REPLICATOR_CAPTURE_WRITER") else { return };
    let file = File::options().read(true).write(true).create(true).truncate(false).open("f");
    write_in_the_way(&way, &file.unwrap());
}

fn write_in_the_way(way: &str, file: &File) {
    let fd = file.as_raw_fd();
    let other = || {
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(&[7; 8192]).unwrap();
        other.rewind().unwrap();
        other
    };
    let mut offset = 40_000i64;
    match way {
        "pwrite" => file.write_all_at(b"bytes", 40_000).unwrap(),
        "holes of many threads" => punch_in_threads(file, 600),
        "an allocation, then writes" => {
            rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, 4096).unwrap();
            step();
            write_by_steps(file);
        }
        "a hole, then writes" => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, flags, 1 << 20, 3 << 20).unwrap();
            step();
            write_by_steps(file);
        }
        "a collapse, then writes" => {
            rustix::fs::fallocate(file, FallocateFlags::COLLAPSE_RANGE, 4096, 4096).unwrap();
            step();
            write_by_steps(file);
        }
        "direct reads" => {
            let direct = direct_file();
            let mut bytes = Aligned([0; 8192]);
            direct.read_exact_at(&mut bytes.0, 4096).unwrap();
            step();
            direct.write_all_at(&bytes.0, 4096).unwrap();
            step();
            direct.read_exact_at(&mut bytes.0, 65536).unwrap();
            step();
        }
        // SAFETY: all pointers are to locals that outlive the calls, all
        // descriptors are open.
        _ => unsafe {
            match way {
                "sendfile" => {
                    (&*file).seek(std::io::SeekFrom::Start(40_000)).unwrap();
                    let sent = libc::sendfile(fd, other().as_raw_fd(), std::ptr::null_mut(), 5000);
                    assert_eq!(sent, 5000);
                }
                "copy_file_range" => {
                    let from = other();
                    let copied = libc::copy_file_range(
                        from.as_raw_fd(),
                        std::ptr::null_mut(),
                        fd,
                        &mut offset,
                        5000,
                        0,
                    );
                    assert_eq!(copied, 5000);
                }
                "splice" => {
                    let (reader, mut writer) = std::io::pipe().unwrap();
                    writer.write_all(&[9; 5000]).unwrap();
                    let null = std::ptr::null_mut();
                    let moved = libc::splice(reader.as_raw_fd(), null, fd, &mut offset, 5000, 0);
                    assert_eq!(moved, 5000);
                }
                "io_uring" => {
                    let mut ring = io_uring::IoUring::new(4).unwrap();
                    let bytes = [8; 5000];
                    let entry = io_uring::opcode::Write::new(
                        io_uring::types::Fd(fd),
                        bytes.as_ptr(),
                        bytes.len() as u32,
                    );
                    ring.submission().push(&entry.offset(40_000).build()).unwrap();
                    ring.submit_and_wait(1).unwrap();
                    assert_eq!(ring.completion().next().unwrap().result(), 5000);
                }
                _ => store_in_the_way(way, file),
            }
        },
    }
}

/// Small writes by the same thread, some of them behind the end.
fn write_by_steps(file: &File) {
    let end = file.metadata().unwrap().len();
    for at in [5000, 5100, end, end + 100, 5200] {
        file.write_all_at(b"bytes", at).unwrap();
        step();
    }
}

/// `f` past the page cache, opened to read and to write.
fn direct_file() -> File {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_DIRECT).open("f").unwrap()
}

/// As direct transfers want their memory.
#[repr(align(4096))]
struct Aligned([u8; 8192]);

/// The kernel's tables know threads one by one.
fn punch_in_threads(file: &File, threads: usize) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for _ in 0..threads {
        let punch = || rustix::fs::fallocate(file, flags, 40_000, 1).unwrap();
        std::thread::scope(|scope| scope.spawn(punch).join().unwrap());
    }
}

/// A mapping of the file, shared and writable.
struct Mapping {
    address: *mut u8,
    bytes: usize,
}

impl Mapping {
    fn new(file: &File, bytes: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address =
            unsafe { libc::mmap(null, bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(address, libc::MAP_FAILED);
        Self { address: address.cast(), bytes }
    }

    fn store(&self, at: usize, value: u8) {
        assert!(at < self.bytes);
        // SAFETY: the byte is within the mapping.
        unsafe { self.address.add(at).write_volatile(value) };
    }

    fn sync(&self) {
        // SAFETY: the whole mapping, and nothing else.
        assert_eq!(unsafe { libc::msync(self.address.cast(), self.bytes, libc::MS_SYNC) }, 0);
    }

    fn end(self) {
        // SAFETY: nothing refers to the mapping any more.
        assert_eq!(unsafe { libc::munmap(self.address.cast(), self.bytes) }, 0);
    }
}

/// Where the writers store: in one folio twice, and elsewhere.
pub const STORES: [usize; 4] = [40_000, 5_000_000, 40_001, 9_000_000];

fn store_in_the_way(way: &str, file: &File) {
    const MIB: usize = 1 << 20;
    let map = || Mapping::new(file, 16 * MIB);
    let store = |mapping: &Mapping, at: usize| {
        mapping.store(at, 1);
        step();
    };
    match way {
        "mmap" => Mapping::new(file, MIB).store(40_000, 1),
        "mmap of a dirty page" => {
            file.write_all_at(b"dirty", 40_000).unwrap();
            step();
            // The time of the store must be another tick than that of the
            // write.
            std::thread::sleep(std::time::Duration::from_millis(20));
            Mapping::new(file, MIB).store(40_000, 1);
        }
        "stores, exit" => {
            let mapping = map();
            STORES.iter().for_each(|&at| store(&mapping, at));
        }
        "stores, munmap" => {
            let mapping = map();
            STORES.iter().for_each(|&at| store(&mapping, at));
            mapping.end();
        }
        "stores, each with munmap" => STORES.iter().for_each(|&at| {
            let mapping = map();
            mapping.store(at, 1);
            mapping.end();
            step();
        }),
        "stores, each with msync" => {
            let mapping = map();
            STORES.iter().for_each(|&at| {
                mapping.store(at, 1);
                mapping.sync();
                step();
            });
            mapping.end();
        }
        "two mappings" => {
            let (one, two) = (map(), map());
            store(&one, STORES[0]);
            store(&two, STORES[1]);
            one.end();
            store(&two, STORES[2]);
            two.end();
        }
        "stores and writes" => {
            let mapping = map();
            STORES.iter().for_each(|&at| {
                file.write_all_at(&[2; 5000], at as u64 - 100).unwrap();
                store(&mapping, at);
            });
            mapping.end();
        }
        "stores of children" => {
            let mapping = map();
            for at in STORES {
                store_by_child(&mapping, at);
                step();
            }
            mapping.end();
        }
        "process_vm_writev" => {
            let mapping = map();
            for at in STORES {
                let mut byte = 1u8;
                let from = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
                let to = libc::iovec { iov_base: mapping.address.wrapping_add(at).cast(), ..from };
                // SAFETY: both name one byte that is there.
                let wrote = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
                assert_eq!(wrote, 1);
                step();
            }
            mapping.end();
        }
        "mapping under fire" => fire(file, usize::MAX),
        "mappings that come and go" => fire(file, 50),
        _ => panic!("{way}"),
    }
}

fn store_by_child(mapping: &Mapping, at: usize) {
    // SAFETY: the child makes one store and one system call, which need
    // nothing that another thread might hold.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            mapping.store(at, 1);
            libc::_exit(0);
        }
        assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
    }
}

/// Stores and writes at random places; a new mapping after every so many.
fn fire(file: &File, stores_of_a_mapping: usize) {
    const BYTES: usize = 4 << 20;
    let mut mapping = Mapping::new(file, BYTES);
    let mut random = std::process::id() as usize | 1;
    for round in 1..=20_000 {
        // A xorshift: any spread of stores will do.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        mapping.store(random % BYTES, random as u8);
        if round % 7 == 0 {
            file.write_all_at(&[round as u8], ((random >> 30) % BYTES) as u64).unwrap();
        }
        if round % stores_of_a_mapping == 0 {
            mapping.end();
            mapping = Mapping::new(file, BYTES);
        }
    }
}
