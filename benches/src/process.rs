//! A process of another program, ended with this value, and its cost.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use replicator_tests::{end_with_this_thread, machine};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options().append(true).create(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        end_with_this_thread(command);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        machine::cpu_seconds(self.0.id())
    }

    pub fn stop(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        self.0.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself and returns the processor time it took.
    pub fn finish(mut self) -> Result<f64> {
        // Looked at as a zombie: once reaped, its times are gone.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.0)), ended)?;
        let cpu = self.cpu_seconds()?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("it ended with {status}");
        }
        Ok(cpu)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, or to be ended now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
