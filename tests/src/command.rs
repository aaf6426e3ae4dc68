//! The `replicator` command: where it is, and running it to its end.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{machine, poll};

/// A command that answers at all has answered by then.
pub(crate) const LONGEST_RUN: Duration = Duration::from_secs(30);

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The program under test: the one [`use_binary`] or `REPLICATOR_BIN` names,
/// or else what cargo builds now, so that a plain `cargo test` never runs a
/// stale one.
pub fn binary() -> &'static Path {
    BINARY.get_or_init(|| match std::env::var_os("REPLICATOR_BIN") {
        Some(path) => PathBuf::from(path),
        None => build().unwrap_or_else(|error| panic!("cannot build the program: {error:#}")),
    })
}

/// Copies a program that is to be run. Another process does: a child that is
/// just being made beside has all open that this process has, and what is open
/// for writing cannot be run (ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    machine::run(Command::new("cp").args([from, to])).map(drop)
}

/// Names the program under test, once, before anything ran it.
pub fn use_binary(path: PathBuf) -> Result<()> {
    BINARY.set(path).ok().context("a program was chosen before")
}

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// As a shell reports it: 128 and the signal's number when one killed it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `replicator` with these arguments to its end.
pub fn replicator<I, S>(arguments: I) -> Result<Finished>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(binary());
    command.args(arguments);
    finish(&mut command, LONGEST_RUN)
}

/// Runs any command to its end, killing it when that does not come in time.
pub fn finish(command: &mut Command, limit: Duration) -> Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = poll::until(limit, || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !ended {
        bail!("{command:?} did not end within {limit:?}\n{stdout}{stderr}");
    }
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    Ok(Finished { code, stdout, stderr })
}

/// Makes the kernel end the command when the thread that starts it ends: a
/// harness that was killed leaves nothing running.
pub fn end_with_this_thread(command: &mut Command) {
    let ask = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: between fork and exec the closure makes one system call and
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// Lets a hang-up end the command, also where whoever runs the harness had it
/// ignored, as `nohup` does.
pub(crate) fn hear_hang_ups(command: &mut Command) {
    let hear = || {
        // SAFETY: no handler of this process is called.
        let former = unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
        if former == libc::SIG_ERR { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes one system call and
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(hear) };
}

/// Makes the kernel refuse these system calls to the command, with EPERM.
pub(crate) fn forbid(command: &mut Command, calls: &[u32]) {
    if calls.is_empty() {
        return;
    }
    let step = |code: u32, jump_true: u8, jump_false: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    };
    // The number of the call comes first in what the filter is shown.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        filter.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call));
        filter.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, refuse));
    }
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program =
            libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the program names the filter, which the kernel copies.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
        };
        if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(install) };
}

/// Sends a signal to a process this harness started and has not yet reaped.
pub(crate) fn signal(child: &Child, signal: Signal) -> Result<()> {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal)
        .with_context(|| format!("cannot signal process {}", child.id()))
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is to show.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        bytes
    })
}

fn build() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--locked", "--package", "replicator", "--message-format=json"])
        .current_dir(workspace)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo build failed");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo named no executable")
}
