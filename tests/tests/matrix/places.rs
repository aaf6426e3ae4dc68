//! Methods that come to the file another way: through other names, mounts and
//! namespaces, and by processes of another kind.

use std::fs::{self, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use replicator_tests::{foreign, nobody};
use rustix::fs::{AtFlags, CWD};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::scene::{Method, Scene, Seen, machine_lacks};

const fn method(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Method {
    Method { name, seen: Seen::AtOnce, run }
}

pub const METHODS: &[Method] = &[
    Method {
        name: "O_TMPFILE and linkat",
        seen: Seen::LateByInotify("open file"),
        run: |scene| {
            let mut options = OpenOptions::new();
            let folder = scene.path("");
            let mut file = options.write(true).custom_flags(libc::O_TMPFILE).open(folder)?;
            file.write_all(&scene.bytes(1, 100_000))?;
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, &link, CWD, scene.path("linked"), AtFlags::SYMLINK_FOLLOW)?;
            scene.arrives("a name");
            file.write_all(&scene.bytes(2, 5000))
        },
    },
    method("through a second hard link", |scene| {
        fs::hard_link(scene.path("f"), scene.path("link"))?;
        scene.arrives("a link");
        write_at(&scene.path("link"), &scene.bytes(1, 5000))
    }),
    Method {
        name: "through a hard link outside",
        seen: Seen::LateByInotify("hard link outside"),
        run: |scene| {
            let link = scene.outside("link");
            fs::hard_link(scene.path("f"), &link)?;
            scene.arrives("a link");
            write_at(&link, &scene.bytes(1, 5000))
        },
    },
    method("through a bind mount", |scene| {
        let mount = Mount::bind(&scene.path(""), &scene.outside("bound"))?;
        write_at(&mount.0.join("f"), &scene.bytes(1, 5000))
    }),
    // The events of the file system come, those of the directory do not.
    Method {
        name: "through overlayfs",
        seen: Seen::LateByInotify("overlayfs"),
        run: |scene| {
            let names = ["lower", "work", "merged"];
            let [lower, work, merged] = names.map(|name| scene.outside(name));
            fs::create_dir(&lower)?;
            fs::create_dir(&work)?;
            let upper = scene.path("");
            let options = format!(
                "lowerdir={},upperdir={},workdir={},index=off,xino=off,uuid=off",
                lower.display(),
                upper.display(),
                work.display()
            );
            let mount = Mount::overlay(&merged, &options)?;
            write_at(&mount.0.join("f"), &scene.bytes(1, 5000))?;
            scene.arrives("a write");
            fs::write(mount.0.join("new"), scene.bytes(2, 5000))
        },
    },
    method("from another mount namespace", |scene| {
        let (folder, bound) = (scene.path(""), scene.outside("elsewhere"));
        let bytes = scene.bytes(1, 5000);
        fs::create_dir(&bound)?;
        let write = move || {
            // SAFETY: the thread shares its directory and its mounts with
            // nobody afterwards, and ends soon.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private)?;
            rustix::mount::mount_bind(&folder, &bound)?;
            write_at(&bound.join("f"), &bytes)
        };
        std::thread::spawn(write).join().expect("no panic")
    }),
    method("from a 32-bit process", |scene| {
        let program = foreign::writer(&scene.outside("")).map_err(machine_lacks)?;
        let status = Command::new(program).current_dir(scene.path("")).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{status}"))) }
    }),
    method("a rewrite of the same size and time", |scene| {
        let file = scene.file()?;
        let time = file.metadata()?.modified()?;
        file.write_all_at(&scene.bytes(1, 5000), 123_456)?;
        file.set_times(FileTimes::new().set_modified(time))
    }),
    method("to a file just renamed", |scene| {
        let file = scene.file()?;
        fs::rename(scene.path("f"), scene.path("renamed"))?;
        file.write_all_at(&scene.bytes(1, 5000), 123_456)?;
        scene.arrives("at once");
        file.write_all_at(&scene.bytes(2, 5000), 654_321)
    }),
    method("to a file in a folder just renamed", |scene| {
        fs::create_dir(scene.path("d"))?;
        fs::rename(scene.path("f"), scene.path("d/f"))?;
        scene.arrives("a folder");
        let file = OpenOptions::new().write(true).open(scene.path("d/f"))?;
        fs::rename(scene.path("d"), scene.path("e"))?;
        file.write_all_at(&scene.bytes(1, 5000), 123_456)
    }),
    Method {
        name: "to a file that lost one of its names",
        seen: Seen::LateByInotify("open file"),
        run: |scene| {
            fs::hard_link(scene.path("f"), scene.path("other"))?;
            scene.arrives("two names");
            let file = scene.file()?;
            fs::remove_file(scene.path("f"))?;
            file.write_all_at(&scene.bytes(1, 5000), 123_456)
        },
    },
    method("to a file that lost its name to another", |scene| {
        let file = scene.file()?;
        fs::remove_file(scene.path("f"))?;
        fs::write(scene.path("f"), scene.bytes(1, 50_000))?;
        file.write_all_at(&scene.bytes(2, 5000), 123)
    }),
    method("replaced and written on", |scene| {
        fs::write(scene.path("next"), scene.bytes(1, 50_000))?;
        let file = OpenOptions::new().write(true).open(scene.path("next"))?;
        fs::rename(scene.path("next"), scene.path("f"))?;
        file.write_all_at(&scene.bytes(2, 5000), 123)
    }),
    method("moved in from outside and written on", |scene| {
        let outside = scene.outside("stranger");
        fs::write(&outside, scene.bytes(1, 50_000))?;
        let file = OpenOptions::new().write(true).open(&outside)?;
        // What is decided about it now must not outlive the move.
        file.write_all_at(&scene.bytes(2, 5000), 123)?;
        fs::rename(&outside, scene.path("f"))?;
        file.write_all_at(&scene.bytes(3, 5000), 12_345)
    }),
];

fn write_at(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all_at(bytes, 123_456)
}

/// A mount that ends with the method.
struct Mount(PathBuf);

impl Mount {
    fn bind(source: &Path, target: &Path) -> io::Result<Self> {
        fs::create_dir(target)?;
        rustix::mount::mount_bind(source, target)?;
        Ok(Self(target.to_owned()))
    }

    fn overlay(target: &Path, options: &str) -> io::Result<Self> {
        fs::create_dir(target)?;
        let options = std::ffi::CString::new(options)?;
        let overlay = "overlay";
        let none = MountFlags::empty();
        let mount = || rustix::mount::mount(overlay, target, overlay, none, options.as_c_str());
        nobody::as_root(mount)?;
        Ok(Self(target.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The method is over; what it did must not change here.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}
