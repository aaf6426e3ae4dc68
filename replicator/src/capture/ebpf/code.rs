//! Takes single programs out of the object, tied to the maps that are loaded
//! already, for a program type that the loader library cannot load itself.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use aya::Ebpf;
use aya::maps::Map;
use aya_obj::Object;

use super::btf::Btf;
use super::exits::{Found, Moment};
use super::sys::{self, Function};

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
        let program = sys::load(code, &program.license, function)
            .map_err(|error| format!("the kernel refused the program: {error}"))?;
        let link = sys::attach(program.as_fd())
            .map_err(|error| format!("the kernel cannot attach there: {error}"))?;
        Ok(Tracing { program, _link: link })
    }
}

/// `r0 = 0; exit`
const NOTHING: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Would this kernel take a tracing program at all? Asked with the smallest
/// one, which is not attached.
pub fn probe(kernel: &Btf<'_>) -> Result<(), String> {
    let code = aya_obj::copy_instructions(&NOTHING).map_err(|error| error.to_string())?;
    let number = kernel.function("vfs_fallocate", &["file"]).map_err(|error| error.to_string())?;
    let function = Function { number, module: None, moment: Moment::Exit };
    sys::load(&code, c"GPL", function)
        .map(drop)
        .map_err(|error| format!("this kernel takes no programs on functions: {error}"))
}

fn descriptor(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(map) | Map::HashMap(map) | Map::LruHashMap(map) | Map::RingBuf(map) => {
            Some(map.fd().as_fd().as_raw_fd())
        }
        _ => None,
    }
}
