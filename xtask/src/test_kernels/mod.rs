//! `cargo xtask test-kernels`: the same program on other people's kernels.
//!
//! Boots Debian's stock kernels in an emulator, each with a memory-only system
//! made of this machine's programs, and tries every method of writing there
//! with two real daemons, on each file system that has kernel programs. What
//! the machine's own kernel refuses, hooks on functions above all, is proved
//! here; with `--all`, also while others write, with a million stores, with
//! losses, names and flags, and with other people's programs.

mod archive;
mod guest;
mod image;
mod modules;
mod packages;
mod trials;

use std::ffi::OsString;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use replicator_tests::{foreign, machine};

use self::guest::{Guest, Row};
use self::image::Image;
use self::modules::Modules;
use self::trials::{Programs, Trial, WRITER, file_systems};
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
const TOOLS: [&str; 13] = [
    "mount",
    "umount",
    "rsync",
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "setpriv",
    "setfacl",
    "chattr",
    "lsattr",
    "losetup",
    "fio",
    "sqlite3",
];

const FILE_SYSTEMS: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// What both kernels must give.
const HOOKS: &str = "function exits";

/// File systems, what they are tried on, and what they call by alias.
const MODULES: [&str; 8] =
    ["crc32c_generic", "loop", "virtio_pci", "virtio_blk", "ext4", "xfs", "btrfs", "overlay"];

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
    /// Try every method also while others write to the same file, not only some
    #[arg(long)]
    busy: bool,
    /// Everything, which takes hours: --busy, a million stores through mappings
    /// on each file system, and the stories of losses, names, flags, ranges and
    /// other people's programs
    #[arg(long)]
    all: bool,
    /// Tell only stories whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    story: String,
    /// End a guest that has not ended by itself by then [default: 3600, and
    /// 21600 with --all]
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// What runs the guest's code: `tcg` works everywhere, `kvm` is fast
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// Where the emulator or the kernels cannot be had, say so and do nothing
    #[arg(long)]
    or_skip: bool,
    /// Show what the guests print
    #[arg(long)]
    verbose: bool,
}

impl Args {
    fn limit(&self) -> Duration {
        let usual = if self.all { 6 * 3600 } else { 3600 };
        Duration::from_secs(self.limit.unwrap_or(usual))
    }
}

pub fn run(args: Args) -> Result<()> {
    let wanted = |kernel: &&Kernel| args.kernel.as_ref().is_none_or(|name| name == kernel.version);
    let kernels: Vec<_> = KERNELS.iter().filter(wanted).collect();
    ensure!(!kernels.is_empty(), "only {} are known", KERNELS.map(|k| k.version).join(" and "));
    ensure!(file_systems(&args).count() > 0, "only {} are tried", FILE_SYSTEMS.join(", "));
    let stock = match fetch(&kernels) {
        Err(error) if args.or_skip => {
            println!("skipped: test-kernels: {error:#}");
            return Ok(());
        }
        stock => stock?,
    };
    let programs = Programs::build(&args)?;
    let trials = programs.trials(&args)?;
    let wanted = programs.rows(&args, &trials)?;
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let tried = boot_all(&stock, &programs, &trials, &args);
    for (version, tried) in stock.iter().map(|stock| stock.version).zip(tried) {
        let judged = tried.and_then(|found| {
            let judged = judge(&found, &wanted);
            rows.extend(found.into_iter().map(|row| (version, row)));
            judged
        });
        if let Err(error) = judged {
            failed.push(format!("{version}: {error:#}"));
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

/// A kernel and what its guest starts with, fetched.
struct Stock {
    version: &'static str,
    place: PathBuf,
    unpacked: PathBuf,
    release: String,
    busybox: PathBuf,
}

fn fetch(kernels: &[&Kernel]) -> Result<Vec<Stock>> {
    packages::install("qemu-system-x86_64", "qemu-system-x86")?;
    let fetch = |kernel: &&Kernel| {
        let Kernel { version, suite } = **kernel;
        let place = cargo::target().join("kernels").join(version);
        let unpacked = packages::fetch("linux-image-amd64", suite, &place)?;
        let release = modules::release(&unpacked)?;
        let busybox = packages::fetch("busybox-static", suite, &place.join("busybox"))?;
        let busybox = ["usr/bin/busybox", "bin/busybox"].map(|at| busybox.join(at));
        let busybox = busybox.into_iter().find(|path| path.is_file());
        let busybox = busybox.context("no busybox in its package")?;
        Ok(Stock { version, place, unpacked, release, busybox })
    };
    kernels.iter().map(fetch).collect()
}

/// At once: one guest alone keeps little more than one core busy.
fn boot_all(
    stock: &[Stock],
    programs: &Programs,
    trials: &[Trial],
    args: &Args,
) -> Vec<Result<Vec<Row>>> {
    thread::scope(|scope| {
        let boot = |stock| scope.spawn(move || boot(stock, programs, trials, args));
        let guests: Vec<_> = stock.iter().map(boot).collect();
        let ends = guests.into_iter().map(ScopedJoinHandle::join);
        ends.map(|end| end.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn boot(stock: &Stock, programs: &Programs, trials: &[Trial], args: &Args) -> Result<Vec<Row>> {
    let Stock { place, unpacked, release, busybox, .. } = stock;
    let mut image = Image::default();
    programs.add(args, &mut image)?;
    image.program("/bin/busybox", busybox)?;
    for tool in TOOLS {
        match machine::program(tool) {
            Some(path) => image.program(&format!("/usr/bin/{tool}"), &path)?,
            None => println!("note: without {tool} some methods cannot be tried"),
        }
    }
    Modules::of(unpacked, release)?.add(&MODULES, &mut image)?;
    let told_on: Vec<_> = match args.all {
        true => file_systems(args).collect(),
        false => Vec::new(),
    };
    let mut variables = trials::variables(args);
    variables.push(("REPLICATOR_HOOKS", HOOKS.to_owned()));
    variables.push((foreign::WRITER_VARIABLE, WRITER.to_owned()));
    image.script("/init", &guest::init(trials, &told_on, &variables));
    let initrd = place.join("initrd");
    image.write(&initrd)?;
    println!("booting {release}");
    let guest = Guest {
        kernel: &unpacked.join("boot").join(format!("vmlinuz-{release}")),
        initrd: &initrd,
        disks: told_on.iter().map(|name| place.join(format!("disk-{name}"))).collect(),
        accelerator: &args.accelerator,
        log: &place.join("console"),
        verbose: args.verbose,
    };
    guest.run(args.limit())
}

/// Whether the rows of one kernel tell of all that was to be tried, each once,
/// with the hooks that these kernels have.
fn judge(rows: &[Row], wanted: &[(&str, String)]) -> Result<()> {
    for (file_system, method) in wanted {
        let of_method = |row: &&Row| row.file_system == *file_system && row.method == *method;
        let count = rows.iter().filter(of_method).count();
        ensure!(count == 1, "{count} rows tell of {method} on {file_system}");
    }
    let rest = rows.len() - wanted.len();
    ensure!(rest == 0, "{rest} rows tell of nothing that was asked for");
    let other = rows.iter().find(|row| row.hooks != HOOKS);
    ensure!(other.is_none(), "other hooks than {HOOKS}: {other:?}");
    Ok(())
}

fn table(rows: &[(&str, Row)]) -> String {
    let mut text = String::new();
    for (kernel, row) in rows {
        let Row { file_system, hooks, method, outcome } = row;
        text += &format!("{kernel:<6}{file_system:<7}{hooks:<16}{method:<60} {outcome}\n");
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
        let systems = ["ext4", "xfs"];
        let all = || systems.iter().flat_map(|&fs| ["one", "other"].map(|method| (fs, method)));
        let wanted: Vec<_> = all().map(|(fs, method)| (fs, method.to_owned())).collect();
        let full: Vec<_> = all().map(|(fs, method)| row(fs, HOOKS, method)).collect();
        judge(&full, &wanted).unwrap();
        let why = |rows: &[Row]| judge(rows, &wanted).unwrap_err().to_string();
        assert_eq!(why(&full[1..]), "0 rows tell of one on ext4");
        assert_eq!(why(&[&full[..], &full[3..]].concat()), "2 rows tell of other on xfs");
        let foreign = [&full[..], &[row("ext4", HOOKS, "foreign")]].concat();
        assert_eq!(why(&foreign), "1 rows tell of nothing that was asked for");
        let lower = [&full[1..], &[row("ext4", "raw tracepoints", "one")]].concat();
        assert!(why(&lower).starts_with("other hooks"), "{}", why(&lower));
    }
}
