//! Debian's packages: from the mirror this machine is set up with, also of
//! other releases, without changing what the machine itself installs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use replicator_tests::{apt, machine};

use super::{files_below, words};

const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Makes a program available, installing its package where it is missing.
pub fn install(program: &str, package: &str) -> Result<()> {
    if machine::program(program).is_some() {
        return Ok(());
    }
    println!("installing {package}");
    apt::install(&[package])
        .with_context(|| format!("this needs {program}: install {package} as root"))
}

/// The content of a package of a release, unpacked below `place`. A package
/// that only names another one stands for it.
pub fn fetch(package: &str, suite: &str, place: &Path) -> Result<PathBuf> {
    let unpacked = place.join("unpacked");
    let done = place.join("unpacked.done");
    if done.exists() {
        return Ok(unpacked);
    }
    let apt = Apt::of(suite, &place.join("apt"))?;
    let package = apt.real_name(package)?;
    println!("fetching {package} of {suite}");
    let file = apt.download(&package)?;
    match fs::remove_dir_all(&unpacked) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    machine::run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&unpacked))?;
    fs::write(done, package)?;
    Ok(unpacked)
}

/// apt with a state of its own.
struct Apt {
    place: PathBuf,
}

impl Apt {
    fn of(suite: &str, place: &Path) -> Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(place.join(folder))?;
        }
        let place = fs::canonicalize(place)?;
        let mirror = mirror()?;
        let source = format!(
            "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYS}\n"
        );
        fs::write(place.join("debian.sources"), source)?;
        let apt = Self { place };
        apt.run("apt-get", "update -qq")?;
        Ok(apt)
    }

    /// `linux-image-amd64` has no content but depends on what has.
    fn real_name(&self, package: &str) -> Result<String> {
        if !package.ends_with("-amd64") {
            return Ok(package.to_owned());
        }
        let told = self.run("apt-cache", &format!("depends {package}"))?;
        let name = told.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        name.map(str::to_owned).with_context(|| format!("{package} names no kernel"))
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        self.run("apt-get", &format!("download {package}"))?;
        let files = files_below(&self.place)?;
        let start = format!("{package}_");
        let of_package = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&start) && name.ends_with(".deb")
        };
        files.into_iter().rfind(of_package).with_context(|| format!("{package} was not fetched"))
    }

    fn run(&self, program: &str, line: &str) -> Result<String> {
        let at = self.place.display();
        let options = format!(
            "-o Dir::Etc::SourceList={at}/debian.sources -o Dir::Etc::SourceParts=/dev/null \
             -o Dir::State::Lists={at}/lists -o Dir::Cache={at}/cache"
        );
        let mut command = Command::new(program);
        command.args(words(&options)).args(words(line)).current_dir(&self.place);
        machine::run(&mut command)
    }
}

/// Where this machine gets Debian from.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(files_below(Path::new("/etc/apt/sources.list.d")).unwrap_or_default());
    let of_sources = |path: &&PathBuf| {
        path.extension().is_some_and(|ending| ending == "sources" || ending == "list")
    };
    for path in files.iter().filter(of_sources) {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(mirror) = mirror_in(&text) {
            return Ok(mirror);
        }
    }
    bail!("this needs a machine that gets packages from a mirror of Debian")
}

fn mirror_in(sources: &str) -> Option<String> {
    let address = |line: &str| {
        let line = line.trim();
        let rest = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))?;
        let mut words = rest.split_whitespace();
        let address = words.find(|word| word.contains("://"))?;
        address.trim_end_matches('/').ends_with("/debian").then(|| address.to_owned())
    };
    sources.lines().find_map(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let one = "# comment\ndeb [arch=amd64] http://mirror.test/debian/ bookworm main\n";
        assert_eq!(mirror_in(one).as_deref(), Some("http://mirror.test/debian/"));
        let other = "Types: deb\nURIs: https://mirror.test/debian\nSuites: trixie\n";
        assert_eq!(mirror_in(other).as_deref(), Some("https://mirror.test/debian"));
        assert_eq!(mirror_in("deb http://mirror.test/debian-security x main\n"), None);
    }
}
