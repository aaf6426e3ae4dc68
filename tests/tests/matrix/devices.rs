//! Methods that change the file through a block device made of it: the kernel
//! calls the file system itself, past what system calls go through.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use replicator_tests::nobody;

use crate::calls::check;
use crate::scene::{Method, Seen, machine_lacks};

const LOOP_SET_FD: libc::Ioctl = 0x4c00;
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const BLKDISCARD: libc::Ioctl = 0x1277;

/// How often a free device may be somebody else's by the time it is used.
const TRIES: u32 = 100;

pub const METHODS: &[Method] = &[
    Method {
        name: "a write to a loop device",
        seen: Seen::Late("loop device"),
        run: |scene| {
            let device = Loop::of(&scene.file()?)?;
            // Whole blocks: what the device reads in between is not in question.
            device.0.write_all_at(&scene.bytes(1, 8192), 65_536)?;
            device.0.sync_all()?;
            scene.arrives("a write");
            device.0.write_all_at(&scene.bytes(2, 4096), 65_536)?;
            device.0.sync_all()
        },
    },
    Method {
        name: "a discard of a loop device",
        seen: Seen::Late("loop device"),
        run: |scene| {
            let device = Loop::of(&scene.file()?)?;
            device.discard(65_536, 131_072)?;
            scene.arrives("a discard");
            device.discard(262_144, 4096)
        },
    },
];

/// A block device that stands for a file, until it is dropped.
struct Loop(File);

impl Loop {
    fn of(file: &File) -> io::Result<Self> {
        let open =
            |path: &str| nobody::as_root(|| OpenOptions::new().read(true).write(true).open(path));
        let control = open("/dev/loop-control").map_err(machine_lacks)?;
        for _ in 0..TRIES {
            // SAFETY: the command takes nothing.
            let number =
                check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) } as isize)?;
            let device = open(&format!("/dev/loop{number}")).map_err(machine_lacks)?;
            // SAFETY: the command takes an open descriptor.
            let set = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD, file.as_raw_fd()) };
            match check(set as isize) {
                Ok(_) => return Ok(Self(device)),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(machine_lacks("no loop device stays free"))
    }

    fn discard(&self, start: u64, length: u64) -> io::Result<()> {
        let range = [start, length];
        // SAFETY: the command reads two numbers.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
        check(done as isize).map(drop)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // SAFETY: the command takes nothing. One that fails leaves a device,
        // and nothing that this could do about it.
        unsafe { libc::ioctl(self.0.as_raw_fd(), LOOP_CLR_FD, 0) };
    }
}
