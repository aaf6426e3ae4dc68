//! The socket through which commands talk to the running daemon.
//!
//! One JSON value a line in each direction, over `<state-dir>/control.sock`,
//! for the user the daemon runs as and for root only. This module carries
//! questions to the node and answers back; it knows no answer itself.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::Snapshot;

/// Longest question, in bytes.
pub const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// Longest answer, in bytes: a verification that names
/// [`DIFFERING_MAX`](crate::limits::DIFFERING_MAX) entries of the longest paths
/// stays below it.
pub const RESPONSE_BYTES_MAX: u64 = 64 << 20;

/// Most commands served at once; more wait their turn.
pub const CONNECTIONS_MAX: usize = 32;

/// Longest path the kernel takes for a socket, in bytes (`sun_path` less NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A question to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
#[non_exhaustive]
pub enum Request {
    Ping,
    Status,
    /// Answer once this node and every connected peer hold the same tree, at
    /// the latest after this time.
    Wait {
        timeout_ms: u64,
    },
    /// Read every file again and compare with the index and the peers.
    Verify,
    /// What changed on a node that only receives is undone.
    Revert,
    /// Held deletions are meant, or are to be undone.
    Confirm {
        restore: bool,
    },
    /// This node leaves its cluster for good once the others hold what it
    /// holds; or another member, by name or id, which is gone already.
    Leave {
        node: Option<String>,
        timeout_ms: u64,
    },
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "response")]
#[non_exhaustive]
pub enum Response {
    Pong {
        pid: u32,
    },
    Status(Box<Snapshot>),
    Waited(Waited),
    Verified(Verified),
    /// So many entries are being undone.
    Reverted {
        entries: u64,
    },
    /// So many deletions were held.
    Confirmed {
        entries: u64,
    },
    /// It left; so many connected members may not have heard it.
    Left {
        untold: u64,
        /// Members that nobody reached then, as `node b (1a2b3c4d)`: they hear
        /// of it from the others.
        #[serde(default)]
        away: Vec<String>,
    },
    /// The question cannot be answered; in words for the user.
    Refused {
        reason: String,
    },
}

/// How waiting ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waited {
    pub in_sync: bool,
    pub waited_ms: u64,
    /// In words, when it is not: `node b (1a2b3c4d) has not applied 3 entries`.
    pub reasons: Vec<String>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verified {
    pub files: u64,
    pub bytes: u64,
    pub took_ms: u64,
    /// At most [`DIFFERING_MAX`](crate::limits::DIFFERING_MAX) of them.
    pub differing: Vec<Differing>,
    pub differing_total: u64,
    /// Every connected peer.
    pub peers: Vec<PeerAgreement>,
    /// There should be peers to compare with, and none is connected.
    pub alone: bool,
}

impl Verified {
    /// Nothing differs, here or between the peers.
    pub fn is_same(&self) -> bool {
        self.differing_total == 0 && !self.alone && self.peers.iter().all(|peer| peer.agrees)
    }
}

/// An entry that is not what it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Differing {
    pub path: String,
    pub reason: String,
}

/// Whether a peer says it holds the same tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerAgreement {
    /// `name (1a2b3c4d)`.
    pub peer: String,
    pub agrees: bool,
    pub detail: String,
}

/// A question with the way its answer goes. A command that went away has
/// closed the way: waiting for it can stop.
pub type Asked = (Request, oneshot::Sender<Response>);

/// The listening side. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    accepting: AbortHandle,
    /// Locked for as long as the server lives: a socket file proves nothing
    /// after a crash, the kernel's lock does.
    _lock: File,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        // Best effort: the next start replaces a socket that was left behind.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Serves questions at `socket` until the server is dropped. Must be called
/// within a tokio runtime.
pub fn serve(socket: &Path, requests: mpsc::Sender<Asked>) -> Result<Server, Error> {
    let failed = |source| Error::Socket { path: socket.into(), source };
    let lock = lock(socket)?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = with_short_path(socket, |path| UnixListener::bind(path)).map_err(failed)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    let accepting = tokio::spawn(accept(listener, requests)).abort_handle();
    Ok(Server { socket: socket.into(), accepting, _lock: lock })
}

/// Asks the daemon at `socket` and waits up to `patience` for the answer.
pub fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<Response, Error> {
    let mut stream = with_short_path(socket, |path| StdUnixStream::connect(path)).map_err(
        |source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NotRunning { state_dir: socket.parent().unwrap_or(socket).into() }
            }
            _ => Error::Socket { path: socket.into(), source },
        },
    )?;
    let mut exchange = || -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(&stream).take(RESPONSE_BYTES_MAX).read_until(b'\n', &mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent { patience },
        _ => Error::Socket { path: socket.into(), source },
    })?;
    if answer.is_empty() {
        return Err(Error::Ended);
    }
    serde_json::from_slice(&answer).map_err(Error::OtherVersion)
}

/// Why a command and a daemon do not talk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("another replicator runs on the state directory {}: give each its own", state_dir.display())]
    InUse { state_dir: PathBuf },
    #[error("no replicator runs on the state directory {}", state_dir.display())]
    NotRunning { state_dir: PathBuf },
    #[error("the control socket {} does not work: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("the replicator did not answer within {} s", patience.as_secs())]
    Silent { patience: Duration },
    #[error("the replicator ended before it answered")]
    Ended,
    #[error("the running replicator's answer is not understood ({0}): is it of another version?")]
    OtherVersion(serde_json::Error),
}

impl Error {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InUse { .. } => 78,
            Self::Socket { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::NotRunning { .. } | Self::Silent { .. } | Self::Ended => 69,
            Self::Socket { .. } | Self::OtherVersion(_) => 2,
        }
    }
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Asked>) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The tasks end with this one, and this one with the server.
    let mut commands = tokio::task::JoinSet::new();
    // The semaphore is never closed.
    while let Ok(turn) = turns.clone().acquire_owned().await {
        while commands.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("the control socket cannot accept: {error}");
                // Out of descriptors, most likely: trying at once would spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let requests = requests.clone();
        commands.spawn(async move {
            if let Err(error) = answer(stream, &requests).await {
                tracing::debug!("a command went away: {error}");
            }
            drop(turn);
        });
    }
}

/// Answers the questions of one command, one after the other.
async fn answer(mut stream: UnixStream, requests: &mpsc::Sender<Asked>) -> io::Result<()> {
    // The mode of the socket says the same, but only from a moment after its
    // birth.
    let caller = stream.peer_cred()?.uid();
    if caller != 0 && caller != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.split();
    let mut reader = tokio::io::BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        (&mut reader).take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let response = match serde_json::from_slice(&line) {
            Err(error) => {
                Response::Refused { reason: format!("the question is not understood: {error}") }
            }
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                let gone = || Response::Refused { reason: "the replicator is ending".into() };
                match requests.send((request, answer)).await {
                    Err(_) => gone(),
                    Ok(()) => tokio::select! {
                        response = answered => response.unwrap_or_else(|_| gone()),
                        // A command says nothing while it waits, so bytes or
                        // an end here mean that it went away.
                        _ = reader.fill_buf() => return Ok(()),
                    },
                }
            }
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
}

fn lock(socket: &Path) -> Result<File, Error> {
    use rustix::fs::{FlockOperation, flock};
    let path = socket.with_extension("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| Error::Socket { path: path.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::InUse { state_dir: socket.parent().unwrap_or(socket).into() })
        }
        Err(error) => Err(Error::Socket { path, source: error.into() }),
    }
}

/// Runs `with` on a path short enough for a socket address: a long one is
/// reached through a handle on its directory.
fn with_short_path<T>(socket: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return with(socket);
    }
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let directory = File::open(parent)?;
    with(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn ask_async(socket: &Path, request: Request) -> Result<Response, Error> {
        let socket = socket.to_path_buf();
        tokio::task::spawn_blocking(move || ask(&socket, &request, PATIENCE)).await.unwrap()
    }

    /// A node that is in sync after no time at all.
    fn node(mut requests: mpsc::Receiver<Asked>) {
        tokio::spawn(async move {
            while let Some((request, answer)) = requests.recv().await {
                let response = match request {
                    Request::Status => Response::Status(Box::default()),
                    Request::Wait { timeout_ms } => Response::Waited(Waited {
                        in_sync: true,
                        waited_ms: timeout_ms,
                        reasons: vec![],
                    }),
                    _ => Response::Refused { reason: "no".into() },
                };
                let _ = answer.send(response);
            }
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn questions_are_answered_even_below_a_long_path() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for socket in [folder.path().join("control.sock"), deep.join("control.sock")] {
            let (sender, requests) = mpsc::channel(1);
            node(requests);
            let server = serve(&socket, sender).unwrap();
            let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let status = ask_async(&socket, Request::Status).await.unwrap();
            assert_eq!(status, Response::Status(Box::default()));
            let waited = ask_async(&socket, Request::Wait { timeout_ms: 7 }).await.unwrap();
            assert!(matches!(waited, Response::Waited(Waited { in_sync: true, waited_ms: 7, .. })));
            drop(server);
            assert!(!socket.exists());
            let gone = ask_async(&socket, Request::Ping).await.unwrap_err();
            assert!(matches!(gone, Error::NotRunning { .. }), "{gone}");
            assert_eq!(gone.exit_code(), 69);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists(), "a socket nobody listens on is left behind");
        assert!(matches!(ask_async(&socket, Request::Ping).await, Err(Error::NotRunning { .. })));

        let (sender, requests) = mpsc::channel(1);
        node(requests);
        let server = serve(&socket, sender.clone()).unwrap();
        let second = serve(&socket, sender.clone()).unwrap_err();
        assert!(second.to_string().starts_with("another replicator runs on"), "{second}");
        assert!(ask_async(&socket, Request::Status).await.is_ok(), "the first still answers");
        drop(server);
        serve(&socket, sender).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nonsense_is_refused_and_a_command_that_leaves_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let (sender, mut requests) = mpsc::channel(1);
        let _server = serve(&socket, sender).unwrap();

        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(b"{\"request\":\"dance\"}\n").await.unwrap();
        let mut line = String::new();
        tokio::io::BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
        assert!(line.contains("refused") && line.contains("not understood"), "{line}");

        stream.write_all(b"{\"request\":\"wait\",\"timeout_ms\":60000}\n").await.unwrap();
        let (request, mut answer) = requests.recv().await.unwrap();
        assert_eq!(request, Request::Wait { timeout_ms: 60_000 });
        drop(stream);
        tokio::time::timeout(PATIENCE, answer.closed()).await.unwrap();
    }
}
