//! `replicator doctor`: what this machine allows, what the lack of the rest
//! costs, and what to do about it.
//!
//! It changes nothing: what it must try on the file system it tries in a
//! [`Workshop`](crate::root::Workshop), which is gone at the end.

mod file_system;
mod machine;

use std::path::PathBuf;

use super::failure::{Exit, Failure};
use super::print;
use crate::capture;
use crate::status::printable;

/// Explain what this kernel, user and folder allow, and what is missing.
///
/// It changes nothing. Exit code 0 when nothing is missing or refused, 1
/// otherwise. The folder is served without what is missing, at the cost that
/// each line names; where something is refused, the folder cannot be served.
/// What is absent costs nothing worth a change.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
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
            verdict: if finding.available { Verdict::Fine } else { Verdict::Missing },
            found: finding.detail,
            advice: finding.advice,
        }));
        checks.extend(file_system::checks(&root));
        print(&report(&checks))?;
        Ok(exit(&checks))
    }
}

/// A line for each check, and the verdict where it is no.
fn report(checks: &[Check]) -> String {
    let mut text: String = checks.iter().map(describe).collect();
    if checks.iter().any(|check| check.verdict == Verdict::Refused) {
        text += "\nThis folder cannot be served: `replicator run` would refuse it.\n";
    }
    text
}

fn exit(checks: &[Check]) -> Exit {
    let is_well = |check: &Check| matches!(check.verdict, Verdict::Fine | Verdict::Absent);
    match checks.iter().all(is_well) {
        true => Exit::Fine,
        false => Exit::Differs,
    }
}

/// Columns of the narrowest terminal served.
const COLUMNS: usize = 80;

/// Columns of the verdict and of what was looked at.
const HEAD_COLUMNS: usize = 28;

/// One thing that was looked at.
struct Check {
    what: String,
    verdict: Verdict,
    /// What was found there.
    found: String,
    /// What its lack costs, and what to do; shown when it is not there.
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// It is not there, and does no harm by that.
    Absent,
    /// The folder is served without it, at some cost.
    Missing,
    /// The folder cannot be served.
    Refused,
}

impl Check {
    fn new(what: &str, ok: bool, found: impl Into<String>, advice: &str) -> Self {
        let verdict = if ok { Verdict::Fine } else { Verdict::Missing };
        Self { what: what.into(), verdict, found: found.into(), advice: advice.into() }
    }

    /// Of something for which `run` does not start, in its own words.
    fn refused(what: &str, why: String) -> Self {
        Self { verdict: Verdict::Refused, ..Self::new(what, false, why, "") }
    }

    /// Of something whose lack is no reason to change anything.
    fn harmless(mut self) -> Self {
        if self.verdict == Verdict::Missing {
            self.verdict = Verdict::Absent;
        }
        self
    }
}

fn describe(check: &Check) -> String {
    let verdict = match check.verdict {
        Verdict::Fine => "ok",
        Verdict::Absent => "absent",
        Verdict::Missing => "missing",
        Verdict::Refused => "refused",
    };
    let head = format!("{verdict:<8}{:<20}", printable(&check.what));
    let mut text = wrapped(&head, &printable(&check.found));
    if check.verdict != Verdict::Fine && !check.advice.is_empty() {
        text += &wrapped(&" ".repeat(HEAD_COLUMNS), &check.advice);
    }
    text
}

/// Text in lines of at most [`COLUMNS`], the later ones indented.
fn wrapped(head: &str, text: &str) -> String {
    let mut out = head.to_owned();
    let mut column = head.chars().count();
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > HEAD_COLUMNS && column + 1 + width > COLUMNS {
            out += "\n";
            out += &" ".repeat(HEAD_COLUMNS);
            column = HEAD_COLUMNS;
        }
        if !out.ends_with(' ') {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += width;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_no_trace_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let modified = || std::fs::metadata(folder.path()).unwrap().modified().unwrap();
        let before = modified();
        let checks = file_system::checks(folder.path());
        for name in ["openat2", "exchange", "no replacing", "hard links", "fine times"] {
            let check = checks.iter().find(|check| check.what == name).unwrap();
            assert_eq!(check.verdict, Verdict::Fine, "{name}: {}", check.found);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(modified(), before);
    }

    #[test]
    fn what_run_refuses_is_the_verdict() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(crate::path::PRIVATE_DIR), b"in the way").unwrap();
        let checks = file_system::checks(folder.path());
        let text = report(&checks);
        assert!(text.contains("\nrefused folder") && text.contains("in the way"), "{text}");
        assert!(text.ends_with("`replicator run` would refuse it.\n"), "{text}");
        assert_eq!(exit(&checks), Exit::Differs);
        assert!(!report(&[Check::new("thing", false, "absent", "")]).contains("refuse"));
    }

    /// What its help promises must hold where a folder cannot be served, too.
    #[test]
    fn the_help_promises_replication_only_of_what_is_not_refused() {
        use clap::CommandFactory;
        let mut line = crate::cli::CommandLine::command();
        let help = line.find_subcommand_mut("doctor").unwrap().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("where something is refused, the folder cannot be served"), "{help}");
        assert!(!help.contains("in both cases"), "{help}");
    }

    #[test]
    fn advice_is_given_where_something_is_missing() {
        let text = describe(&Check::new("thing", false, "absent", "costs time: buy one"));
        assert!(text.starts_with("missing thing") && text.contains("costs time"), "{text}");
        assert!(!describe(&Check::new("thing", true, "there", "costs")).contains("costs"));
        let long = Check::new("thing", false, "word ".repeat(50), &"advice ".repeat(50));
        assert!(describe(&long).lines().all(|line| line.chars().count() <= COLUMNS));
        let told = |check: &Check| check.verdict == Verdict::Fine || !check.advice.is_empty();
        assert!(machine::checks().iter().all(told));
    }

    #[test]
    fn what_does_no_harm_does_not_count() {
        let fine = || Check::new("thing", true, "there", "");
        let absent = || Check::new("thing", false, "absent", "no harm").harmless();
        assert_eq!(exit(&[fine(), fine().harmless(), absent()]), Exit::Fine);
        assert!(describe(&absent()).starts_with("absent  thing"));
        assert!(describe(&absent()).contains("no harm"));
        assert_eq!(exit(&[absent(), Check::new("other", false, "", "")]), Exit::Differs);
    }
}
