//! A user's folder: what is done there, and what it shows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use replicator_tests::poll;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// What a file is made with.
const MODE: u32 = 0o644;

/// No file system's clock stands for longer.
const TICK_MAX: Duration = Duration::from_secs(2);

/// Where a user works. All that is written is later than what was before, on
/// whichever node.
pub struct Place<'a> {
    pub folder: PathBuf,
    /// On the same file system, outside the served tree.
    pub aside: PathBuf,
    pub latest: &'a Cell<SystemTime>,
}

impl Place<'_> {
    /// Makes a file or writes it anew, in place.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.folder.join(name);
        self.wait_for_a_later_time();
        let is_new = !path.exists();
        fs::write(&path, content).unwrap();
        if is_new {
            fs::set_permissions(&path, Permissions::from_mode(MODE)).unwrap();
        }
        self.note_time(&path);
    }

    /// Another file takes the name, as editors do it.
    pub fn replace(&self, name: &str, content: &str) {
        self.beside().write("new", content);
        fs::rename(self.aside.join("new"), self.folder.join(name)).unwrap();
    }

    /// A symbolic link takes the name. At once: were the name gone for a moment,
    /// the other side could hear of that alone, and bring back what it edited.
    pub fn replace_by_symlink(&self, name: &str, target: &str) {
        self.beside().symlink("new", target);
        fs::rename(self.aside.join("new"), self.folder.join(name)).unwrap();
    }

    pub fn symlink(&self, name: &str, target: &str) {
        let path = self.folder.join(name);
        self.wait_for_a_later_time();
        symlink(target, &path).unwrap();
        self.note_time(&path);
    }

    pub fn make_directory(&self, name: &str) {
        fs::create_dir(self.folder.join(name)).unwrap();
    }

    /// With all that is in it.
    pub fn remove(&self, name: &str) {
        let path = self.folder.join(name);
        let is_directory = fs::symlink_metadata(&path).unwrap().is_dir();
        let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.folder.join(from), self.folder.join(to)).unwrap();
    }

    pub fn exchange(&self, one: &str, other: &str) {
        let [one, other] = [one, other].map(|name| self.folder.join(name));
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    }

    pub fn link(&self, name: &str, more: &str) {
        fs::hard_link(self.folder.join(name), self.folder.join(more)).unwrap();
    }

    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.folder.join(name), Permissions::from_mode(mode)).unwrap();
    }

    fn beside(&self) -> Self {
        Self { folder: self.aside.clone(), aside: self.aside.clone(), ..*self }
    }

    /// File systems tell the time in ticks of some milliseconds.
    fn wait_for_a_later_time(&self) {
        let clock = self.aside.join("clock");
        poll::eventually(TICK_MAX, "the file system's clock goes on", || {
            fs::write(&clock, "").unwrap();
            modified(&clock) > self.latest.get()
        });
    }

    fn note_time(&self, path: &Path) {
        self.latest.set(modified(path));
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::symlink_metadata(path).unwrap().modified().unwrap()
}

/// All that lies in a folder, in one line: `directory/`, `file=content`, with
/// `:mode` where that is not the usual one, `name->another` of the same file
/// and `name~>target` of a symbolic link.
pub fn shown(folder: &Path) -> String {
    let mut words = Vec::new();
    show(folder, "", &mut BTreeMap::new(), &mut words);
    words.join(" ")
}

fn show(folder: &Path, above: &str, first: &mut BTreeMap<u64, String>, words: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    for name in names {
        let (path, shown) = (folder.join(&name), format!("{above}{name}"));
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            let shown = format!("{shown}/");
            words.push(shown.clone());
            show(&path, &shown, first, words);
        } else if let Some(first) = first.get(&metadata.ino()) {
            words.push(format!("{shown}->{first}"));
        } else {
            first.insert(metadata.ino(), shown.clone());
            let mode = metadata.mode() & 0o7777;
            words.push(match content(&path) {
                target if metadata.is_symlink() => format!("{shown}~>{target}"),
                content if mode == MODE => format!("{shown}={content}"),
                content => format!("{shown}={content}:{mode:o}"),
            });
        }
    }
}

/// Of a file, or where a symbolic link leads to.
pub fn content(path: &Path) -> String {
    text_of(path).unwrap()
}

/// The same of what may have gone by now.
pub fn text_of(path: &Path) -> Option<String> {
    let target = fs::read_link(path).map(|target| target.to_string_lossy().into_owned());
    target.or_else(|_| fs::read_to_string(path)).ok()
}
