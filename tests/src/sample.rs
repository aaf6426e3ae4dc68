//! Trees to replicate: Debian's `wordpress` package where it can be fetched,
//! a look-alike made here where it cannot.

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::random::Random;
use crate::{apt, machine};

/// Names the folder that [`fetch_wordpress`] unpacked, for the tests.
pub const WORDPRESS_VARIABLE: &str = "REPLICATOR_WORDPRESS";

/// Seconds an unreachable package mirror may cost.
const FETCH_LIMIT: &str = "30";

/// Files of the look-alike, about what the package has.
const FILES: u64 = 2000;

/// Of what is in them.
const SEED: u64 = 2024;

/// Puts a web site at `root`: the package's tree where `REPLICATOR_WORDPRESS`
/// names one, the look-alike otherwise.
pub fn site(root: &Path) -> Result<()> {
    match std::env::var_os(WORDPRESS_VARIABLE) {
        Some(tree) => copy(Path::new(&tree), root),
        None => Ok(look_alike(root)?),
    }
}

/// Copies the tree at `from` into the folder `to`, with all metadata.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    machine::run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).map(drop)
}

/// Downloads and unpacks Debian's package below `cache` unless that was done
/// before, and returns the site in it.
pub fn fetch_wordpress(cache: &Path) -> Result<PathBuf> {
    let site = cache.join("wordpress/usr/share/wordpress");
    if site.is_dir() {
        return Ok(site);
    }
    let fetched = tempfile::tempdir().context("no temporary directory")?;
    apt::with_lists(|| {
        let words = [FETCH_LIMIT, "apt-get", "-o", "Acquire::Retries=0", "download", "wordpress"];
        machine::run(Command::new("timeout").args(words).current_dir(fetched.path()))
    })?;
    let package = fs::read_dir(fetched.path())?.next().context("no package came")??.path();
    // Unpacked beside and renamed, so that an interrupted run leaves no half
    // tree that the next one would take for whole.
    fs::create_dir_all(cache)?;
    let unpacked = tempfile::tempdir_in(cache)?;
    machine::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(unpacked.path()))?;
    fs::rename(unpacked.keep(), cache.join("wordpress"))?;
    Ok(site)
}

/// About 2,000 files as a WordPress site has them: many small scripts, fewer
/// pictures, deep folders, some links, an empty file and an empty folder. The
/// same in every run, times included.
pub fn look_alike(root: &Path) -> io::Result<()> {
    look_alike_of(root, FILES, SEED)
}

/// The same with another number of files, for lines that are slow, and of
/// another seed, for sites that have nothing in common.
pub fn look_alike_of(root: &Path, files: u64, seed: u64) -> io::Result<()> {
    const FOLDERS: [&str; 9] = [
        "wp-admin/css/colors",
        "wp-admin/includes",
        "wp-includes/js/dist/vendor",
        "wp-includes/blocks/latest-posts",
        "wp-includes/SimplePie/src/Content/Type",
        "wp-content/plugins/akismet/views",
        "wp-content/themes/twenty/assets/fonts",
        "wp-content/uploads/2024/01",
        "wp-content/languages",
    ];
    const ENDINGS: [&str; 6] = ["php", "js", "min.css", "json", "png", "po"];
    let mut random = Random::new(seed);
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    for number in 0..files {
        let folder = FOLDERS[random.below(FOLDERS.len() as u64) as usize];
        let ending = ENDINGS[random.below(ENDINGS.len() as u64) as usize];
        // Most are a few KiB, every fiftieth is a picture.
        let limit = if number % 50 == 0 { 600 << 10 } else { 12 << 10 };
        let length = random.below(limit) as usize;
        let path = root.join(folder).join(format!("{ending}-{number:04}.{ending}"));
        fs::write(&path, random.bytes(length))?;
        let mode = if number % 97 == 0 { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        date(&path, &mut random)?;
    }
    fs::write(root.join("index.php"), "<?php\nrequire __DIR__ . '/wp-blog-header.php';\n")?;
    File::create(root.join("wp-content/uploads/.gitkeep"))?;
    fs::create_dir_all(root.join("wp-content/upgrade"))?;
    symlink("../../etc/wordpress/htaccess", root.join(".htaccess"))?;
    symlink("wp-content/uploads", root.join("media"))?;
    fs::hard_link(root.join("index.php"), root.join("wp-content/index.php"))?;
    FOLDERS.iter().try_for_each(|folder| date(&root.join(folder), &mut random))
}

/// A file of random bytes, made in pieces so that size costs no memory.
pub fn random_file(path: &Path, size: u64, seed: u64) -> io::Result<()> {
    use io::Write;
    let mut random = Random::new(seed);
    let mut file = File::create(path)?;
    let mut piece = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let length = left.min(piece.len() as u64) as usize;
        random.fill(&mut piece[..length]);
        file.write_all(&piece[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// `count` small files in folders of 100, as a mail store or a cache has them.
pub fn small_files(root: &Path, count: u64, bytes: usize) -> io::Result<()> {
    let mut random = Random::new(count);
    for number in 0..count {
        let path = root.join(small_file(number));
        if let Some(folder) = path.parent().filter(|_| number % 100 == 0) {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, random.bytes(bytes))?;
    }
    Ok(())
}

/// Where [`small_files`] puts the one of this number, beneath the root.
pub fn small_file(number: u64) -> PathBuf {
    PathBuf::from(format!("{:03}/{:02}/{number:06}", number / 10_000, number / 100 % 100))
}

/// Some time in the last ten years, with odd nanoseconds.
fn date(path: &Path, random: &mut Random) -> io::Result<()> {
    let nanos = 1_400_000_000_000_000_000 + random.below(300_000_000_000_000_000);
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    File::open(path)?.set_times(FileTimes::new().set_modified(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn the_look_alike_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for root in [&a, &b] {
            fs::create_dir(root).unwrap();
            look_alike(root).unwrap();
        }
        let lines = tree::differences(&a, &b).unwrap();
        // What is made last or on the way has the time of its making.
        let only_times = |line: &String| line.contains("mtime") || line.contains("perhaps more");
        assert!(lines.iter().all(only_times), "{lines:?}");
        let (files, bytes) = tree::count(&a).unwrap();
        assert!((1900..2200).contains(&files) && bytes > 10 << 20, "{files} {bytes}");
    }

    #[test]
    fn random_files_have_their_size() {
        let dir = tempfile::tempdir().unwrap();
        random_file(&dir.path().join("file"), (1 << 20) + 5, 1).unwrap();
        small_files(&dir.path().join("many"), 250, 10).unwrap();
        assert_eq!(tree::count(dir.path()).unwrap(), (251, (1 << 20) + 5 + 2500));
    }
}
