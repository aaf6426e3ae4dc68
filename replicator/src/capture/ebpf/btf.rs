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

#[cfg(test)]
pub mod doctored;
#[cfg(test)]
mod tests;
