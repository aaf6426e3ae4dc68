//! The modules of a kernel: which ones a file system needs, in the order of
//! loading. One that is not there is built in.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::files_below;
use super::image::Image;

/// Name of the kernel in this unpacked package, as it calls itself.
pub fn release(unpacked: &Path) -> Result<String> {
    for entry in fs::read_dir(unpacked.join("boot"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok(release.to_owned());
        }
    }
    anyhow::bail!("the package holds no kernel")
}

pub struct Modules {
    files: HashMap<String, PathBuf>,
}

impl Modules {
    pub fn of(unpacked: &Path, release: &str) -> Result<Self> {
        let folders = ["lib/modules", "usr/lib/modules"].map(|at| unpacked.join(at).join(release));
        let folder = folders.into_iter().find(|path| path.is_dir()).context("no modules")?;
        let mut files = HashMap::new();
        for path in files_below(&folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some((name, _)) = name.split_once(".ko") {
                files.insert(name.replace('-', "_"), path);
            }
        }
        Ok(Self { files })
    }

    /// Puts the modules and all they depend on into the image, with a list of
    /// them in the order of loading.
    pub fn add(&self, names: &[&str], image: &mut Image) -> Result<()> {
        let mut order = Vec::new();
        for name in names {
            self.add_one(name, image, &mut order)?;
        }
        image.script("/modules/order", &(order.join("\n") + "\n"));
        Ok(())
    }

    fn add_one(&self, name: &str, image: &mut Image, order: &mut Vec<String>) -> Result<()> {
        let Some(path) = self.files.get(name).filter(|_| !order.iter().any(|own| own == name))
        else {
            return Ok(());
        };
        let content = content(path)?;
        // No module depends on itself through others, so this ends.
        for needed in dependencies(&content) {
            self.add_one(&needed, image, order)?;
        }
        image.content(&format!("/modules/{name}"), content);
        order.push(name.to_owned());
        Ok(())
    }
}

/// The module, unpacked where it is kept packed.
fn content(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(path)?),
    };
    let told = Command::new(tool).arg("-dc").arg(path).output();
    let told = told.with_context(|| format!("cannot run {tool}"))?;
    ensure!(told.status.success(), "{tool} cannot unpack {}", path.display());
    Ok(told.stdout)
}

/// What the module says of itself: `depends=one,other`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|part| part == MARK) else {
        return Vec::new();
    };
    let rest = &module[at + MARK.len()..];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    let text = String::from_utf8_lossy(&rest[..end]).replace('-', "_");
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_out_of_the_module() {
        assert_eq!(dependencies(b"x\0depends=mbcache,jbd2\0name=ext4\0"), ["mbcache", "jbd2"]);
        assert_eq!(dependencies(b"x\0depends=\0"), Vec::<String>::new());
        assert_eq!(dependencies(b"nothing"), Vec::<String>::new());
        assert_eq!(dependencies(b"x\0depends=crc32c-intel"), ["crc32c_intel"]);
    }
}
