//! All rows on all courses at once, on nodes that do not reach each other.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use replicator_tests::{Cluster, Node, SETTLE_LIMIT, poll, tree};

use super::place::{Place, content, shown, text_of};
use super::row::Course;

/// Until a node has looked at what its user did.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Until what a node kept, and shows by now, is no conflict any more.
pub const AGREED_WITHIN: Duration = Duration::from_secs(10);

/// Nodes of which the first two have users.
pub struct Scene {
    pub cluster: Cluster,
    latest: Cell<SystemTime>,
}

impl Scene {
    /// Makes what all have before they are parted.
    pub fn begin(cluster: Cluster) -> Self {
        let scene = Self { cluster, latest: Cell::new(SystemTime::UNIX_EPOCH) };
        for course in Course::all() {
            let place = scene.place(course, 0);
            fs::create_dir_all(&place.folder).unwrap();
            (course.row.before)(&place);
        }
        scene.cluster.assert_same();
        scene
    }

    /// All users act, on each course the earlier side first.
    pub fn act(&self) {
        for is_later in [false, true] {
            for course in Course::all() {
                let (node, act) = course.act(is_later);
                act(&self.place(course, node));
            }
        }
    }

    /// Every node with a user has met what that did last.
    pub fn await_own_changes(&self) {
        for node in &self.cluster.nodes()[..2] {
            await_met(node, &format!("last-of-{}", node.name()));
        }
    }

    /// Each course ends as its row says on every node. `sides` says of each
    /// node whose changes it showed before all met: those of which node.
    #[track_caller]
    pub fn assert_outcomes(&self, sides: &[usize]) {
        let mut wrong = Vec::new();
        // A file may have been met before its user had written all of it.
        poll::until(AGREED_WITHIN, || {
            wrong = self.other_outcomes(sides);
            wrong.is_empty()
        });
        assert!(wrong.is_empty(), "{} courses end otherwise:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn other_outcomes(&self, sides: &[usize]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (node, side) in self.cluster.nodes().iter().zip(sides) {
            let mut kept = kept(node);
            for course in Course::all() {
                let folder = course.folder();
                let (shows, keeps) = (shown(&node.path(&folder)), kept.remove(&folder));
                let keeps: Vec<String> =
                    keeps.into_iter().flatten().filter_map(|kept| text_of(&kept.bytes)).collect();
                let (tree, expected) = (course.tree(), Vec::from_iter(course.kept(*side)));
                if shows != tree || keeps != expected {
                    wrong.push(format!(
                        "{folder} of {}: {shows:?}, not {tree:?}, and keeps {keeps:?}, not {expected:?}",
                        node.name()
                    ));
                }
            }
            wrong.extend(kept.into_keys().map(|folder| format!("kept something of {folder:?}")));
        }
        wrong
    }

    /// What is listed as kept comes back where it was when a person says so,
    /// on all nodes.
    #[track_caller]
    pub fn assert_restores(&self) {
        let mut restored = Vec::new();
        for node in self.cluster.nodes() {
            for kept in kept(node).into_values().flatten() {
                let content = content(&kept.bytes);
                let finished = node.command(&["conflicts", "restore", &kept.id]).unwrap();
                assert_eq!(finished.code, 0, "{finished:?}");
                restored.push((kept.path, content));
            }
            assert_eq!(node.command(&["conflicts", "list"]).unwrap().code, 0);
        }
        let expected = Course::all().filter(|course| course.row.kept.is_some()).count();
        assert_eq!(restored.len(), expected);
        self.cluster.assert_same();
        for (path, text) in &restored {
            let shows = content(&self.cluster[1].path(path));
            assert_eq!(shows, *text, "{path}");
        }
        for node in self.cluster.nodes() {
            assert!(kept(node).is_empty(), "a restored file is a conflict on {}", node.name());
        }
    }

    fn place(&self, course: Course, node: usize) -> Place<'_> {
        let node = &self.cluster[node];
        // Beside the root: on the same file system.
        let aside = node.root().with_extension("aside");
        fs::create_dir_all(&aside).unwrap();
        Place { folder: node.path(course.folder()), aside, latest: &self.latest }
    }
}

/// The node has met what its user did: another file of this name says so, which
/// comes behind.
pub fn await_met(node: &Node, marker: &str) {
    fs::write(node.path(marker), marker).unwrap();
    poll::eventually(SEEN_WITHIN, "the node meets its user's changes", || {
        let recent = node.status().unwrap().recent();
        recent.iter().any(|(_, what)| what.ends_with(marker))
    });
}

/// Both show the same, while they do not reach all others.
pub fn await_equal(one: &Node, other: &Node) {
    poll::eventually(SETTLE_LIMIT, "both show what the other does", || {
        tree::differences(one.root(), other.root()).is_ok_and(|lines| lines.is_empty())
    });
}

/// What lost a conflict.
struct Kept {
    id: String,
    path: String,
    /// Where its bytes lie.
    bytes: PathBuf,
}

/// What a node lists as kept, by the folder of its course.
fn kept(node: &Node) -> BTreeMap<String, Vec<Kept>> {
    let mut found: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    for kept in node.conflicts().unwrap().as_array().unwrap() {
        let word = |key: &str| kept[key].as_str().unwrap().to_owned();
        let (id, path) = (word("id"), word("path"));
        let folder: PathBuf = Path::new(&path).components().take(2).collect();
        let bytes = node.private("conflicts").join(&id);
        let folder = folder.to_string_lossy().into_owned();
        found.entry(folder).or_default().push(Kept { id, path, bytes });
    }
    found
}
