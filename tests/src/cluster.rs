//! Several nodes with folders, ports and a password of their own, as one story
//! needs them.
//!
//! Its methods panic with what went wrong: they are for tests. Programs that
//! must go on use [`Node`] directly.

use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::{Index, IndexMut};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::network::Network;
use crate::node::{Node, Settings, free_port};
use crate::{flags, levels, machine, poll, tree};

/// A story's trees are small: what takes longer than this hangs.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(25);

/// Set, it makes a story that fails leave its folders for a look at them.
const KEEP_VARIABLE: &str = "REPLICATOR_KEEP";

/// Set, it names the hooks that every node must have whose folder has kernel
/// programs by itself: a story that is told to prove them is told with them.
const HOOKS_VARIABLE: &str = "REPLICATOR_HOOKS";

/// Where nodes listen that have a machine of their own.
const DEFAULT_PORT: u16 = 7400;

/// Nodes `a`, `b`, ... in a temporary directory, none of them started.
#[derive(Debug)]
pub struct Cluster {
    // Before the directory: daemons end before their folders go.
    nodes: Vec<Node>,
    dir: TempDir,
    password: PathBuf,
    has_flags: bool,
}

impl Cluster {
    /// `count` nodes, each told the addresses of all others.
    pub fn new(count: usize) -> Self {
        let mut cluster = Self::strangers(count);
        let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.settings.port).collect();
        for node in &mut cluster.nodes {
            let own = node.settings.port;
            node.settings.peers = ports.iter().copied().filter(|&port| port != own).collect();
        }
        cluster
    }

    /// `count` nodes of which each knows only the one before it.
    pub fn chain(count: usize) -> Self {
        let mut cluster = Self::strangers(count);
        for later in 1..count {
            let port = cluster.nodes[later - 1].settings.port;
            cluster.nodes[later].settings.peers = vec![port];
        }
        cluster
    }

    /// One node for each of the first `count` hosts of a network, not told of
    /// anybody.
    pub fn on_hosts(network: &Network, count: usize) -> Self {
        let mut cluster = Self::strangers(count);
        for (host, node) in cluster.nodes.iter_mut().enumerate() {
            node.settings.host = Ipv4Addr::UNSPECIFIED.into();
            node.settings.port = DEFAULT_PORT;
            node.settings.prefix = network.enter(host);
        }
        cluster
    }

    /// Tells a node of another by its address, without the port.
    pub fn introduce(&mut self, number: usize, host: &str) {
        let peer = format!("{host}:{DEFAULT_PORT}");
        self.nodes[number].settings.options.extend(["--peer".into(), peer.into()]);
    }

    /// `count` running nodes, each told of all others.
    pub fn running(count: usize) -> Self {
        let mut cluster = Self::new(count);
        cluster.start();
        cluster
    }

    /// Adds the same arguments to every node's command line.
    pub fn with_options(mut self, options: &[&str]) -> Self {
        for node in &mut self.nodes {
            node.settings.options.extend(options.iter().map(Into::into));
        }
        self
    }

    /// Puts the folders of all nodes into another directory: that of a file
    /// system of their own, for instance. Before the nodes start.
    pub fn with_roots_in(mut self, dir: &Path) -> Self {
        for node in &mut self.nodes {
            node.settings.root = dir.join(&node.settings.name);
            fs::create_dir_all(&node.settings.root).expect("own directory");
        }
        self
    }

    /// Of a story that sets file flags: what bears them can be removed only
    /// when they are taken off.
    pub fn with_flags(mut self) -> Self {
        self.has_flags = true;
        self
    }

    #[track_caller]
    pub fn start(&mut self) {
        for node in &mut self.nodes {
            node.start().unwrap_or_else(|error| panic!("{error:#}"));
        }
        if let Some(wanted) = std::env::var_os(HOOKS_VARIABLE) {
            self.nodes.iter().for_each(|node| assert_hooks(node, &wanted));
        }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// For what a story needs beside the nodes' own folders.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `replicator wait` says yes on every node, and an independent comparison
    /// of their trees finds nothing.
    #[track_caller]
    pub fn assert_same(&self) {
        self.assert_same_within(SETTLE_LIMIT);
    }

    #[track_caller]
    pub fn assert_same_within(&self, limit: Duration) {
        let mut why = String::new();
        let settled = poll::until(limit, || {
            why = self.why_not_same(limit);
            why.is_empty()
        });
        assert!(settled, "not the same tree within {limit:?}:\n{why}{}", self.problems());
    }

    /// `rsync -aHAXnic --delete` between all trees prints nothing.
    #[track_caller]
    pub fn assert_rsync_agrees(&self) {
        let Some((first, others)) = self.nodes.split_first() else { return };
        for other in others {
            match tree::rsync_differences(first.root(), other.root()) {
                Ok(Some(lines)) => assert_eq!(lines, "", "rsync would change {}", other.name()),
                Ok(None) => machine::skip("the second opinion of rsync, which is not installed"),
                Err(error) => panic!("{error:#}"),
            }
        }
    }

    /// What the nodes say is wrong, for whoever reads a failure. What a
    /// verification finds tells a change that was missed from one that was
    /// not applied.
    fn problems(&self) -> String {
        let running = self.nodes.iter().filter(|node| node.pid().is_some());
        running
            .filter_map(|node| {
                let status = node.status().ok()?;
                let (folder, errors) = (&status.json()["folder"], &status.json()["errors"]);
                let found = node.verify().map(|finished| finished.stdout);
                Some(format!("{}: {folder} {errors}\nverify: {found:?}\n", node.name()))
            })
            .collect()
    }

    fn why_not_same(&self, limit: Duration) -> String {
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            match node.wait(limit) {
                Ok(finished) if finished.code == 0 => {}
                Ok(finished) => {
                    return format!("wait on {} said {finished:?}", node.name());
                }
                Err(error) => return format!("{error:#}"),
            }
        }
        self.differences()
    }

    /// What distinguishes the nodes' trees, by comparison only.
    pub fn differences(&self) -> String {
        let Some((first, others)) = self.nodes.split_first() else { return String::new() };
        others
            .iter()
            .flat_map(|other| {
                tree::differences(first.root(), other.root())
                    .unwrap_or_else(|error| vec![format!("cannot compare: {error}")])
                    .into_iter()
                    .map(|line| format!("{} and {}: {line}\n", first.name(), other.name()))
            })
            .collect()
    }

    /// `count` nodes that were told of nobody.
    pub fn strangers(count: usize) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("replicator-story-")
            .tempdir()
            .expect("a temporary directory can be made");
        // A story may run its nodes as another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
        let password = write_password(dir.path(), "password", "correct horse battery staple\n");
        let mut cluster = Self { nodes: Vec::new(), dir, password, has_flags: false };
        (0..count).for_each(|_| cluster.add_stranger());
        cluster
    }

    /// Parts with the last node, of which nothing is asked any more.
    pub fn take_last(&mut self) -> Option<Node> {
        self.nodes.pop()
    }

    /// One more node that was told of nobody.
    pub fn add_stranger(&mut self) {
        let name = char::from(b'a' + self.nodes.len() as u8).to_string();
        let folder = |name: String| {
            let folder = self.dir.path().join(name);
            fs::create_dir(&folder).expect("own directory");
            folder
        };
        self.nodes.push(Node::new(Settings {
            root: folder(name.clone()),
            state: folder(format!("{name}.state")),
            name,
            password: self.password.clone(),
            host: Ipv4Addr::LOCALHOST.into(),
            port: free_port().expect("loopback has a free port"),
            peers: Vec::new(),
            options: Vec::new(),
            forbidden: Vec::new(),
            prefix: Vec::new(),
            program: None,
        }));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os(KEEP_VARIABLE).is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("the folders of the story stay in {}", self.dir.path().display());
        } else if self.has_flags {
            // They would be set again.
            self.nodes.clear();
            if let Err(error) = flags::take_off_below(self.dir.path()) {
                eprintln!("the folders of the story cannot be removed: {error}");
            }
        }
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, number: usize) -> &Node {
        &self.nodes[number]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }
}

/// A password file that only its owner can read.
pub fn write_password(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("own directory");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    path
}

/// Of nodes of this user whose level nobody chose.
#[track_caller]
fn assert_hooks(node: &Node, wanted: &OsStr) {
    let settings = &node.settings;
    let is_chosen = settings.options.iter().any(|option| option == "--capture");
    if is_chosen || !settings.prefix.is_empty() || levels::best(&settings.root) != "ebpf" {
        return;
    }
    let status = node.status().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(OsStr::new(status.hooks()), wanted, "{status}");
}
