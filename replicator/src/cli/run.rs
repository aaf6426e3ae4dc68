//! `replicator run`: the daemon, in the foreground.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::failure::{Exit, Failure};
use super::signals::Signals;
use super::unmerged::node::{self, Ready};
use super::{logging, notify, print};
use crate::config::{self, Config, Key, Settings};
use crate::status::{NodeNote, StateDir, printable};

/// How long threads that are stuck in the kernel may hold up the end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Serve a folder, in the foreground, until SIGTERM or SIGINT.
///
/// Every flag can stand in the --config file instead, with `_` for `-`
/// (`peers` for --peer). A flag wins over the file.
#[derive(clap::Args)]
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
    /// Longest time a file that is never quiet waits [default: 10s]
    #[arg(long, value_name = "TIME")]
    max_delay: Option<OsString>,
    /// How to learn of changes: auto, ebpf, fanotify, inotify
    #[arg(long, value_name = "LEVEL")]
    capture: Option<OsString>,
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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("replicator")
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
            // Without a file, what is wrong is the command line.
            config::Error::Missing { .. } | config::Error::BadValue { .. } if by_flags_alone => {
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
            (Key::Engine, self.engine),
            (Key::Name, self.name),
            (Key::Cluster, self.cluster),
            (Key::InPlace, self.in_place),
            (Key::TrashKeep, self.trash_keep),
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
