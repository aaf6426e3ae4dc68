//! From the compiled object to attached programs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::SystemTime;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use replicator_ebpf::Note;

use super::Kernel;
use super::hooks::{FileSystem, HOOKS, Hook, Needs};
use super::offsets::Offsets;
use super::slots::{Mapped, SharedSlot};
use crate::capture::counters::Tally;
use crate::capture::describe::MissingHook;
use crate::capture::limits::MEMORY_BYTES_MIN;

/// Built by `cargo xtask build-ebpf` and kept with its sources' digest.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../replicator-ebpf/replicator.bpf.o"
));

/// Programs at work, and what this kernel did not have.
pub struct Attached {
    pub kernel: Kernel,
    pub hooks: Vec<String>,
    pub missing: Vec<MissingHook>,
}

/// What a note takes in the ring, with its header.
const NOTE_BYTES: usize = size_of::<Note>() + 8;

/// How the allowed memory is divided.
struct Sizes {
    slots: u32,
    notes_bytes: u32,
    inodes: u32,
    tasks: u32,
}

impl Sizes {
    fn of(memory_bytes: usize) -> Self {
        let bytes = memory_bytes.clamp(MEMORY_BYTES_MIN, 1 << 32);
        // A power of two that takes between a third and two thirds.
        let slots = bytes / 8 * 5 / size_of::<SharedSlot>();
        let slots = 1u32 << slots.max(1).ilog2();
        Self {
            slots,
            // A note of every slot, and some more, fit at once.
            notes_bytes: (slots * 64).max(1 << 16),
            // Some 100 bytes each in the kernel.
            inodes: (bytes / 512) as u32,
            tasks: (bytes / 8192).clamp(256, 8192) as u32,
        }
    }
}

/// Loads and attaches the programs for the folder. The error is one plain
/// line for the user.
pub fn load(
    root: BorrowedFd<'_>,
    file_system: FileSystem,
    memory_bytes: usize,
    tally: Arc<Tally>,
) -> Result<Attached, String> {
    let offsets = Offsets::of_running_kernel().map_err(|error| error.to_string())?;
    let sizes = Sizes::of(memory_bytes);
    let mut ebpf = prepare(root, &offsets, &sizes)?;
    let mut hooks = Vec::new();
    let mut missing = Vec::new();
    let mut programs = Vec::new();
    for hook in HOOKS.iter().filter(|hook| hook.serves(file_system)) {
        match attach(&mut ebpf, hook, &offsets) {
            Ok(program) => {
                hooks.push(hook.name.to_owned());
                programs.push(program);
            }
            Err(reason) if hook.essential => {
                return Err(format!("{} ({}): {reason}", hook.name, hook.shows));
            }
            Err(reason) => {
                let costs = format!("{} go unseen: {reason}", hook.shows);
                missing.push(MissingHook { name: hook.name.to_owned(), costs });
            }
        }
    }
    let kernel = assemble(ebpf, &sizes, programs, tally)?;
    Ok(Attached { kernel, hooks, missing })
}

fn prepare(root: BorrowedFd<'_>, offsets: &Offsets, sizes: &Sizes) -> Result<Ebpf, String> {
    let stat = rustix::fs::fstat(root).map_err(|error| error.to_string())?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    // As the kernel writes a device number for itself.
    let device: u32 = major << 20 | minor;
    let own = std::process::id();
    let mask = sizes.slots - 1;
    let page_shift: u32 = rustix::param::page_size().ilog2();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("ROOT_DEVICE", &device, true)
        .override_global("ROOT_INODE", &stat.st_ino, true)
        .override_global("OWN_TGID", &own, true)
        .override_global("SLOT_MASK", &mask, true)
        .override_global("PAGE_SHIFT", &page_shift, true)
        .map_max_entries("SLOTS", sizes.slots)
        .map_max_entries("NOTES", sizes.notes_bytes)
        .map_max_entries("INODES", sizes.inodes)
        .map_max_entries("DIRTYING", sizes.tasks)
        .map_max_entries("ANNOUNCED", sizes.tasks);
    for (global, value) in &offsets.values {
        loader.override_global(global, value, true);
    }
    loader.load(OBJECT).map_err(|error| {
        tracing::debug!(?error, "the kernel programs cannot be loaded");
        let refused = chain(&error);
        // A container's root may lack what root stands for elsewhere.
        if rustix::process::geteuid().is_root() && !refused.contains("not permitted") {
            refused
        } else {
            format!("it needs root, or CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN ({refused})")
        }
    })
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, offsets: &Offsets) -> Result<i32, String> {
    match hook.needs {
        Needs::Nothing => {}
        Needs::Iter => offsets.iter.clone()?,
        Needs::Xfs => offsets.xfs.clone()?,
    }
    let program = ebpf.program_mut(hook.name).ok_or("the object lacks this program")?;
    let program: &mut RawTracePoint = program.try_into().map_err(|error| chain(&error))?;
    program.load().map_err(|error| refusal(&error))?;
    program.attach(hook.name).map_err(|error| match not_there(&error) {
        true => "this kernel has no such tracepoint".to_owned(),
        false => chain(&error),
    })?;
    let fd = program.fd().map_err(|error| chain(&error))?;
    Ok(fd.as_fd().as_raw_fd())
}

fn assemble(
    mut ebpf: Ebpf,
    sizes: &Sizes,
    programs: Vec<i32>,
    tally: Arc<Tally>,
) -> Result<Kernel, String> {
    let slots = take_array(&mut ebpf, "SLOTS")?;
    let slots = Mapped::slots(slots.fd().as_fd(), sizes.slots as usize)
        .map_err(|error| format!("the bitmaps cannot be mapped: {error}"))?;
    let words = take_array(&mut ebpf, "WORDS")?;
    let words = Mapped::words(words.fd().as_fd())
        .map_err(|error| format!("the counters cannot be mapped: {error}"))?;
    let notes = ebpf.take_map("NOTES").ok_or("the object lacks the map NOTES")?;
    let notes = RingBuf::try_from(notes).map_err(|error| chain(&error))?;
    Ok(Kernel {
        noted: vec![0; slots.len()],
        slots,
        words,
        notes,
        programs,
        taken: 0,
        drains: 0,
        notes_max: sizes.notes_bytes as usize / NOTE_BYTES,
        slot_notes_dropped: 0,
        range_notes_dropped: 0,
        missed: 0,
        check_at: None,
        drained_at: SystemTime::now().into(),
        checked_at: SystemTime::now().into(),
        pending: Default::default(),
        tally,
        _ebpf: ebpf,
    })
}

fn take_array(ebpf: &mut Ebpf, name: &str) -> Result<MapData, String> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(format!("the object lacks the array {name}")),
    }
}

/// The verifier's log is for whoever changes the programs, not for the user.
fn refusal(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(%io_error, %verifier_log, "the kernel refused a program");
            format!("the kernel refused the program: {io_error}")
        }
        other => chain(other),
    }
}

fn not_there(error: &ProgramError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error() == Some(libc::ENOENT);
        }
        source = error.source();
    }
    false
}

/// The error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}
