//! What a service manager sees of a daemon that it starts from a file.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use replicator_tests::{
    Status, binary, end_with_this_thread, finish, free_port, poll, write_password,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Until a daemon that was started says so, and one that was told to end has.
const LIMIT: Duration = Duration::from_secs(30);

/// The longest message of a daemon: its ready line and little more.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A folder, a configuration file and the socket of a service manager.
struct Service {
    dir: TempDir,
    socket: UnixDatagram,
}

/// One run of it; dropping it kills the daemon.
struct Run {
    child: Child,
    printed: Option<JoinHandle<Vec<String>>>,
}

impl Service {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("root/file"), "served").unwrap();
        write_password(dir.path(), "password", "secret\n");
        let path = |name: &str| dir.path().join(name);
        let text = format!(
            "root = {:?}\nstate_dir = {:?}\npassword_file = {:?}\nlisten = \"127.0.0.1:{}\"\n",
            path("root"),
            path("state"),
            path("password"),
            free_port().unwrap()
        );
        fs::write(path("replicator.toml"), text).unwrap();
        let socket = UnixDatagram::bind(path("notify")).unwrap();
        socket.set_read_timeout(Some(LIMIT * poll::patience())).unwrap();
        Self { dir, socket }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self) -> Run {
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(self.path("replicator.toml"));
        command.env("NOTIFY_SOCKET", self.path("notify"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        end_with_this_thread(&mut command);
        let mut child = command.spawn().unwrap();
        let printed = BufReader::new(child.stdout.take().unwrap());
        let printed = thread::spawn(move || printed.lines().map_while(Result::ok).collect());
        Run { child, printed: Some(printed) }
    }

    /// The lines of the next message.
    fn told(&self) -> Vec<String> {
        let mut message = [0; MESSAGE_BYTES_MAX];
        let length = self.socket.recv(&mut message).expect("the daemon tells something in time");
        let text = std::str::from_utf8(&message[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn unclean_ends(&self) -> Option<u64> {
        let mut command = Command::new(binary());
        command.args(["status", "--json", "--state-dir"]).arg(self.path("state"));
        let status = Status::parse(&finish(&mut command, LIMIT).unwrap().stdout).unwrap();
        status.json().pointer("/losses/unclean_end")?.as_u64()
    }
}

impl Run {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit code after this signal, as a shell tells it, and what was
    /// printed until then.
    fn end(mut self, signal: Signal) -> (Option<i32>, Vec<String>) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut ended = None;
        poll::until(LIMIT, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        let ended = ended.expect("the daemon ends in time");
        (ended.code(), self.printed.take().unwrap().join().unwrap())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn assert_ready(service: &Service, run: &Run) {
    let told = service.told();
    assert_eq!(told[..2], ["READY=1".to_owned(), format!("MAINPID={}", run.pid())], "{told:?}");
    assert!(told[2].starts_with("STATUS=replicator ready: "), "{told:?}");
}

fn assert_one_ready_line(printed: &[String], root: &Path) {
    let [line] = printed else { panic!("not one line: {printed:?}") };
    let begin = format!("replicator ready: {} on 127.0.0.1:", root.display());
    assert!(line.starts_with(&begin), "{line}");
}

#[test]
fn a_service_is_ready_ends_and_starts_again_without_repair() {
    let service = Service::new();
    let root = service.path("root").canonicalize().unwrap();
    for _ in 0..2 {
        let run = service.start();
        assert_ready(&service, &run);
        assert_eq!(service.unclean_ends(), Some(0));
        let (code, printed) = run.end(Signal::INT);
        assert_eq!(code, Some(0));
        assert_eq!(service.told(), ["STOPPING=1"]);
        assert_one_ready_line(&printed, &root);
    }
    // And what is looked at would tell of the other.
    let run = service.start();
    assert_ready(&service, &run);
    assert_eq!(run.end(Signal::KILL).0, None);
    let run = service.start();
    assert_ready(&service, &run);
    assert_eq!(service.unclean_ends(), Some(1));
    assert_eq!(run.end(Signal::TERM).0, Some(0));
}
