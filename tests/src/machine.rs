//! What this machine can do, asked of the machine itself, and skipping a story
//! by name where it cannot.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;

/// Copying gigabytes and installing packages take their time.
const HELPER_LIMIT: Duration = Duration::from_secs(300);

/// Says on the real standard error, which the test runner does not swallow,
/// that the running test is skipped and why; `cargo xtask test` repeats these
/// lines at its end from the file `REPLICATOR_SKIPPED` names.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", thread.name().unwrap_or("unnamed"));
    // A closed standard error must not fail a test that does not apply.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("REPLICATOR_SKIPPED")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// Says on the standard output how a method of writing went on a file system
/// with these hooks, where somebody asked for rows of a table.
pub fn row(file_system: &str, hooks: &str, method: &str, outcome: &str) {
    if std::env::var_os("REPLICATOR_ROWS").is_some() {
        println!("\nmatrix|{file_system}|{hooks}|{method}|{}", outcome.replace('\n', " "));
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program of this name on `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps mkfs and its like off the path of ordinary users.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Processor time a process has used so far, all its threads and the children
/// it has seen end, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses and may hold spaces. Fields
    // 14 to 17 are utime, stime, cutime and cstime.
    let (_, fields) = stat.rsplit_once(')').context("a stat line without a name")?;
    let times = fields.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    let ticks: u64 = times.sum::<Result<u64, _>>().context("a stat line without times")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Runs a helper program and demands success.
pub fn run(command: &mut Command) -> Result<String> {
    let finished = command::finish(command, HELPER_LIMIT)?;
    if finished.code != 0 {
        let said = [finished.stdout.trim(), finished.stderr.trim()].join("\n");
        bail!("{command:?} ended with {}: {}", finished.code, said.trim());
    }
    Ok(finished.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let mut sum = 0u64;
        while cpu_seconds(std::process::id()).unwrap() < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-anywhere").is_none());
    }
}
