//! What a workload asks of a system under test, and this program as one.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use replicator_tests::{Node, Settings, free_port, write_password};

/// Two folders that shall become the same, and room for a system's own files.
#[derive(Debug)]
pub struct Place {
    pub a: PathBuf,
    pub b: PathBuf,
    pub state: PathBuf,
    // Removes all of it, last.
    _dir: tempfile::TempDir,
}

impl Place {
    pub fn make(work: &Path) -> Result<Self> {
        let dir = tempfile::tempdir_in(work)?;
        let folder = |name: &str| -> Result<PathBuf> {
            let path = dir.path().join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        Ok(Self { a: folder("a")?, b: folder("b")?, state: folder("state")?, _dir: dir })
    }
}

/// A way to keep B as A. Dropping it ends all its processes.
pub trait System {
    fn name(&self) -> &str;

    /// Starts what must run, B's side first.
    fn start(&mut self, place: &Place) -> Result<()>;

    /// What of it the numbers depend on, once it was started.
    fn description(&self) -> Option<String> {
        None
    }

    /// Carries over what changed, for systems that do it on demand.
    fn push(&mut self) -> Result<()> {
        Ok(())
    }

    /// Bytes on the wire so far, where the system tells.
    fn wire_bytes(&self) -> Result<Option<u64>>;

    /// Processor time of all its processes so far.
    fn cpu_seconds(&self) -> Result<f64>;

    fn stop(&mut self) -> Result<()>;
}

/// This program, seen as any user sees it.
#[derive(Default)]
pub struct Replicator {
    nodes: Vec<Node>,
    capture: Option<String>,
}

impl System for Replicator {
    fn name(&self) -> &str {
        "replicator"
    }

    fn start(&mut self, place: &Place) -> Result<()> {
        let password = write_password(&place.state, "password", "a shared secret\n");
        let ports = [free_port()?, free_port()?];
        for (own, other, root) in [(1, 0, &place.b), (0, 1, &place.a)] {
            let name = ["a", "b"][own].to_string();
            let state = place.state.join(&name);
            fs::create_dir(&state)?;
            let mut node = Node::new(Settings {
                name,
                root: root.clone(),
                state,
                password: password.clone(),
                host: Ipv4Addr::LOCALHOST.into(),
                port: ports[own],
                peers: vec![ports[other]],
                options: Vec::new(),
                forbidden: Vec::new(),
                prefix: Vec::new(),
                program: None,
            });
            node.start()?;
            self.nodes.push(node);
        }
        // Of the node that is written to.
        let status = self.nodes.last().context("two nodes")?.status()?;
        let hooks = match status.hooks() {
            "none" => String::new(),
            hooks => format!(", by {hooks}"),
        };
        self.capture =
            Some(format!("replicator captures at the level {}{hooks}", status.capture()));
        Ok(())
    }

    fn description(&self) -> Option<String> {
        self.capture.clone()
    }

    fn wire_bytes(&self) -> Result<Option<u64>> {
        let traffic = self.nodes.last().context("not started")?.status()?.traffic();
        Ok(Some(traffic.sent + traffic.received))
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.nodes.iter().map(Node::cpu_seconds).sum()
    }

    fn stop(&mut self) -> Result<()> {
        self.nodes.drain(..).try_for_each(|mut node| node.stop().map(drop))
    }
}
