//! Paths below a folder's root, as the kernel sees them: raw bytes.
//!
//! A [`RelPath`] can only be made from bytes that name something beneath the
//! root, so whatever holds one need not ask again whether a peer sent `..`.
//! Nothing here touches a file system.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// The folder-private directory directly below the root: temporary files,
/// trash and conflicts. Never replicated.
pub const PRIVATE_DIR: &str = ".replicator";

/// A path below the root: names joined by `/`, none of them empty, `.` or
/// `..`. The empty path is the root itself. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Arc<[u8]>);

impl RelPath {
    pub fn root() -> Self {
        Self(Arc::from(&[][..]))
    }

    /// Takes bytes from anywhere, a peer included.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadPath> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(BadPath::TooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|&byte| byte == b'/').try_for_each(check_name)?;
        }
        Ok(Self(Arc::from(bytes)))
    }

    /// The entry called `name` in the directory at this path.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        check_name(name)?;
        if self.is_root() {
            return Ok(Self(Arc::from(name)));
        }
        if self.0.len() + 1 + name.len() > PATH_BYTES_MAX {
            return Err(BadPath::TooLong);
        }
        let mut joined = Vec::with_capacity(self.0.len() + 1 + name.len());
        joined.extend_from_slice(&self.0);
        joined.push(b'/');
        joined.extend_from_slice(name);
        Ok(Self(Arc::from(joined)))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(Arc::from(&self.0[..end])))
    }

    /// The last name; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        if self.is_root() {
            return None;
        }
        self.0.rsplit(|&byte| byte == b'/').next()
    }

    /// Is this path `other` or anything below it?
    pub fn is_within(&self, other: &RelPath) -> bool {
        other.is_root()
            || (self.0.starts_with(&other.0)
                && (self.0.len() == other.0.len() || self.0[other.0.len()] == b'/'))
    }

    /// This path with its beginning `from` replaced by `to`; `None` where it
    /// is not within `from` or the result would be too long.
    pub fn rebased(&self, from: &RelPath, to: &RelPath) -> Option<Self> {
        if !self.is_within(from) {
            return None;
        }
        let rest = self.0[from.0.len()..].strip_prefix(b"/").unwrap_or(&self.0[from.0.len()..]);
        let mut bytes = to.0.to_vec();
        if !rest.is_empty() && !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(rest);
        Self::parse(&bytes).ok()
    }

    /// Is it a private directory or inside one? This folder's own lies at its
    /// top; another can only come with a copy of a folder.
    pub fn is_private(&self) -> bool {
        self.0.split(|&byte| byte == b'/').any(|name| name == PRIVATE_DIR.as_bytes())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For system calls relative to the root's handle: `.` for the root.
    pub fn as_path(&self) -> &Path {
        if self.is_root() { Path::new(".") } else { Path::new(OsStr::from_bytes(&self.0)) }
    }
}

impl fmt::Display for RelPath {
    /// Escapes what is not printable: names are hostile input to terminals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("/");
        }
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() || character == '\\' {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RelPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path below the root")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<RelPath, E> {
                RelPath::parse(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

/// Why bytes are no path below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPath {
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("a name in the path is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("a name in the path is empty, '.' or '..', or holds a NUL or a slash")]
    BadName,
}

fn check_name(name: &[u8]) -> Result<(), BadPath> {
    if name.len() > NAME_BYTES_MAX {
        return Err(BadPath::NameTooLong);
    }
    let bad = matches!(name, b"" | b"." | b"..");
    if bad || name.iter().any(|&byte| byte == 0 || byte == b'/') {
        return Err(BadPath::BadName);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn nothing_outside_the_root_parses() {
        for bad in ["/etc", "a//b", "..", "a/../b", "a/.", "a/", "a\0b"] {
            assert!(RelPath::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(RelPath::parse(&[b'x'; 256]), Err(BadPath::NameTooLong));
    }

    #[test]
    fn within_respects_name_borders() {
        assert!(path("a/b").is_within(&path("a")));
        assert!(path("a").is_within(&path("a")));
        assert!(!path("ab").is_within(&path("a")));
        assert!(path("a").is_within(&RelPath::root()));
    }

    #[test]
    fn rebasing_moves_a_subtree() {
        assert_eq!(path("a/b/c").rebased(&path("a"), &path("x/y")), Some(path("x/y/b/c")));
        assert_eq!(path("a").rebased(&path("a"), &path("x")), Some(path("x")));
        assert_eq!(path("ab").rebased(&path("a"), &path("x")), None);
    }

    #[test]
    fn control_bytes_never_reach_a_terminal() {
        let name = RelPath::parse(b"a\x1b[2Jb\xff").unwrap();
        assert_eq!(name.to_string(), "a\\u{1b}[2Jb\\xff");
    }

    #[test]
    fn the_wire_cannot_smuggle_a_path_out() {
        let bytes = postcard::to_stdvec(&path("a/b")).unwrap();
        assert_eq!(postcard::from_bytes::<RelPath>(&bytes).unwrap(), path("a/b"));
        let evil = postcard::to_stdvec(&serde_bytes_of(b"../x")).unwrap();
        assert!(postcard::from_bytes::<RelPath>(&evil).is_err());
    }

    fn serde_bytes_of(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}
