//! What a guest is asked to do: which programs of stories it runs, which of
//! their stories on which file system, and the rows that must come of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use replicator_tests::{foreign, machine};

use super::guest::Row;
use super::image::Image;
use super::{Args, FILE_SYSTEMS};
use crate::{cargo, test};

/// Where the guests have the writer of another table.
pub const WRITER: &str = "/bin/writer-32";

/// Stores through mappings on each file system, while the daemons follow: a
/// hundredth of them in the form that takes minutes.
const STORES: u64 = 10_000;
const ALL_STORES: u64 = 1_000_000;

/// Programs that say rows of their own, and how their stories begin.
const MATRIX: (&str, &str) = ("matrix", "on_");
const MAPPED: (&str, &str) = ("mapped", "no_store_is_lost_on_");

/// Programs of stories that are told on every file system, and which of them
/// where not all are; first what tells which hooks there are.
const STORIES: [(&str, &[&str]); 8] = [
    ("levels", &["the_best_level_of_this_machine"]),
    (
        "matrix",
        &[
            "on_ext4_without_delayed_allocation",
            "on_ext4_that_keeps_a_journal_of_bytes",
            "in_a_subvolume_of_btrfs",
        ],
    ),
    ("mapped", &[]),
    ("names", &[]),
    ("flags", &[]),
    (
        "ranges",
        &[
            "four_kib_in_a_large_file_arrive_in_place_and_alone",
            "scattered_edits_send_what_they_changed",
            "stores_through_a_mapping_follow",
            "a_rewrite_with_size_and_time_restored_is_seen",
        ],
    ),
    ("losses", &[]),
    ("programs", &["fsx", "fio", "sqlite"]),
];

/// One thing a guest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// A program with the stories of it that say rows.
    Table { program: &'static str, stories: Vec<String> },
    /// One story, whose end is a row.
    Story { file_system: &'static str, program: &'static str, name: String },
}

impl Trial {
    /// What the row of a story calls it.
    fn method(program: &str, name: &str) -> String {
        format!("{program}: {}", name.replace('_', " "))
    }

    /// As a line of the guest's script.
    pub fn line(&self) -> String {
        match self {
            Self::Table { program, stories } => format!("table {program} {}", stories.join(" ")),
            Self::Story { file_system, program, name } => {
                let method = Self::method(program, name);
                format!("story {file_system} {program} {name} '{method}'")
            }
        }
    }
}

/// What is tried in the guests, built on this machine.
pub struct Programs {
    daemon: PathBuf,
    /// Of stories, by their names.
    stories: Vec<(&'static str, PathBuf)>,
    /// Writes with the system calls of another table.
    writer: PathBuf,
}

impl Programs {
    pub fn build(args: &Args) -> Result<Self> {
        let place = cargo::target().join("kernels");
        fs::create_dir_all(&place)?;
        let mut names = vec![MATRIX.0, MAPPED.0];
        if args.all {
            let others = STORIES.iter().map(|(program, _)| *program);
            names.extend(others.filter(|name| ![MATRIX.0, MAPPED.0].contains(name)));
        }
        let build = |name| Ok((name, cargo::build_test("replicator-tests", name)?));
        Ok(Self {
            daemon: cargo::build(&["--package", "replicator"], "replicator")?,
            stories: names.into_iter().map(build).collect::<Result<_>>()?,
            writer: foreign::writer(&place).context("the 32-bit writer cannot be built")?,
        })
    }

    pub fn add(&self, args: &Args, image: &mut Image) -> Result<()> {
        image.program("/bin/replicator", &self.daemon)?;
        for (name, path) in &self.stories {
            image.program(&format!("/bin/{name}"), path)?;
        }
        image.program(WRITER, &self.writer)?;
        if args.all {
            let fsx = test::fsx().context("the long form needs fsx")?;
            image.program("/usr/bin/fsx", &fsx)?;
        }
        Ok(())
    }

    /// Everything a guest does, in this order.
    pub fn trials(&self, args: &Args) -> Result<Vec<Trial>> {
        // Who asks for a method asks for the matrix alone.
        let tables = if args.method.is_empty() { &[MATRIX, MAPPED][..] } else { &[MATRIX] };
        let table = |&(program, start): &(&'static str, &str)| {
            let stories = file_systems(args).map(|name| format!("{start}{name}"));
            let stories: Vec<_> = stories.filter(|name| name.contains(&args.story)).collect();
            (!stories.is_empty()).then_some(Trial::Table { program, stories })
        };
        let mut trials: Vec<_> = tables.iter().filter_map(table).collect();
        if args.all && args.method.is_empty() {
            trials.extend(self.stories(args)?);
        }
        ensure!(
            !trials.is_empty(),
            "no story is called like {}{}",
            args.story,
            if args.all { "" } else { "; most are told with --all only" }
        );
        Ok(trials)
    }

    /// What is told on each file system beside the tables.
    fn stories(&self, args: &Args) -> Result<Vec<Trial>> {
        let mut trials = Vec::new();
        for file_system in file_systems(args) {
            for (program, only) in STORIES {
                let names = self.stories_of(program)?;
                let unknown = only.iter().find(|name| !names.iter().any(|own| own == *name));
                ensure!(unknown.is_none(), "{program} tells no story called {unknown:?}");
                let is_chosen = |name: &String| {
                    (only.is_empty() || only.contains(&name.as_str()))
                        && is_told_on(name, file_system)
                        && !name.starts_with(MAPPED.1)
                        && name.contains(&args.story)
                };
                let story = |name| Trial::Story { file_system, program, name };
                trials.extend(names.into_iter().filter(is_chosen).map(story));
            }
        }
        Ok(trials)
    }

    /// What there must be one row of: file systems and methods.
    pub fn rows(&self, args: &Args, trials: &[Trial]) -> Result<Vec<(&'static str, String)>> {
        let methods = self.methods(args)?;
        let mut rows = Vec::new();
        for trial in trials {
            match trial {
                Trial::Table { program, stories } => {
                    let mapped = [format!("{} stores through mappings", stores(args))];
                    let of_table = if *program == MAPPED.0 { &mapped[..] } else { &methods };
                    let is_told = |name: &&str| stories.iter().any(|story| story.ends_with(name));
                    rows.extend(file_systems(args).filter(is_told).flat_map(|file_system| {
                        of_table.iter().map(move |method| (file_system, method.clone()))
                    }));
                }
                Trial::Story { file_system, program, name } => {
                    rows.push((file_system, Trial::method(program, name)));
                }
            }
        }
        Ok(rows)
    }

    /// What the matrix has one row of for each file system.
    fn methods(&self, args: &Args) -> Result<Vec<String>> {
        let mut list = Command::new(self.program(MATRIX.0)?);
        list.args(["--exact", "every_method_has_a_name_of_its_own", "--nocapture"]);
        list.env("REPLICATOR_ROWS", "yes").envs(variables(args));
        let told = machine::run(&mut list)?;
        let rows = told.lines().filter_map(Row::parse);
        let mut methods: Vec<_> = rows.map(|row| row.method).collect();
        ensure!(!methods.is_empty(), "no method is called like {}", args.method);
        methods.push("what was lost meanwhile".to_owned());
        Ok(methods)
    }

    fn stories_of(&self, program: &str) -> Result<Vec<String>> {
        let told = machine::run(Command::new(self.program(program)?).arg("--list"))?;
        Ok(told.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    fn program(&self, name: &str) -> Result<&Path> {
        let found = self.stories.iter().find(|(own, _)| *own == name);
        found.map(|(_, path)| path.as_path()).with_context(|| format!("{name} was not built"))
    }
}

pub fn file_systems(args: &Args) -> impl Iterator<Item = &'static str> {
    FILE_SYSTEMS.into_iter().filter(|name| name.contains(&args.file_system))
}

/// What the programs are told of what is to be tried.
pub fn variables(args: &Args) -> Vec<(&'static str, String)> {
    let mut variables = vec![("REPLICATOR_STORES", stores(args).to_string())];
    if !args.method.is_empty() {
        variables.push(("REPLICATOR_METHODS", args.method.clone()));
    }
    if !args.busy && !args.all {
        variables.push(("REPLICATOR_ALONE", "yes".to_owned()));
    }
    variables
}

fn stores(args: &Args) -> u64 {
    if args.all { ALL_STORES } else { STORES }
}

/// Neither about another file system nor about a level without kernel programs.
fn is_told_on(name: &str, file_system: &str) -> bool {
    let others = ["ext4", "xfs", "btrfs", "tmpfs", "inotify", "fanotify"];
    !name.split('_').any(|word| word != file_system && others.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_of_other_file_systems_and_levels_are_left_out() {
        assert!(is_told_on("storms_of_folders", "xfs"));
        assert!(!is_told_on("storms_of_folders_through_inotify", "xfs"));
        assert!(!is_told_on("an_inotify_queue_that_overflows", "ext4"));
        assert!(is_told_on("flags_follow_on_xfs", "xfs"));
        assert!(!is_told_on("flags_follow_on_xfs", "ext4"));
    }

    #[test]
    fn a_story_is_a_line_and_has_a_row() {
        let name = "flags_follow_on_xfs".to_owned();
        let trial = Trial::Story { file_system: "xfs", program: "flags", name };
        let line = "story xfs flags flags_follow_on_xfs 'flags: flags follow on xfs'";
        assert_eq!(trial.line(), line);
    }
}
