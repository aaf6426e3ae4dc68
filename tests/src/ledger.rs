//! An account of values: what was written to a tree by many writers, what a
//! later write knowingly replaced, and whether the rest still lies somewhere.
//!
//! A value is a file's whole content, made from a number, so that any file
//! says which value it holds and whether it is whole. A writer takes what it
//! replaces out of the tree in one step with putting the new value there, so
//! it knows exactly what it replaced, whoever else works there.

mod large;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use value::{Holds, content, read};

use crate::Node;
use crate::random::Random;
use crate::tree::PRIVATE_DIR;

/// What has been written, by all writers.
#[derive(Debug, Default)]
pub struct Ledger {
    values: Mutex<BTreeMap<u64, Story>>,
}

/// What became of one value, as its writers know it.
#[derive(Clone, Debug)]
struct Story {
    written: String,
    replaced: Option<String>,
}

impl Ledger {
    pub fn len(&self) -> usize {
        self.with(|values| values.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values that nobody knowingly replaced and that lie in none of these
    /// trees and in no trash or conflict store of theirs, with what is known of
    /// them.
    fn missing(&self, roots: &[PathBuf]) -> io::Result<Vec<String>> {
        let mut found = BTreeSet::new();
        for root in roots {
            gather(root, &mut |path, holds| {
                found.extend(holds.number().filter(|_| is_kept(root, path)));
            })?;
        }
        let is_missing = |(number, story): (&u64, &Story)| {
            let lost = story.replaced.is_none() && !found.contains(number);
            lost.then(|| format!("value {number}, {}, lies nowhere", story.written))
        };
        Ok(self.with(|values| values.iter().filter_map(is_missing).collect()))
    }

    /// Nothing is missing from these trees, and every file of theirs holds a
    /// whole value.
    #[track_caller]
    pub fn assert_kept<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>) {
        let roots: Vec<PathBuf> = nodes.into_iter().map(|node| node.root().into()).collect();
        let missing = self.missing(&roots).unwrap();
        assert!(missing.is_empty(), "of {} values: {missing:#?}", self.len());
        for root in &roots {
            assert_eq!(torn(root).unwrap(), Vec::<PathBuf>::new(), "half a value");
        }
    }

    fn wrote(&self, number: u64, written: String) {
        self.with(|values| {
            values.entry(number).or_insert(Story { written, replaced: None });
        });
    }

    fn replaced(&self, number: u64, how: String) {
        self.with(|values| {
            // A value is written before it can be met; who met it may be
            // sooner in telling.
            let unknown = || Story { written: "written by somebody".into(), replaced: None };
            values.entry(number).or_insert_with(unknown).replaced = Some(how);
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<u64, Story>) -> T) -> T {
        // Each change is one insertion, so the account is always whole.
        look(&mut self.values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Does it lie where a user finds it, and not in what is left of a transfer?
fn is_kept(root: &Path, path: &Path) -> bool {
    let private = path.strip_prefix(root).ok().and_then(|path| path.strip_prefix(PRIVATE_DIR).ok());
    private.is_none_or(|path| path.starts_with("trash") || path.starts_with("conflicts"))
}

/// Files below `root` (its private directory left out) that hold no whole
/// value.
fn torn(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut torn = Vec::new();
    gather(root, &mut |path, holds| {
        let private = path.strip_prefix(root).is_ok_and(|path| path.starts_with(PRIVATE_DIR));
        if holds == Holds::Torn && !private {
            torn.push(path.to_path_buf());
        }
    })?;
    Ok(torn)
}

/// Somebody who works in one tree.
#[derive(Debug)]
pub struct Writer<'a> {
    ledger: &'a Ledger,
    name: String,
    root: PathBuf,
    /// On the same file system, outside the tree.
    aside: PathBuf,
    random: Random,
    number: u64,
    /// One in so many things it does it does with a large file.
    large_one_in: Option<u64>,
}

impl<'a> Writer<'a> {
    /// `number` tells the writers of one ledger apart.
    pub fn new(
        ledger: &'a Ledger,
        number: u64,
        root: &Path,
        aside: &Path,
        seed: u64,
    ) -> io::Result<Self> {
        fs::create_dir_all(aside)?;
        Ok(Self {
            ledger,
            name: root.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            root: root.into(),
            aside: aside.into(),
            random: Random::new(seed ^ number.wrapping_mul(0x9e37_79b9)),
            number: number << 32,
            large_one_in: None,
        })
    }

    /// Now and then it works on files of up to 22 MiB, too.
    pub fn with_large_files(self, one_in: u64) -> Self {
        Self { large_one_in: Some(one_in), ..self }
    }

    /// Does one thing, chosen at random. What cannot be done, since another
    /// was faster, is not done.
    pub fn act(&mut self) -> io::Result<()> {
        if self.large_one_in.is_some_and(|one_in| self.random.below(one_in) == 0) {
            return self.act_on_large();
        }
        let done = match self.random.below(100) {
            0..45 => self.try_put(),
            45..60 => self.try_edit(),
            60..70 => self.delete(),
            70..83 => self.rename(RenameFlags::NOREPLACE),
            83..87 => self.rename(RenameFlags::EXCHANGE),
            87..91 => self.rename_folder(),
            91..93 => self.delete_folder(),
            93..96 => fs::create_dir_all(self.folder()),
            _ => self.chmod(),
        };
        unless_somebody_else(done)
    }

    /// A new value takes a name, and what lay there leaves the tree.
    pub fn put(&mut self) -> io::Result<()> {
        unless_somebody_else(self.try_put())
    }

    /// A file itself takes a new value.
    pub fn edit(&mut self) -> io::Result<()> {
        unless_somebody_else(self.try_edit())
    }

    fn try_put(&mut self) -> io::Result<()> {
        let (path, number) = (self.path(), self.next_value());
        self.put_content(&path, number, &content(number))
    }

    fn put_content(&mut self, path: &Path, number: u64, content: &[u8]) -> io::Result<()> {
        let new = self.aside.join(format!("new-{number}"));
        fs::write(&new, content)?;
        let result = self.place(&new, path, number);
        if result.is_err() {
            // Where it was placed nothing of this name is left.
            let _ = fs::remove_file(&new);
        }
        result
    }

    fn place(&mut self, new: &Path, path: &Path, number: u64) -> io::Result<()> {
        let shown = self.shown(path);
        if renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE).is_ok() {
            self.ledger.wrote(number, format!("written at {shown}"));
            return Ok(());
        }
        renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE)?;
        self.ledger.wrote(number, format!("put over another at {shown}"));
        self.retire(new, &format!("replaced by {number} at {shown}"))
    }

    fn try_edit(&mut self) -> io::Result<()> {
        let (path, number) = (self.path(), self.next_value());
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let before = file.metadata()?;
        // Files with several names are changed under the writer's hands.
        if !before.is_file() || before.nlink() > 1 {
            return Ok(());
        }
        let holds = read(&file)?;
        let (new, shown) = (content(number), self.shown(&path));
        file.write_all_at(&new, 0)?;
        file.set_len(new.len() as u64)?;
        if let Some(old) = holds.number() {
            self.ledger.replaced(old, format!("edited into {number} at {shown}"));
        }
        // Otherwise it went into a file that somebody had replaced.
        if fs::symlink_metadata(&path)?.ino() == before.ino() {
            self.ledger.wrote(number, format!("edited in at {shown}"));
        }
        Ok(())
    }

    fn delete(&mut self) -> io::Result<()> {
        let path = self.path();
        self.take_out(&path)
    }

    fn delete_folder(&mut self) -> io::Result<()> {
        let path = self.folder();
        self.take_out(&path)
    }

    fn take_out(&mut self, path: &Path) -> io::Result<()> {
        let number = self.next_value();
        let gone = self.aside.join(format!("gone-{number}"));
        renameat_with(CWD, path, CWD, &gone, RenameFlags::NOREPLACE)?;
        self.retire(&gone, &format!("deleted at {}", self.shown(path)))
    }

    fn rename(&mut self, how: RenameFlags) -> io::Result<()> {
        let (from, to) = (self.path(), self.path());
        Ok(renameat_with(CWD, from, CWD, to, how)?)
    }

    fn rename_folder(&mut self) -> io::Result<()> {
        let (from, to) = (self.folder(), self.folder());
        Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn chmod(&mut self) -> io::Result<()> {
        let mode = 0o600 + self.random.below(0o100) as u32;
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode))
    }

    /// Enters what was taken out of the tree and deletes it.
    fn retire(&self, path: &Path, how: &str) -> io::Result<()> {
        if !fs::symlink_metadata(path)?.is_dir() {
            if let Some(number) = read(&File::open(path)?)?.number() {
                self.ledger.replaced(number, how.to_string());
            }
            return fs::remove_file(path);
        }
        // Somebody may still be putting things into it.
        for _ in 0..100 {
            for entry in fs::read_dir(path)? {
                self.retire(&entry?.path(), how)?;
            }
            match fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => return other,
            }
        }
        Err(io::Error::other("a folder outside the tree is filled again and again"))
    }

    /// Few names, so that writers meet.
    fn path(&mut self) -> PathBuf {
        let folder = if self.random.below(4) == 0 { self.root.clone() } else { self.folder() };
        folder.join(format!("file-{}", self.random.below(6)))
    }

    fn folder(&mut self) -> PathBuf {
        let top = self.root.join(format!("folder-{}", self.random.below(3)));
        if self.random.below(3) == 0 { top.join("inner") } else { top }
    }

    fn next_value(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        format!(
            "{} of {} ({}.{:03})",
            path.display(),
            self.name,
            since.as_secs(),
            since.subsec_millis()
        )
    }
}

/// Meets every file below `folder`, private ones too.
fn gather(folder: &Path, meet: &mut impl FnMut(&Path, Holds)) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            gather(&path, meet)?;
        } else if entry.file_type()?.is_file() {
            meet(&path, read(&File::open(&path)?)?);
        }
    }
    Ok(())
}

/// What cannot be done since another writer or the daemon changed the tree
/// between two steps is not done.
fn unless_somebody_else(done: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{AlreadyExists, InvalidInput, IsADirectory, NotADirectory, NotFound};
    let kinds = [AlreadyExists, InvalidInput, IsADirectory, NotADirectory, NotFound];
    match done {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_finds_what_was_lost_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (root, aside) = (dir.path().join("root"), dir.path().join("aside"));
        fs::create_dir(&root).unwrap();
        let ledger = Ledger::default();
        let writer = Writer::new(&ledger, 1, &root, &aside, 7).unwrap();
        let mut writer = writer.with_large_files(20);
        (0..2000).for_each(|_| writer.act().unwrap());
        assert!(ledger.len() > 300, "{} values", ledger.len());
        assert_eq!(ledger.missing(std::slice::from_ref(&root)).unwrap(), Vec::<String>::new());
        assert_eq!(torn(&root).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);

        let mut files = Vec::new();
        gather(&root, &mut |path, _| files.push(path.to_path_buf())).unwrap();
        fs::remove_file(&files[0]).unwrap();
        fs::write(&files[1], "value of another kind").unwrap();
        assert_eq!(ledger.missing(std::slice::from_ref(&root)).unwrap().len(), 2);
        assert_eq!(torn(&root).unwrap(), [files[1].clone()]);
    }
}
