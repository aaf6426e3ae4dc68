//! What an entry of a tree is, apart from its name and its bytes.
//!
//! Plain values shared by the rooms that look at a tree, compare it and write
//! it. Nothing here touches a file system.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of entry that are replicated. Device nodes and sockets are not:
/// they mean something only on the machine that made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Fifo,
    Symlink,
    File,
    Directory,
}

/// A point in time as a file system holds it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// Before anything a file system can hold.
    pub const BEGINNING: Self = Self { seconds: i64::MIN, nanos: 0 };

    /// From nanoseconds since 1970.
    pub fn from_nanos(nanos: i64) -> Self {
        const SECOND: i64 = 1_000_000_000;
        Self { seconds: nanos.div_euclid(SECOND), nanos: nanos.rem_euclid(SECOND) as u32 }
    }

    /// So much earlier; the beginning of time at the earliest.
    pub fn before(&self, span: std::time::Duration) -> Self {
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self { seconds: self.seconds.saturating_sub(seconds), nanos: self.nanos }
    }

    /// So much later; the end of time at the latest.
    pub fn after(&self, span: std::time::Duration) -> Self {
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self { seconds: self.seconds.saturating_add(seconds), nanos: self.nanos }
    }

    /// Nanoseconds since 1970, for ordering; saturates some 292 years away.
    pub fn as_nanos(&self) -> i64 {
        self.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nanos))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        // Clocks before 1970 are wrong anyway.
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() }
    }
}

/// What replicates beside name and bytes. POSIX ACLs and file capabilities
/// are extended attributes.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// Permission, setuid, setgid and sticky bits: `st_mode & 0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub flags: Flags,
    /// Sorted by name.
    pub xattrs: Vec<Xattr>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04o} {}:{} {}.{:09} {:?} {} xattrs",
            self.mode,
            self.uid,
            self.gid,
            self.mtime.seconds,
            self.mtime.nanos,
            self.flags,
            self.xattrs.len()
        )
    }
}

/// File flags (`chattr`) that say what may be done to a file or directory, of
/// those that a look tells. The others say how a server stores it, each for
/// itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flags(u8);

impl Flags {
    pub const NONE: Self = Self(0);
    /// Nobody may change it, remove it or give it another name.
    pub const IMMUTABLE: Self = Self(1);
    /// The same, but that bytes may be appended, and to a directory names.
    pub const APPEND: Self = Self(1 << 1);
    /// Backups leave it out.
    pub const NODUMP: Self = Self(1 << 2);
    pub const ALL: Self = Self(0b111);
    /// Those that keep the daemon itself from its work.
    pub const BINDING: Self = Self(0b011);

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn among(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn is_binding(self) -> bool {
        !self.among(Self::BINDING).is_empty()
    }

    /// Could an honest node have sent them?
    pub const fn is_well_formed(self) -> bool {
        self.without(Self::ALL).is_empty()
    }
}

impl fmt::Debug for Flags {
    /// As `lsattr` shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(Self::IMMUTABLE, 'i'), (Self::APPEND, 'a'), (Self::NODUMP, 'd')];
        let shown =
            letters.map(|(flag, letter)| if self.among(flag).is_empty() { '-' } else { letter });
        f.write_str(&shown.iter().collect::<String>())
    }
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// With its namespace: `user.comment`.
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// Enough of `stat` to tell that an entry is still the one the index knows:
/// whatever changes bytes or metadata changes one of these, save a store
/// through a mapping, which capture reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    pub inode: u64,
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// When the inode was made: tells a file from another that was given its
    /// number. Zero where the file system does not say.
    pub birth: Timestamp,
}

impl Fingerprint {
    /// The very same inode, not another with its number.
    pub fn is_inode(&self, other: &Fingerprint) -> bool {
        self.inode == other.inode && self.birth == other.birth
    }

    /// Same inode of the same birth, size and mtime: the bytes are presumed the same, though
    /// metadata or the number of links may differ.
    pub fn same_bytes(&self, other: &Fingerprint) -> bool {
        self.is_inode(other) && self.size == other.size && self.mtime == other.mtime
    }
}

/// What one system call tells of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    pub kind: Kind,
    pub fingerprint: Fingerprint,
    pub links: u32,
}

/// What one look at an entry told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    pub fingerprint: Fingerprint,
    pub links: u32,
    pub metadata: Metadata,
}
