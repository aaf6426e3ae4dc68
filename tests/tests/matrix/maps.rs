//! Methods that make no system call when they write: stores through shared
//! mappings.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::{null_mut, write_volatile};

use crate::calls::{Aligned, check, done};
use crate::scene::{FILE_BYTES, Method, Scene, Seen};

const fn method(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Method {
    Method { name, seen: Seen::AtClose("memory mapping"), run }
}

pub const METHODS: &[Method] = &[
    method("store to a clean page", |scene| {
        let file = scene.file()?;
        file.sync_all()?;
        let mapping = Mapping::new(file)?;
        mapping.store(100_001, &scene.bytes(1, 9))?;
        scene.arrives("a store");
        mapping.store(900_001, &scene.bytes(2, 9))
    }),
    method("store to a dirty page", |scene| {
        let file = scene.file()?;
        file.write_all_at(&scene.bytes(1, 100), 100_000)?;
        let mapping = Mapping::new(file)?;
        mapping.store(100_050, &scene.bytes(2, 9))?;
        scene.arrives("a first store");
        for step in 3..8 {
            mapping.store(100_050, &scene.bytes(step, 9))?;
            scene.arrives("a store to the same page");
        }
        Ok(())
    }),
    method("store to a re-cleaned page", |scene| {
        let mapping = Mapping::new(scene.file()?)?;
        for step in 0..4 {
            mapping.store(200_001, &scene.bytes(step, 9))?;
            mapping.sync()?;
            scene.arrives("a store and msync");
        }
        mapping.store(200_001, &scene.bytes(9, 9))
    }),
    method("stores through two mappings", |scene| {
        let (one, other) = (Mapping::new(scene.file()?)?, Mapping::new(scene.file()?)?);
        for step in 0..4 {
            one.store(300_001, &scene.bytes(step, 9))?;
            scene.arrives("a store through the first");
            other.store(300_101, &scene.bytes(step + 8, 9))?;
            scene.arrives("a store through the second");
        }
        Ok(())
    }),
    method("stores and pwrites by turns", |scene| {
        let file = scene.file()?;
        let mapping = Mapping::new(scene.file()?)?;
        for step in 0..4 {
            file.write_all_at(&scene.bytes(step, 5000), 400_001)?;
            mapping.store(401_000, &scene.bytes(step + 8, 9))?;
            scene.arrives("both");
        }
        Ok(())
    }),
    method("a mapping of a page that a write dirtied after it", |scene| {
        let file = scene.file()?;
        let mapping = Mapping::new(scene.file()?)?;
        mapping.touch(500_001);
        file.write_all_at(&scene.bytes(1, 50), 500_050)?;
        mapping.store(500_001, &scene.bytes(2, 9))
    }),
    method("process_vm_writev", |scene| {
        let mapping = Mapping::new(scene.file()?)?;
        for step in 0..3 {
            let bytes = scene.bytes(step, 5000);
            let from = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: 5000 };
            let to = libc::iovec { iov_base: mapping.at(600_001)?.cast(), ..from };
            // SAFETY: both name bytes that are there until the call returns.
            let wrote = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
            done(check(wrote)?, 5000)?;
            scene.arrives("a write into the mapping");
        }
        Ok(())
    }),
    method("read into a mapping", |scene| {
        let mapping = Mapping::new(scene.file()?)?;
        let source = scene.source()?;
        // SAFETY: the mapping has that many bytes at this place.
        let read = unsafe { libc::pread(source.as_raw_fd(), mapping.at(700_001)?.cast(), 5000, 1) };
        done(check(read)?, 5000)
    }),
    method("direct read into a mapping", |scene| {
        use std::os::unix::fs::OpenOptionsExt;
        let mapping = Mapping::new(scene.file()?)?;
        let mut options = std::fs::OpenOptions::new();
        let source = options.read(true).custom_flags(libc::O_DIRECT).open(scene.source_path())?;
        // SAFETY: the mapping has that many bytes at this place.
        let read =
            unsafe { libc::pread(source.as_raw_fd(), mapping.at(196 * 4096)?.cast(), 8192, 4096) };
        done(check(read)?, 8192)
    }),
    method("exit with dirty pages", |scene| {
        let mapping = Mapping::new(scene.file()?)?;
        let bytes = scene.bytes(1, 9);
        // SAFETY: the child makes stores and one system call, which need
        // nothing that another thread might hold.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let _ = mapping.store(800_001, &bytes);
                libc::_exit(0);
            }
            check(child as isize)?;
            check(libc::waitpid(child, null_mut(), 0) as isize).map(drop)
        }
    }),
    method("munmap of dirty pages", |scene| {
        for step in 0..3 {
            let mapping = Mapping::new(scene.file()?)?;
            mapping.store(850_001, &scene.bytes(step, 9))?;
            drop(mapping);
            scene.arrives("a mapping that is gone");
        }
        Ok(())
    }),
    method("store behind the old end", |scene| {
        let file = scene.file()?;
        file.set_len(2 * FILE_BYTES)?;
        let mapping = Mapping::new(file)?;
        mapping.store(3 * FILE_BYTES as usize / 2, &scene.bytes(1, 9))
    }),
    method("O_DIRECT out of a mapping of the same file", |scene| {
        let mapping = Mapping::new(scene.file()?)?;
        mapping.store(32 * 4096, &scene.bytes(1, 4096))?;
        let bytes = Aligned::new(&scene.bytes(2, 4096));
        scene.open(libc::O_DIRECT)?.write_all_at(bytes.get(), 33 * 4096)?;
        scene.arrives("a direct write beside a mapping");
        mapping.store(33 * 4096 + 7, &scene.bytes(3, 9))
    }),
];

/// The whole file, mapped shared and writable.
pub struct Mapping {
    address: *mut u8,
    length: usize,
    // Not needed any more, and nothing that must be told by closing it before
    // the mapping ends.
    _file: File,
}

impl Mapping {
    pub fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len() as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: address.cast(), length, _file: file })
    }

    pub fn store(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        if at + bytes.len() > self.length {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (index, &byte) in bytes.iter().enumerate() {
            // SAFETY: checked above to lie within the mapping; no method makes
            // a mapped file shorter.
            unsafe { write_volatile(self.address.add(at + index), byte) };
        }
        Ok(())
    }

    /// A read, which maps the page without making it writable.
    fn touch(&self, at: usize) {
        assert!(at < self.length);
        // SAFETY: as above.
        std::hint::black_box(unsafe { self.address.add(at).read_volatile() });
    }

    /// Room for a page or two.
    fn at(&self, at: usize) -> io::Result<*mut u8> {
        let inside = at + 8192 <= self.length;
        inside.then(|| self.address.wrapping_add(at)).ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn sync(&self) -> io::Result<()> {
        // SAFETY: the whole mapping, and nothing else.
        check(unsafe { libc::msync(self.address.cast(), self.length, libc::MS_SYNC) } as isize)
            .map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}
