//! Memory whose bytes come when a story gives them: a write from it stands
//! still in the middle, with the file's locks held, for as long as the story
//! likes. A disk that is busy does that to any write, for as long as it likes.

use std::ffi::c_void;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags};

use crate::mapping::PAGE_BYTES;

/// How long somebody may take to want the bytes.
const WANTED_LIMIT: Duration = Duration::from_secs(10);

/// `UFFDIO_API`, `UFFDIO_REGISTER` and `UFFDIO_COPY` of Linux.
const BEGIN: libc::Ioctl = 0xc018_aa3f;
const REGISTER: libc::Ioctl = 0xc020_aa00;
const COPY: libc::Ioctl = 0xc028_aa03;

/// `UFFD_API`, and `UFFDIO_REGISTER_MODE_MISSING`.
const VERSION: u64 = 0xaa;
const MISSING: u64 = 1;

/// One page that nobody has filled yet.
pub struct Withheld {
    /// Tells who waits for it, and takes its bytes.
    gate: OwnedFd,
    page: *mut c_void,
}

// SAFETY: the page is only ever given to the kernel, which orders those who
// fill it and those who read it.
unsafe impl Sync for Withheld {}

impl Withheld {
    /// An error where this kernel does not hold memory back.
    pub fn new() -> Result<Self> {
        // SAFETY: takes flags, and gives a new descriptor or -1.
        let gate = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if gate < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: it was just made, and is nobody else's.
        let gate = unsafe { OwnedFd::from_raw_fd(gate as i32) };
        ask(&gate, BEGIN, &mut [VERSION, 0, 0])?;
        let (flags, allowed) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the address, so nothing is mapped over.
        let page =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE_BYTES, allowed, flags) }?;
        let withheld = Self { gate, page };
        let (start, length) = (withheld.page as u64, PAGE_BYTES as u64);
        ask(&withheld.gate, REGISTER, &mut [start, length, MISSING, 0])?;
        Ok(withheld)
    }

    /// Writes the page, once its bytes are given.
    pub fn write_to(&self, file: &File, offset: u64) -> Result<()> {
        let offset = libc::off64_t::try_from(offset).map_err(Error::other)?;
        // SAFETY: the page is mapped for as long as `self` lives.
        match unsafe { libc::pwrite64(file.as_raw_fd(), self.page, PAGE_BYTES, offset) } {
            written if written == PAGE_BYTES as isize => Ok(()),
            written if written >= 0 => Err(Error::other("it was written in part")),
            _ => Err(Error::last_os_error()),
        }
    }

    /// Returns when somebody waits for the bytes.
    pub fn wait_until_wanted(&self) -> Result<()> {
        let limit = Timespec::try_from(WANTED_LIMIT).map_err(Error::other)?;
        match poll(&mut [PollFd::new(&self.gate, PollFlags::IN)], Some(&limit))? {
            0 => Err(Error::other("nobody wants the bytes")),
            _ => Ok(()),
        }
    }

    /// Gives them: the same everywhere. A second time changes nothing.
    pub fn give(&self, byte: u8) {
        let bytes = [byte; PAGE_BYTES];
        let (to, from) = (self.page as u64, bytes.as_ptr() as u64);
        // It is refused where the bytes are there.
        let _ = ask(&self.gate, COPY, &mut [to, from, PAGE_BYTES as u64, 0, 0]);
    }
}

impl Drop for Withheld {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and is not used again.
        let _ = unsafe { rustix::mm::munmap(self.page, PAGE_BYTES) };
    }
}

/// Each of the requests is a row of words, some of which the kernel fills in.
fn ask(gate: &OwnedFd, request: libc::Ioctl, words: &mut [u64]) -> Result<()> {
    // SAFETY: the words are as many as the request says, and memory that it
    // names is mapped.
    match unsafe { libc::ioctl(gate.as_raw_fd(), request, words.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}
