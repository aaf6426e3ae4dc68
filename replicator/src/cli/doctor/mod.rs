//! `replicator doctor`: what this machine allows, what the lack of the rest
//! costs, and what to do about it.
//!
//! It changes nothing: what it must try on the file system it tries in a
//! directory of its own below the folder's private one, and removes.

mod file_system;
mod machine;

use std::path::PathBuf;

use super::failure::{Exit, Failure};
use super::print;
use super::unmerged::capture;
use crate::status::printable;

/// Explain what this kernel, user and folder allow, and what is missing.
///
/// Exit code 0 when nothing is missing, 1 otherwise. Everything is replicated
/// in both cases; what is missing costs speed or comfort, as each line says.
#[derive(clap::Args)]
pub struct Doctor {
    /// The folder that is or will be replicated
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
}

impl Doctor {
    pub fn execute(&self) -> Result<Exit, Failure> {
        let root = self.root.canonicalize().map_err(|error| {
            let message = format!("cannot look at the folder {}: {error}", self.root.display());
            Failure::new(Exit::Configuration, message)
        })?;
        let mut checks = machine::checks();
        checks.extend(capture::probe(&root).into_iter().map(|finding| Check {
            what: finding.what,
            ok: finding.available,
            found: finding.detail,
            advice: String::new(),
        }));
        checks.extend(file_system::checks(&root));
        print(&checks.iter().map(describe).collect::<String>())?;
        Ok(if checks.iter().all(|check| check.ok) { Exit::Fine } else { Exit::Differs })
    }
}

/// One thing that was looked at.
struct Check {
    what: String,
    ok: bool,
    /// What was found there.
    found: String,
    /// What its lack costs, and what to do; shown when it is missing.
    advice: String,
}

impl Check {
    fn new(what: &str, ok: bool, found: impl Into<String>, advice: &str) -> Self {
        Self { what: what.into(), ok, found: found.into(), advice: advice.into() }
    }
}

fn describe(check: &Check) -> String {
    let verdict = if check.ok { "ok     " } else { "missing" };
    let mut text =
        format!("{verdict} {:<20} {}\n", printable(&check.what), printable(&check.found));
    if !check.ok && !check.advice.is_empty() {
        text += &format!("{:8}{}\n", "", check.advice);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_no_trace_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let modified = || std::fs::metadata(folder.path()).unwrap().modified().unwrap();
        let checks = file_system::checks(folder.path());
        assert!(checks.iter().any(|check| check.what == "exchange" && check.ok));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::create_dir(folder.path().join(crate::path::PRIVATE_DIR)).unwrap();
        let before = modified();
        file_system::checks(folder.path());
        assert_eq!(modified(), before, "below the private directory alone");
        let private = folder.path().join(crate::path::PRIVATE_DIR);
        assert_eq!(std::fs::read_dir(private).unwrap().count(), 0);
    }

    #[test]
    fn advice_is_given_where_something_is_missing() {
        let text = describe(&Check::new("thing", false, "absent", "costs time: buy one"));
        assert!(text.starts_with("missing thing") && text.contains("costs time"), "{text}");
        assert!(!describe(&Check::new("thing", true, "there", "costs")).contains("costs"));
        assert!(machine::checks().iter().all(|check| check.ok || !check.advice.is_empty()));
    }
}
