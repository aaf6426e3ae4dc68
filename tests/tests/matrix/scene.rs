//! Where one method of writing is tried: a folder with a file in it on node
//! `a`, and what must come of it on node `b`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replicator_tests::random::Random;
use replicator_tests::{poll, tree};

/// A hundred times what a small change should take.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(8);

/// How long what failed to arrive within that is waited for yet, to say whether it
/// was late or lost.
const LATE_LIMIT: Duration = Duration::from_secs(40);

/// Length of the file: some pages, leaves and extents.
pub const FILE_BYTES: u64 = 1 << 20;

/// How many others write while a method is tried on a busy file.
const DISTURBERS: u64 = 2;

/// Where they write: behind what methods write to, in a leaf of the hash list
/// of its own. What is told of their writes must not lead to the method's.
const DISTURBED: Range<usize> = 4 << 20..(4 << 20) + (64 << 10);

/// Between two writes of a disturber: a node follows a file whole version by
/// whole version, and one that changes faster than that only when it rests.
const DISTURBER_PAUSE: Duration = Duration::from_millis(20);

/// A way to write.
#[derive(Clone, Copy)]
pub struct Method {
    pub name: &'static str,
    pub seen: Seen,
    pub run: fn(&Scene) -> io::Result<()>,
}

/// What a level without kernel programs learns of a method, and a word that
/// tells of it among what the status says is seen late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    AtOnce,
    /// By fanotify at once; inotify knows of no name it could have.
    LateByInotify(&'static str),
    /// When the file is closed, and its last mapping gone.
    AtClose(&'static str),
    /// When the folder is verified.
    Late(&'static str),
}

/// When what a method writes must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    AtOnce,
    AtClose,
    Verified,
}

/// One method's stage.
pub struct Scene {
    /// The folder on the node that writes.
    here: PathBuf,
    /// The folder on the node that follows.
    there: PathBuf,
    /// On the same file system, outside of every folder.
    outside: PathBuf,
    /// Unlike that of any other scene.
    number: u64,
    busy: bool,
    due: Due,
    /// The level tells what was written, not only that something was.
    exact: bool,
    failures: RefCell<Vec<String>>,
}

/// How a method went.
pub enum Outcome {
    Done,
    /// The file system does not have it.
    Lacking(String),
    /// This machine or its kernel does not have it.
    Skipped(String),
    Failed(String),
}

impl Scene {
    pub fn new(
        (a, b): (&Path, &Path),
        name: &str,
        outside: &Path,
        number: u64,
        busy: bool,
        due: Due,
    ) -> Self {
        let folder = format!("{number:02}-{}", name.replace([' ', ',', '/'], "-"));
        Self {
            here: a.join(&folder),
            there: b.join(&folder),
            outside: outside.to_owned(),
            number,
            busy,
            due,
            exact: false,
            failures: RefCell::default(),
        }
    }

    /// At a level that tells ranges, the method's must be told though others
    /// write. Elsewhere news of theirs leads to all of the file.
    pub fn exact(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Fills the folder with `f` to write to, and waits until it is there.
    pub fn prepare(&self) -> io::Result<()> {
        fs::create_dir(&self.here)?;
        fs::create_dir(&self.outside)?;
        let mut random = Random::new(self.number);
        fs::write(self.path("f"), random.bytes(FILE_BYTES as usize))?;
        if self.busy {
            // The first write of a disturber must not make the file longer.
            self.file()?.set_len(DISTURBED.end as u64)?;
        }
        fs::write(self.source_path(), random.bytes(FILE_BYTES as usize))?;
        match self.difference() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("a new file does not arrive: {why}"))),
        }
    }

    /// Takes everything away again.
    pub fn clear(&self) {
        fs::remove_dir_all(&self.here).expect("own directory");
        // Not all of what overlayfs keeps for itself is open to nobody.
        let _ = fs::remove_dir_all(&self.outside);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.here.join(name)
    }

    /// `f`, to read and write.
    pub fn file(&self) -> io::Result<File> {
        self.open(0)
    }

    /// `f`, to read and write, with further flags.
    pub fn open(&self, flags: i32) -> io::Result<File> {
        use std::os::unix::fs::OpenOptionsExt;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.path("f"))
    }

    /// A file to copy from, on the same file system.
    pub fn source(&self) -> io::Result<File> {
        File::open(self.source_path())
    }

    pub fn source_path(&self) -> PathBuf {
        self.outside("source")
    }

    pub fn outside(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    /// Every file of the folder, without what disturbers write.
    fn contents(&self, folder: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
        let mut contents = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let mut bytes = fs::read(entry.path())?;
                if self.busy {
                    bytes.resize(bytes.len().max(DISTURBED.end), 0);
                    bytes[DISTURBED].fill(0);
                }
                contents.insert(entry.file_name(), bytes);
            }
        }
        Ok(contents)
    }

    /// Bytes that were never written before.
    pub fn bytes(&self, step: u64, length: usize) -> Vec<u8> {
        Random::new(self.number << 32 | step << 1 | u64::from(self.busy)).bytes(length)
    }

    /// Between two steps of a method: what was done so far is there, and the
    /// daemon has done with it. While others write, nothing can be said.
    pub fn arrives(&self, step: &str) {
        if self.busy || self.due != Due::AtOnce {
            return;
        }
        if let Some(why) = self.difference() {
            self.failures.borrow_mut().push(format!("{step}: {why}"));
        }
    }

    /// Tries the method and waits for its result.
    pub fn play(&self, method: &Method) -> Outcome {
        let before = self.contents(&self.here).expect("own directory");
        let result = if self.busy { self.disturbed(method) } else { (method.run)(self) };
        match result {
            Err(error) if is_machines(&error) => return Outcome::Skipped(error.to_string()),
            Err(error) if is_lacking(&error) => return Outcome::Lacking(error.to_string()),
            Err(error) => return Outcome::Failed(format!("cannot be done: {error}")),
            Ok(()) => {}
        }
        // Beside disturbers, what only moves the end changes nothing that lasts.
        if !self.busy && self.contents(&self.here).expect("own directory") == before {
            return Outcome::Failed("wrote nothing".into());
        }
        let mut failures = self.failures.take();
        if self.due != Due::Verified {
            // By now the method has closed what it opened.
            failures.extend(self.difference());
        }
        match failures.is_empty() {
            true => Outcome::Done,
            false => Outcome::Failed(failures.join("; ")),
        }
    }

    /// What the other node's folder still lacks when it should not.
    pub fn difference(&self) -> Option<String> {
        let mut lacks = String::new();
        let mut is_same = || {
            let differences = tree::differences(&self.here, &self.there);
            let lines = differences.unwrap_or_else(|error| vec![error.to_string()]);
            if !lines.is_empty() {
                lacks = lines.join(", ");
            }
            lines.is_empty()
        };
        if poll::until(ARRIVAL_LIMIT, &mut is_same) {
            return None;
        }
        let start = Instant::now();
        let came = poll::until(LATE_LIMIT, &mut is_same);
        let waited = ARRIVAL_LIMIT + start.elapsed();
        let then = if came { "there after" } else { "not there after" };
        Some(format!("{lacks}, {then} {waited:.1?}"))
    }

    /// What of the method's own the other node lacks though it should not.
    fn untold(&self) -> Option<String> {
        let is_there = || {
            let contents = [&self.here, &self.there].map(|folder| self.contents(folder).ok());
            contents[0].is_some() && contents[0] == contents[1]
        };
        let told = poll::until(ARRIVAL_LIMIT, is_there);
        (!told).then(|| "does not arrive while others write".to_owned())
    }

    /// Runs the method while others write to the same file; where its bytes
    /// must be told by themselves, they go on until these are there.
    fn disturbed(&self, method: &Method) -> io::Result<()> {
        let over = AtomicBool::new(false);
        // Opened before the method moves or removes the name.
        let files: Vec<File> = (0..DISTURBERS).map(|_| self.file()).collect::<Result<_, _>>()?;
        thread::scope(|scope| {
            let start = |(number, file)| {
                let over = &over;
                scope.spawn(move || disturb(file, number, over))
            };
            let disturbers: Vec<_> = (0..).zip(files).map(start).collect();
            let result = (method.run)(self);
            if result.is_ok() && self.exact {
                self.failures.borrow_mut().extend(self.untold());
            }
            over.store(true, Ordering::SeqCst);
            for disturber in disturbers {
                disturber.join().expect("no panic")?;
            }
            result
        })
    }
}

/// Writes here and there until it is over.
fn disturb(file: File, number: u64, over: &AtomicBool) -> io::Result<()> {
    let mut random = Random::new(number);
    let mut rounds = 0;
    while rounds < 3 || !over.load(Ordering::SeqCst) {
        let length = 1 + random.below(9000) as usize;
        let at = DISTURBED.start as u64 + random.below(DISTURBED.len() as u64 - 9000);
        file.write_all_at(&random.bytes(length), at)?;
        rounds += 1;
        thread::sleep(DISTURBER_PAUSE);
    }
    Ok(())
}

/// The error of a method that this machine has no program or call for.
pub fn machine_lacks(what: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what:#}"))
}

fn is_machines(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => code == libc::ENOSYS,
        None => error.kind() == io::ErrorKind::Unsupported,
    }
}

fn is_lacking(error: &io::Error) -> bool {
    let lacking = [libc::EOPNOTSUPP, libc::ENOTTY];
    error.raw_os_error().is_some_and(|code| lacking.contains(&code))
}
