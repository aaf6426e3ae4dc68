//! The folder's private directory: `.replicator`, mode 0700, never replicated.
//!
//! It lies inside the folder because only there a rename into place is one
//! step of one file system. Its sub-directories are opened once and used
//! through their handles, so nobody who can write to the folder can slip
//! another directory under a running daemon.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::resolve::{BENEATH, retrying};
use super::trial::{nameless, not_made, trials};
use super::{Error, flags};
use crate::entry::Flags;
use crate::path::PRIVATE_DIR;

const TMP: &str = "tmp";
const TRASH: &str = "trash";
const CONFLICTS: &str = "conflicts";
const REDO: &str = "redo";
const DIRECTORIES: [&str; 4] = [TMP, TRASH, CONFLICTS, REDO];
const MARKER: &str = "marker";
const LOCK: &str = "lock";

/// Random bytes in a marker: enough that no two folders ever share one.
const MARKER_BYTES: usize = 16;

/// The attribute that tells a directory of ours from one that a stranger put
/// there: only who may administer the system can set it, and a change of
/// owner leaves it.
const SEAL: &str = "trusted.replicator";

/// How a private directory is opened.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Who may open what is private to any user.
const ROOT: u32 = 0;

#[derive(Debug)]
pub(super) struct Private {
    tmp: Arc<OwnedFd>,
    trash: OwnedFd,
    conflicts: OwnedFd,
    redo: OwnedFd,
    marker: String,
    /// Whose all of this is: who serves the folder.
    owner: (Uid, Gid),
    /// Holds the lock for as long as the folder is served; `None` beside a
    /// daemon.
    lock: Option<OwnedFd>,
}

impl Private {
    /// Makes what is missing.
    pub(super) fn prepare(path: &Path, root: BorrowedFd<'_>) -> Result<Self, Error> {
        // What cannot be taken back is refused below.
        if take_back(root).unwrap_or(false) {
            tracing::warn!(
                "{} was given to another user, as `chown -R` does: it is private and was taken back",
                path.join(PRIVATE_DIR).display()
            );
        }
        let user = own_user();
        let dir =
            make_directory(path, root, PRIVATE_DIR).map_err(|error| not_made(path, root, error))?;
        for name in DIRECTORIES {
            make_directory(&path.join(PRIVATE_DIR), dir.as_fd(), name)?;
        }
        let marker = match read_marker(root) {
            Some(marker) => marker,
            None => write_marker(path, dir.as_fd())?,
        };
        seal(dir.as_fd(), &marker);
        // Not for writing: that would keep an administrator from remounting the
        // file system read-only for as long as the folder is served.
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = fs::openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| Error::opening(path, errno.into()))?;
        Self::assemble(path, dir, marker, Some(lock), user)
    }

    /// Takes what a daemon has prepared and makes nothing. Root may take that
    /// of the user as whom the daemon runs, too.
    pub(super) fn existing(path: &Path, root: BorrowedFd<'_>, daemon: u32) -> Result<Self, Error> {
        let never_served = || Error::NeverServed { path: path.to_path_buf() };
        if let Err(Errno::NOENT) = fs::statat(root, PRIVATE_DIR, AtFlags::SYMLINK_NOFOLLOW) {
            return Err(never_served());
        }
        let user = accepted_owner(path, root, daemon)?;
        let dir = open_directory(path, root, PRIVATE_DIR, user)?;
        let marker = read_marker(root).ok_or_else(never_served)?;
        Self::assemble(path, dir, marker, None, user)
    }

    fn assemble(
        path: &Path,
        dir: OwnedFd,
        marker: String,
        lock: Option<OwnedFd>,
        user: u32,
    ) -> Result<Self, Error> {
        let open = |name| open_directory(&path.join(PRIVATE_DIR), dir.as_fd(), name, user);
        let stat = fs::fstat(&dir).map_err(|errno| Error::opening(path, errno.into()))?;
        Ok(Self {
            tmp: Arc::new(open(TMP)?),
            trash: open(TRASH)?,
            conflicts: open(CONFLICTS)?,
            redo: open(REDO)?,
            marker,
            owner: (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)),
            lock,
        })
    }

    /// Keeps a second daemon away. The kernel lets go when this process ends,
    /// however it ends.
    pub(super) fn lock(&self, path: &Path) -> Result<(), Error> {
        let Some(lock) = &self.lock else { return Ok(()) };
        match fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(Error::AlreadyServed { path: path.to_path_buf() }),
            Err(errno) => Err(Error::opening(path, errno.into())),
        }
    }

    /// Tries what the promises stand on, on this very file system, and which
    /// file flags can be set there.
    pub(super) fn probe(&self, path: &Path) -> Result<Flags, Error> {
        trials(path, self.tmp.as_fd()).into_iter().try_for_each(|trial| trial.outcome)?;
        let file =
            nameless(self.tmp.as_fd()).map_err(|errno| Error::opening(path, errno.into()))?;
        Ok(flags::settable(file.as_fd()))
    }

    /// Gives what was made in here to whom it is private: root, at work beside
    /// a daemon of another user, would leave what that one cannot read.
    pub(super) fn hand_over(&self, made: BorrowedFd<'_>) -> Result<(), Errno> {
        let (user, group) = self.owner;
        if user.as_raw() == own_user() {
            return Ok(());
        }
        fs::fchown(made, Some(user), Some(group))
    }

    pub(super) fn marker(&self) -> &str {
        &self.marker
    }

    pub(super) fn tmp(&self) -> &Arc<OwnedFd> {
        &self.tmp
    }

    pub(super) fn trash(&self) -> BorrowedFd<'_> {
        self.trash.as_fd()
    }

    pub(super) fn conflicts(&self) -> BorrowedFd<'_> {
        self.conflicts.as_fd()
    }

    pub(super) fn redo(&self) -> BorrowedFd<'_> {
        self.redo.as_fd()
    }
}

/// Looks at the private directory of a folder as a start would, makes and
/// changes nothing, and gives the directory in it for what is tried out.
pub(super) fn look_over(path: &Path, root: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let user = given_away(root).map_or_else(own_user, |(_, owner)| owner);
    let dir = open_directory(path, root, PRIVATE_DIR, user)?;
    let mut place = None;
    for name in DIRECTORIES {
        match open_directory(&path.join(PRIVATE_DIR), dir.as_fd(), name, user) {
            Ok(inner) if name == TMP => place = Some(inner),
            Ok(_) | Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(place.unwrap_or(dir))
}

/// The id in the marker file below a root directory; `None` where there is
/// none or it is damaged.
pub(super) fn read_marker(root: BorrowedFd<'_>) -> Option<String> {
    let marker = Path::new(PRIVATE_DIR).join(MARKER);
    let file = open_beneath(root, &marker, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let mut text = String::new();
    // One byte more than a sound marker and its line end would show that the
    // file is no marker.
    let limit = 2 * MARKER_BYTES as u64 + 2;
    std::fs::File::from(file).take(limit).read_to_string(&mut text).ok()?;
    let id = text.strip_suffix('\n')?;
    let sound = id.len() == 2 * MARKER_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    sound.then(|| id.to_owned())
}

fn make_directory(path: &Path, parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Error> {
    match fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::opening(path, errno.into())),
    }
    let dir = open_directory(path, parent, name, own_user())?;
    let stat = fs::fstat(&dir).map_err(|errno| Error::opening(path, errno.into()))?;
    if stat.st_mode & 0o7777 != 0o700 {
        fs::fchmod(&dir, Mode::RWXU).map_err(|errno| Error::opening(path, errno.into()))?;
    }
    Ok(dir)
}

/// Whose a private directory may be beside a daemon of this user: one's own,
/// and root may touch the daemon's.
fn accepted_owner(path: &Path, root: BorrowedFd<'_>, daemon: u32) -> Result<u32, Error> {
    let own = own_user();
    if own == ROOT {
        return Ok(if is_owned(root, PRIVATE_DIR, own) { own } else { daemon });
    }
    if own == daemon || is_owned(root, PRIVATE_DIR, own) {
        return Ok(own);
    }
    Err(Error::Stranger { path: path.join(PRIVATE_DIR), user: daemon })
}

/// A private directory, which must be this user's: whoever can write to the
/// folder could have put one there before, with records in it that a start
/// would carry out.
fn open_directory(
    path: &Path,
    parent: BorrowedFd<'_>,
    name: &str,
    user: u32,
) -> Result<OwnedFd, Error> {
    let in_the_way = |reason| Error::PrivateDirectory { path: path.join(name), reason };
    let anothers = || {
        let path = if name == PRIVATE_DIR { path.join(name) } else { path.to_path_buf() };
        Error::PrivateOwner { path, user }
    };
    let dir = open_beneath(parent, Path::new(name), DIRECTORY).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP => in_the_way("it is no directory"),
        Errno::XDEV => in_the_way("it is a mount point"),
        Errno::NOSYS | Errno::PERM => Error::Kernel,
        Errno::ACCESS if !is_owned(parent, name, user) => anothers(),
        errno => Error::opening(path, errno.into()),
    })?;
    let stat = fs::fstat(&dir).map_err(|errno| Error::opening(path, errno.into()))?;
    if stat.st_uid != user {
        return Err(anothers());
    }
    Ok(dir)
}

/// Makes the private directories this user's own again where this user sealed
/// them; false where nothing was to be done. Who was given the folder with all
/// that is in it gains nothing from what could be left there meanwhile: it
/// reaches this folder alone.
fn take_back(root: BorrowedFd<'_>) -> Result<bool, Errno> {
    let Some((dir, _)) = given_away(root) else { return Ok(false) };
    // Closed before the rest is looked at: nobody changes it from then on.
    make_own(dir.as_fd())?;
    for name in DIRECTORIES {
        make_own(open_beneath(dir.as_fd(), Path::new(name), DIRECTORY)?.as_fd())?;
    }
    Ok(true)
}

/// The private directory where this user sealed it and it is another's now,
/// with who that is.
fn given_away(root: BorrowedFd<'_>) -> Option<(OwnedFd, u32)> {
    let dir = open_beneath(root, Path::new(PRIVATE_DIR), DIRECTORY).ok()?;
    let owner = fs::fstat(&dir).ok()?.st_uid;
    let is_ours = owner != own_user() && is_sealed(dir.as_fd(), &read_marker(root)?);
    is_ours.then_some((dir, owner))
}

fn make_own(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    fs::fchmod(dir, Mode::RWXU)?;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    fs::fchown(dir, Some(user), Some(group))
}

/// Where the system does not let us, or the file system has no attributes, an
/// administrator has to take back by hand what was given away.
fn seal(dir: BorrowedFd<'_>, marker: &str) {
    if !is_sealed(dir, marker) {
        let _ = fs::fsetxattr(dir, SEAL, seal_of(marker).as_bytes(), XattrFlags::empty());
    }
}

pub(super) fn is_sealed(dir: BorrowedFd<'_>, marker: &str) -> bool {
    let expected = seal_of(marker);
    // One byte more would show that it is another.
    let mut value = vec![0; expected.len() + 1];
    let length = fs::fgetxattr(dir, SEAL, &mut value);
    length.is_ok_and(|length| value[..length] == *expected.as_bytes())
}

/// Names the user, too: what one has sealed no other takes.
fn seal_of(marker: &str) -> String {
    format!("{marker} {}", own_user())
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn is_owned(parent: BorrowedFd<'_>, name: &str, user: u32) -> bool {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| stat.st_uid == user)
}

fn open_beneath(root: BorrowedFd<'_>, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    retrying(|| fs::openat2(root, name, flags, Mode::empty(), BENEATH))
}

fn write_marker(path: &Path, private: BorrowedFd<'_>) -> Result<String, Error> {
    let failed = |source| Error::opening(path, source);
    let mut id = [0; MARKER_BYTES];
    getrandom::fill(&mut id).map_err(|error| failed(io::Error::other(error.to_string())))?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let new = format!("{MARKER}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(private, &new, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| failed(errno.into()))?;
    let mut file = std::fs::File::from(file);
    file.write_all(format!("{id}\n").as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::renameat(private, &new, private, MARKER).map_err(|errno| failed(errno.into()))?;
    fs::fsync(private).map_err(|errno| failed(errno.into()))?;
    Ok(id)
}
