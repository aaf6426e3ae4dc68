//! `replicator run`: the daemon, in the foreground.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;

use super::failure::{Exit, Failure};
use super::signals::Signals;
use super::{logging, notify, print};
use crate::config::{self, Config, Key, Origin, Settings};
use crate::limits::{BLOCKING_THREADS_MAX, BULK_JOBS_MAX, JOB_ACTIONS_MAX, JOBS_MAX};
use crate::node::{self, Ready};
use crate::status::{NodeNote, StateDir, printable};

/// How long threads that are stuck in the kernel may hold up the end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Files open at once: those that jobs write beside their place, and half as
/// many for all else.
const OPEN_FILES: u64 = ((JOBS_MAX + BULK_JOBS_MAX) * JOB_ACTIONS_MAX * 3 / 2) as u64;

/// Serve a folder, in the foreground, until SIGTERM or SIGINT.
///
/// Every flag can stand in the --config file instead, with `_` for `-`
/// (`peers` for --peer). A flag wins over the file.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Run {
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder to keep the same
    #[arg(long, value_name = "DIR")]
    root: Option<OsString>,
    /// Where identity, index, log and status are kept, outside the root
    #[arg(long, value_name = "DIR")]
    state_dir: Option<OsString>,
    /// The UDP address to listen on [default: 0.0.0.0:7400]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<OsString>,
    /// The address others reach this node by, where it differs
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<OsString>,
    /// A member of the cluster; any one is enough; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    peer: Vec<OsString>,
    /// The file that holds the cluster's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<OsString>,
    /// Quiet time before a changed file is read [default: 0s]
    #[arg(long, value_name = "TIME")]
    delay: Option<OsString>,
    /// Longest time a file that is never quiet waits [default: 50ms where
    /// written ranges are captured, else 10s]
    #[arg(long, value_name = "TIME")]
    max_delay: Option<OsString>,
    /// How to learn of changes: auto, ebpf, fanotify, inotify
    #[arg(long, value_name = "LEVEL")]
    capture: Option<OsString>,
    /// Bound of the kernel memory that capture uses [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    capture_memory: Option<OsString>,
    /// How to read and write: auto, uring, threads
    #[arg(long, value_name = "ENGINE")]
    engine: Option<OsString>,
    /// This node's name in status and logs [default: the host name]
    #[arg(long, value_name = "NODE")]
    name: Option<OsString>,
    /// The cluster's name; it salts the password [default: replicator]
    #[arg(long, value_name = "NAME")]
    cluster: Option<OsString>,
    /// Patch large files in place: auto, never
    #[arg(long, value_name = "WHEN")]
    in_place: Option<OsString>,
    /// How long the trash keeps files [default: 7d]
    #[arg(long, value_name = "TIME")]
    trash_keep: Option<OsString>,
    /// Direction of changes: both, receive-only, send-only [default: both]
    #[arg(long, value_name = "MODE")]
    mode: Option<OsString>,
    /// How long an absent node is waited for; longer, and it is merged like a
    /// new one when it comes back [default: 28d]
    #[arg(long, value_name = "TIME")]
    retention: Option<OsString>,
    /// Unseen deletions of more than this share of the folder wait for
    /// `replicator confirm`; off: none do [default: 50%]
    #[arg(long, value_name = "SHARE")]
    delete_brake: Option<OsString>,
    /// Space to leave free, like 10GiB or 5% [default: 1%]
    #[arg(long, value_name = "SIZE")]
    min_free: Option<OsString>,
    /// Time one slow verification of everything takes [default: 7d]
    #[arg(long, value_name = "TIME")]
    verify_interval: Option<OsString>,
    /// How often the status file is rewritten [default: 10s]
    #[arg(long, value_name = "TIME")]
    status_interval: Option<OsString>,
    /// error, warn, info, debug, trace, or a filter [default: RUST_LOG, info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<OsString>,
}

impl Run {
    pub fn execute(self) -> Result<Exit, Failure> {
        let config = self.into_config()?;
        let place = StateDir::new(&config.state_dir);
        place.create()?;
        logging::start(&place.log_file(), config.log.as_deref())?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            pid = std::process::id(),
            "replicator starts"
        );
        allow_open_files();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("replicator")
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()
            .context("cannot start threads")?;
        let result = runtime.block_on(serve(config, place));
        runtime.shutdown_timeout(END_PATIENCE);
        result?;
        tracing::info!("replicator ended");
        Ok(Exit::Fine)
    }

    fn into_config(self) -> Result<Config, Failure> {
        let file = self.config.as_deref().map(Settings::from_file).transpose()?;
        let by_flags_alone = file.is_none();
        let mut settings = self.into_settings();
        settings.fill_from(file.unwrap_or_default());
        Config::from_settings(&settings).map_err(|error| match error {
            config::Error::BadValue { origin: Origin::Flag(_), .. } => {
                Failure::new(Exit::Usage, error.to_string())
            }
            // Without a file, what is missing is missing on the command line.
            config::Error::Missing { .. } if by_flags_alone => {
                Failure::new(Exit::Usage, error.to_string())
            }
            _ => error.into(),
        })
    }

    fn into_settings(self) -> Settings {
        let mut settings = Settings::default();
        for (key, value) in [
            (Key::Root, self.root),
            (Key::StateDir, self.state_dir),
            (Key::Listen, self.listen),
            (Key::Advertise, self.advertise),
            (Key::PasswordFile, self.password_file),
            (Key::Delay, self.delay),
            (Key::MaxDelay, self.max_delay),
            (Key::Capture, self.capture),
            (Key::CaptureMemory, self.capture_memory),
            (Key::Engine, self.engine),
            (Key::Name, self.name),
            (Key::Cluster, self.cluster),
            (Key::InPlace, self.in_place),
            (Key::TrashKeep, self.trash_keep),
            (Key::Retention, self.retention),
            (Key::DeleteBrake, self.delete_brake),
            (Key::Mode, self.mode),
            (Key::MinFree, self.min_free),
            (Key::VerifyInterval, self.verify_interval),
            (Key::StatusInterval, self.status_interval),
            (Key::Log, self.log),
        ] {
            settings.flag(key, value);
        }
        settings.flag(Key::Peer, self.peer);
        settings
    }
}

/// A shell and a service manager allow 1024 at first, for the sake of programs
/// that use `select`, and more to those that ask.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= OPEN_FILES) {
        return;
    }
    let wanted = limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    if wanted < OPEN_FILES || setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(
            "only {wanted} open files are allowed: raise the limit (`ulimit -n`, LimitNOFILE=) to {OPEN_FILES}, or many small files at once are slow"
        );
    }
}

async fn serve(config: Config, place: StateDir) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(false);
    let signals = Signals::new().context("cannot listen for signals")?;
    let signals = tokio::spawn(signals.stop(stop));
    let note = NodeNote {
        name: config.name.clone(),
        root: config.root.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let result = node::run(config, stopped, move |ready| announce(ready, &place, &note)).await;
    signals.abort();
    result.map_err(|error| Failure::new(Exit::Other(error.exit_code()), error.to_string()))
}

/// Tells everyone who waits for it that the node serves.
fn announce(ready: &Ready, place: &StateDir, note: &NodeNote) {
    let line = ready_line(ready);
    // Whoever started the daemon may not listen, which is no reason to end.
    let _ = print(&format!("{line}\n"));
    tracing::info!(target: logging::FILE_ONLY, "{line}");
    if let Err(error) = place.write_note(note) {
        tracing::warn!("commands will not work without the daemon: {error}");
    }
    notify::ready(&line);
}

fn ready_line(ready: &Ready) -> String {
    printable(&format!(
        "replicator ready: {} on {}, node {} ({}), capture {}, engine {}",
        ready.root.display(),
        ready.listen,
        ready.id,
        ready.name,
        ready.capture,
        ready.engine
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::choice::{CaptureChoice, EngineChoice, InPlace};
    use crate::config::MinFree;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn config(line: &str) -> Result<Config, Failure> {
        Line::try_parse_from(format!("run {line}").split_whitespace()).unwrap().run.into_config()
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let config = config(
            "--root /r --state-dir /s --listen 127.0.0.1:1 --advertise 192.0.2.1:2 --peer a:3 \
             --peer b:4 --password-file /p --delay 5s --max-delay 6s --capture inotify \
             --capture-memory 2MiB --engine threads --name n --cluster c --in-place never --trash-keep 7s --retention 4s --delete-brake 9% \
             --min-free 8% --verify-interval 9s --status-interval 11s --log debug",
        )
        .unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(
            (config.root.as_path(), config.state_dir.as_path()),
            (Path::new("/r"), Path::new("/s"))
        );
        assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.advertise, Some("192.0.2.1:2".parse().unwrap()));
        assert_eq!(config.peers, ["a:3".parse().unwrap(), "b:4".parse().unwrap()]);
        assert_eq!(config.password_file, Path::new("/p"));
        assert_eq!((config.delay, config.max_delay), (seconds(5), seconds(6)));
        assert_eq!(
            (config.capture, config.engine),
            (CaptureChoice::Inotify, EngineChoice::Threads)
        );
        assert_eq!(config.capture_memory, 2 << 20);
        assert_eq!((config.name.as_str(), config.cluster.as_str()), ("n", "c"));
        assert_eq!((config.in_place, config.min_free), (InPlace::Never, MinFree::Percent(8)));
        assert_eq!((config.trash_keep, config.verify_interval), (seconds(7), seconds(9)));
        assert_eq!((config.retention, config.delete_brake), (seconds(4), Some(9)));
        assert_eq!((config.status_interval, config.log.as_deref()), (seconds(11), Some("debug")));
    }

    #[test]
    fn a_bad_flag_is_wrong_usage_and_a_bad_file_wrong_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "rot = '/a'").unwrap();
        assert_eq!(config("--root /r").unwrap_err().exit, Exit::Usage);
        let failure = config(&format!("--config {}", path.display())).unwrap_err();
        assert_eq!(failure.exit.code(), 78);
        assert!(failure.message.contains("did you mean 'root'?"), "{}", failure.message);
        // Each by where it was given, also where both were used.
        let needed = "root = '/r'\nstate_dir = '/s'\npassword_file = '/p'\n";
        let code = |file: &str, flags: &str| {
            std::fs::write(&path, format!("{needed}{file}")).unwrap();
            config(&format!("--config {} {flags}", path.display())).unwrap_err().exit.code()
        };
        assert_eq!(code("", "--delay soon"), 64);
        assert_eq!(code("delay = 'soon'", ""), 78);
        assert_eq!(code("delay = 'soon'", "--max-delay 1s"), 78);
        assert_eq!(code("delay = '2s'", "--max-delay 1s"), 64);
        assert_eq!(code("", "--state-dir /r/s"), 64);
    }
}
