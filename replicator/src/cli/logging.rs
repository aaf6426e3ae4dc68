//! The log: the same lines to standard error and to `replicator.log`.
//!
//! The file may be moved or removed at any time and is then made anew, so
//! logrotate needs no signal; left alone it never grows beyond two times
//! [`LOG_BYTES_MAX`]. No escape sequence ever reaches the file.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::failure::{Exit, Failure};
use crate::config::parse_log_filter;

/// The log is moved to `replicator.log.1` when it would grow beyond this.
pub const LOG_BYTES_MAX: u64 = 16 << 20;

/// Lines with this target go to the file alone: a person reads them already.
pub const FILE_ONLY: &str = "replicator::file_only";

/// Starts logging for the whole process. `filter` is what `--log` said.
pub fn start(path: &Path, filter: Option<&str>) -> Result<(), Failure> {
    let filter = env_filter(filter)?;
    let file = LogFile::open(path, LOG_BYTES_MAX).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Configuration,
        };
        Failure::new(exit, format!("cannot write the log {}: {error}", path.display()))
    })?;
    let to_file = fmt::layer().with_writer(Arc::new(file)).with_ansi(false).with_target(false);
    let to_person = |metadata: &tracing::Metadata<'_>| metadata.target() != FILE_ONLY;
    let to_person = tracing_subscriber::filter::filter_fn(to_person);
    let plain = fmt::layer().with_writer(io::stderr).with_target(false);
    let to_stderr = if stderr_is_journal() {
        plain.with_ansi(false).event_format(Prioritised::new()).with_filter(to_person).boxed()
    } else {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        plain.with_ansi(colours).with_filter(to_person).boxed()
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(to_file).with(to_stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(anyhow::Error::from)?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("bug: {panic}")));
    Ok(())
}

/// `--log`, else `RUST_LOG`, else `info`. A word that means nothing would pass
/// for the name of a module, and silence all others.
fn env_filter(filter: Option<&str>) -> Result<EnvFilter, Failure> {
    let of_environment = || match std::env::var_os("RUST_LOG") {
        Some(text) if !text.is_empty() => {
            let text = text.to_string_lossy();
            parse_log_filter(&text).map(Some).map_err(|reason| {
                let message = format!("RUST_LOG: '{text}' {reason}");
                Failure::new(Exit::Configuration, message)
            })
        }
        _ => Ok(None),
    };
    let asked = filter.map_or_else(of_environment, |filter| Ok(Some(filter.to_owned())))?;
    EnvFilter::try_new(asked.as_deref().unwrap_or("info"))
        .map_err(|error| Failure::new(Exit::Configuration, format!("the log filter: {error}")))
}

/// Does systemd's journal read standard error? It names the stream it made by
/// device and inode, so that a redirected one is not mistaken for it.
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The journal's shape: a priority in front, and no time, which it knows.
struct Prioritised(Format<Full, ()>);

impl Prioritised {
    fn new() -> Self {
        Self(fmt::format().without_time().with_level(false).with_target(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// As in `sd-daemon(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A file that follows its name.
struct LogFile {
    path: PathBuf,
    bytes_max: u64,
    open: Mutex<Opened>,
}

struct Opened {
    file: File,
    device_inode: (u64, u64),
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let open = Mutex::new(Opened::open(path)?);
        Ok(Self { path: path.into(), bytes_max, open })
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        // A panic while writing leaves nothing worse than half a line.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let here = std::fs::metadata(&self.path).ok().map(|facts| (facts.dev(), facts.ino()));
        if here != Some(open.device_inode) {
            *open = Opened::open(&self.path)?;
        } else if open.bytes > 0 && open.bytes + line.len() as u64 > self.bytes_max {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            *open = Opened::open(&self.path)?;
        }
        open.file.write_all(line)?;
        open.bytes += line.len() as u64;
        Ok(())
    }
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let facts = file.metadata()?;
        Ok(Self { file, device_inode: (facts.dev(), facts.ino()), bytes: facts.len() })
    }
}

impl Write for &LogFile {
    /// Takes one whole line, as `tracing` hands it over. A full disk is no
    /// error here: standard error has the line as well, and complaining about
    /// it in every line would bury the cause.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_or_removed_log_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replicator.log");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let log = LogFile::open(&path, 1000).unwrap();
        log.append(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("rotated")).unwrap();
        log.append(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.append(b"three\n").unwrap();
        log.append(b"four\n").unwrap();
        assert_eq!(read("rotated"), "one\n");
        assert_eq!(read("replicator.log"), "three\nfour\n");
    }

    #[test]
    fn a_log_left_alone_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replicator.log");
        let log = LogFile::open(&path, 100).unwrap();
        for _ in 0..50 {
            log.append(b"ten bytes\n").unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= 100);
        assert_eq!(std::fs::metadata(folder.path().join("replicator.log.1")).unwrap().len(), 100);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_journal_gets_priorities_and_no_time_and_hostile_names_are_escaped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let file = Arc::new(LogFile::open(&path, 1000).unwrap());
        let layer = fmt::layer()
            .with_writer(file)
            .with_target(false)
            .with_ansi(false)
            .event_format(Prioritised::new());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!("a name: \x1b[31mred");
        });
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("<4>"), "{text:?}");
        assert!(text.contains("a name: ") && !text.contains('\x1b'), "{text:?}");
    }
}
