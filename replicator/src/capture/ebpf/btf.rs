//! Reads where the running kernel keeps what the programs look at: offsets of
//! structure members, values of enumerators and numbers of functions, out of
//! the kernel's own type description (BTF).
//!
//! The blob comes from the kernel, yet nothing here trusts it: every access
//! is checked, chains of types are bounded, and a malformed blob is an error.
//! A module's description continues that of the kernel, so it is read on top
//! of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::capture::limits::{BTF_BYTES_MAX, BTF_DEPTH_MAX};

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;

const KIND_POINTER: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNCTION: u32 = 12;
const KIND_PROTOTYPE: u32 = 13;
const KIND_ENUM64: u32 = 19;

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BtfError {
    #[error("the kernel's type description {0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    #[error("the kernel's type description is malformed at byte {0}")]
    Malformed(usize),
    #[error("the kernel's type description lacks {0}")]
    Lacks(String),
}

/// One type description, with the one it continues.
pub struct Btf<'a> {
    base: Option<&'a Btf<'a>>,
    blob: Vec<u8>,
    strings: std::ops::Range<usize>,
    /// Where each type begins; the first has the number `first_type`.
    types: Vec<usize>,
    first_type: usize,
    first_string: usize,
    structures: HashMap<Box<[u8]>, usize>,
    enumerators: HashMap<Box<[u8]>, u64>,
}

impl<'a> Btf<'a> {
    pub fn open(path: &Path, base: Option<&'a Btf<'a>>) -> Result<Self, BtfError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut blob = Vec::new();
            File::open(path)?.take(BTF_BYTES_MAX).read_to_end(&mut blob)?;
            Ok(blob)
        };
        let blob =
            read().map_err(|error| BtfError::Unreadable(path.display().to_string(), error))?;
        Self::parse(blob, base)
    }

    pub fn parse(blob: Vec<u8>, base: Option<&'a Btf<'a>>) -> Result<Self, BtfError> {
        let header = u32_at(&blob, 4)? as usize;
        if u16_at(&blob, 0)? != MAGIC {
            return Err(BtfError::Malformed(0));
        }
        let section = |offset: usize, length: usize| -> Result<_, BtfError> {
            let start = header.checked_add(u32_at(&blob, offset)? as usize);
            let length = u32_at(&blob, length)? as usize;
            let end = start.and_then(|start| start.checked_add(length));
            match (start, end) {
                (Some(start), Some(end)) if end <= blob.len() => Ok(start..end),
                _ => Err(BtfError::Malformed(offset)),
            }
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        let mut btf = Self {
            base,
            strings,
            types: Vec::new(),
            first_type: base.map_or(1, |base| base.first_type + base.types.len()),
            first_string: base.map_or(0, |base| base.first_string + base.strings.len()),
            structures: HashMap::new(),
            enumerators: HashMap::new(),
            blob,
        };
        btf.index(types)?;
        Ok(btf)
    }

    /// Where `member` begins in `structure`, in bytes. Members of anonymous
    /// members count as the structure's own; `a.b` looks into `a`.
    pub fn offset(&self, structure: &str, member: &str) -> Result<u32, BtfError> {
        let lacks = || BtfError::Lacks(format!("{structure}.{member}"));
        let mut at = self.structure(structure).ok_or_else(lacks)?;
        let mut bits = 0u32;
        for part in member.split('.') {
            let (offset, kind) = self.member(at, part.as_bytes(), 0)?.ok_or_else(lacks)?;
            bits = bits.checked_add(offset).ok_or(BtfError::Malformed(0))?;
            at = kind;
        }
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err(lacks()) }
    }

    /// The value of an enumerator, whatever its enumeration is called.
    pub fn enumerator(&self, name: &str) -> Result<u64, BtfError> {
        let own = self.enumerators.get(name.as_bytes()).copied();
        match (own, self.base) {
            (Some(value), _) => Ok(value),
            (None, Some(base)) => base.enumerator(name),
            (None, None) => Err(BtfError::Lacks(name.to_owned())),
        }
    }

    /// The number of a function that this description itself lists, whose
    /// first parameters are pointers to the structures `takes`; an empty name
    /// stands for any parameter.
    pub fn function(&self, name: &str, takes: &[&str]) -> Result<u32, BtfError> {
        let lacks = || BtfError::Lacks(format!("the function {name}"));
        for (index, &at) in self.types.iter().enumerate() {
            let is_function = self.info(at)?.0 == KIND_FUNCTION;
            if !is_function || self.string(u32_at(&self.blob, at)?)? != name.as_bytes() {
                continue;
            }
            let prototype = u32_at(&self.blob, at + 8)? as usize;
            if !self.accepts(prototype, takes)? {
                return Err(BtfError::Lacks(format!("{name} with the known parameters")));
            }
            return u32::try_from(self.first_type + index).map_err(|_| lacks());
        }
        Err(lacks())
    }

    fn accepts(&self, prototype: usize, takes: &[&str]) -> Result<bool, BtfError> {
        let Some((owner, at)) = self.resolve(prototype)? else { return Ok(false) };
        let (kind, count) = owner.info(at)?;
        if kind != KIND_PROTOTYPE || count < takes.len() {
            return Ok(false);
        }
        for (index, structure) in takes.iter().enumerate() {
            let taken = u32_at(&owner.blob, at + TYPE_BYTES + 8 * index + 4)? as usize;
            if !structure.is_empty() && self.pointee(taken)? != Some(structure.as_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The name of what a pointer leads to.
    fn pointee(&self, pointer: usize) -> Result<Option<&[u8]>, BtfError> {
        let Some((owner, at)) = self.resolve(pointer)? else { return Ok(None) };
        if owner.info(at)?.0 != KIND_POINTER {
            return Ok(None);
        }
        let Some((owner, at)) = self.resolve(u32_at(&owner.blob, at + 8)? as usize)? else {
            return Ok(None);
        };
        owner.string(u32_at(&owner.blob, at)?).map(Some)
    }

    /// Finds where every type begins, and the named ones that are asked for.
    fn index(&mut self, section: std::ops::Range<usize>) -> Result<(), BtfError> {
        let mut at = section.start;
        while at < section.end {
            let (kind, count) = self.info(at)?;
            let length = TYPE_BYTES
                + match kind {
                    1 | 14 | 17 => 4,
                    KIND_POINTER | 7..=KIND_FUNCTION | 16 | 18 => 0,
                    3 => 12,
                    KIND_STRUCT | KIND_UNION | 15 | KIND_ENUM64 => 12 * count,
                    KIND_ENUM | KIND_PROTOTYPE => 8 * count,
                    _ => return Err(BtfError::Malformed(at)),
                };
            if at + length > section.end {
                return Err(BtfError::Malformed(at));
            }
            let number = self.first_type + self.types.len();
            self.types.push(at);
            match kind {
                KIND_STRUCT | KIND_UNION => {
                    let name = self.string(u32_at(&self.blob, at)?)?;
                    if !name.is_empty() {
                        let name = name.into();
                        self.structures.entry(name).or_insert(number);
                    }
                }
                KIND_ENUM | KIND_ENUM64 => self.index_enumerators(at, kind, count)?,
                _ => {}
            }
            at += length;
        }
        Ok(())
    }

    fn index_enumerators(&mut self, at: usize, kind: u32, count: usize) -> Result<(), BtfError> {
        for number in 0..count {
            let (name, value) = if kind == KIND_ENUM {
                let at = at + TYPE_BYTES + 8 * number;
                (u32_at(&self.blob, at)?, u64::from(u32_at(&self.blob, at + 4)?))
            } else {
                let at = at + TYPE_BYTES + 12 * number;
                let (low, high) = (u32_at(&self.blob, at + 4)?, u32_at(&self.blob, at + 8)?);
                (u32_at(&self.blob, at)?, u64::from(high) << 32 | u64::from(low))
            };
            // Thousands of enumerators, and few are ever asked for.
            if self.string(name)?.starts_with(b"PG_") {
                let name = self.string(name)?.into();
                self.enumerators.entry(name).or_insert(value);
            }
        }
        Ok(())
    }

    fn structure(&self, name: &str) -> Option<usize> {
        let own = self.structures.get(name.as_bytes()).copied();
        own.or_else(|| self.base.and_then(|base| base.structure(name)))
    }

    /// Offset in bits and type of a member.
    fn member(
        &self,
        number: usize,
        name: &[u8],
        depth: usize,
    ) -> Result<Option<(u32, usize)>, BtfError> {
        let Some((owner, at)) = self.resolve(number)? else {
            return Ok(None);
        };
        let (kind, count) = owner.info(at)?;
        if depth > BTF_DEPTH_MAX || !matches!(kind, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        let bit_fields = u32_at(&owner.blob, at + 4)? >> 31 == 1;
        for index in 0..count {
            let member = at + TYPE_BYTES + 12 * index;
            let mut offset = u32_at(&owner.blob, member + 8)?;
            if bit_fields {
                offset &= 0xff_ffff;
            }
            let kind = u32_at(&owner.blob, member + 4)? as usize;
            let found = owner.string(u32_at(&owner.blob, member)?)?;
            if found == name {
                return Ok(Some((offset, kind)));
            }
            if found.is_empty()
                && let Some((inner, kind)) = self.member(kind, name, depth + 1)?
            {
                let offset = offset.checked_add(inner).ok_or(BtfError::Malformed(member))?;
                return Ok(Some((offset, kind)));
            }
        }
        Ok(None)
    }

    /// Follows `const`, `volatile`, `typedef` and the like to what they stand
    /// for.
    fn resolve(&self, mut number: usize) -> Result<Option<(&Btf<'a>, usize)>, BtfError> {
        for _ in 0..BTF_DEPTH_MAX {
            let Some((owner, at)) = self.locate(number) else {
                return Ok(None);
            };
            let (kind, _) = owner.info(at)?;
            if !matches!(kind, 8..=11 | 18) {
                return Ok(Some((owner, at)));
            }
            number = u32_at(&owner.blob, at + 8)? as usize;
        }
        Ok(None)
    }

    fn locate(&self, number: usize) -> Option<(&Btf<'a>, usize)> {
        match number.checked_sub(self.first_type) {
            Some(index) => self.types.get(index).map(|&at| (self, at)),
            None => self.base?.locate(number),
        }
    }

    fn info(&self, at: usize) -> Result<(u32, usize), BtfError> {
        let info = u32_at(&self.blob, at.saturating_add(4))?;
        Ok((info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    fn string(&self, offset: u32) -> Result<&[u8], BtfError> {
        let Some(offset) = (offset as usize).checked_sub(self.first_string) else {
            let base = self.base.ok_or(BtfError::Malformed(offset as usize))?;
            return base.string(offset);
        };
        let malformed = BtfError::Malformed(offset);
        let Some(tail) = self.blob[self.strings.clone()].get(offset..) else {
            return Err(malformed);
        };
        tail.split(|&byte| byte == 0).next().ok_or(malformed)
    }
}

fn u16_at(blob: &[u8], at: usize) -> Result<u16, BtfError> {
    array_at(blob, at).map(u16::from_ne_bytes)
}

fn u32_at(blob: &[u8], at: usize) -> Result<u32, BtfError> {
    array_at(blob, at).map(u32::from_ne_bytes)
}

fn array_at<const N: usize>(blob: &[u8], at: usize) -> Result<[u8; N], BtfError> {
    let end = at.checked_add(N).ok_or(BtfError::Malformed(at))?;
    let bytes = blob.get(at..end).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(BtfError::Malformed(at))
}

/// Descriptions of kernels that lack something.
#[cfg(test)]
pub mod doctored {
    use std::path::Path;

    /// What the running kernel says of itself, where it does.
    pub fn running_kernel() -> Option<Vec<u8>> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let blob = std::fs::read(path).ok();
        if blob.is_none() {
            crate::capture::tests::skip("this kernel has no type description");
        }
        blob
    }

    /// The same, with whatever has this name called something else.
    pub fn without(mut blob: Vec<u8>, name: &str) -> Vec<u8> {
        let text = format!("\0{name}\0");
        let places: Vec<usize> = blob
            .windows(text.len())
            .enumerate()
            .filter(|(_, part)| *part == text.as_bytes())
            .map(|(at, _)| at)
            .collect();
        assert!(!places.is_empty(), "the running kernel lacks {name} anyhow");
        for at in places {
            blob[at + 1] = b'~';
        }
        blob
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct outer { int a; struct { int b; typedef_of_inner c; }; }` with
    /// `struct inner { int pad; int d; }`, an enumeration with `PG_head`, and
    /// `int work(int, const struct outer *)`.
    fn golden() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0c\0inner\0pad\0d\0PG_head\0alias\0work\0";
        let name = |text: &str| {
            let text = format!("\0{text}\0");
            let at = strings.windows(text.len()).position(|window| window == text.as_bytes());
            at.unwrap() as u32 + 1
        };
        let structure = |count: u32| KIND_STRUCT << 24 | count;
        let words: Vec<u32> = [
            // 1: int
            vec![0, 1 << 24, 4, 32],
            // 2: inner
            vec![name("inner"), structure(2), 8, name("pad"), 1, 0, name("d"), 1, 32],
            // 3: typedef of inner
            vec![name("alias"), 8 << 24, 2],
            // 4: anonymous
            vec![0, structure(2), 12, name("b"), 1, 0, name("c"), 3, 32],
            // 5: outer
            vec![name("outer"), structure(2), 16, name("a"), 1, 0, 0, 4, 32],
            // 6: enumeration
            vec![0, KIND_ENUM << 24 | 1, 4, name("PG_head"), 6],
            // 7: const outer, 8: pointer to it
            vec![0, 10 << 24, 5, 0, KIND_POINTER << 24, 7],
            // 9: prototype
            vec![0, KIND_PROTOTYPE << 24 | 2, 1, 0, 1, 0, 8],
            // 10: function
            vec![name("work"), KIND_FUNCTION << 24, 9],
        ]
        .concat();
        blob(words, strings)
    }

    fn blob(words: Vec<u32>, strings: &[u8]) -> Vec<u8> {
        let types = (words.len() * 4) as u32;
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        for word in [24, 0, types, types, strings.len() as u32].into_iter().chain(words) {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(strings);
        blob
    }

    impl Btf<'_> {
        /// Where a string lies among the strings.
        fn strings_named(&self, text: &str) -> u32 {
            let text = format!("\0{text}\0");
            let strings = &self.blob[self.strings.clone()];
            let at = strings.windows(text.len()).position(|part| part == text.as_bytes());
            at.unwrap() as u32 + 1
        }
    }

    #[test]
    fn members_of_anonymous_members_are_the_structure_s_own() {
        let btf = Btf::parse(golden(), None).unwrap();
        assert_eq!(btf.offset("outer", "a").unwrap(), 0);
        assert_eq!(btf.offset("outer", "b").unwrap(), 4);
        assert_eq!(btf.offset("outer", "c.d").unwrap(), 12);
        assert_eq!(btf.enumerator("PG_head").unwrap(), 6);
    }

    #[test]
    fn what_lacks_is_called_by_its_name() {
        let btf = Btf::parse(golden(), None).unwrap();
        for (structure, member) in [("outer", "z"), ("other", "a"), ("outer", "a.b")] {
            let error = btf.offset(structure, member).unwrap_err().to_string();
            assert!(error.ends_with(&format!("lacks {structure}.{member}")), "{error}");
        }
    }

    #[test]
    fn functions_are_known_by_name_and_parameters() {
        let btf = Btf::parse(golden(), None).unwrap();
        for takes in [&["", "outer"][..], &[""], &[]] {
            assert_eq!(btf.function("work", takes).unwrap(), 10);
        }
        for takes in [&["outer"][..], &["", "inner"], &["", "outer", ""]] {
            let error = btf.function("work", takes).unwrap_err().to_string();
            assert!(error.ends_with("lacks work with the known parameters"), "{error}");
        }
        let error = btf.function("play", &[]).unwrap_err().to_string();
        assert!(error.ends_with("lacks the function play"), "{error}");
    }

    #[test]
    fn a_module_s_description_continues_that_of_the_kernel() {
        let base = Btf::parse(golden(), None).unwrap();
        // 11: pointer to the kernel's outer, 12: prototype, 13: function with
        // the kernel's name for it, as modules have it.
        let name = base.strings_named("work");
        let words = [0, KIND_POINTER << 24, 5]
            .into_iter()
            .chain([0, KIND_PROTOTYPE << 24 | 1, 0, 0, 11])
            .chain([name, KIND_FUNCTION << 24, 12]);
        let module = Btf::parse(blob(words.collect(), b"\0"), Some(&base)).unwrap();
        assert_eq!(module.function("work", &["outer"]).unwrap(), 13);
        assert_eq!(module.offset("outer", "b").unwrap(), 4);
        assert!(module.function("work", &["inner"]).is_err());
    }

    #[test]
    fn the_running_kernel_can_be_read() {
        let Some(blob) = doctored::running_kernel() else { return };
        let btf = Btf::parse(blob, None).unwrap();
        assert!(btf.offset("inode", "i_ino").unwrap() > 0);
        assert_eq!(btf.offset("inode", "i_mode").unwrap(), 0);
        assert!(btf.enumerator("PG_head").unwrap() < 64);
        assert!(btf.function("vfs_fallocate", &["file"]).unwrap() > 0);
    }

    #[test]
    fn a_cut_blob_is_an_error() {
        let blob = golden();
        for end in 0..blob.len() {
            assert!(Btf::parse(blob[..end].to_vec(), None).is_err(), "cut at {end}");
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..400, byte: u8, garbage in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut blob = golden();
            let at = at % blob.len();
            blob[at] = byte;
            for blob in [blob, garbage] {
                if let Ok(btf) = Btf::parse(blob, None) {
                    for member in ["a", "b", "c.d", "z"] {
                        let _ = btf.offset("outer", member);
                    }
                    let _ = btf.function("work", &["", "outer"]);
                }
            }
        }
    }
}
