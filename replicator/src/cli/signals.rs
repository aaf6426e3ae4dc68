//! Signals that end the daemon: the first asks, the second insists.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The signals that end a daemon, listened to from when this is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that closes ends what runs in it, unless whoever started
    /// this (`nohup`) had it ignored. The log needs no HUP, it reopens itself.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// At the first signal sets `stop`; at the second ends the process as
    /// that signal would.
    pub async fn stop(mut self, stop: watch::Sender<bool>) {
        let number = self.next().await;
        tracing::info!("ending on signal {number}; a second one ends at once");
        super::notify::stopping();
        stop.send_replace(true);
        let number = self.next().await;
        tracing::warn!(
            "ended at once by signal {number}; the next start repairs what was in flight"
        );
        std::process::exit(128 + number);
    }

    async fn next(&mut self) -> i32 {
        let hung_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = hung_up => SignalKind::hangup(),
        };
        kind.as_raw_value()
    }
}

/// Was this process started with the signal ignored? To listen to one would
/// end that.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // The first signal has the lowest bit.
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}
