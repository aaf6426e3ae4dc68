//! The guest's whole system: this machine's programs with the libraries they
//! need, in one archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;

/// Where things are mounted and made.
const FOLDERS: [&str; 8] = ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/etc", "/modules"];

#[derive(Default)]
pub struct Image {
    files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// A program of this machine and every library it is linked to.
    pub fn program(&mut self, name: &str, path: &Path) -> Result<()> {
        self.file(name, path)?;
        for library in libraries(path)? {
            let name = library.to_str().context("a library with an odd name")?.to_owned();
            if !self.files.contains_key(&name) {
                self.file(&name, &library)?;
            }
        }
        Ok(())
    }

    pub fn script(&mut self, name: &str, text: &str) {
        self.content(name, text.as_bytes().to_vec());
    }

    pub fn content(&mut self, name: &str, content: Vec<u8>) {
        self.files.insert(name.to_owned(), content);
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let mut folders: BTreeSet<&str> = FOLDERS.into();
        for name in self.files.keys() {
            let ends = name.match_indices('/').map(|(end, _)| end).filter(|&end| end > 0);
            folders.extend(ends.map(|end| &name[..end]));
        }
        let mut archive = Archive::create(path)?;
        for folder in folders {
            archive.directory(folder)?;
        }
        for (name, content) in &self.files {
            archive.program(name, content)?;
        }
        archive.link("/bin/sh", "busybox")?;
        Ok(archive.finish()?)
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        self.content(name, content);
        Ok(())
    }
}

/// What the loader would load; nothing for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let told = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).filter(|path| path.is_file()).collect())
}
