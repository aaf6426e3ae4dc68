//! `cargo xtask build-and-run --once`: the scripted tour. It does what a user
//! would try first, on real files, and checks the result with a comparison
//! that shares no code with the daemon.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use replicator_tests::random::Random;
use replicator_tests::{Node, sample, tree};

use crate::{build_and_run, cargo, interrupt, view};

/// The file in which 4 KiB change.
const LARGE_BYTES: u64 = 1 << 30;

const EDIT_BYTES: usize = 4096;

/// What the edit may cost on the wire, for all nodes together, where written
/// ranges are captured.
const EDIT_WIRE_MAX: u64 = 128 << 10;

/// Elsewhere a leaf of the file goes to each other node, which for one of this
/// size has so many bytes.
const LEAF_BYTES: u64 = 1 << 20;

/// A first merge of a gigabyte on a slow disk takes this long at most.
const MERGE_LIMIT: Duration = Duration::from_secs(300);

const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// How long one question may keep the tour from seeing that it is to end.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Where the tour's files lie in each node's folder, with a number behind it:
/// the folder may be a user's.
const FOLDER: &str = "replicator-tour";

/// Runs the tour on `count` nodes; an error when a step or the comparison
/// fails. Folders it made are removed; given ones stay, with the tour's files
/// in a folder of their own, which is the user's to remove.
pub fn run(count: usize, roots: Vec<PathBuf>) -> Result<()> {
    let base = tempfile::Builder::new().prefix("tour-").tempdir_in(cargo::target())?;
    let nodes = build_and_run::cluster(base.path(), count, &roots)?;
    let folder = fresh_name(&nodes.iter().map(Node::root).collect::<Vec<_>>());
    let mut tour = Tour { nodes, base: base.path().to_path_buf(), folder };
    let result = tour.steps();
    if result.is_err() && !interrupt::happened() {
        for node in &tour.nodes {
            eprintln!("---- log of {} ----\n{}", node.name(), node.log());
        }
    }
    result.and(build_and_run::stop(&mut tour.nodes))
}

struct Tour {
    nodes: Vec<Node>,
    base: PathBuf,
    /// Beneath each root; nobody had this name before.
    folder: String,
}

/// What a step cost all nodes together.
struct Bill {
    time: Duration,
    wire: u64,
    cpu: f64,
}

impl Tour {
    fn steps(&mut self) -> Result<()> {
        self.prepare()?;
        println!("{:<44} {:>12} {:>12} {:>8}", "step", "everywhere", "wire", "cpu");
        self.merge()?;
        self.upload()?;
        self.edit()?;
        self.rename()?;
        self.delete()?;
        self.check()
    }

    /// A real site on node 1, other files on node 2, nothing on the others.
    fn prepare(&mut self) -> Result<()> {
        let first = self.nodes[0].path(&self.folder);
        fs::create_dir(&first).with_context(|| format!("cannot make {}", first.display()))?;
        println!("The tour's files lie in {} of each folder.", self.folder);
        let site = match sample::fetch_wordpress(&cargo::target()) {
            Ok(site) => {
                println!("The tree is that of Debian's wordpress package.");
                site
            }
            Err(error) => {
                println!("The tree is a generated look-alike of a site: {error:#}");
                let site = self.base.join("look-alike");
                fs::create_dir(&site)?;
                sample::look_alike(&site)?;
                site
            }
        };
        interrupt::check()?;
        sample::copy(&site, &first.join("site"))?;
        sample::random_file(&first.join("footage.bin"), LARGE_BYTES, 1)?;
        let second = self.nodes[1].path(&self.folder);
        fs::create_dir(&second).with_context(|| format!("cannot make {}", second.display()))?;
        let second = second.join("notes");
        fs::create_dir(&second)?;
        (0..100).try_for_each(|number| {
            fs::write(second.join(format!("{number}.txt")), format!("note {number}\n"))
        })?;
        Ok(())
    }

    fn merge(&mut self) -> Result<()> {
        let start = Instant::now();
        for node in &mut self.nodes {
            interrupt::check()?;
            node.start()?;
        }
        let (files, bytes) = tree::count(self.nodes[0].root())?;
        let nodes = &self.nodes;
        let merged = interrupt::until(MERGE_LIMIT, || {
            let names = |node: &Node| tree::names(node.root()).unwrap_or_default();
            let first = names(&nodes[0]);
            first.len() as u64 > files + 100 && nodes[1..].iter().all(|node| names(node) == first)
        })?;
        if !merged {
            bail!("the trees were not merged within {MERGE_LIMIT:?}");
        }
        self.settle(MERGE_LIMIT)?;
        let bill = Bill { time: start.elapsed(), wire: self.traffic()?, cpu: self.cpu()? };
        print(&format!("merge {} files, {}", files + 100, view::bytes(bytes)), &bill);
        Ok(())
    }

    fn upload(&self) -> Result<()> {
        let content = Random::new(7).bytes(200 << 10);
        let folder = format!("{}/site/wp-content/uploads", self.folder);
        let name = format!("{folder}/picture.jpg");
        self.step(
            "upload a 200 KiB picture on node 1",
            |nodes| {
                fs::create_dir_all(nodes[0].path(&folder))?;
                Ok(fs::write(nodes[0].path(&name), &content)?)
            },
            |root| fs::read(root.join(&name)).is_ok_and(|bytes| bytes == content),
        )?;
        Ok(())
    }

    fn edit(&self) -> Result<()> {
        let content = Random::new(8).bytes(EDIT_BYTES);
        let offset = LARGE_BYTES / 2 + 4096;
        let large = Path::new(&self.folder).join("footage.bin");
        let inodes = || -> Result<Vec<u64>> {
            self.nodes.iter().map(|node| Ok(fs::metadata(node.path(&large))?.ino())).collect()
        };
        let before = inodes()?;
        let bill = self.step(
            "edit 4 KiB inside a 1 GiB file on node 2",
            |nodes| {
                let file = OpenOptions::new().write(true).open(nodes[1].path(&large))?;
                Ok(file.write_all_at(&content, offset)?)
            },
            |root| {
                let mut bytes = vec![0; EDIT_BYTES];
                fs::File::open(root.join(&large))
                    .and_then(|file| file.read_exact_at(&mut bytes, offset))
                    .is_ok_and(|()| bytes == content)
            },
        )?;
        ensure!(inodes()? == before, "the edited file was replaced, not written in place");
        let has_ranges = self.nodes[1].status()?.capture() == "ebpf";
        let leaves = if has_ranges { 0 } else { (self.nodes.len() as u64 - 1) * LEAF_BYTES };
        let most = EDIT_WIRE_MAX + leaves;
        ensure!(
            bill.wire <= most,
            "an edit of {} cost {} on the wire, more than {}",
            view::bytes(EDIT_BYTES as u64),
            view::bytes(bill.wire),
            view::bytes(most)
        );
        Ok(())
    }

    fn rename(&self) -> Result<()> {
        self.step(
            "rename the site's folder on node 1",
            |nodes| {
                let folder = nodes[0].path(&self.folder);
                Ok(fs::rename(folder.join("site"), folder.join("www"))?)
            },
            |root| {
                let folder = root.join(&self.folder);
                folder.join("www/index.php").exists() && !folder.join("site").exists()
            },
        )?;
        Ok(())
    }

    fn delete(&self) -> Result<()> {
        self.step(
            "delete 50 files on node 3",
            |nodes| {
                let notes = nodes[2].path(&self.folder).join("notes");
                (0..50).try_for_each(|number| {
                    Ok(fs::remove_file(notes.join(format!("{number}.txt")))?)
                })
            },
            |root| {
                fs::read_dir(root.join(&self.folder).join("notes"))
                    .is_ok_and(|entries| entries.count() == 50)
            },
        )?;
        Ok(())
    }

    /// Makes one change, waits until every folder shows it, and prints the
    /// cost up to when the cluster is quiet again.
    fn step(
        &self,
        what: &str,
        change: impl FnOnce(&[Node]) -> Result<()>,
        visible: impl Fn(&Path) -> bool,
    ) -> Result<Bill> {
        let (wire, cpu) = (self.traffic()?, self.cpu()?);
        let start = Instant::now();
        change(&self.nodes).with_context(|| format!("cannot {what}"))?;
        let everywhere = || self.nodes.iter().all(|node| visible(node.root()));
        if !interrupt::until(CHANGE_LIMIT, everywhere)? {
            bail!("{what}: not visible everywhere within {CHANGE_LIMIT:?}");
        }
        let time = start.elapsed();
        self.settle(CHANGE_LIMIT)?;
        let bill = Bill { time, wire: self.traffic()? - wire, cpu: self.cpu()? - cpu };
        print(what, &bill);
        Ok(bill)
    }

    /// Waits until every node says that all hold the same.
    fn settle(&self, limit: Duration) -> Result<()> {
        for node in &self.nodes {
            let mut said = None;
            let settled = interrupt::until(limit, || {
                let asked = node.wait(ASK_LIMIT);
                let is_same = asked.as_ref().is_ok_and(|finished| finished.code == 0);
                said = Some(asked);
                is_same
            })?;
            if !settled {
                bail!("{} is not in sync within {limit:?}: {said:?}", node.name());
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let (first, others) = self.nodes.split_first().context("a tour has nodes")?;
        for other in others {
            interrupt::check()?;
            let lines = tree::differences(first.root(), other.root())?;
            if !lines.is_empty() {
                bail!("{} and {} differ:\n{}", first.name(), other.name(), lines.join("\n"));
            }
            let rsync = tree::rsync_differences(first.root(), other.root())?;
            if let Some(lines) = rsync.filter(|lines| !lines.is_empty()) {
                bail!("rsync sees {} and {} differ:\n{lines}", first.name(), other.name());
            }
        }
        let (files, bytes) = tree::count(first.root())?;
        println!(
            "All {} folders are the same: {files} files, {}, compared byte by byte.",
            self.nodes.len(),
            view::bytes(bytes)
        );
        Ok(())
    }

    /// What all nodes sent so far: each byte once, not again where it arrived.
    fn traffic(&self) -> Result<u64> {
        self.nodes.iter().map(|node| Ok(node.status()?.traffic().sent)).sum()
    }

    fn cpu(&self) -> Result<f64> {
        self.nodes.iter().map(Node::cpu_seconds).sum()
    }
}

/// A name that nothing in any of these folders has: whatever lies there is a
/// user's, or of a tour whose files somebody may have come to use.
fn fresh_name(roots: &[&Path]) -> String {
    let is_free =
        |name: &String| roots.iter().all(|root| fs::symlink_metadata(root.join(name)).is_err());
    let mut numbered = (1u64..).map(|number| format!("{FOLDER}-{number}"));
    numbered.find(is_free).unwrap_or_default()
}

fn print(what: &str, bill: &Bill) {
    println!(
        "{what:<44} {:>9.1} ms {:>12} {:>6.2} s",
        bill.time.as_secs_f64() * 1000.0,
        view::bytes(bill.wire),
        bill.cpu
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tour_takes_no_name_that_a_user_has() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("tour/of Europe")).unwrap();
        fs::create_dir_all(a.join("replicator-tour-1")).unwrap();
        fs::create_dir(&b).unwrap();
        std::os::unix::fs::symlink("nowhere", b.join("replicator-tour-2")).unwrap();
        assert_eq!(fresh_name(&[&a, &b]), "replicator-tour-3");
        assert_eq!(fresh_name(&[dir.path()]), "replicator-tour-1");
        assert!(a.join("tour/of Europe").exists());
    }
}
