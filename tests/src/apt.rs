//! Debian's packages, where this machine has them and its user may.

use std::process::Command;

use anyhow::Result;

use crate::machine;

/// Seconds that mirrors which do not answer may cost.
const UPDATE_LIMIT: &str = "120";

/// Installs packages, as root.
pub fn install(packages: &[&str]) -> Result<()> {
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
        machine::run(command.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    with_lists(install).map(drop)
}

/// Does what needs the lists of packages; where that fails, again with fresh
/// ones. A new image has none, and old ones name versions that are gone.
pub fn with_lists<T>(act: impl FnMut() -> Result<T>) -> Result<T> {
    once_more(act, || {
        let words = [UPDATE_LIMIT, "apt-get", "-o", "Acquire::Retries=0", "update", "-qq"];
        machine::run(Command::new("timeout").args(words)).map(drop)
    })
}

/// Where nothing can be mended, what failed first says most.
fn once_more<T>(
    mut act: impl FnMut() -> Result<T>,
    mend: impl FnOnce() -> Result<()>,
) -> Result<T> {
    act().or_else(|first| match mend() {
        Ok(()) => act(),
        Err(_) => Err(first),
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_fails_is_done_again_once_it_is_mended() {
        let mut calls = 0;
        let second = |calls: &mut i32| {
            *calls += 1;
            if *calls == 1 { bail!("no lists") } else { Ok(*calls) }
        };
        assert_eq!(once_more(|| second(&mut calls), || Ok(())).unwrap(), 2);
        assert_eq!(once_more(|| Ok(7), || bail!("not called for")).unwrap(), 7);
        let failed = once_more(|| -> Result<()> { bail!("no lists") }, || bail!("no root"));
        assert_eq!(failed.unwrap_err().to_string(), "no lists");
    }
}
