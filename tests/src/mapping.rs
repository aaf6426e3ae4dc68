//! Shared mappings: of a file's first page while it is needed, and of all of a
//! file for a few stores.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io::Result;
use std::path::Path;
use std::ptr;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// What is mapped: no file system has smaller pages.
pub const PAGE_BYTES: usize = 4096;

/// A writable mapping, which stays while this lives.
pub struct Mapping(*mut c_void);

impl Mapping {
    /// Of a file that has a page.
    pub fn of(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so nothing is mapped over.
        let at = unsafe {
            rustix::mm::mmap(ptr::null_mut(), PAGE_BYTES, flags, MapFlags::SHARED, &file, 0)
        };
        Ok(Self(at?))
    }

    /// Stores one byte, the first of the file.
    pub fn store(&self, byte: u8) {
        self.store_at(0, byte);
    }

    /// Stores one byte at this place of the page.
    pub fn store_at(&self, at: usize, byte: u8) {
        assert!(at < PAGE_BYTES);
        // SAFETY: the page is mapped and writable for as long as `self` lives,
        // and nothing else in this process refers to it.
        unsafe { ptr::write_volatile(self.0.cast::<u8>().add(at), byte) };
    }

    /// The byte that is at this place of the page now.
    pub fn load(&self, at: usize) -> u8 {
        assert!(at < PAGE_BYTES);
        // SAFETY: as above; whoever writes to it meanwhile is another process.
        unsafe { ptr::read_volatile(self.0.cast::<u8>().add(at)) }
    }

    /// Writes it to the disk, and the page is as if it had never been stored to.
    pub fn sync(&self) -> Result<()> {
        // SAFETY: the page is mapped for as long as `self` lives.
        unsafe { rustix::mm::msync(self.0, PAGE_BYTES, MsyncFlags::SYNC) }.map_err(Into::into)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and is not used again.
        let _ = unsafe { rustix::mm::munmap(self.0, PAGE_BYTES) };
    }
}

/// Stores bytes at these places of a file, through one mapping of all of it.
/// Nobody may shorten the file meanwhile.
pub fn store_through(file: &File, length: usize, stores: &[(usize, &[u8])]) -> Result<()> {
    let flags = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the address, so nothing is mapped over.
    let start =
        unsafe { rustix::mm::mmap(ptr::null_mut(), length, flags, MapFlags::SHARED, file, 0) }?;
    for &(at, bytes) in stores {
        assert!(at + bytes.len() <= length);
        // SAFETY: these bytes are mapped and writable, and nothing else in this
        // process refers to them.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast::<u8>().add(at), bytes.len())
        };
    }
    // SAFETY: it was mapped with this length, and is not used again.
    unsafe { rustix::mm::munmap(start, length) }.map_err(Into::into)
}
