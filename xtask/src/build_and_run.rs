//! `cargo xtask build-and-run`: a cluster on this machine to play with, from a
//! fresh clone, with one command.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use replicator_tests::{Node, Settings, free_port};

use crate::{cargo, interrupt, tour, view};

/// Nodes when none are asked for: the smallest cluster that shows passing on.
const NODES: usize = 3;

/// How often the view asks the nodes and draws.
const REFRESH: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub struct Args {
    /// How many nodes to run [default: 3, or one for each --root; the tour
    /// takes 3 at least]
    #[arg(long)]
    nodes: Option<usize>,
    /// A folder of yours for the next node, instead of one under target/play
    #[arg(long = "root", value_name = "DIR")]
    roots: Vec<PathBuf>,
    /// Run the scripted tour, check the result and end
    #[arg(long)]
    once: bool,
}

impl Args {
    /// How many nodes are to run.
    fn count(&self) -> Result<usize> {
        let least = if self.once || self.roots.is_empty() { NODES } else { 1 };
        let count = self.nodes.unwrap_or(least.max(self.roots.len()));
        if count == 0 {
            bail!("--nodes 0 would run nothing: give 1 or more");
        }
        if count < self.roots.len() {
            bail!("--nodes {count} is fewer than the {} folders of --root", self.roots.len());
        }
        if self.once && count < NODES {
            bail!("the tour needs {NODES} nodes, not {count}");
        }
        Ok(count)
    }
}

pub fn run(args: Args) -> Result<()> {
    interrupt::catch()?;
    let count = args.count()?;
    let program = cargo::build(&["--release", "--package", "replicator"], "replicator")?;
    replicator_tests::use_binary(program.clone())?;
    interrupt::check()?;
    if args.once {
        return tour::run(count, args.roots);
    }
    let mut nodes = cluster(&cargo::target().join("play"), count, &args.roots)?;
    for node in &mut nodes {
        node.start()?;
    }
    println!("{}", explanation(&program, &nodes));
    let mut view = view::View::new();
    while !interrupt::happened() {
        view.show(&mut nodes)?;
        std::thread::sleep(REFRESH);
    }
    println!("\nStopping the nodes.");
    stop(&mut nodes)?;
    println!("Stopped. The folders stay; the same command goes on with them.");
    Ok(())
}

/// Stops those that run, each whatever becomes of the others.
pub fn stop(nodes: &mut [Node]) -> Result<()> {
    let running = nodes.iter_mut().filter(|node| node.pid().is_some());
    let results: Vec<_> = running.map(Node::stop).collect();
    results.into_iter().try_for_each(|result| result.map(drop))
}

/// Nodes with folders below `base` (or the given ones), each told of one other:
/// membership spreads the rest.
pub fn cluster(base: &Path, count: usize, roots: &[PathBuf]) -> Result<Vec<Node>> {
    let password = base.join("password");
    fs::create_dir_all(base).with_context(|| format!("cannot make {}", base.display()))?;
    make_password(&password)?;
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..count {
        let name = format!("node{}", number + 1);
        let root = roots.get(number).cloned().unwrap_or_else(|| base.join(&name));
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        let root = root.canonicalize()?;
        // A state directory knows one root for ever, so it is named after it.
        let mark = blake3::hash(root.as_os_str().as_encoded_bytes()).to_hex();
        let state = base.join("state").join(&mark[..16]);
        fs::create_dir_all(&state)?;
        let state = state.canonicalize()?;
        let peers = nodes.last().map(|node| node.settings.port).into_iter().collect();
        let port = free_port()?;
        nodes.push(Node::new(Settings {
            name,
            root,
            state,
            password: password.clone(),
            host: Ipv4Addr::LOCALHOST.into(),
            port,
            peers,
            options: Vec::new(),
            forbidden: Vec::new(),
            prefix: Vec::new(),
            program: None,
        }));
    }
    Ok(nodes)
}

/// What a person can do now: change files, and ask the nodes.
fn explanation(program: &Path, nodes: &[Node]) -> String {
    let folders =
        nodes.iter().map(|node| format!("  {}  {}\n", node.name(), node.root().display()));
    let ask = |node: &Node| {
        let (program, state) = (quoted(program), quoted(node.state()));
        format!("  {program} status --state-dir {state}  # {}\n", node.name())
    };
    format!(
        "These folders are now one. Change anything in any of them and look at the others:\n\n{}\n\
         What each of them says of itself; other commands take the same --state-dir:\n\n{}\n\
         Ctrl-C stops the nodes and leaves the folders.\n",
        folders.collect::<String>(),
        nodes.iter().map(ask).collect::<String>()
    )
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |one: char| one.is_ascii_alphanumeric() || "/._-+:@%".contains(one);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Random, and readable by its owner alone; one from an earlier run stays.
fn make_password(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.with_context(|| format!("cannot write {}", path.display()))?,
    };
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(writeln!(file, "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(nodes: Option<usize>, folders: usize, once: bool) -> Result<usize, String> {
        let roots = vec!["/srv".into(); folders];
        Args { nodes, roots, once }.count().map_err(|error| error.to_string())
    }

    #[test]
    fn each_node_can_be_asked_by_the_line_that_is_printed() {
        let dir = tempfile::tempdir().unwrap();
        let program = Path::new("/target/release/replicator");
        let roots = [dir.path().join("it's here")];
        let nodes = cluster(&dir.path().join("play"), 3, &roots).unwrap();
        let text = explanation(program, &nodes);
        for node in &nodes {
            let (name, state) = (node.name(), node.state().display());
            let line = format!("  {} status --state-dir {state}  # {name}\n", program.display());
            assert_eq!(text.matches(&line).count(), 1, "{line} in {text}");
            assert!(text.contains(&node.root().display().to_string()), "{text}");
        }
        assert_eq!(quoted(&roots[0]), format!("'{}/it'\\''s here'", dir.path().display()));
    }

    #[test]
    fn nodes_are_counted_and_what_is_wrong_is_said() {
        assert_eq!(count(None, 0, false), Ok(3));
        assert_eq!(count(None, 1, false), Ok(1));
        assert_eq!(count(None, 1, true), Ok(3));
        assert_eq!(count(None, 5, true), Ok(5));
        assert_eq!(count(Some(1), 0, false), Ok(1));
        assert_eq!(
            count(Some(0), 0, false).unwrap_err(),
            "--nodes 0 would run nothing: give 1 or more"
        );
        assert!(count(Some(1), 2, false).unwrap_err().contains("the 2 folders of --root"));
        assert!(count(Some(2), 0, true).unwrap_err().contains("the tour needs 3"));
    }
}
