//! What is measured: how soon a small file is there, what a small change of a
//! large file costs, and how fast a first merge is.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use replicator_tests::random::Random;
use replicator_tests::{poll, sample, tree};

use crate::report::Measure;
use crate::system::{Place, System};

/// What takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(120);

/// Time one system may spend on samples, so that slow ones get fewer.
const SAMPLES_LIMIT: Duration = Duration::from_secs(30);

/// How closely an arrival is timed.
const LOOK: Duration = Duration::from_micros(200);

/// Idle is what uses less than this share of one core over this time.
const IDLE_WINDOW: Duration = Duration::from_millis(1000);
const IDLE_SHARE: f64 = 0.04;

const EDITS: usize = 5;
const EDIT_BYTES: usize = 4096;
const SMALL_BYTES: usize = 2000;

/// As `sample::small_files` lays them out.
const FILES_IN_FOLDER: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    Latency,
    Edit,
    Bulk,
    Small,
}

#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub samples: usize,
    pub edit_bytes: u64,
    pub bulk_bytes: u64,
    pub small_files: u64,
}

/// Data made once and lent to each measurement by a rename, so that making it
/// is no part of anything measured.
#[derive(Debug)]
pub struct Seeds {
    dir: PathBuf,
    sizes: Sizes,
    /// Times the large file was lent: each time other bytes must change, or
    /// the second system would find its work done.
    edited: Cell<u64>,
}

impl Workload {
    pub const ALL: [Self; 4] = [Self::Latency, Self::Edit, Self::Bulk, Self::Small];

    pub fn measure(
        self,
        seeds: &Seeds,
        place: &Place,
        system: &mut dyn System,
    ) -> Result<Vec<Measure>> {
        match self {
            Self::Latency => latency(seeds.sizes.samples, place, system),
            Self::Edit => edit(seeds, place, system),
            Self::Bulk => {
                let size = seeds.sizes.bulk_bytes;
                let seconds = seeds.lend("bulk", &place.a.join("bulk"), system, |system| {
                    first_merge(place, system, || is_whole(&place.b.join("bulk"), size))
                })?;
                Ok(merge_measures(seconds, "MB/s", size as f64 / 1e6))
            }
            Self::Small => {
                let mut folders = Pending::new(&seeds.path("small"))?;
                let seconds = seeds.lend("small", &place.a.join("small"), system, |system| {
                    first_merge(place, system, || folders.all_in(&place.b.join("small")))
                })?;
                Ok(merge_measures(seconds, "files/s", seeds.sizes.small_files as f64))
            }
        }
    }
}

impl Seeds {
    pub fn make(work: &Path, workloads: &[Workload], sizes: Sizes) -> Result<Self> {
        let seeds = Self { dir: work.join("seeds"), sizes, edited: Cell::new(0) };
        fs::create_dir(&seeds.dir)?;
        if workloads.contains(&Workload::Edit) {
            fs::create_dir(seeds.path("edit-a"))?;
            sample::random_file(&seeds.path("edit-a/large"), sizes.edit_bytes, 1)?;
            sample::copy(&seeds.path("edit-a"), &seeds.path("edit-b"))?;
        }
        if workloads.contains(&Workload::Bulk) {
            sample::random_file(&seeds.path("bulk"), sizes.bulk_bytes, 2)?;
        }
        if workloads.contains(&Workload::Small) {
            sample::small_files(&seeds.path("small"), sizes.small_files, SMALL_BYTES)?;
        }
        rustix::fs::sync();
        Ok(seeds)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Moves a seed to where it is needed and back, whatever happens between.
    /// The system is stopped first: taking the file back is no change to
    /// replicate.
    fn lend<T>(
        &self,
        name: &str,
        to: &Path,
        system: &mut dyn System,
        during: impl FnOnce(&mut dyn System) -> Result<T>,
    ) -> Result<T> {
        fs::rename(self.path(name), to)?;
        let result = during(system);
        let stopped = system.stop();
        fs::rename(to, self.path(name))?;
        result.and_then(|value| stopped.map(|()| value))
    }
}

/// Time from before the first system call on A to B having the content.
fn latency(samples: usize, place: &Place, system: &mut dyn System) -> Result<Vec<Measure>> {
    for number in 0..100 {
        fs::write(place.a.join(format!("there-{number}")), format!("{number}"))?;
    }
    system.start(place)?;
    settle(place, system)?;
    let (cpu, start) = (system.cpu_seconds()?, Instant::now());
    let mut times = Vec::new();
    for number in 0..samples {
        let content = Random::new(number as u64).bytes(SMALL_BYTES);
        let (here, there) =
            (place.a.join(format!("new-{number}")), place.b.join(format!("new-{number}")));
        let begin = Instant::now();
        fs::write(here, &content)?;
        system.push()?;
        arrival(|| fs::read(&there).is_ok_and(|bytes| bytes == content))?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        if start.elapsed() > SAMPLES_LIMIT {
            break;
        }
    }
    verify(place, system)?;
    idle(system)?;
    let used = (system.cpu_seconds()? - cpu) * 1000.0 / times.len() as f64;
    times.sort_by(f64::total_cmp);
    Ok(vec![
        Measure::smaller("median", "ms", percentile(&times, 0.5)),
        Measure::smaller("p99", "ms", percentile(&times, 0.99)),
        Measure::smaller("cpu a file", "ms", used),
    ])
}

/// 4 KiB overwritten somewhere inside a large file that both sides hold.
fn edit(seeds: &Seeds, place: &Place, system: &mut dyn System) -> Result<Vec<Measure>> {
    let (here, there) = (place.a.join("large"), place.b.join("large"));
    seeds.lend("edit-a/large", &here, system, |system| {
        seeds.lend("edit-b/large", &there, system, |system| {
            system.start(place)?;
            settle(place, system)?;
            let (cpu, wire) = (system.cpu_seconds()?, system.wire_bytes()?);
            let mut times = Vec::new();
            seeds.edited.set(seeds.edited.get() + 1);
            let mut random = Random::new(seeds.edited.get());
            for _ in 0..EDITS {
                let content = random.bytes(EDIT_BYTES);
                let offset = random.below(seeds.sizes.edit_bytes - EDIT_BYTES as u64);
                let file = OpenOptions::new().write(true).open(&here)?;
                let begin = Instant::now();
                file.write_all_at(&content, offset)?;
                drop(file);
                system.push()?;
                let mut seen = vec![0; EDIT_BYTES];
                arrival(|| {
                    let read =
                        File::open(&there).and_then(|file| file.read_exact_at(&mut seen, offset));
                    read.is_ok() && seen == content
                })?;
                times.push(begin.elapsed().as_secs_f64() * 1000.0);
                // lsyncd without a delay misses an edit made while its last
                // rsync is about to end.
                idle(system)?;
            }
            times.sort_by(f64::total_cmp);
            let mut measures = vec![Measure::smaller("median", "ms", percentile(&times, 0.5))];
            if let (Some(after), Some(before)) = (system.wire_bytes()?, wire) {
                let bytes = (after - before) as f64 / EDITS as f64;
                measures.push(Measure::smaller("wire an edit", "KiB", bytes / 1024.0));
            }
            verify(place, system)?;
            idle(system)?;
            let used = (system.cpu_seconds()? - cpu) * 1000.0 / EDITS as f64;
            measures.push(Measure::smaller("cpu an edit", "ms", used));
            Ok(measures)
        })
    })
}

/// Seconds from the start of the system to `done`, and the processor time.
fn first_merge(
    place: &Place,
    system: &mut dyn System,
    done: impl FnMut() -> bool,
) -> Result<(f64, f64)> {
    let begin = Instant::now();
    system.start(place)?;
    arrival(done)?;
    let seconds = begin.elapsed().as_secs_f64();
    verify(place, system)?;
    idle(system)?;
    Ok((seconds, system.cpu_seconds()?))
}

fn merge_measures((seconds, cpu): (f64, f64), unit: &'static str, amount: f64) -> Vec<Measure> {
    vec![Measure::larger("from start", unit, amount / seconds), Measure::smaller("cpu", "s", cpu)]
}

/// Until a fresh file has crossed and the system is idle: what its start
/// leaves behind is no part of what is measured.
fn settle(place: &Place, system: &mut dyn System) -> Result<()> {
    fs::write(place.a.join("probe"), "probe")?;
    system.push()?;
    arrival(|| fs::read(place.b.join("probe")).is_ok_and(|bytes| bytes == b"probe"))?;
    idle(system)
}

/// Until no process of the system works any more; then all have been counted,
/// children that ended included.
fn idle(system: &dyn System) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        let before = system.cpu_seconds()?;
        thread::sleep(IDLE_WINDOW);
        if system.cpu_seconds()? - before < IDLE_SHARE * IDLE_WINDOW.as_secs_f64() {
            return Ok(());
        }
    }
    bail!("it is still busy after {LIMIT:?}")
}

fn arrival(mut there: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !there() {
        if begin.elapsed() > LIMIT {
            bail!("nothing arrived within {LIMIT:?}");
        }
        // Coarser with time, so that looking costs a hundredth at most.
        thread::sleep(LOOK.max(begin.elapsed() / 200));
    }
    Ok(())
}

/// Speed with wrong results is worth nothing. Others keep less than this
/// program promises, so all are held to names and contents alone.
fn verify(place: &Place, system: &dyn System) -> Result<()> {
    let mut why = String::new();
    let same = poll::until(Duration::from_secs(60), || {
        let lines = tree::differences(&place.a, &place.b);
        let lines = lines.unwrap_or_else(|error| vec![error.to_string()]);
        let strict = system.name() == "replicator";
        why = lines.into_iter().filter(|line| strict || !is_forgiven(line)).collect();
        why.is_empty()
    });
    if !same {
        bail!("the trees differ: {why}");
    }
    Ok(())
}

fn is_forgiven(line: &str) -> bool {
    line.contains("metadata ") || line.contains(".stfolder") || line.contains("perhaps more")
}

fn is_whole(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == size)
}

/// Folders whose files have not all been seen: looking at each once keeps the
/// looking cheap beside what is looked at.
struct Pending(Vec<PathBuf>);

impl Pending {
    fn new(root: &Path) -> Result<Self> {
        let mut folders = Vec::new();
        for outer in fs::read_dir(root)? {
            for inner in fs::read_dir(outer?.path())? {
                folders.push(inner?.path().strip_prefix(root)?.to_path_buf());
            }
        }
        Ok(Self(folders))
    }

    fn all_in(&mut self, root: &Path) -> bool {
        while let Some(folder) = self.0.last() {
            // The last folder may hold fewer; verify() looks at every file.
            let count = fs::read_dir(root.join(folder)).map_or(0, Iterator::count) as u64;
            if count < FILES_IN_FOLDER {
                return false;
            }
            self.0.pop();
        }
        true
    }
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|workload| workload.to_string() == text);
        found.ok_or_else(|| format!("'{text}' is none of latency, edit, bulk and small"))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latency => "latency",
            Self::Edit => "edit",
            Self::Bulk => "bulk",
            Self::Small => "small",
        })
    }
}
