//! One daemon of a story: started, asked, stopped, killed, and always ended.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::command::{self, Finished, binary};
use crate::status::Status;
use crate::{machine, poll, tree};

/// Until a daemon says that it is ready. The first look at a tree is not part
/// of it; Argon2id and loading kernel programs are.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Until a daemon that was asked to end has ended.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Until a daemon that serves has answered a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What a node is told on its command line.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    pub root: PathBuf,
    pub state: PathBuf,
    pub password: PathBuf,
    /// Where it listens.
    pub host: IpAddr,
    pub port: u16,
    /// Ports of the nodes it is told of, on the loopback.
    pub peers: Vec<u16>,
    /// Further arguments of `replicator run`.
    pub options: Vec<OsString>,
    /// System calls that it is refused, as some containers do.
    pub forbidden: Vec<u32>,
    /// Words before the program: how to become another user, for instance.
    pub prefix: Vec<OsString>,
    /// A copy of the program under test to run instead of it, for a user who
    /// cannot reach the build's folder.
    pub program: Option<PathBuf>,
}

/// A daemon and its folders. Dropping it kills the daemon.
#[derive(Debug)]
pub struct Node {
    pub settings: Settings,
    child: Option<Child>,
    log: Log,
}

impl Node {
    pub fn new(settings: Settings) -> Self {
        Self { settings, child: None, log: Log::default() }
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&mut self) -> Result<()> {
        let seen = self.log.len();
        self.spawn()?;
        let mut ended = None;
        let ready = poll::until(START_LIMIT, || {
            ended = self.ended();
            ended.is_some() || self.log.mentions_since(seen, "ready")
        });
        match (ready, ended) {
            (true, None) => Ok(()),
            (true, Some(status)) => {
                self.child = None;
                bail!("{} ended at its start: {status}\n{}", self.name(), self.log())
            }
            (false, _) => bail!("{} is not ready after {START_LIMIT:?}", self.name()),
        }
    }

    /// Starts the daemon without waiting for anything.
    pub fn spawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name());
        }
        let program = self.settings.program.as_deref().unwrap_or_else(|| binary());
        let mut words = self.settings.prefix.iter();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(self.arguments()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A terminal's Ctrl-C is for the harness, which then stops its nodes.
        command.process_group(0);
        command::end_with_this_thread(&mut command);
        command::hear_hang_ups(&mut command);
        command::forbid(&mut command, &self.settings.forbidden);
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        self.log.follow(child.stdout.take());
        self.log.follow(child.stderr.take());
        self.child = Some(child);
        Ok(())
    }

    /// SIGTERM, as systemd would, and the status it ends with, which it may
    /// have done before.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.name()) };
        // The number of one that was seen to end may be another process's.
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        command::signal(&child, Signal::TERM)?;
        let mut ended = None;
        poll::until(STOP_LIMIT, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) => Ok(status),
            None => {
                child.kill()?;
                child.wait()?;
                bail!("{} did not end within {STOP_LIMIT:?} of SIGTERM", self.name())
            }
        }
    }

    /// SIGKILL: what a power cut or the kernel's memory killer does.
    pub fn kill9(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("{} does not run", self.name()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until the daemon ends by itself; `None` when it does not.
    pub fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut ended = None;
        poll::until(limit, || {
            ended = self.ended();
            ended.is_some()
        });
        if ended.is_some() {
            self.child = None;
        }
        ended
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How the daemon ended, where nobody stopped it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    pub fn status(&self) -> Result<Status> {
        let finished = self.ask("status", &["--json"], ANSWER_LIMIT)?;
        if finished.code != 0 {
            bail!("status of {} ended with {}: {}", self.name(), finished.code, finished.stderr);
        }
        Status::parse(&finished.stdout).with_context(|| format!("status said {}", finished.stdout))
    }

    /// `replicator wait`: 0 when this node and its peers hold the same tree.
    pub fn wait(&self, limit: Duration) -> Result<Finished> {
        let timeout = format!("{}ms", limit.as_millis() * u128::from(poll::patience()));
        self.ask("wait", &["--timeout", &timeout], limit + ANSWER_LIMIT)
    }

    /// `replicator confirm`, with further words such as `--restore`.
    pub fn confirm(&self, words: &[&str]) -> Result<Finished> {
        self.ask("confirm", words, ANSWER_LIMIT)
    }

    /// `replicator revert`.
    pub fn revert(&self) -> Result<Finished> {
        self.ask("revert", &[], ANSWER_LIMIT)
    }

    /// `replicator leave`, with further words such as `--node b`.
    pub fn leave(&self, words: &[&str]) -> Result<Finished> {
        self.ask("leave", words, 4 * ANSWER_LIMIT)
    }

    pub fn verify(&self) -> Result<Finished> {
        self.ask("verify", &[], 4 * ANSWER_LIMIT)
    }

    /// Any command about this node, such as `conflicts list`.
    pub fn command(&self, words: &[&str]) -> Result<Finished> {
        let (verb, options) = words.split_first().context("a command has a name")?;
        self.ask(verb, options, 4 * ANSWER_LIMIT)
    }

    /// What `replicator conflicts list --json` prints.
    pub fn conflicts(&self) -> Result<serde_json::Value> {
        let finished = self.command(&["conflicts", "list", "--json"])?;
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("conflicts said {}{}", finished.stdout, finished.stderr))
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        machine::cpu_seconds(self.pid().context("the node does not run")?)
    }

    /// Bytes that the daemon has read so far, by whatever means.
    pub fn bytes_read(&self) -> Result<u64> {
        let pid = self.pid().context("it does not run")?;
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        // Reads of a ring are not counted by the kernel, but by the engine.
        let ring = self.status()?.number("/engine/counters/read_bytes");
        Ok(line.context("the kernel does not count reads")?.parse::<u64>()? + ring)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn root(&self) -> &Path {
        &self.settings.root
    }

    /// An entry of the served tree.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.settings.root.join(name)
    }

    /// A folder of the daemon's own beneath the root, such as `tmp`.
    pub fn private(&self, name: &str) -> PathBuf {
        self.settings.root.join(tree::PRIVATE_DIR).join(name)
    }

    pub fn state(&self) -> &Path {
        &self.settings.state
    }

    /// The last line it wrote to its standard output or error: where it ended
    /// by itself, why.
    pub fn last_words(&self) -> String {
        let text = self.log.text();
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }

    pub fn log_file(&self) -> PathBuf {
        self.settings.state.join("replicator.log")
    }

    /// All it wrote to its standard output and error, over all its starts, and
    /// its log file where that says more.
    pub fn log(&self) -> String {
        let file = fs::read(self.log_file()).unwrap_or_default();
        format!("{}{}", self.log.text(), String::from_utf8_lossy(&file))
    }

    fn ask(&self, verb: &str, options: &[&str], limit: Duration) -> Result<Finished> {
        let words: Vec<&str> = std::iter::once(verb).chain(options.iter().copied()).collect();
        let mut command = Command::new(binary());
        command.args(words).arg("--state-dir").arg(&self.settings.state);
        command::finish(&mut command, limit)
    }

    fn arguments(&self) -> Vec<OsString> {
        let settings = &self.settings;
        let mut words: Vec<OsString> = vec!["run".into()];
        let mut option = |name: &str, value: OsString| words.extend([name.into(), value]);
        option("--root", settings.root.clone().into());
        option("--state-dir", settings.state.clone().into());
        option("--listen", SocketAddr::new(settings.host, settings.port).to_string().into());
        for port in &settings.peers {
            option("--peer", format!("127.0.0.1:{port}").into());
        }
        option("--password-file", settings.password.clone().into());
        option("--name", settings.name.clone().into());
        words.extend(settings.options.iter().cloned());
        words
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended a moment ago; either way it is over.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("---- log of node {} ----\n{}", self.name(), self.log());
        }
    }
}

/// The ports below those that Linux gives to whoever asks for any
/// (`net.ipv4.ip_local_port_range`): 32,768 and up.
const PORTS: Range<u16> = 20_000..32_768;

/// So many apart begin the ports of two processes that started in turn.
const PORTS_PER_PROCESS: u32 = 64;

/// A UDP port of 127.0.0.1 that is free now, and never the same twice in one
/// process. A node needs it only a while later, or again after a restart: one
/// that the kernel gives to anybody was somebody else's by then.
pub fn free_port() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(PORTS_PER_PROCESS);
    for _ in PORTS {
        let next = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (next % PORTS.len() as u32) as u16;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no UDP port from {} to {} is free", PORTS.start, PORTS.end - 1)
}

/// Lines of a daemon's output, gathered as they come so that it never blocks
/// on a full pipe.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn follow(&self, pipe: Option<impl Read + Send + 'static>) {
        let lines = self.clone();
        let Some(pipe) = pipe else { return };
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                lines.with(|lines| lines.push(String::from_utf8_lossy(&line).into_owned()));
                line.clear();
            }
        });
    }

    fn len(&self) -> usize {
        self.with(|lines| lines.len())
    }

    fn mentions_since(&self, line: usize, word: &str) -> bool {
        self.with(|lines| lines.iter().skip(line).any(|line| line.contains(word)))
    }

    fn text(&self) -> String {
        self.with(|lines| lines.concat())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<String>) -> T) -> T {
        // A panic elsewhere leaves the lines as they are: still worth showing.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_once_and_from_below_the_kernels() {
        let given: Vec<u16> = (0..200).map(|_| free_port().unwrap()).collect();
        let different: std::collections::BTreeSet<u16> = given.iter().copied().collect();
        assert_eq!(different.len(), given.len());
        assert!(given.iter().all(|port| PORTS.contains(port)));
    }

    /// A node whose daemon runs this script instead.
    fn node(script: &str) -> Node {
        Node::new(Settings {
            name: "a".into(),
            root: "/nowhere".into(),
            state: "/nowhere".into(),
            password: "/nowhere".into(),
            host: [127, 0, 0, 1].into(),
            port: 0,
            peers: Vec::new(),
            options: Vec::new(),
            forbidden: Vec::new(),
            prefix: ["sh", "-c", script].map(OsString::from).into(),
            program: Some("ignored".into()),
        })
    }

    #[test]
    fn one_that_ended_by_itself_is_not_signalled() {
        let mut node = node("printf 'starting\nthe port is in use\n\n' >&2; exit 78");
        node.spawn().unwrap();
        poll::eventually(Duration::from_secs(10), "it ends", || !node.is_running());
        poll::eventually(Duration::from_secs(10), "its words arrive", || {
            node.last_words() == "the port is in use"
        });
        assert_eq!(node.ended().unwrap().code(), Some(78));
        assert_eq!(node.stop().unwrap().code(), Some(78));
        assert!(node.stop().is_err(), "it was stopped");
    }

    #[test]
    fn one_that_runs_is_stopped() {
        let mut node = node("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
        node.start().unwrap();
        assert_eq!(node.stop().unwrap().code(), Some(3));
    }
}
