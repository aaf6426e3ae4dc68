//! Methods that queue writes: io_uring and the older asynchronous calls that
//! libaio wraps.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

use crate::calls::{Aligned, check, done};
use crate::scene::{FILE_BYTES, Method, Scene, Seen};

const fn method(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Method {
    Method { name, seen: Seen::AtOnce, run }
}

pub const METHODS: &[Method] = &[
    method("io_uring", |scene| {
        let (mut ring, file) = (IoUring::new(8)?, scene.file()?);
        let (one, other) = (scene.bytes(1, 5000), scene.bytes(2, 5000));
        run(&mut ring, &[write(&file, &one, 100_001)])?;
        scene.arrives("a write");
        run(&mut ring, &[write(&file, &other, FILE_BYTES)])
    }),
    method("io_uring, asynchronous", |scene| {
        let (mut ring, file) = (IoUring::new(8)?, scene.file()?);
        let bytes = scene.bytes(1, 5000);
        run(&mut ring, &[write(&file, &bytes, 100_001).flags(Flags::ASYNC)])
    }),
    method("io_uring, direct", |scene| {
        let (mut ring, file) = (IoUring::new(8)?, scene.open(libc::O_DIRECT)?);
        let (one, other) = (scene.bytes(1, 8192), scene.bytes(2, 8192));
        let (one, other) = (Aligned::new(&one), Aligned::new(&other));
        run(&mut ring, &[write(&file, one.get(), 65_536)])?;
        scene.arrives("a write");
        run(&mut ring, &[write(&file, other.get(), 262_144).flags(Flags::ASYNC)])
    }),
    method("io_uring, SQPOLL", |scene| {
        let mut ring = IoUring::builder().setup_sqpoll(20).build(8)?;
        let (file, bytes) = (scene.file()?, scene.bytes(1, 5000));
        run(&mut ring, &[write(&file, &bytes, 100_001)])
    }),
    method("io_uring, linked", |scene| {
        let (mut ring, file) = (IoUring::new(8)?, scene.file()?);
        let bytes: Vec<_> = (0..4).map(|step| scene.bytes(step, 5000)).collect();
        let entries: Vec<_> = (0..4)
            .map(|step| {
                let entry = write(&file, &bytes[step], 100_001 + 2500 * step as u64);
                if step < 3 { entry.flags(Flags::IO_LINK) } else { entry }
            })
            .collect();
        run(&mut ring, &entries)
    }),
    Method {
        name: "libaio",
        seen: Seen::AtClose("libaio"),
        run: |scene| {
            let (file, bytes) = (scene.file()?, scene.bytes(1, 5000));
            aio(&file, &bytes, 100_001)?;
            scene.arrives("before the file is closed");
            Ok(())
        },
    },
    Method {
        name: "libaio, direct",
        seen: Seen::AtClose("libaio"),
        run: |scene| {
            let (file, bytes) = (scene.open(libc::O_DIRECT)?, scene.bytes(1, 8192));
            aio(&file, Aligned::new(&bytes).get(), 65_536)?;
            scene.arrives("before the file is closed");
            Ok(())
        },
    },
];

fn write(file: &File, bytes: &[u8], at: u64) -> Entry {
    let fd = types::Fd(file.as_raw_fd());
    opcode::Write::new(fd, bytes.as_ptr(), bytes.len() as u32).offset(at).build()
}

/// Every entry is a write of bytes that the caller holds until this returns.
fn run(ring: &mut IoUring, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        // SAFETY: the caller holds file and bytes until the completion, which
        // is waited for below.
        unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    }
    ring.submit_and_wait(entries.len())?;
    for completion in ring.completion() {
        check(completion.result() as isize)
            .map_err(|_| io::Error::from_raw_os_error(-completion.result()))
            .and_then(|count| if count >= 5000 { Ok(()) } else { done(count, 5000) })?;
    }
    Ok(())
}

/// `struct iocb` of `linux/aio_abi.h` on a little endian machine.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event_fd: u32,
}

/// One write, waited for.
fn aio(file: &File, bytes: &[u8], at: i64) -> io::Result<()> {
    const PWRITE: u16 = 1;
    let mut request = Request {
        opcode: PWRITE,
        fd: file.as_raw_fd() as u32,
        buffer: bytes.as_ptr() as u64,
        bytes: bytes.len() as u64,
        offset: at,
        ..Request::default()
    };
    let mut context = 0u64;
    // `struct io_event`: data, request, result, and a second result.
    let mut event = [0i64; 4];
    let mut requests = [&raw mut request];
    // SAFETY: every pointer is to a local that outlives the request, which is
    // waited for.
    unsafe {
        check(libc::syscall(libc::SYS_io_setup, 1, &raw mut context) as isize)?;
        let submitted =
            check(libc::syscall(libc::SYS_io_submit, context, 1, requests.as_mut_ptr()) as isize);
        let ended = submitted.and_then(|_| {
            let none = std::ptr::null::<libc::timespec>();
            check(libc::syscall(libc::SYS_io_getevents, context, 1, 1, event.as_mut_ptr(), none)
                as isize)
        });
        libc::syscall(libc::SYS_io_destroy, context);
        ended?;
    }
    done(event[2].max(0) as usize, bytes.len())
}
