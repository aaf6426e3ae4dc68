//! lsyncd, which calls rsync when inotify says so.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use replicator_tests::machine;

use crate::process::Process;
use crate::rsync::Daemon;
use crate::system::{Place, System};

pub struct Lsyncd {
    name: String,
    program: PathBuf,
    rsync: PathBuf,
    delay: u32,
    daemon: Option<Daemon>,
    process: Option<Process>,
}

impl Lsyncd {
    /// With a delay of so many seconds.
    pub fn installed(delay: u32) -> Option<Self> {
        Some(Self {
            name: format!("lsyncd{delay}"),
            program: machine::program("lsyncd")?,
            rsync: machine::program("rsync")?,
            delay,
            daemon: None,
            process: None,
        })
    }
}

impl System for Lsyncd {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, place: &Place) -> Result<()> {
        let daemon = Daemon::start(&self.rsync, place)?;
        let config = place.state.join("lsyncd.lua");
        let text = format!(
            "settings {{ nodaemon = true, statusFile = \"{}\", inotifyMode = \"CloseWrite\" }}\n\
             sync {{ default.rsync, source = \"{}\", target = \"{}\", delay = {},\n\
             rsync = {{ archive = true, compress = false }} }}\n",
            place.state.join("lsyncd.status").display(),
            place.a.display(),
            daemon.url,
            self.delay
        );
        fs::write(&config, text)?;
        self.daemon = Some(daemon);
        let mut command = Command::new(&self.program);
        command.args(["-nodaemon", "-log", "scarce"]).arg(config);
        self.process = Some(Process::start(&mut command, &place.state.join("lsyncd.log"))?);
        Ok(())
    }

    fn wire_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let daemon = self.daemon.iter().map(|daemon| &daemon.process);
        daemon.chain(&self.process).map(Process::cpu_seconds).sum()
    }

    fn stop(&mut self) -> Result<()> {
        // lsyncd first, or it would complain of the daemon being gone.
        self.process.take().map_or(Ok(()), |mut process| process.stop())?;
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.process.stop())
    }
}
