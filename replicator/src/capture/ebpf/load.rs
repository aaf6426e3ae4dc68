//! From the compiled object to attached programs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use replicator_ebpf::{Note, Set};

use super::Kernel;
use super::btf::Btf;
use super::code::{self, Code, Tracing};
use super::exits::{self, Exit, Plan};
use super::hooks::{FileSystem, HOOKS, Hook};
use super::offsets::Offsets;
use super::slots::{Mapped, SharedSlot};
use super::sys;
use crate::capture::Lack;
use crate::capture::counters::Tally;
use crate::capture::describe::MissingHook;
use crate::capture::limits::{IDLE_CHECK_INTERVAL, MEMORY_BYTES_MIN};

/// Built by `cargo xtask build-ebpf` and kept with its sources' digest.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../replicator-ebpf/replicator.bpf.o"
));

/// Programs at work, and what this kernel did not have.
pub struct Attached {
    pub kernel: Kernel,
    pub hook_set: &'static str,
    /// A write may be told of before it is done.
    pub tells_early: bool,
    pub hooks: Vec<String>,
    pub missing: Vec<MissingHook>,
    /// Why the programs on functions are not used, if so.
    pub why_not_exits: Option<String>,
}

/// One file for the kernel, and one for each of its modules.
const TYPES: &str = "/sys/kernel/btf";
const KERNEL: &str = "vmlinux";

const NO_TRACEPOINT: &str = "this kernel has no such tracepoint";

/// What a note takes in the ring, with its header.
const NOTE_BYTES: usize = size_of::<Note>() + 8;

/// How the allowed memory is divided.
struct Sizes {
    slots: u32,
    notes_bytes: u32,
    sets: u32,
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
            // An eighth at most.
            sets: 1 << (bytes / 8 / size_of::<Set>()).ilog2(),
            tasks: (bytes / 8192).clamp(512, 8192) as u32,
        }
    }
}

/// Loads and attaches the programs for the folder: those on functions where
/// this kernel takes them, those on tracepoints otherwise. The error is one
/// plain line for the user.
pub fn load(
    root: BorrowedFd<'_>,
    file_system: FileSystem,
    memory_bytes: usize,
    tally: Arc<Tally>,
) -> Result<Attached, Lack> {
    load_described(Path::new(TYPES), root, file_system, memory_bytes, tally)
}

/// The same for a kernel that is described in the files of `types`.
fn load_described(
    types: &Path,
    root: BorrowedFd<'_>,
    file_system: FileSystem,
    memory_bytes: usize,
    tally: Arc<Tally>,
) -> Result<Attached, Lack> {
    let kernel = Btf::open(&types.join(KERNEL), None).map_err(|error| error.to_string())?;
    let module = types.join(file_system.name());
    let module = module.exists().then(|| Btf::open(&module, Some(&kernel))).transpose();
    let module = module.map_err(|error| error.to_string())?;
    let offsets = Offsets::of(file_system, &kernel, module.as_ref());
    let folder = Folder {
        root,
        file_system,
        offsets: offsets.map_err(|error| error.to_string())?,
        sizes: Sizes::of(memory_bytes),
        tally,
    };
    let plan = folder.plan_exits(&kernel, module.as_ref());
    let attached = plan.map_err(Lack::from).and_then(|plan| folder.attach_exits(plan));
    let Lack { reason: why_not_exits, is_denied } = match attached {
        Ok(attached) => return Ok(attached),
        Err(lack) => lack,
    };
    if let Some(lack) = file_system.lacks_tracepoints() {
        return Err(Lack { reason: format!("{lack}, and {why_not_exits}"), is_denied });
    }
    let attached = folder.attach_tracepoints(&kernel)?;
    Ok(Attached { why_not_exits: Some(why_not_exits), ..attached })
}

/// What is to be watched, and with what.
struct Folder<'a> {
    root: BorrowedFd<'a>,
    file_system: FileSystem,
    offsets: Offsets,
    sizes: Sizes,
    tally: Arc<Tally>,
}

impl Folder<'_> {
    fn plan_exits(&self, kernel: &Btf<'_>, module: Option<&Btf<'_>>) -> Result<Plan, String> {
        code::probe(kernel)?;
        self.offsets.exits.clone()?;
        Plan::of(self.file_system, kernel, module).map_err(|error| error.to_string())
    }

    fn attach_exits(&self, plan: Plan) -> Result<Attached, Lack> {
        let constants = [("EXITS", 1), ("FAULTS_TOLD", u32::from(plan.faults_told))];
        let mut ebpf = prepare(self, OBJECT, &constants)?;
        let code = Code::of(OBJECT, &ebpf)?;
        let module = plan.found.iter().any(|found| found.in_module);
        let module = module.then(|| sys::module_types(self.file_system.name())).transpose();
        let module = module.map_err(|error| format!("{}: {error}", self.file_system.name()))?;
        let mut programs = Programs::default();
        let of_set = |hook: &&Hook| exits::TRACEPOINTS.contains(&hook.name);
        for hook in self.hooks().filter(of_set) {
            programs.attach(&mut ebpf, hook, &self.offsets)?;
        }
        for found in &plan.found {
            let Exit { function, shows, .. } = found.exit;
            let tracing = code
                .attach(found, module.as_ref())
                .map_err(|reason| format!("{function} ({shows}): {reason}"))?;
            programs.add(function, tracing.program.as_raw_fd());
            programs.tracing.push(tracing);
        }
        programs.hooks.dedup();
        programs.missing = plan.missing;
        Ok(assemble(ebpf, self, programs, "function exits")?)
    }

    fn attach_tracepoints(&self, kernel: &Btf<'_>) -> Result<Attached, Lack> {
        let mut object = OBJECT.to_vec();
        let casts = code::probe_casts(kernel);
        if let Some(number) = casts {
            code::set_casts(&mut object, number);
        }
        let constants = [("CASTS", u32::from(casts.is_some()))];
        let mut ebpf = prepare(self, &object, &constants)?;
        let mut programs = Programs::default();
        for hook in self.hooks() {
            programs.attach(&mut ebpf, hook, &self.offsets)?;
        }
        let attached = assemble(ebpf, self, programs, "raw tracepoints")?;
        Ok(Attached { tells_early: self.file_system.tells_early(), ..attached })
    }

    fn hooks(&self) -> impl Iterator<Item = &'static Hook> {
        let file_system = self.file_system;
        HOOKS.iter().filter(move |hook| hook.serves(file_system))
    }
}

/// What was attached so far.
#[derive(Default)]
struct Programs {
    hooks: Vec<String>,
    missing: Vec<MissingHook>,
    programs: Vec<RawFd>,
    tracing: Vec<Tracing>,
}

impl Programs {
    fn add(&mut self, hook: &str, program: RawFd) {
        self.hooks.push(hook.to_owned());
        self.programs.push(program);
    }

    /// Is nothing missed without it, where the kernel does not have it?
    fn is_needless(&self, hook: &Hook) -> bool {
        let is_attached = |other| self.hooks.iter().any(|name| name == other);
        hook.with_cause || hook.stands_for.is_some_and(is_attached)
    }

    /// An error where the level cannot be had without the hook.
    fn attach(&mut self, ebpf: &mut Ebpf, hook: &Hook, offsets: &Offsets) -> Result<(), String> {
        let Hook { name, shows, .. } = hook;
        match attach(ebpf, hook, offsets) {
            Ok(program) => self.add(name, program),
            Err(reason) if hook.essential => return Err(format!("{name} ({shows}): {reason}")),
            Err(reason) if reason == NO_TRACEPOINT && self.is_needless(hook) => {}
            Err(reason) => self.missing.push(MissingHook::unseen(name, shows, reason)),
        }
        Ok(())
    }
}

fn prepare(
    folder: &Folder<'_>,
    object: &[u8],
    constants: &[(&'static str, u32)],
) -> Result<Ebpf, Lack> {
    let (offsets, sizes) = (&folder.offsets, &folder.sizes);
    let stat = rustix::fs::fstat(folder.root).map_err(|error| error.to_string())?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    // As the kernel writes a device number for itself.
    let device: u32 = major << 20 | minor;
    let own = own_number();
    let (slot_mask, set_mask) = (sizes.slots - 1, sizes.sets - 1);
    let page_shift: u32 = rustix::param::page_size().ilog2();
    let subvolume = u32::from(folder.file_system == FileSystem::Btrfs);
    let mut loader = EbpfLoader::new();
    // The programs are given their offsets; nothing is left to relocate.
    loader
        .btf(None)
        .override_global("ROOT_DEVICE", &device, true)
        .override_global("ROOT_INODE", &stat.st_ino, true)
        .override_global("OWN_TGID", &own, true)
        .override_global("SLOT_MASK", &slot_mask, true)
        .override_global("SET_MASK", &set_mask, true)
        .override_global("PAGE_SHIFT", &page_shift, true)
        .override_global("SUBVOLUME", &subvolume, true)
        .map_max_entries("SLOTS", sizes.slots)
        .map_max_entries("NOTES", sizes.notes_bytes)
        .map_max_entries("INODES", sizes.sets)
        .map_max_entries("DIRTYING", sizes.tasks)
        .map_max_entries("ANNOUNCED", sizes.tasks)
        .map_max_entries("READING", sizes.tasks)
        .map_max_entries("DIRECT", sizes.tasks);
    for (global, value) in offsets.values.iter().chain(constants) {
        loader.override_global(global, value, true);
    }
    loader.load(object).map_err(|error| {
        tracing::debug!(?error, "the kernel programs cannot be loaded");
        let refused = chain(&error);
        // A container's root may lack what root stands for elsewhere.
        if rustix::process::geteuid().is_root() && !refused.contains("not permitted") {
            refused.into()
        } else {
            let needs = "it needs root, or CAP_SYS_ADMIN, which stands for CAP_BPF";
            Lack::denied(format!("{needs} ({refused})"))
        }
    })
}

/// This process as the programs see it: by its number in the first namespace.
/// In another one its number may be somebody else's there. Then nobody counts
/// as the daemon; the comparison with the index drops what it did.
fn own_number() -> u32 {
    /// `PROC_PID_INIT_INO` of Linux.
    const FIRST_NAMESPACE: &str = "pid:[4026531836]";
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    let is_first = namespace.is_ok_and(|namespace| namespace.as_os_str() == FIRST_NAMESPACE);
    if is_first { std::process::id() } else { u32::MAX }
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, offsets: &Offsets) -> Result<RawFd, String> {
    if hook.file_system == Some(FileSystem::Xfs) {
        offsets.xfs.clone()?;
    }
    let program = ebpf.program_mut(hook.name).ok_or("the object lacks this program")?;
    let program: &mut RawTracePoint = program.try_into().map_err(|error| chain(&error))?;
    program.load().map_err(|error| refusal(&error))?;
    program.attach(hook.name).map_err(|error| match not_there(&error) {
        true => NO_TRACEPOINT.to_owned(),
        false => chain(&error),
    })?;
    let fd = program.fd().map_err(|error| chain(&error))?;
    Ok(fd.as_fd().as_raw_fd())
}

fn assemble(
    mut ebpf: Ebpf,
    folder: &Folder<'_>,
    programs: Programs,
    hook_set: &'static str,
) -> Result<Attached, String> {
    let sizes = &folder.sizes;
    let slots = take_array(&mut ebpf, "SLOTS")?;
    let slots = Mapped::slots(slots.fd().as_fd(), sizes.slots as usize)
        .map_err(|error| format!("the bitmaps cannot be mapped: {error}"))?;
    let words = take_array(&mut ebpf, "WORDS")?;
    let words = Mapped::words(words.fd().as_fd())
        .map_err(|error| format!("the counters cannot be mapped: {error}"))?;
    let notes = ebpf.take_map("NOTES").ok_or("the object lacks the map NOTES")?;
    let notes = RingBuf::try_from(notes).map_err(|error| chain(&error))?;
    let Programs { hooks, missing, programs, tracing } = programs;
    let kernel = Kernel {
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
        unremembered: 0,
        announcers: 0,
        // Older ones may be pushed out once the table is full; some of its
        // room is spread over the processors.
        announcers_max: u64::from(sizes.tasks) / 2,
        check_at: Instant::now() + IDLE_CHECK_INTERVAL,
        drained_at: SystemTime::now().into(),
        checked_at: SystemTime::now().into(),
        pending: Default::default(),
        tally: Arc::clone(&folder.tally),
        _ebpf: ebpf,
        _tracing: tracing,
    };
    Ok(Attached { kernel, hook_set, tells_early: false, hooks, missing, why_not_exits: None })
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

#[cfg(test)]
mod tests;
