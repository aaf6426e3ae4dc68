//! The object's programs, as this kernel can take them.
//!
//! Takes single programs out of the object, tied to the maps that are loaded
//! already, for a program type that the loader library cannot load itself; and
//! writes the number of a kernel function into the calls of it, which that
//! library does not know either.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use aya::Ebpf;
use aya::maps::Map;
use aya_obj::Object;
use replicator_ebpf::CAST_CALL;

use super::btf::Btf;
use super::exits::{Found, Moment};
use super::sys::{self, Function, Kind};

/// The object's programs as the kernel takes them.
pub struct Code {
    object: Object,
}

/// A program at work.
pub struct Tracing {
    pub program: OwnedFd,
    _link: OwnedFd,
}

impl Code {
    /// `ebpf` was loaded from the same object.
    pub fn of(object: &[u8], ebpf: &Ebpf) -> Result<Self, String> {
        let mut object = Object::parse(object).map_err(|error| error.to_string())?;
        let loaded: HashMap<&str, RawFd> =
            ebpf.maps().filter_map(|(name, map)| Some((name, descriptor(map)?))).collect();
        let maps = std::mem::take(&mut object.maps);
        let tied = maps
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), *loaded.get(name.as_str())?, map)));
        let sections = object.functions.keys().map(|&(section, _)| section).collect();
        object.relocate_maps(tied, &sections).map_err(|error| error.to_string())?;
        object.relocate_calls(&sections).map_err(|error| error.to_string())?;
        Ok(Self { object })
    }

    /// Loads and attaches the program of a function.
    pub fn attach(&self, found: &Found, module: Option<&OwnedFd>) -> Result<Tracing, String> {
        let program = self.object.programs.get(found.exit.program);
        let program = program.ok_or("the object lacks this program")?;
        let code = self.object.functions.get(&program.function_key());
        let code = &code.ok_or("the object lacks this program")?.instructions;
        let function = Function {
            number: found.number,
            module: module.filter(|_| found.in_module).map(OwnedFd::as_fd),
            moment: found.exit.moment,
        };
        let program = sys::load(code, &program.license, Kind::Function(function))
            .map_err(|error| format!("the kernel refused the program: {error}"))?;
        let link = sys::attach(program.as_fd())
            .map_err(|error| format!("the kernel cannot attach there: {error}"))?;
        Ok(Tracing { program, _link: link })
    }
}

const INSTRUCTION_BYTES: usize = 8;
/// `BPF_PSEUDO_KFUNC_CALL` of Linux.
const OF_KERNEL_FUNCTION: u8 = 2;

/// `r0 = 0; exit`
const NOTHING: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// `r1 = 0; r2 = 0; r0 = cast(r1, r2); r1 = *(u64 *)r0; r0 = 0; exit`
const READS_IN_PLACE: [u8; 6 * INSTRUCTION_BYTES] = {
    let mut code = [0; 6 * INSTRUCTION_BYTES];
    let (zero, rest) = code.split_at_mut(2 * INSTRUCTION_BYTES);
    zero.copy_from_slice(&[0xb7, 1, 0, 0, 0, 0, 0, 0, 0xb7, 2, 0, 0, 0, 0, 0, 0]);
    let (cast, rest) = rest.split_at_mut(INSTRUCTION_BYTES);
    cast.copy_from_slice(&call(0, CAST_CALL));
    let (read, end) = rest.split_at_mut(INSTRUCTION_BYTES);
    read.copy_from_slice(&[0x79, 1, 0, 0, 0, 0, 0, 0]);
    end.copy_from_slice(&NOTHING);
    code
};

/// Would this kernel take a tracing program at all? Asked with the smallest
/// one, which is not attached.
pub fn probe(kernel: &Btf<'_>) -> Result<(), String> {
    let code = aya_obj::copy_instructions(&NOTHING).map_err(|error| error.to_string())?;
    let number = kernel.function("vfs_fallocate", &["file"]).map_err(|error| error.to_string())?;
    let function = Function { number, module: None, moment: Moment::Exit };
    sys::load(&code, c"GPL", Kind::Function(function))
        .map(drop)
        .map_err(|error| format!("this kernel takes no programs on functions: {error}"))
}

/// The number of `bpf_rdonly_cast` in a kernel whose programs may read any
/// memory in place by it, as since Linux 6.17. Before that it wants a type.
pub fn probe_casts(kernel: &Btf<'_>) -> Option<u32> {
    let number = kernel.function("bpf_rdonly_cast", &[]).ok()?;
    let mut code = Vec::from(READS_IN_PLACE);
    set_casts(&mut code, number);
    let code = aya_obj::copy_instructions(&code).ok()?;
    match sys::load(&code, c"GPL", Kind::Tracepoint) {
        Ok(_) => Some(number),
        Err(error) => {
            tracing::debug!(%error, "programs cannot read in place here");
            None
        }
    }
}

/// Lets the calls that stand for a cast be of the kernel's function with this
/// number.
pub fn set_casts(object: &mut [u8], number: u32) {
    for instruction in object.as_chunks_mut::<INSTRUCTION_BYTES>().0 {
        if *instruction == call(0, CAST_CALL) {
            *instruction = call(OF_KERNEL_FUNCTION, number);
        }
    }
}

const fn call(kind: u8, number: u32) -> [u8; INSTRUCTION_BYTES] {
    let [a, b, c, d] = number.to_le_bytes();
    [0x85, kind << 4, 0, 0, a, b, c, d]
}

fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(map) | Map::HashMap(map) | Map::LruHashMap(map) | Map::RingBuf(map) => {
            Some(map.fd().as_fd().as_raw_fd())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::ebpf::load::OBJECT;

    /// Instructions in the programs that look like this one.
    fn found(object: &[u8], instruction: [u8; INSTRUCTION_BYTES]) -> usize {
        let object = Object::parse(object).unwrap();
        let sections = object.functions.values();
        let calls = sections.flat_map(|function| &function.instructions).filter(|code| {
            let [kind, registers, ..] = instruction;
            let number = i32::from_le_bytes(*instruction.last_chunk().unwrap());
            code.code == kind
                && code.src_reg() == registers >> 4
                && code.dst_reg() == registers & 15
                && code.imm == number
        });
        calls.count()
    }

    #[test]
    fn every_call_that_stands_for_a_cast_becomes_one_and_nothing_else_changes() {
        let mut object = OBJECT.to_vec();
        let calls = found(&object, call(0, CAST_CALL));
        assert!(calls > 0);
        set_casts(&mut object, 4711);
        assert_eq!(found(&object, call(0, CAST_CALL)), 0);
        assert_eq!(found(&object, call(OF_KERNEL_FUNCTION, 4711)), calls);
        let before = OBJECT.as_chunks::<INSTRUCTION_BYTES>().0;
        let after = object.as_chunks::<INSTRUCTION_BYTES>().0;
        let changed = before.iter().zip(after).filter(|(before, after)| before != after);
        assert_eq!(changed.count(), calls);
    }
}
