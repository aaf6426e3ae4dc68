//! What `replicator run` is told, checked before anything starts.
//!
//! Flags and a TOML file give text ([`Settings`]); this module turns it into a
//! [`Config`] whose every field is already valid, so that no other room meets
//! a bad value. It reads files, and never writes one.

mod quantity;
mod settings;

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

pub use quantity::{MinFree, parse_duration, parse_size};
pub use settings::{Key, Origin, Settings};

use crate::address::{Address, NotAnAddress, PORT_DEFAULT};
use crate::choice::{CaptureChoice, EngineChoice, InPlace, Mode};
use crate::limits::NODE_NAME_BYTES_MAX;

/// Longest password, in bytes: a key file of any usual format fits, a folder's
/// content given by mistake does not.
pub const PASSWORD_BYTES_MAX: usize = 4096;

/// A file of which all is read again may be large: so it is not read often.
const MAX_DELAY_DEFAULT: Duration = Duration::from_secs(10);

/// Written ranges gather for this long where they never end: each version
/// costs a few messages, and a peer a flush.
const STREAM_DELAY_DEFAULT: Duration = Duration::from_millis(50);

/// Everything `replicator run` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder, absolute. A symbolic link stays one: the node decides what
    /// a re-pointed root means.
    pub root: PathBuf,
    /// Identity, index, log and status of this node, absolute and never
    /// inside the root.
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    /// The address told to other members, where `listen` is not reachable.
    pub advertise: Option<SocketAddr>,
    /// Addresses of members; any one is enough to join.
    pub peers: Vec<Address>,
    pub password_file: PathBuf,
    /// A file is read once it has been quiet for this long.
    pub delay: Duration,
    /// A file that never falls quiet is read this often.
    pub max_delay: Duration,
    /// The same where capture tells which bytes change.
    pub stream_delay: Duration,
    pub capture: CaptureChoice,
    /// Bound of the kernel memory that capture uses, in bytes.
    pub capture_memory: usize,
    pub engine: EngineChoice,
    pub name: String,
    /// Salts the password: nodes of another cluster name cannot join.
    pub cluster: String,
    pub in_place: InPlace,
    /// How long deleted and overwritten files rest in the trash.
    pub trash_keep: Duration,
    /// In which direction changes travel.
    pub mode: Mode,
    /// How long a silent member is waited for; one that was away for longer
    /// is merged like a new node.
    pub retention: Duration,
    /// Deletions nobody saw that are more than this share of the folder, in
    /// percent, wait for `replicator confirm`; `None`: none do.
    pub delete_brake: Option<u8>,
    /// Space that replication leaves free on the root's file system.
    pub min_free: MinFree,
    /// The time one slow verification of everything takes.
    pub verify_interval: Duration,
    /// How often `replicator.status` is rewritten.
    pub status_interval: Duration,
    /// What is logged, in the words of `tracing`'s `EnvFilter`; `None` leaves
    /// it to `RUST_LOG`, and to `info` without one.
    pub log: Option<String>,
}

impl Config {
    /// The cluster's password: the content of the file, less one line end.
    pub fn password(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let path = &self.password_file;
        let unreadable =
            |source| Error::Unreadable { what: "password file", path: path.clone(), source };
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        let facts = file.metadata().map_err(unreadable)?;
        if facts.is_dir() {
            return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // The buffer has its full size from the start: growing would leave
        // copies of the password behind in freed memory.
        let mut password = Zeroizing::new(vec![0; PASSWORD_BYTES_MAX + 2]);
        let mut length = 0;
        loop {
            match file.read(&mut password[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        password.truncate(length);
        if password.last() == Some(&b'\n') {
            password.pop();
            if password.last() == Some(&b'\r') {
                password.pop();
            }
        }
        if password.is_empty() {
            return Err(Error::EmptyPassword { path: path.clone() });
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::LongPassword { path: path.clone() });
        }
        if facts.mode() & 0o007 != 0 {
            tracing::warn!(
                "every user of this machine can read the password in {}: run `chmod 600 {0}`",
                path.display()
            );
        }
        Ok(password)
    }

    /// Checks settings and fills in the defaults.
    pub fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let root = absolute(settings, Key::Root)?;
        let state_dir = absolute(settings, Key::StateDir)?;
        if is_inside(&state_dir, &root) {
            return Err(settings.bad(
                Key::StateDir,
                format!(
                    "lies inside the root {}; every node needs its own, outside of it",
                    root.display()
                ),
            ));
        }
        if is_inside(&root, &state_dir) {
            return Err(settings.bad(
                Key::StateDir,
                format!("holds the root {}; keep them apart", root.display()),
            ));
        }
        let password_file = absolute(settings, Key::PasswordFile)?;
        if is_inside(&password_file, &root) {
            return Err(settings.bad(
                Key::PasswordFile,
                format!(
                    "lies inside the root {} and would be replicated; keep it elsewhere",
                    root.display()
                ),
            ));
        }
        let delay = settings.parse(Key::Delay, parse_duration)?.unwrap_or(Duration::ZERO);
        let longest = settings.parse(Key::MaxDelay, parse_duration)?;
        let max_delay = longest.unwrap_or(MAX_DELAY_DEFAULT.max(delay));
        let stream_delay = longest.unwrap_or(STREAM_DELAY_DEFAULT.max(delay));
        if max_delay < delay {
            return Err(settings
                .bad(Key::MaxDelay, "is shorter than delay; make it at least as long".into()));
        }
        Ok(Self {
            root,
            state_dir,
            listen: settings
                .parse(Key::Listen, parse_listen)?
                .unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT))),
            advertise: settings.parse(Key::Advertise, parse_advertise)?,
            peers: settings.parse_all(Key::Peer, parse_peer)?,
            password_file,
            delay,
            max_delay,
            stream_delay,
            capture: settings.parse(Key::Capture, str::parse)?.unwrap_or_default(),
            capture_memory: settings
                .parse(Key::CaptureMemory, parse_capture_memory)?
                .unwrap_or(CAPTURE_MEMORY_DEFAULT),
            engine: settings.parse(Key::Engine, str::parse)?.unwrap_or_default(),
            name: settings.parse(Key::Name, parse_name)?.unwrap_or_else(host_name),
            cluster: settings
                .parse(Key::Cluster, parse_name)?
                .unwrap_or_else(|| "replicator".into()),
            in_place: settings.parse(Key::InPlace, str::parse)?.unwrap_or_default(),
            trash_keep: settings.parse(Key::TrashKeep, parse_duration)?.unwrap_or(7 * DAY),
            retention: settings.parse(Key::Retention, parse_retention)?.unwrap_or(28 * DAY),
            mode: settings.parse(Key::Mode, str::parse)?.unwrap_or_default(),
            delete_brake: settings.parse(Key::DeleteBrake, parse_brake)?.unwrap_or(Some(50)),
            min_free: settings.parse(Key::MinFree, str::parse)?.unwrap_or(MinFree::Percent(1)),
            verify_interval: settings
                .parse(Key::VerifyInterval, parse_interval)?
                .unwrap_or(7 * DAY),
            status_interval: settings
                .parse(Key::StatusInterval, parse_interval)?
                .unwrap_or(Duration::from_secs(10)),
            log: settings.parse(Key::Log, parse_log_filter)?,
        })
    }
}

/// Kernel memory for what was written and not yet read.
const CAPTURE_MEMORY_DEFAULT: usize = 64 << 20;

/// Less is not worth the programs, and more than this no kernel gives them.
const CAPTURE_MEMORY: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 30;

fn parse_capture_memory(text: &str) -> Result<usize, String> {
    let bytes = parse_size(text)?;
    if !CAPTURE_MEMORY.contains(&bytes) {
        return Err("is not between 1MiB and 4GiB".into());
    }
    usize::try_from(bytes).map_err(|_| "is more than this machine can address".into())
}

/// Why there is no configuration. All of it is the user's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot read the {what} {}: {source}", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}:{line}: unknown key '{key}'{}", path.display(), did_you_mean(suggestion))]
    UnknownKey { path: PathBuf, line: usize, key: String, suggestion: Option<&'static str> },
    #[error("{origin}: '{value}' {reason}")]
    BadValue { origin: Origin, value: String, reason: String },
    #[error("{} is missing: give {} or set {} in the --config file", key.name(), key.flag(), key.name())]
    Missing { key: Key },
    #[error("the password file {} is empty: put the cluster's password into it", path.display())]
    EmptyPassword { path: PathBuf },
    #[error("the password file {} holds more than {PASSWORD_BYTES_MAX} bytes: is it the right file?", path.display())]
    LongPassword { path: PathBuf },
}

impl Error {
    /// What the process exits with: 77 where permission is missing, else 78.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                77
            }
            _ => 78,
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn did_you_mean(suggestion: &Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |word| format!(": did you mean '{word}'?"))
}

fn absolute(settings: &Settings, key: Key) -> Result<PathBuf, Error> {
    let Some(text) = settings.one(key)? else {
        return Err(Error::Missing { key });
    };
    std::path::absolute(Path::new::<OsString>(text))
        .map_err(|error| settings.bad(key, format!("is no path: {error}")))
}

/// Is `path` the same as `folder` or beneath it, links followed as far as the
/// path exists already?
fn is_inside(path: &Path, folder: &Path) -> bool {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let resolved = path.ancestors().find_map(|part| {
        let rest = path.strip_prefix(part).ok()?;
        Some(part.canonicalize().ok()?.join(rest))
    });
    resolved.as_deref().unwrap_or(path).starts_with(folder)
}

fn parse_peer(text: &str) -> Result<Address, String> {
    text.parse().map_err(|error: NotAnAddress| error.to_string())
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port =
            port.parse().map_err(|_| "has a port that is no number from 0 to 65535".to_string())?;
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    text.parse().map_err(|_| "is no ADDR:PORT, like 0.0.0.0:7400 or [::]:7400".into())
}

fn parse_advertise(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "is no ADDR:PORT, like 192.0.2.7:7400".to_string())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err("cannot be dialled; give an address and port other nodes reach".into());
    }
    Ok(address)
}

fn parse_name(text: &str) -> Result<String, String> {
    let printable = text.chars().all(|character| !character.is_control());
    if text.is_empty() || text.len() > NODE_NAME_BYTES_MAX || !printable {
        return Err(format!("is no name: give 1 to {NODE_NAME_BYTES_MAX} printable characters"));
    }
    Ok(text.into())
}

fn parse_brake(text: &str) -> Result<Option<u8>, String> {
    if text == "off" {
        return Ok(None);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    percent
        .filter(|percent| (1..=100).contains(percent))
        .map(Some)
        .ok_or_else(|| "is neither off nor a share from 1% to 100%".into())
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    let retention = parse_duration(text)?;
    if retention < Duration::from_secs(1) {
        return Err(
            "is too short: give at least 1s, and weeks where nodes are away for days".into()
        );
    }
    Ok(retention)
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err("is too short: give at least 100ms".into());
    }
    Ok(interval)
}

/// What may be logged: a level, or a filter in the words of `EnvFilter`.
pub fn parse_log_filter(text: &str) -> Result<String, String> {
    let known_word = text.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let directives = text.contains('=') && tracing_subscriber::EnvFilter::try_new(text).is_ok();
    if known_word || directives {
        return Ok(text.into());
    }
    Err("is none of error warn info debug trace, nor a filter like info,replicator::sync=debug"
        .into())
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    parse_name(&name).unwrap_or_else(|_| "node".into())
}

#[cfg(test)]
mod tests;
