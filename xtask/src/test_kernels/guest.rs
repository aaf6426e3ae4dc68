//! One boot of an emulated machine: what it runs, what it says, and its end,
//! which always comes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use replicator_tests::end_with_this_thread;

use super::trials::Trial;

/// Begins a line of the guest that is one row of the result.
const ROW: &str = "matrix|";
/// Begins the last line, with the code the stories ended with.
const END: &str = "guest ended with ";

/// For each program of stories.
const OPTIONS: &str = "--exact --nocapture --test-threads=1";

/// Of each disk, which takes no more than is written to it.
const DISK_BYTES: u64 = 8 << 30;

/// An emulated processor is some thirty times slower than a real one.
const PATIENCE: u32 = 20;

pub struct Guest<'a> {
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// Where the guest's disks are made, which go with it.
    pub disks: Vec<PathBuf>,
    pub accelerator: &'a str,
    pub log: &'a Path,
    pub verbose: bool,
}

/// How one method went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub file_system: String,
    pub hooks: String,
    pub method: String,
    pub outcome: String,
}

impl Row {
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_once(ROW)?.1.trim_end().splitn(4, '|').map(str::to_owned);
        Some(Self {
            file_system: fields.next()?,
            hooks: fields.next()?,
            method: fields.next()?,
            outcome: fields.next()?,
        })
    }

    /// Neither the same bytes, nor something this kernel does not have, nor
    /// what was lost and is nothing.
    pub fn is_failure(&self) -> bool {
        !["same", "nothing"].contains(&self.outcome.as_str())
            && !self.outcome.starts_with("lacking")
    }
}

/// What the guest does: mounts, loads, tries, and turns itself off. Stories are
/// told on disks of their own, one for each of these file systems.
pub fn init(trials: &[Trial], told_on: &[&str], variables: &[(&str, String)]) -> String {
    let exports: String = variables
        .iter()
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "")))
        .collect();
    let disks: String = ('a'..='z')
        .zip(told_on)
        .map(|(letter, file_system)| format!("disk /dev/vd{letter} {file_system}\n"))
        .collect();
    let lines: String = trials.iter().map(|trial| trial.line() + "\n").collect();
    format!(
        r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin TMPDIR=/tmp HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs -o size=80% tmpfs /tmp
while read name; do insmod "/modules/$name" || echo "cannot load $name"; done < /modules/order
ip link set lo up
export REPLICATOR_BIN=/bin/replicator REPLICATOR_PATIENCE={PATIENCE}
{exports}code=0
disk() {{
  force=-f; [ "$2" = ext4 ] && force=-F
  "mkfs.$2" -q $force "$1" && mkdir -p "/on/$2" && mount -t "$2" "$1" "/on/$2" && chmod 1777 "/on/$2" || code=1
}}
table() {{
  program=$1; shift
  REPLICATOR_ROWS=1 "/bin/$program" "$@" {OPTIONS} || code=$?
}}
story() {{
  rm -f /tmp/skipped
  REPLICATOR_SKIPPED=/tmp/skipped REPLICATOR_FILE_SYSTEM=$1 TMPDIR="/on/$1" "/bin/$2" "$3" {OPTIONS}
  ended=$?
  outcome=same
  [ ! -s /tmp/skipped ] || outcome=$(head -n 1 /tmp/skipped)
  [ $ended = 0 ] || {{ outcome="failed with $ended"; code=$ended; }}
  echo
  echo "{ROW}$1|$REPLICATOR_HOOKS|$4|$outcome"
}}
{disks}{lines}echo "{END}$code"
sync
poweroff -f
"#
    )
}

impl Guest<'_> {
    /// Boots, and collects the rows until the guest turns itself off.
    pub fn run(&self, limit: Duration) -> Result<Vec<Row>> {
        for disk in &self.disks {
            // Nothing of an earlier guest's.
            File::create(disk)?.set_len(DISK_BYTES)?;
        }
        let mut machine = Machine(self.command().spawn().context("cannot run the emulator")?);
        let lines = lines(machine.0.stdout.take().context("the emulator has no console")?);
        let mut log = File::create(self.log)?;
        let start = Instant::now();
        let end = start + limit;
        let (mut rows, mut code) = (Vec::new(), None);
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let line = match lines.recv_timeout(left) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Timeout) => break,
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.judge(rows, code),
            };
            // The emulator has them open; so they go with it, however it ends.
            for disk in self.disks.iter().filter(|disk| disk.exists()) {
                fs::remove_file(disk)?;
            }
            writeln!(log, "{:6.1} {line}", start.elapsed().as_secs_f32())?;
            if self.verbose {
                println!("{line}");
            }
            rows.extend(Row::parse(&line));
            code = code.or_else(|| line.split_once(END)?.1.trim().parse().ok());
        }
        bail!("the guest did not end within {limit:?}; see {}", self.log.display())
    }

    fn judge(&self, rows: Vec<Row>, code: Option<i32>) -> Result<Vec<Row>> {
        let code = code.with_context(|| format!("the guest broke; see {}", self.log.display()))?;
        // Rows that failed speak for themselves.
        let explained = code == 0 || rows.iter().any(Row::is_failure);
        ensure!(explained, "the stories ended with {code}; see {}", self.log.display());
        Ok(rows)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", self.accelerator, "-cpu", "max", "-smp", "2", "-m", "3072"]);
        command.args(["-display", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio"]);
        command.args(["-nodefaults", "-no-reboot", "-kernel"]).arg(self.kernel);
        command.arg("-initrd").arg(self.initrd);
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off rdinit=/init"]);
        for disk in &self.disks {
            let file = format!("file={},format=raw,if=virtio,cache=unsafe", disk.display());
            command.args(["-drive", &file]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        end_with_this_thread(&mut command);
        command
    }
}

/// Ends with the value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest prints, line by line, until it is gone.
fn lines(console: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_wherever_a_line_begins() {
        let row = Row::parse("test x ... matrix|ext4|function exits|write|same\r").unwrap();
        assert_eq!((row.file_system.as_str(), row.method.as_str()), ("ext4", "write"));
        assert!(!row.is_failure());
        assert!(Row::parse("matrix|xfs|x|y|f differs: 1|2").unwrap().is_failure());
        assert!(!Row::parse("matrix|xfs|x|y|lacking: no such thing").unwrap().is_failure());
        assert!(!Row::parse("matrix|xfs|x|y|nothing").unwrap().is_failure());
        assert!(Row::parse("matrix|xfs|x|y|skipped: x: no setpriv").unwrap().is_failure());
        assert_eq!(Row::parse("something else"), None);
    }

    #[test]
    fn the_script_says_what_is_tried_and_where() {
        let stories = vec!["on_ext4".to_owned()];
        let trials = [Trial::Table { program: "matrix", stories }];
        let text = init(&trials, &["xfs"], &[("ONE", "it's".to_owned())]);
        assert!(text.contains("export ONE='its'\n"), "{text}");
        assert!(text.contains("\ntable matrix on_ext4\n"), "{text}");
        assert!(text.contains("\ndisk /dev/vda xfs\n"), "{text}");
    }
}
