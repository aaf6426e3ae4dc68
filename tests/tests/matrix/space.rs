//! Methods that change where a file ends or has room, and no bytes by
//! themselves.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::calls::check;
use crate::scene::{FILE_BYTES, Method, Scene, Seen};

const fn method(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Method {
    Method { name, seen: Seen::AtOnce, run }
}

pub const METHODS: &[Method] = &[
    method("truncate down", |scene| truncate(scene, 333_333)),
    method("truncate up", |scene| truncate(scene, 3 * FILE_BYTES as i64)),
    method("ftruncate down and up at once", |scene| {
        let file = scene.file()?;
        file.set_len(100_001)?;
        file.set_len(900_000)
    }),
    method("ftruncate down, up and a write", |scene| {
        let file = scene.file()?;
        file.set_len(100_001)?;
        scene.arrives("shorter");
        file.set_len(900_000)?;
        scene.arrives("longer");
        file.write_all_at(&scene.bytes(1, 5000), 500_000)
    }),
    method("O_TRUNC and a write", |scene| {
        let file = OpenOptions::new().write(true).truncate(true).open(scene.path("f"))?;
        scene.arrives("cut off");
        file.write_all_at(&scene.bytes(1, 5000), 0)
    }),
    method("fallocate", |scene| allocate(scene, FallocateFlags::empty(), FILE_BYTES, 262_144)),
    method("fallocate, KEEP_SIZE", |scene| {
        allocate(scene, FallocateFlags::KEEP_SIZE, FILE_BYTES, 262_144)?;
        scene.file()?.write_all_at(&scene.bytes(1, 5000), FILE_BYTES + 4096)
    }),
    method("PUNCH_HOLE", |scene| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        allocate(scene, flags, 65_536, 262_144)?;
        scene.arrives("a hole of whole blocks");
        allocate(scene, flags, 700_001, 3)
    }),
    method("ZERO_RANGE", |scene| {
        allocate(scene, FallocateFlags::ZERO_RANGE, 65_536, 262_144)?;
        scene.arrives("zeros of whole blocks");
        allocate(scene, FallocateFlags::ZERO_RANGE, 700_001, 3)?;
        scene.arrives("some zeros");
        allocate(scene, FallocateFlags::ZERO_RANGE, FILE_BYTES - 100, 100_000)
    }),
    method("COLLAPSE_RANGE", |scene| {
        allocate(scene, FallocateFlags::COLLAPSE_RANGE, 65_536, 131_072)
    }),
    method("INSERT_RANGE", |scene| allocate(scene, FallocateFlags::INSERT_RANGE, 65_536, 131_072)),
];

fn truncate(scene: &Scene, length: i64) -> io::Result<()> {
    let path = CString::new(scene.path("f").as_os_str().as_bytes())?;
    // SAFETY: the path ends with NUL.
    check(unsafe { libc::truncate(path.as_ptr(), length) } as isize).map(drop)
}

fn allocate(scene: &Scene, flags: FallocateFlags, at: u64, length: u64) -> io::Result<()> {
    Ok(fallocate(scene.file()?, flags, at, length)?)
}
