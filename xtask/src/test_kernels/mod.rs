//! `cargo xtask test-kernels`: the same program on other people's kernels.
//!
//! Boots Debian's stock kernels in an emulator, each with a memory-only system
//! made of this machine's programs, and tries every method of writing there
//! with two real daemons. What the machine's own kernel refuses, hooks on
//! functions above all, is proved here.

mod archive;
mod guest;
mod image;
mod modules;
mod packages;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use replicator_tests::{foreign, machine};

use self::guest::{Guest, Row};
use self::image::Image;
use self::modules::Modules;
use crate::cargo;

/// A kernel as Debian ships it.
struct Kernel {
    version: &'static str,
    /// The release of Debian that has it.
    suite: &'static str,
}

const KERNELS: [Kernel; 2] =
    [Kernel { version: "6.1", suite: "bookworm" }, Kernel { version: "6.12", suite: "trixie" }];

/// What the stories use in the guest beside the daemon; those that this
/// machine lacks make stories skip.
const TOOLS: [&str; 6] = ["mount", "umount", "rsync", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"];

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// What both kernels must give.
const HOOKS: &str = "function exits";

/// Where the guests have the writer of another table.
const WRITER: &str = "/bin/writer-32";

/// Stores through mappings while the daemons follow: a tenth of what a real
/// machine makes.
const STORES: &str = "10000";

/// File systems, what they are tried on, and what they call by alias.
const MODULES: [&str; 6] = ["crc32c_generic", "loop", "ext4", "xfs", "btrfs", "overlay"];

#[derive(clap::Args)]
pub struct Args {
    /// Boot only this kernel
    #[arg(long, value_name = "VERSION")]
    kernel: Option<String>,
    /// Try only file systems whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    file_system: String,
    /// Try only methods whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    method: String,
    /// Try every method also while others write to the same file
    #[arg(long)]
    busy: bool,
    /// End a guest that has not ended by itself by then
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    limit: u64,
    /// What runs the guest's code: `tcg` works everywhere, `kvm` is fast
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// Show what the guests print
    #[arg(long)]
    verbose: bool,
}

pub fn run(args: Args) -> Result<()> {
    let wanted = |kernel: &&Kernel| args.kernel.as_ref().is_none_or(|name| name == kernel.version);
    let kernels: Vec<_> = KERNELS.iter().filter(wanted).collect();
    ensure!(!kernels.is_empty(), "only {} are known", KERNELS.map(|k| k.version).join(" and "));
    ensure!(file_systems(&args).count() > 0, "only {} are tried", FILE_SYSTEMS.join(", "));
    packages::install("qemu-system-x86_64", "qemu-system-x86")?;
    let programs = Programs::build()?;
    let methods = programs.methods(&args)?;
    let file_systems: Vec<_> = file_systems(&args).collect();
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for kernel in kernels {
        let tried = boot(kernel, &programs, &args).and_then(|found| {
            let judged = judge(&found, &file_systems, &methods);
            rows.extend(found.into_iter().map(|row| (kernel.version, row)));
            judged
        });
        if let Err(error) = tried {
            failed.push(format!("{}: {error:#}", kernel.version));
        }
    }
    print!("{}", table(&rows));
    let differing = rows.iter().filter(|(_, row)| row.is_failure()).count();
    ensure!(
        differing == 0 && failed.is_empty(),
        "{differing} methods failed; {}",
        failed.join("; ")
    );
    Ok(())
}

/// What is tried in the guests.
struct Programs {
    daemon: PathBuf,
    matrix: PathBuf,
    mapped: PathBuf,
    /// Writes with the system calls of another table.
    writer: PathBuf,
}

impl Programs {
    fn build() -> Result<Self> {
        let place = cargo::target().join("kernels");
        fs::create_dir_all(&place)?;
        Ok(Self {
            daemon: cargo::build(&["--package", "replicator"], "replicator")?,
            matrix: cargo::build_test("replicator-tests", "matrix")?,
            mapped: cargo::build_test("replicator-tests", "mapped")?,
            writer: foreign::writer(&place).context("the 32-bit writer cannot be built")?,
        })
    }

    /// What each file system must have one row of.
    fn methods(&self, args: &Args) -> Result<Vec<String>> {
        let mut list = Command::new(&self.matrix);
        list.args(["--exact", "every_method_has_a_name_of_its_own", "--nocapture"]);
        list.env("REPLICATOR_ROWS", "yes").env("REPLICATOR_METHODS", &args.method);
        let told = machine::run(&mut list)?;
        let names = told.lines().filter_map(Row::parse).map(|row| row.method);
        let hows: &[&str] = if args.busy { &["alone", "while others write"] } else { &["alone"] };
        let mut methods: Vec<_> =
            names.flat_map(|name| hows.iter().map(move |how| format!("{name}, {how}"))).collect();
        ensure!(!methods.is_empty(), "no method is called like {}", args.method);
        if args.method.is_empty() {
            methods.push(format!("{STORES} stores through mappings"));
        }
        Ok(methods)
    }
}

fn boot(kernel: &Kernel, programs: &Programs, args: &Args) -> Result<Vec<Row>> {
    let place = cargo::target().join("kernels").join(kernel.version);
    let unpacked = packages::fetch("linux-image-amd64", kernel.suite, &place)?;
    let busybox = packages::fetch("busybox-static", kernel.suite, &place.join("busybox"))?;
    let release = modules::release(&unpacked)?;
    let mut image = Image::default();
    image.program("/bin/replicator", &programs.daemon)?;
    image.program("/bin/matrix", &programs.matrix)?;
    image.program("/bin/mapped", &programs.mapped)?;
    image.program(WRITER, &programs.writer)?;
    let busybox = ["usr/bin/busybox", "bin/busybox"].map(|at| busybox.join(at));
    let busybox =
        busybox.iter().find(|path| path.is_file()).context("no busybox in its package")?;
    image.program("/bin/busybox", busybox)?;
    for tool in TOOLS {
        match machine::program(tool) {
            Some(path) => image.program(&format!("/usr/bin/{tool}"), &path)?,
            None => println!("note: without {tool} some methods cannot be tried"),
        }
    }
    Modules::of(&unpacked, &release)?.add(&MODULES, &mut image)?;
    let alone = if args.busy { "" } else { "yes" };
    let variables = [
        ("REPLICATOR_METHODS", args.method.as_str()),
        ("REPLICATOR_ALONE", alone),
        ("REPLICATOR_STORES", STORES),
        (foreign::WRITER_VARIABLE, WRITER),
    ];
    image.script("/init", &guest::init(&stories(args), &variables));
    let initrd = place.join("initrd");
    image.write(&initrd)?;
    println!("booting {release}");
    let guest = Guest {
        kernel: &unpacked.join("boot").join(format!("vmlinuz-{release}")),
        initrd: &initrd,
        accelerator: &args.accelerator,
        log: &place.join("console"),
        verbose: args.verbose,
    };
    let rows = guest.run(Duration::from_secs(args.limit))?;
    Ok(rows)
}

/// Whether the rows of one kernel tell of every method on every file system,
/// each once, with the hooks that these kernels have.
fn judge(rows: &[Row], file_systems: &[&str], methods: &[String]) -> Result<()> {
    for file_system in file_systems {
        for method in methods {
            let of_method = |row: &&Row| row.file_system == *file_system && row.method == *method;
            let count = rows.iter().filter(of_method).count();
            ensure!(count == 1, "{count} rows tell of {method} on {file_system}");
        }
    }
    let rest = rows.len() - file_systems.len() * methods.len();
    ensure!(rest == 0, "{rest} rows tell of nothing that was asked for");
    let other = rows.iter().find(|row| row.hooks != HOOKS);
    ensure!(other.is_none(), "other hooks than {HOOKS}: {other:?}");
    Ok(())
}

fn file_systems(args: &Args) -> impl Iterator<Item = &'static str> {
    FILE_SYSTEMS.into_iter().filter(|name| name.contains(&args.file_system))
}

/// The programs of the guest, with the stories that use kernel programs.
fn stories(args: &Args) -> Vec<String> {
    let of = |program: &str, start: &str| {
        let names = file_systems(args).map(|name| format!(" {start}{name}"));
        program.to_owned() + &names.collect::<String>()
    };
    let mut stories = vec![of("matrix", "on_")];
    if args.method.is_empty() {
        stories.push(of("mapped", "no_store_is_lost_on_"));
    }
    stories
}

fn table(rows: &[(&str, Row)]) -> String {
    let mut text = String::new();
    for (kernel, row) in rows {
        let Row { file_system, hooks, method, outcome } = row;
        text += &format!("{kernel:<6}{file_system:<7}{hooks:<16}{method:<52} {outcome}\n");
    }
    text
}

/// Everything below a folder that is a file, in the order of the names.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Words of a command line.
fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(file_system: &str, hooks: &str, method: &str) -> Row {
        let [file_system, hooks, method] = [file_system, hooks, method].map(str::to_owned);
        Row { file_system, hooks, method, outcome: "same".to_owned() }
    }

    #[test]
    fn every_method_must_have_its_row_of_these_hooks() {
        let (systems, methods) = (["ext4", "xfs"], ["one".to_owned(), "other".to_owned()]);
        let full: Vec<_> =
            systems.iter().flat_map(|fs| methods.iter().map(|name| row(fs, HOOKS, name))).collect();
        judge(&full, &systems, &methods).unwrap();
        let why = |rows: &[Row]| judge(rows, &systems, &methods).unwrap_err().to_string();
        assert_eq!(why(&full[1..]), "0 rows tell of one on ext4");
        assert_eq!(why(&[&full[..], &full[3..]].concat()), "2 rows tell of other on xfs");
        let foreign = [&full[..], &[row("ext4", HOOKS, "foreign")]].concat();
        assert_eq!(why(&foreign), "1 rows tell of nothing that was asked for");
        let lower = [&full[1..], &[row("ext4", "raw tracepoints", "one")]].concat();
        assert!(why(&lower).starts_with("other hooks"), "{}", why(&lower));
    }
}
