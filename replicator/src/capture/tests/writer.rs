//! The process that writes: this test program again, running one test alone.

/// A command that writes `f` in this way.
pub fn by_writer(way: &str) -> String {
    let test = std::env::current_exe().unwrap();
    format!(
        "REPLICATOR_CAPTURE_WRITER='{way}' '{}' --exact capture::tests::writer::writer > /dev/null",
        test.display()
    )
}

/// The part of the tests that writes: another process runs this test alone,
/// with a way to write in its environment.
#[test]
fn writer() {
    let Ok(way) = std::env::var("REPLICATOR_CAPTURE_WRITER") else { return };
    let file =
        std::fs::File::options().read(true).write(true).create(true).truncate(false).open("f");
    write_in_the_way(&way, &file.unwrap());
}

fn write_in_the_way(way: &str, file: &std::fs::File) {
    use std::io::{Seek, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

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
        // SAFETY: all pointers are to locals that outlive the calls, all
        // descriptors are open, and the mapping is written within its bounds.
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
                "mmap" | "mmap of a dirty page" => {
                    if way == "mmap of a dirty page" {
                        file.write_all_at(b"dirty", 40_000).unwrap();
                        // The time of the store must be another tick than
                        // that of the write.
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let null = std::ptr::null_mut();
                    let mapping = libc::mmap(null, 1 << 20, protection, libc::MAP_SHARED, fd, 0);
                    assert_ne!(mapping, libc::MAP_FAILED);
                    mapping.cast::<u8>().add(40_000).write_volatile(1);
                }
                "mapping under fire" => {
                    let protection = libc::PROT_READ | libc::PROT_WRITE;
                    let null = std::ptr::null_mut();
                    let mapping = libc::mmap(null, 4 << 20, protection, libc::MAP_SHARED, fd, 0);
                    assert_ne!(mapping, libc::MAP_FAILED);
                    let mut random = std::process::id() as usize | 1;
                    for round in 0..20_000 {
                        // A xorshift: any spread of stores will do.
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let at = random % (4 << 20);
                        mapping.cast::<u8>().add(at).write_volatile(random as u8);
                        if round % 7 == 0 {
                            file.write_all_at(&[round as u8], (random >> 30) as u64 % (4 << 20))
                                .unwrap();
                        }
                    }
                }
                _ => panic!("{way}"),
            }
        },
    }
}
