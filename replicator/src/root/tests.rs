//! The folder as hostile neighbours and careless administrators leave it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::private::is_sealed;
use super::*;
use crate::entry::Timestamp;

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn folder() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

#[test]
fn a_stat_tells_what_lstat_and_getfattr_tell() {
    let (dir, root) = folder();
    let file = dir.path().join("f");
    std::fs::write(&file, b"12345").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4751)).unwrap();
    rustix::fs::setxattr(&file, "user.b", b"2", rustix::fs::XattrFlags::CREATE).unwrap();
    rustix::fs::setxattr(&file, "user.a", &[7; 3000], rustix::fs::XattrFlags::CREATE).unwrap();
    let seen = root.stat(&path("f")).unwrap().unwrap();
    let expected = std::fs::symlink_metadata(&file).unwrap();
    assert_eq!(seen.kind, Kind::File);
    assert_eq!(seen.fingerprint.inode, expected.ino());
    assert_eq!(seen.fingerprint.size, 5);
    assert_eq!(seen.metadata.mode, 0o4751);
    let mtime = Timestamp { seconds: expected.mtime(), nanos: expected.mtime_nsec() as u32 };
    assert_eq!(seen.metadata.mtime, mtime);
    let names: Vec<_> = seen.metadata.xattrs.iter().map(|xattr| xattr.name.as_slice()).collect();
    assert_eq!(names, [b"user.a", b"user.b"]);
    assert_eq!(seen.metadata.xattrs[0].value, [7; 3000]);
    let handle = root.open_file(&path("f"), Access::Read).unwrap().unwrap();
    assert_eq!(root.stat_fd(handle.as_fd()).unwrap(), seen);
}

#[test]
fn links_lead_nowhere() {
    let (dir, root) = folder();
    symlink("/etc", dir.path().join("out")).unwrap();
    symlink("passwd", dir.path().join("link")).unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("inner")).unwrap();
    std::fs::write(dir.path().join("real/f"), b"x").unwrap();
    assert_eq!(root.stat(&path("out/passwd")).unwrap(), None);
    assert_eq!(root.stat(&path("inner/f")).unwrap(), None);
    assert!(root.open_file(&path("out/passwd"), Access::Read).unwrap().is_none());
    assert!(root.open_file(&path("link"), Access::Read).unwrap().is_none());
    assert_eq!(root.read_dir(&path("out")).unwrap(), None);
    assert_eq!(root.stat(&path("link")).unwrap().unwrap().kind, Kind::Symlink);
    assert_eq!(root.read_link(&path("link")).unwrap().unwrap(), b"passwd");
    assert_eq!(root.read_link(&path("real")).unwrap(), None);
}

#[test]
fn a_fifo_does_not_stop_the_daemon_and_a_socket_is_named() {
    let (dir, root) = folder();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(root.open_file(&path("fifo"), Access::Read).unwrap().is_none());
    assert_eq!(root.stat(&path("fifo")).unwrap().unwrap().kind, Kind::Fifo);
    let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let refused = root.stat(&path("socket"));
    assert!(matches!(refused, Err(Error::Unsupported { what: "a socket", .. })), "{refused:?}");
}

#[test]
fn listings_are_sorted_raw_and_without_the_private_directory() {
    let (dir, root) = folder();
    for name in [&b"b"[..], b"\xff\xfe", b"a"] {
        std::fs::write(dir.path().join(OsStr::from_bytes(name)), b"").unwrap();
    }
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let listed = root.read_dir(&RelPath::root()).unwrap().unwrap();
    let names: Vec<_> = listed.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [&b"a"[..], b"b", b"d", b"\xff\xfe"]);
    assert_eq!(listed[2].kind, Some(Kind::Directory));
    let odd = RelPath::parse(b"\xff\xfe").unwrap();
    assert_eq!(root.stat(&odd).unwrap().unwrap().fingerprint.inode, listed[3].inode);
}

#[test]
fn absent_things_are_none() {
    let (dir, root) = folder();
    std::fs::write(dir.path().join("f"), b"").unwrap();
    for absent in ["x", "x/y", "f/y"] {
        assert_eq!(root.stat(&path(absent)).unwrap(), None, "{absent}");
        assert!(root.open_file(&path(absent), Access::ReadWrite).unwrap().is_none());
        assert_eq!(root.read_dir(&path(absent)).unwrap(), None);
    }
    assert_eq!(root.read_dir(&path("f")).unwrap(), None);
}

#[test]
fn a_folder_is_served_once_and_keeps_its_marker() {
    let (dir, root) = folder();
    let second = Root::open(dir.path());
    assert!(matches!(second, Err(Error::AlreadyServed { .. })), "{second:?}");
    let beside = Root::open_beside(dir.path(), own_user()).unwrap();
    assert_eq!(beside.marker(), root.marker());
    let marker = root.marker().to_owned();
    drop((root, beside));
    let again = Root::open(dir.path()).unwrap();
    assert_eq!(again.marker(), marker);
    let mode = std::fs::metadata(dir.path().join(PRIVATE)).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

const PRIVATE: &str = crate::path::PRIVATE_DIR;

/// As Debian numbers nobody.
const ANOTHER: u32 = 65534;

/// As `chown -R` does; false where this user cannot.
fn give_away(path: &Path) -> bool {
    let inner = std::fs::read_dir(path).into_iter().flatten().flatten();
    inner.into_iter().all(|entry| give_away(&entry.path()))
        && std::os::unix::fs::lchown(path, Some(ANOTHER), Some(ANOTHER)).is_ok()
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn owner(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().uid()
}

#[test]
fn a_folder_given_to_another_user_is_served_again() {
    let (dir, root) = folder();
    let marker = root.marker().to_owned();
    drop(root);
    let (private, redo) = (dir.path().join(PRIVATE), dir.path().join(PRIVATE).join("redo"));
    let can_seal = is_sealed(std::fs::File::open(&private).unwrap().as_fd(), &marker);
    if !give_away(dir.path()) {
        return println!("skipped: this user cannot give files away");
    }
    if !can_seal {
        // Without CAP_SYS_ADMIN, as in a container, nothing tells it from a
        // stranger's.
        let refused = Root::open(dir.path()).unwrap_err();
        return assert!(matches!(refused, Error::PrivateOwner { .. }), "{refused}");
    }
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = Root::open(dir.path()).unwrap();
    assert_eq!(root.marker(), marker.as_str());
    assert_eq!((owner(&private), owner(&redo)), (0, 0));
    assert_eq!(std::fs::metadata(&private).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(owner(dir.path()), ANOTHER, "the folder itself stays as it was given");
}

#[test]
fn a_private_directory_of_a_stranger_is_refused() {
    let (dir, root) = folder();
    drop(root);
    let planted = tempfile::tempdir().unwrap();
    let private = planted.path().join(PRIVATE);
    std::fs::create_dir_all(private.join("redo")).unwrap();
    // A sound marker is no proof: it is a file like any other.
    std::fs::copy(dir.path().join(PRIVATE).join("marker"), private.join("marker")).unwrap();
    if !give_away(&private) {
        return println!("skipped: this user cannot give files away");
    }
    let refused = Root::open(planted.path()).unwrap_err();
    assert!(matches!(refused, Error::PrivateOwner { .. }), "{refused}");
    let advice = format!("`chown -R 0 {}`", private.display());
    assert!(refused.to_string().contains(&advice), "{refused}");
    assert_eq!(owner(&private), ANOTHER);
    // Half of the advice is not enough, and says so again.
    std::os::unix::fs::chown(&private, Some(0), Some(0)).unwrap();
    let refused = Root::open(planted.path()).unwrap_err();
    assert!(refused.to_string().contains(&advice), "{refused}");
    std::os::unix::fs::chown(private.join("redo"), Some(0), Some(0)).unwrap();
    std::os::unix::fs::chown(private.join("marker"), Some(0), Some(0)).unwrap();
    Root::open(planted.path()).unwrap();
}

#[test]
fn root_works_beside_the_daemon_of_another_user() {
    let (dir, root) = folder();
    drop(root);
    let private = dir.path().join(PRIVATE);
    if !give_away(&private) {
        return println!("skipped: this user cannot give files away");
    }
    std::fs::remove_file(private.join("lock")).unwrap();
    let beside = Root::open_beside(dir.path(), ANOTHER).unwrap();
    assert!(!private.join("lock").exists(), "it would be closed to the daemon");
    let made = std::fs::File::create_new(private.join("trash/made")).unwrap();
    beside.hand_over(made.as_fd()).unwrap();
    assert_eq!(owner(&private.join("trash/made")), ANOTHER);
    // Neither root's nor the daemon's: whoever may write to the folder could
    // have put it there.
    let refused = Root::open_beside(dir.path(), ANOTHER - 1).unwrap_err();
    let advice = format!("`chown -R {} {}`", ANOTHER - 1, private.display());
    assert!(refused.to_string().contains(&advice), "{refused}");
}

#[test]
fn a_replaced_removed_or_emptied_folder_is_noticed() {
    let outer = tempfile::tempdir().unwrap();
    let place = outer.path().join("folder");
    std::fs::create_dir(&place).unwrap();
    let root = Root::open(&place).unwrap();
    root.check().unwrap();
    std::fs::rename(&place, outer.path().join("aside")).unwrap();
    assert!(matches!(root.check(), Err(Error::Missing { .. })));
    std::fs::create_dir(&place).unwrap();
    assert!(matches!(root.check(), Err(Error::Replaced { .. })));
    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(outer.path().join("aside"), &place).unwrap();
    root.check().unwrap();
    std::fs::remove_dir_all(place.join(PRIVATE)).unwrap();
    assert!(matches!(root.check(), Err(Error::MarkerGone { .. })));
}

#[test]
fn wrong_folders_are_refused_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(matches!(Root::open(&dir.path().join("none")), Err(Error::Missing { .. })));
    assert!(matches!(Root::open(&file), Err(Error::NotDirectory { .. })));
    assert!(matches!(Root::open_beside(dir.path(), own_user()), Err(Error::NeverServed { .. })));
    symlink("/etc", dir.path().join(PRIVATE)).unwrap();
    let planted = Root::open(dir.path());
    assert!(planted.is_err(), "a planted link is not followed");
    assert!(!Path::new("/etc/tmp").exists(), "nothing is made behind a planted link");
    let fat = Root::open(Path::new("/proc"));
    assert!(fat.is_err(), "/proc cannot be served");
}

/// A bind mount of the same file system has the same device: only the mount
/// point itself tells.
#[test]
fn what_is_mounted_below_the_folder_is_no_part_of_it() {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    std::fs::create_dir(place("mounted")).unwrap();
    std::fs::create_dir(place("plain")).unwrap();
    std::fs::write(place("mounted file"), b"below").unwrap();
    std::fs::write(place("file"), b"above").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: this thread alone leaves the mount namespace, which
            // shares nothing else, and it ends with the test.
            if unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
                return println!("skipped: this user cannot mount");
            }
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            mount_bind(place("plain"), place("mounted")).unwrap();
            mount_bind(place("file"), place("mounted file")).unwrap();
            let root = Root::open(dir.path()).unwrap();
            let glance = |name: &str| root.glance_at(root.dir(), name.as_bytes(), &path(name));
            for name in ["mounted", "mounted file"] {
                let refused = glance(name).unwrap_err();
                assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
                assert_eq!(root.stat(&path(name)).unwrap_err().to_string(), refused.to_string());
            }
            assert_eq!(glance("plain").unwrap().unwrap().kind, Kind::Directory);
            assert_eq!(glance("file").unwrap().unwrap().kind, Kind::File);
            assert!(glance("nothing").unwrap().is_none());
        });
    });
}
