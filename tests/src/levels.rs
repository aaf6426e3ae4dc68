//! Which capture level and which hooks a node must get for a folder, asked of
//! the machine and not of the node: a story about a level is skipped only
//! where this says so, and whatever else keeps a node from it is a failure.

use std::fs;
use std::io;
use std::path::Path;

use crate::volume::FileSystem;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// `CAP_DAC_READ_SEARCH` and `CAP_SYS_ADMIN`, which stands for `CAP_BPF` and
/// `CAP_PERFMON` as well.
const PRIVILEGED: u64 = 1 << 2 | CAP_SYS_ADMIN;

/// From the highest to the lowest.
const LEVELS: [&str; 3] = ["ebpf", "fanotify", "inotify"];

/// The level a node must choose for a folder by itself.
pub fn best(folder: &Path) -> &'static str {
    LEVELS.into_iter().find(|level| lacks(folder, level).is_none()).unwrap_or("inotify")
}

/// Why a node may refuse a level to a folder; `None` where it must have it.
pub fn lacks(folder: &Path, level: &str) -> Option<&'static str> {
    let file_system = FileSystem::of(folder);
    match level {
        "ebpf" if !has_capabilities(PRIVILEGED) => Some("only root can load kernel programs"),
        "ebpf" if !Path::new(BTF).exists() => Some("this kernel does not describe its types"),
        "ebpf" => match file_system {
            Some(FileSystem::Ext4 | FileSystem::Xfs) => None,
            Some(FileSystem::Btrfs) if takes_programs_on_functions() => None,
            Some(FileSystem::Btrfs) => Some("this kernel takes no programs on functions"),
            _ => Some("the file system has no hooks"),
        },
        "fanotify" if !has_capabilities(PRIVILEGED) => Some("only root can mark file systems"),
        "fanotify" if file_system.is_none() => Some("the file system may have no handles"),
        _ => None,
    }
}

/// The hooks that a node at this level must have.
pub fn hooks(level: &str) -> &'static str {
    match level {
        "ebpf" if takes_programs_on_functions() => "function exits",
        "ebpf" => "raw tracepoints",
        _ => "none",
    }
}

/// To mount file systems and to set attributes of the name space `trusted`;
/// root in a container does not have it.
pub const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Does this process have all of these capabilities?
pub fn has_capabilities(wanted: u64) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    held & wanted == wanted
}

/// Some hardened kernels refuse this kind of program before they look at it;
/// others look, and find that this one names no function.
fn takes_programs_on_functions() -> bool {
    const LOAD: u32 = 5;
    const TRACING: u32 = 26;
    const AT_EXIT: u32 = 25;
    /// The head of `union bpf_attr` for this command.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        length: u32,
        code: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: u64,
        name: [u64; 2],
        device: u32,
        attach: u32,
        /// The function among them.
        zeros: [u64; 5],
    }
    // `r0 = 0; exit`
    let code = [0xb7u64, 0x95];
    let attributes = Load {
        kind: TRACING,
        length: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        attach: AT_EXIT,
        ..Load::default()
    };
    // SAFETY: the structure and what it points to outlive the call.
    let refused =
        unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const attributes, size_of::<Load>()) } < 0;
    refused && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_has_no_level_above_fanotify() {
        let folder = Path::new("/dev/shm");
        if FileSystem::of(folder) != Some(FileSystem::Tmpfs) {
            return;
        }
        assert!(lacks(folder, "ebpf").is_some());
        let best = best(folder);
        assert_eq!(best == "fanotify", has_capabilities(PRIVILEGED), "{best}");
        assert_eq!(lacks(folder, "inotify"), None);
    }
}
