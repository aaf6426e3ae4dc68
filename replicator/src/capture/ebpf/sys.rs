//! The few `bpf` system calls that the loader library does not offer: a
//! tracing program on a function of a module, and asking what a kernel takes.
//!
//! Owns the `unsafe` around them. Knows nothing of hooks and folders.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_btf_info, bpf_cmd, bpf_insn, bpf_prog_type,
};

use super::exits::Moment;
use crate::capture::limits::MODULES_MAX;

/// What the verifier may say about a program it refuses.
const LOG_BYTES: usize = 256 << 10;

/// A function of the kernel or of a module.
#[derive(Clone, Copy, Debug)]
pub struct Function<'a> {
    /// Its number in the type description it is listed in.
    pub number: u32,
    /// That description, where it is a module's.
    pub module: Option<BorrowedFd<'a>>,
    pub moment: Moment,
}

/// What a program is to be attached to.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    Function(Function<'a>),
    /// Any raw one.
    Tracepoint,
}

/// Loads a program. The kernel's own words go to the debug log.
pub fn load(code: &[bpf_insn], license: &CStr, kind: Kind<'_>) -> io::Result<OwnedFd> {
    let mut log = Vec::new();
    let refused = match try_load(code, license, kind, &mut log) {
        Err(error) if error.raw_os_error() != Some(libc::EPERM) => error,
        answer => return answer,
    };
    log.resize(LOG_BYTES, 0);
    let again = try_load(code, license, kind, &mut log);
    if again.is_err() {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(0);
        let log = String::from_utf8_lossy(&log[..end]);
        tracing::debug!(error = %refused, ?kind, %log, "the kernel refused a program");
    }
    again.map_err(|_| refused)
}

fn try_load(
    code: &[bpf_insn],
    license: &CStr,
    kind: Kind<'_>,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    // SAFETY: a structure of integers and unions of integers.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: as above, every bit pattern is valid.
    let load = unsafe { &mut attributes.__bindgen_anon_3 };
    load.prog_type = match kind {
        Kind::Function(_) => bpf_prog_type::BPF_PROG_TYPE_TRACING as u32,
        Kind::Tracepoint => bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32,
    };
    load.insns = code.as_ptr() as u64;
    load.insn_cnt = code.len() as u32;
    load.license = license.as_ptr() as u64;
    if let Kind::Function(function) = kind {
        load.expected_attach_type = match function.moment {
            Moment::Entry => bpf_attach_type::BPF_TRACE_FENTRY as u32,
            Moment::Exit => bpf_attach_type::BPF_TRACE_FEXIT as u32,
        };
        load.attach_btf_id = function.number;
        if let Some(module) = function.module {
            load.__bindgen_anon_1.attach_btf_obj_fd = module.as_raw_fd() as u32;
        }
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
    }
    let program = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attributes)?;
    // SAFETY: this command gives a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Attaches a tracing program until the descriptor is closed.
pub fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: a structure of integers and unions of integers.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    attributes.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    let link = bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attributes)?;
    // SAFETY: this command gives a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// The type description of a loaded module, as the kernel holds it.
pub fn module_types(name: &str) -> io::Result<OwnedFd> {
    let mut id = 0;
    for _ in 0..MODULES_MAX {
        // SAFETY: a structure of integers and unions of integers.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        bpf(bpf_cmd::BPF_BTF_GET_NEXT_ID, &mut attributes)?;
        // SAFETY: the kernel wrote the number there.
        id = unsafe { attributes.__bindgen_anon_6.next_id };
        // SAFETY: a structure of integers and unions of integers.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        attributes.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        let types = match bpf(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attributes) {
            // SAFETY: this command gives a new descriptor, which nobody else owns.
            Ok(types) => unsafe { OwnedFd::from_raw_fd(types) },
            // It was unloaded meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        if is_of_module(&types, name)? {
            return Ok(types);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn is_of_module(types: &OwnedFd, name: &str) -> io::Result<bool> {
    // The longest name of a module, and a zero.
    let mut found = [0u8; 64];
    let mut info = bpf_btf_info {
        btf: 0,
        btf_size: 0,
        id: 0,
        name: found.as_mut_ptr() as u64,
        name_len: found.len() as u32,
        kernel_btf: 0,
    };
    // SAFETY: a structure of integers and unions of integers.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    attributes.info.bpf_fd = types.as_raw_fd() as u32;
    attributes.info.info = &raw mut info as u64;
    attributes.info.info_len = size_of_val(&info) as u32;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let end = found.iter().position(|&byte| byte == 0).unwrap_or(found.len());
    Ok(info.kernel_btf != 0 && &found[..end] == name.as_bytes())
}

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the structure is the one all commands take; what it points to
    // is borrowed by the callers for the time of the call, with its length.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attributes, size_of::<bpf_attr>())
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}
