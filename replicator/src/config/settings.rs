//! Settings as text, from flags or a TOML file, each with the place it came
//! from, so that a complaint can point there.
//!
//! Nothing is interpreted here beyond the names of the keys.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Error;

/// Largest configuration file, in bytes: a hundred times what all keys need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most edits between a wrong key and the one suggested for it.
const SUGGESTION_EDITS_MAX: usize = 3;

/// Everything that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Root,
    StateDir,
    Listen,
    Advertise,
    Peer,
    PasswordFile,
    Delay,
    MaxDelay,
    Capture,
    CaptureMemory,
    Engine,
    Name,
    Cluster,
    InPlace,
    TrashKeep,
    Mode,
    Retention,
    DeleteBrake,
    MinFree,
    VerifyInterval,
    StatusInterval,
    Log,
}

impl Key {
    /// As in the file.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(key, ..)| *key == self).map_or("", |(_, name, _)| name)
    }

    /// As on the command line.
    pub fn flag(self) -> &'static str {
        NAMES.iter().find(|(key, ..)| *key == self).map_or("", |(.., flag)| flag)
    }

    /// Does the name mean this key, in the file's own words or in those of
    /// lsyncd?
    fn from_name(name: &str) -> Option<Self> {
        let own = NAMES.iter().find(|(_, own, _)| *own == name).map(|(key, ..)| *key);
        own.or_else(|| ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, key)| *key))
    }
}

/// Text for keys. Whatever is set first stays.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<Key, Setting>);

#[derive(Clone, Debug)]
struct Setting {
    values: Vec<OsString>,
    origin: Origin,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line, by this flag.
    Flag(&'static str),
    /// In the file, as `/etc/replicator.toml:7: delay`.
    File(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag(flag) => flag,
            Self::File(place) => place,
        })
    }
}

impl Settings {
    /// Reads a TOML file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let unreadable =
            |source| Error::Unreadable { what: "configuration file", path: path.into(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
            let message = format!("is larger than {FILE_BYTES_MAX} bytes: is it the right file?");
            return Err(Error::Syntax { path: path.into(), line: 1, message });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let line_of =
            |offset: usize| 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
        let table = DeTable::parse(&text).map_err(|error| Error::Syntax {
            path: path.into(),
            line: line_of(error.span().map_or(0, |span| span.start)),
            message: error.message().replace('\n', " "),
        })?;
        let mut settings = Self::default();
        for (name, value) in table.get_ref() {
            let line = line_of(name.span().start);
            let name = name.get_ref();
            let Some(key) = Key::from_name(name) else {
                let (key, suggestion) = (name.escape_debug().to_string(), closest_name(name));
                return Err(Error::UnknownKey { path: path.into(), line, key, suggestion });
            };
            let origin = Origin::File(format!("{}:{line}: {name}", path.display()));
            let values = texts(value.get_ref(), &origin)?;
            if settings.0.insert(key, Setting { values, origin: origin.clone() }).is_some() {
                let reason = format!("means {}, which is set already: keep one", key.name());
                return Err(Error::BadValue { origin, value: name.to_string(), reason });
            }
        }
        Ok(settings)
    }

    /// Sets a key as a flag did; no values leave it unset.
    pub fn flag(&mut self, key: Key, values: impl IntoIterator<Item = OsString>) {
        let values: Vec<_> = values.into_iter().collect();
        if !values.is_empty() {
            self.0.insert(key, Setting { values, origin: Origin::Flag(key.flag()) });
        }
    }

    /// Takes what is not set here from `other`.
    pub fn fill_from(&mut self, other: Settings) {
        for (key, setting) in other.0 {
            self.0.entry(key).or_insert(setting);
        }
    }

    /// The value of a key that has at most one.
    pub(super) fn one(&self, key: Key) -> Result<Option<&OsString>, Error> {
        match self.0.get(&key).map(|setting| setting.values.as_slice()) {
            None => Ok(None),
            Some([value]) => Ok(Some(value)),
            Some(_) => Err(self.bad(key, "is given twice: keep one".into())),
        }
    }

    pub(super) fn parse<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        self.one(key)?.map(|value| self.parse_value(key, value, &parse)).transpose()
    }

    pub(super) fn parse_all<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Error> {
        let values = self.0.get(&key).map_or(&[][..], |setting| &setting.values);
        values.iter().map(|value| self.parse_value(key, value, &parse)).collect()
    }

    /// A complaint about a key's value.
    pub(super) fn bad(&self, key: Key, reason: String) -> Error {
        let values: Vec<_> = self.0.get(&key).iter().flat_map(|setting| &setting.values).collect();
        let value = values.iter().map(|value| shown(value)).collect::<Vec<_>>().join(" ");
        Error::BadValue { origin: self.origin(key), value, reason }
    }

    fn origin(&self, key: Key) -> Origin {
        let setting = self.0.get(&key);
        setting.map_or(Origin::Flag(key.flag()), |setting| setting.origin.clone())
    }

    fn parse_value<T>(
        &self,
        key: Key,
        value: &OsStr,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        let parsed = value.to_str().ok_or_else(|| "is not UTF-8".into()).and_then(parse);
        parsed.map_err(|reason| Error::BadValue {
            origin: self.origin(key),
            value: shown(value),
            reason,
        })
    }
}

const NAMES: [(Key, &str, &str); 22] = [
    (Key::Root, "root", "--root"),
    (Key::StateDir, "state_dir", "--state-dir"),
    (Key::Listen, "listen", "--listen"),
    (Key::Advertise, "advertise", "--advertise"),
    (Key::Peer, "peers", "--peer"),
    (Key::PasswordFile, "password_file", "--password-file"),
    (Key::Delay, "delay", "--delay"),
    (Key::MaxDelay, "max_delay", "--max-delay"),
    (Key::Capture, "capture", "--capture"),
    (Key::CaptureMemory, "capture_memory", "--capture-memory"),
    (Key::Engine, "engine", "--engine"),
    (Key::Name, "name", "--name"),
    (Key::Cluster, "cluster", "--cluster"),
    (Key::InPlace, "in_place", "--in-place"),
    (Key::TrashKeep, "trash_keep", "--trash-keep"),
    (Key::Retention, "retention", "--retention"),
    (Key::DeleteBrake, "delete_brake", "--delete-brake"),
    (Key::Mode, "mode", "--mode"),
    (Key::MinFree, "min_free", "--min-free"),
    (Key::VerifyInterval, "verify_interval", "--verify-interval"),
    (Key::StatusInterval, "status_interval", "--status-interval"),
    (Key::Log, "log", "--log"),
];

/// Words people know from lsyncd's configuration, and the flag's own.
const ALIASES: [(&str, Key); 5] = [
    ("source", Key::Root),
    ("target", Key::Peer),
    ("targets", Key::Peer),
    ("peer", Key::Peer),
    ("statusInterval", Key::StatusInterval),
];

/// The value or values of a key, as the text a flag would have.
fn texts(value: &DeValue<'_>, origin: &Origin) -> Result<Vec<OsString>, Error> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_string(),
        DeValue::Float(number) => number.as_str().to_string(),
        DeValue::Array(items) => {
            let mut all = Vec::new();
            for item in items {
                if item.get_ref().is_array() {
                    return Err(wrong_type("[...]", origin, "a list in a list"));
                }
                all.extend(texts(item.get_ref(), origin)?);
            }
            return Ok(all);
        }
        DeValue::Boolean(value) => {
            return Err(wrong_type(&value.to_string(), origin, "a boolean"));
        }
        other => return Err(wrong_type("...", origin, &format!("a {}", other.type_str()))),
    };
    Ok(vec![text.into()])
}

fn wrong_type(value: &str, origin: &Origin, is: &str) -> Error {
    let reason = format!("is {is}; give a text, like \"10s\"");
    Error::BadValue { origin: origin.clone(), value: value.into(), reason }
}

/// A value fit for a terminal.
fn shown(value: &OsStr) -> String {
    value.to_string_lossy().escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

/// The known key the fewest edits away, if it is near.
fn closest_name(name: &str) -> Option<&'static str> {
    let known = NAMES.iter().map(|(_, name, _)| *name).chain(ALIASES.iter().map(|(name, _)| *name));
    known
        .map(|known| (edits_between(name.as_bytes(), known.as_bytes()), known))
        .filter(|(edits, known)| *edits <= SUGGESTION_EDITS_MAX.min(known.len() / 2))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// Levenshtein distance, one row at a time.
fn edits_between(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.iter().enumerate() {
            let replace = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_name_and_a_flag() {
        for (key, name, flag) in NAMES {
            assert_eq!((key.name(), key.flag()), (name, flag));
            assert_eq!(Key::from_name(name), Some(key));
        }
    }

    #[test]
    fn the_distance_counts_single_edits() {
        assert_eq!(edits_between(b"kitten", b"sitting"), 3);
        assert_eq!(edits_between(b"", b"abc"), 3);
        assert_eq!(closest_name("rot"), Some("root"));
        assert_eq!(closest_name("statedir"), Some("state_dir"));
        assert_eq!(closest_name("x"), None);
    }

    #[test]
    fn one_key_under_two_names_is_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "root = '/a'\nsource = '/b'\n").unwrap();
        let text = Settings::from_file(&path).unwrap_err().to_string();
        assert!(text.contains("which is set already"), "{text}");
    }
}
