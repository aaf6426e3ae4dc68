//! rsync, one run for each change, to an rsync daemon over TCP in the clear:
//! what a careful script does.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use replicator_tests::{machine, poll};

use crate::process::Process;
use crate::system::{Place, System};

pub struct Rsync {
    program: PathBuf,
    daemon: Option<Daemon>,
    source: PathBuf,
    log: PathBuf,
    cpu: f64,
    wire: u64,
}

impl Rsync {
    pub fn installed() -> Option<Self> {
        Some(Self {
            program: machine::program("rsync")?,
            daemon: None,
            source: PathBuf::new(),
            log: PathBuf::new(),
            cpu: 0.0,
            wire: 0,
        })
    }
}

impl System for Rsync {
    fn name(&self) -> &str {
        "rsync"
    }

    fn start(&mut self, place: &Place) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.program, place)?);
        self.source = place.a.join("");
        self.log = place.state.join("rsync-run");
        self.push()
    }

    fn push(&mut self) -> Result<()> {
        let url = &self.daemon.as_ref().context("not started")?.url;
        // Its log is fresh each time, so that the last numbers are this run's.
        fs::write(&self.log, "")?;
        let mut command = Command::new(&self.program);
        command.args(["-a", "--delete", "--stats"]).arg(&self.source).arg(url);
        self.cpu += Process::start(&mut command, &self.log)?.finish()?;
        self.wire += total_bytes(&fs::read_to_string(&self.log)?);
        Ok(())
    }

    fn wire_bytes(&self) -> Result<Option<u64>> {
        Ok(Some(self.wire))
    }

    fn cpu_seconds(&self) -> Result<f64> {
        Ok(self.cpu
            + self.daemon.as_ref().map_or(Ok(0.0), |daemon| daemon.process.cpu_seconds())?)
    }

    fn stop(&mut self) -> Result<()> {
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.process.stop())
    }
}

/// An rsync daemon that serves B.
pub struct Daemon {
    pub process: Process,
    pub url: String,
}

impl Daemon {
    pub fn start(program: &Path, place: &Place) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = place.state.join("rsyncd.conf");
        let owner = if machine::is_root() { "uid = 0\ngid = 0\n" } else { "" };
        let text = format!(
            "{owner}use chroot = no\nmunge symlinks = no\nreverse lookup = no\n\
             [copy]\npath = {}\nread only = no\n",
            place.b.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new(program);
        command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--config={}", config.display()));
        let process = Process::start(&mut command, &place.state.join("rsyncd.log"))?;
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !poll::until(Duration::from_secs(5), listens) {
            bail!("the rsync daemon does not listen");
        }
        Ok(Self { process, url: format!("rsync://127.0.0.1:{port}/copy/") })
    }
}

/// What `rsync --stats` says went both ways.
fn total_bytes(stats: &str) -> u64 {
    stats
        .lines()
        .filter(|line| line.starts_with("Total bytes "))
        .filter_map(|line| line.rsplit(": ").next()?.replace(',', "").parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_read() {
        let stats = "Number of files: 3\nTotal bytes sent: 1,234\nTotal bytes received: 66\n";
        assert_eq!(total_bytes(stats), 1300);
    }
}
