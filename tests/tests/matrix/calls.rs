//! Methods that hand bytes to the kernel: the `write` family, and what moves
//! bytes from file to file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;

use replicator_tests::flags;

use crate::scene::{FILE_BYTES, Method, Scene, Seen};

const fn method(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Method {
    Method { name, seen: Seen::AtOnce, run }
}

pub const METHODS: &[Method] = &[
    method("write", |scene| {
        let mut file = scene.file()?;
        file.seek(SeekFrom::Start(70_001))?;
        file.write_all(&scene.bytes(1, 5000))
    }),
    method("append", |scene| {
        let mut file = scene.open(libc::O_APPEND)?;
        for step in 0..5 {
            file.write_all(&scene.bytes(step, 3333))?;
            scene.arrives("an append");
        }
        Ok(())
    }),
    method("RWF_APPEND", |scene| {
        pwritev2(&scene.file()?, &scene.bytes(1, 5000), 0, libc::RWF_APPEND)
    }),
    method("pwrite to clean pages", |scene| {
        let file = scene.file()?;
        file.sync_all()?;
        file.write_all_at(&scene.bytes(1, 100), 300_000)
    }),
    method("pwrite to dirty pages", |scene| {
        let file = scene.file()?;
        for step in 0..5 {
            file.write_all_at(&scene.bytes(step, 100), 300_000 + step)?;
            scene.arrives("a write over a dirty page");
        }
        Ok(())
    }),
    method("pwrite behind the end", |scene| {
        let file = scene.file()?;
        file.write_all_at(&scene.bytes(1, 100), 2 * FILE_BYTES + 77)?;
        scene.arrives("a first write behind the end");
        file.write_all_at(&scene.bytes(2, 100), 3 * FILE_BYTES + 77)
    }),
    method("a write longer than a slot", |scene| {
        // More than the 16 MiB that one bitmap of the kernel programs covers.
        scene.file()?.write_all_at(&scene.bytes(1, 17 << 20), 4097)
    }),
    method("writev", |scene| {
        let mut file = scene.file()?;
        file.seek(SeekFrom::Start(123_456))?;
        let (one, other) = (scene.bytes(1, 3000), scene.bytes(2, 3000));
        let slices = [io::IoSlice::new(&one), io::IoSlice::new(&other)];
        done(file.write_vectored(&slices)?, 6000)
    }),
    method("pwritev2", |scene| pwritev2(&scene.file()?, &scene.bytes(1, 5000), 200_000, 0)),
    method("RWF_DSYNC", |scene| {
        pwritev2(&scene.file()?, &scene.bytes(1, 5000), 200_000, libc::RWF_DSYNC)
    }),
    method("O_SYNC", |scene| {
        scene.open(libc::O_SYNC)?.write_all_at(&scene.bytes(1, 5000), 200_000)
    }),
    method("O_DIRECT", |scene| {
        let file = scene.open(libc::O_DIRECT)?;
        for (step, at) in [(1, 65_536), (2, 524_288), (3, FILE_BYTES)] {
            let bytes = Aligned::new(&scene.bytes(step, 8192));
            file.write_all_at(bytes.get(), at)?;
            scene.arrives("a direct write");
        }
        Ok(())
    }),
    method("O_DIRECT beneath dirty pages", |scene| {
        scene.file()?.write_all_at(&scene.bytes(1, 100_000), 65_536)?;
        let bytes = Aligned::new(&scene.bytes(2, 8192));
        scene.open(libc::O_DIRECT)?.write_all_at(bytes.get(), 65_536)
    }),
    method("sendfile", |scene| {
        let mut file = scene.file()?;
        file.seek(SeekFrom::Start(40_000))?;
        let source = scene.source()?;
        // SAFETY: two open descriptors and no memory of ours.
        let sent =
            unsafe { libc::sendfile(file.as_raw_fd(), source.as_raw_fd(), null_mut(), 50_000) };
        done(check(sent)?, 50_000)
    }),
    method("splice", |scene| {
        let file = scene.file()?;
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(&scene.bytes(1, 9000))?;
        splice(&reader, &file, 40_000, 9000)
    }),
    method("vmsplice", |scene| {
        let (reader, writer) = io::pipe()?;
        let bytes = scene.bytes(1, 9000);
        let slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: 9000 };
        // SAFETY: the slice names bytes that outlive their stay in the pipe.
        let moved = unsafe { libc::vmsplice(writer.as_raw_fd(), &slice, 1, 0) };
        done(check(moved)?, 9000)?;
        splice(&reader, &scene.file()?, 44_000, 9000)
    }),
    method("tee", |scene| {
        let (mut first, mut writer) = io::pipe()?;
        let (reader, second) = io::pipe()?;
        writer.write_all(&scene.bytes(1, 9000))?;
        // SAFETY: two open descriptors and no memory of ours.
        let teed = unsafe { libc::tee(first.as_raw_fd(), second.as_raw_fd(), 9000, 0) };
        done(check(teed)?, 9000)?;
        first.read_exact(&mut [0; 9000])?;
        splice(&reader, &scene.file()?, 48_000, 9000)
    }),
    method("copy_file_range", |scene| {
        copy_file_range(&scene.source()?, 1, &scene.file()?, 50_001, 77_777)
    }),
    method("copy_file_range, aligned", |scene| {
        copy_file_range(&scene.source()?, 65_536, &scene.file()?, 131_072, 262_144)
    }),
    method("FICLONE", |scene| {
        let (source, file) = (scene.source()?, scene.file()?);
        // SAFETY: two open descriptors and no memory of ours.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) } as isize)
            .map(drop)
    }),
    method("FICLONERANGE", |scene| {
        let (source, file) = (scene.source()?, scene.file()?);
        let range = libc::file_clone_range {
            src_fd: source.as_raw_fd().into(),
            src_offset: 0,
            src_length: 131_072,
            dest_offset: 262_144,
        };
        // SAFETY: the structure is what this request reads.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FICLONERANGE, &range) } as isize)
            .map(drop)
    }),
    method("dedupe", dedupe),
    method("XFS_IOC_EXCHANGE_RANGE", exchange_range),
    method("BTRFS_IOC_ENCODED_WRITE", encoded_write),
    Method {
        name: "chattr",
        seen: Seen::Late("chattr"),
        run: |scene| {
            scene.file()?.write_all_at(&scene.bytes(1, 5000), 70_001)?;
            scene.arrives("a write before it");
            flags::set(&scene.path("f"), "d")
        },
    },
];

/// With a file outside of the folder.
fn exchange_range(scene: &Scene) -> io::Result<()> {
    #[repr(C)]
    struct Request {
        with: i32,
        padding: u32,
        with_offset: u64,
        offset: u64,
        length: u64,
        flags: u64,
    }
    const XFS_IOC_EXCHANGE_RANGE: libc::Ioctl = 0x4028_5881;
    let (file, path) = (scene.file()?, scene.outside("exchanged"));
    std::fs::write(&path, scene.bytes(1, FILE_BYTES as usize))?;
    let other = File::options().read(true).write(true).open(path)?;
    let request = Request {
        with: other.as_raw_fd(),
        padding: 0,
        with_offset: 65_536,
        offset: 262_144,
        length: 131_072,
        flags: 0,
    };
    // SAFETY: the structure is what this request reads.
    check(unsafe { libc::ioctl(file.as_raw_fd(), XFS_IOC_EXCHANGE_RANGE, &request) } as isize)
        .map(drop)
}

fn encoded_write(scene: &Scene) -> io::Result<()> {
    /// 8 KiB of one letter, as zlib packs them.
    const PACKED: &[u8] = b"\x78\xda\xed\xc1\x01\x0d\x00\x00\x00\xc2\xa0\x8e\xef\x1f\xc6\x1c\x6e\x40\x01\x00\x00\x00\x00\x00\x00\x00\xef\x06\xdc\xd2\x40\x97";
    const UNPACKED_BYTES: u64 = 8192;
    const ZLIB: u32 = 1;
    const BTRFS_IOC_ENCODED_WRITE: libc::Ioctl = 0x4080_9440;
    #[repr(C)]
    struct Request {
        slices: *const libc::iovec,
        count: u64,
        offset: i64,
        flags: u64,
        length: u64,
        unpacked_length: u64,
        unpacked_offset: u64,
        compression: u32,
        encryption: u32,
        reserved: [u8; 64],
    }
    let slice = libc::iovec { iov_base: PACKED.as_ptr().cast_mut().cast(), iov_len: PACKED.len() };
    let request = Request {
        slices: &slice,
        count: 1,
        offset: 262_144,
        flags: 0,
        length: UNPACKED_BYTES,
        unpacked_length: UNPACKED_BYTES,
        unpacked_offset: 0,
        compression: ZLIB,
        encryption: 0,
        reserved: [0; 64],
    };
    let file = scene.file()?;
    // SAFETY: the structure is what this request reads, the slice in it names
    // bytes that are there for ever.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BTRFS_IOC_ENCODED_WRITE, &request) } as isize)
        .map(drop)
}

fn dedupe(scene: &Scene) -> io::Result<()> {
    #[repr(C)]
    struct Request {
        source_offset: u64,
        length: u64,
        count: u16,
        reserved: [u16; 3],
        fd: i64,
        offset: u64,
        deduped: u64,
        status: i32,
        reserved_too: u32,
    }
    const FIDEDUPERANGE: libc::Ioctl = 0xc018_9436;
    const SAME: i32 = 0;
    let (file, source) = (scene.file()?, scene.source()?);
    let mut same = vec![0; 131_072];
    source.read_exact_at(&mut same, 0)?;
    file.write_all_at(&same, 0)?;
    file.sync_all()?;
    let mut request = Request {
        source_offset: 0,
        length: 131_072,
        count: 1,
        reserved: [0; 3],
        fd: file.as_raw_fd().into(),
        offset: 0,
        deduped: 0,
        status: 0,
        reserved_too: 0,
    };
    // SAFETY: the structure is what this request reads and writes, with one
    // element as its count says.
    check(unsafe { libc::ioctl(source.as_raw_fd(), FIDEDUPERANGE, &mut request) } as isize)?;
    match request.status {
        SAME => done(request.deduped as usize, same.len())?,
        status @ ..0 => return Err(io::Error::from_raw_os_error(-status)),
        status => return Err(io::Error::other(format!("not deduped: {status}"))),
    }
    scene.arrives("deduped");
    // What is shared must be seen to part again.
    file.write_all_at(&scene.bytes(1, 5000), 10_000)
}

/// Bytes at an address that direct writes accept.
pub struct Aligned {
    room: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    const TO: usize = 4096;

    pub fn new(bytes: &[u8]) -> Self {
        let mut room = vec![0; bytes.len() + Self::TO];
        let start = room.as_ptr().align_offset(Self::TO);
        room[start..start + bytes.len()].copy_from_slice(bytes);
        Self { room, start, length: bytes.len() }
    }

    pub fn get(&self) -> &[u8] {
        &self.room[self.start..self.start + self.length]
    }
}

fn splice(from: &io::PipeReader, to: &File, mut offset: i64, length: usize) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        // SAFETY: the offset is a local that outlives the call.
        let moved = check(unsafe {
            libc::splice(from.as_raw_fd(), null_mut(), to.as_raw_fd(), &mut offset, left, 0)
        })?;
        left -= moved;
    }
    Ok(())
}

fn copy_file_range(from: &File, at: i64, to: &File, to_at: i64, length: usize) -> io::Result<()> {
    let (mut at, mut to_at) = (at, to_at);
    // SAFETY: the offsets are locals that outlive the call.
    let copied = unsafe {
        libc::copy_file_range(from.as_raw_fd(), &mut at, to.as_raw_fd(), &mut to_at, length, 0)
    };
    done(check(copied)?, length)
}

fn pwritev2(file: &File, bytes: &[u8], at: i64, flags: i32) -> io::Result<()> {
    let slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the slice names bytes that outlive the call, which reads them.
    let wrote = unsafe { libc::pwritev2(file.as_raw_fd(), &slice, 1, at, flags) };
    done(check(wrote)?, bytes.len())
}

/// The result of a system call, or what it says is wrong.
pub fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

pub fn done(count: usize, wanted: usize) -> io::Result<()> {
    if count == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("{count} of {wanted} bytes")))
    }
}
