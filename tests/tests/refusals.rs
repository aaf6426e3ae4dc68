//! Where the kernel lacks something or a container forbids it, the node says
//! so in one line, takes the next level, and replicates everything.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use replicator_tests::{Cluster, keep_mounts_to_this_thread, levels, machine};

/// Starts both nodes, of which `a` must say these words and take this level.
#[track_caller]
fn assert_steps_down(mut cluster: Cluster, level: &str, words: &[&str]) -> Cluster {
    cluster.start();
    let status = cluster[0].status().unwrap();
    assert_eq!(status.capture(), level, "{status}");
    for word in words {
        assert!(status.text("/capture/why").contains(word), "{word}: {}", status.json()["capture"]);
    }
    let log = cluster[0].log();
    let said =
        log.lines().filter(|line| line.contains("changes are captured at the level")).count();
    // Once on the terminal and once in the file.
    assert!((1..=2).contains(&said), "{log}");
    assert!(!status.json()["capture"]["late"].as_array().unwrap().is_empty(), "{status}");

    for (writer, name) in [(0, "from-a"), (1, "from-b")] {
        fs::create_dir_all(cluster[writer].path(name).join("deep/er")).unwrap();
        fs::write(cluster[writer].path(name).join("deep/er/file"), vec![b'.'; 300_000]).unwrap();
    }
    cluster.assert_same();
    let file = OpenOptions::new().write(true).open(cluster[0].path("from-b/deep/er/file")).unwrap();
    file.write_all_at(b"edited", 123_456).unwrap();
    fs::rename(cluster[0].path("from-a/deep"), cluster[0].path("moved")).unwrap();
    cluster.assert_same();
    cluster.assert_rsync_agrees();
    cluster
}

/// Are there levels to step down from, and mounts to hide things behind? In a
/// container not even root has them.
fn is_privileged() -> bool {
    let lack = levels::lacks(&std::env::temp_dir(), "fanotify");
    if let Some(lack) = lack {
        machine::skip(&format!("this process has the lowest level anyway: {lack}"));
    }
    lack.is_none()
}

#[test]
fn bpf_is_forbidden() {
    if !is_privileged() {
        return;
    }
    let mut cluster = Cluster::new(2);
    cluster[0].settings.forbidden = vec![libc::SYS_bpf as u32];
    assert_steps_down(cluster, "fanotify", &["ebpf: ", "CAP_BPF"]);
}

#[test]
fn bpf_fanotify_and_io_uring_are_forbidden() {
    let mut cluster = Cluster::new(2);
    let calls = [libc::SYS_bpf, libc::SYS_fanotify_init, libc::SYS_io_uring_setup];
    cluster[0].settings.forbidden = calls.map(|call| call as u32).into();
    let cluster = assert_steps_down(cluster, "inotify", &["ebpf: ", "fanotify: ", "CAP_SYS_ADMIN"]);
    let status = cluster[0].status().unwrap();
    let engine = status.text("/engine/kind");
    assert!(engine.starts_with("threads, ") && engine.contains("forbidden"), "{status}");
    assert!(status.number("/engine/counters/reads") > 0, "it reads by other means: {status}");
    let log = cluster[0].log();
    let said = |line: &str| line.contains("reading with threads") && line.contains("io_uring");
    assert!(log.lines().any(said), "{log}");
}

/// Shows the daemons of this story another description of the kernel.
fn with_types(change: impl FnOnce(&Path)) -> bool {
    let types = Path::new("/sys/kernel/btf/vmlinux");
    if !is_privileged() {
        return false;
    }
    if !types.exists() {
        machine::skip("this kernel has no type description to hide");
        return false;
    }
    keep_mounts_to_this_thread().unwrap();
    change(types);
    true
}

#[test]
fn a_kernel_without_types() {
    let empty = tempfile::tempdir().unwrap();
    let hide = |types: &Path| {
        rustix::mount::mount_bind(empty.path(), types.parent().unwrap()).unwrap();
    };
    if with_types(hide) {
        assert_steps_down(Cluster::new(2), "fanotify", &["type description", "cannot be read"]);
    }
}

#[test]
fn a_kernel_whose_types_lack_a_member() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("vmlinux");
    let lack = |types: &Path| {
        let mut blob = fs::read(types).unwrap();
        let name = b"\0i_mmap_writable\0";
        let at = blob.windows(name.len()).position(|window| window == name).unwrap();
        blob[at + 1] = b'x';
        fs::write(&other, blob).unwrap();
        rustix::mount::mount_bind(&other, types).unwrap();
    };
    if with_types(lack) {
        let words = ["lacks address_space.i_mmap_writable"];
        assert_steps_down(Cluster::new(2), "fanotify", &words);
    }
}

#[test]
fn a_folder_without_file_handles() {
    if !is_privileged() {
        return;
    }
    keep_mounts_to_this_thread().unwrap();
    let mut cluster = Cluster::new(2);
    let place = |name: &str| cluster.dir().join(name);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(place(name)).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,nfs_export=off",
        place("lower").display(),
        place("upper").display(),
        place("work").display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let none = rustix::mount::MountFlags::empty();
    let overlay = "overlay";
    if let Err(error) =
        rustix::mount::mount(overlay, cluster[0].root(), overlay, none, options.as_c_str())
    {
        return machine::skip(&format!("no overlayfs: {error}"));
    }
    // The other node's folder lies on the plain file system.
    let root = cluster[0].root().to_owned();
    cluster[0].settings.options.clear();
    assert_steps_down(cluster, "inotify", &["overlayfs", "file handles"]);
    // The mount ends with this thread's namespace.
    let _ = rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH);
}
