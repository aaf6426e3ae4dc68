//! Values as bytes: small ones made from their number alone, and large ones
//! that differ in a few places only, so that they can be edited in place.

use std::fs::File;
use std::io::{self, Read};
use std::sync::LazyLock;

use crate::random::Random;

/// Bytes of the line every value starts with.
const HEAD_BYTES: usize = 40;

/// Of a large value, at most.
pub const LARGE_BYTES_MAX: usize = 24 << 20;

/// Its number lies in its head, at its end, and so far apart between them.
const STAMPED_EVERY: usize = 512 << 10;

/// What one file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Value(u64),
    Large(Large),
    /// Not a value, or not a whole one.
    Torn,
}

impl Holds {
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Value(number) | Self::Large(Large { number, .. }) => Some(number),
            Self::Torn => None,
        }
    }
}

/// A large value: others of the same base differ from it in its stamps and in
/// its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Large {
    pub number: u64,
    pub length: usize,
    pub base: usize,
}

impl Large {
    pub const BASES: usize = 2;

    pub fn content(&self) -> Vec<u8> {
        static BODIES: LazyLock<[Vec<u8>; Large::BASES]> = LazyLock::new(|| {
            [0, 1].map(|base| Random::new(0x1a_46e0 + base).bytes(LARGE_BYTES_MAX))
        });
        let mut bytes = BODIES[self.base][..self.length].to_vec();
        let head = format!("large {:>20} {:>9} {:>2}\n", self.number, self.length, self.base);
        bytes[..HEAD_BYTES].copy_from_slice(head.as_bytes());
        let stamp = self.number.to_le_bytes();
        let stamped = (STAMPED_EVERY..self.length - stamp.len()).step_by(STAMPED_EVERY);
        for at in stamped.chain([self.length - stamp.len()]) {
            bytes[at..at + stamp.len()].copy_from_slice(&stamp);
        }
        bytes
    }

    fn parse(head: &str) -> Option<Self> {
        let mut words = head.strip_prefix("large ")?.split_whitespace();
        let mut next = || words.next()?.parse().ok();
        let (number, length, base) = (next()?, next()? as usize, next()? as usize);
        let is_valid = (HEAD_BYTES + 8..=LARGE_BYTES_MAX).contains(&length) && base < Self::BASES;
        is_valid.then_some(Self { number, length, base })
    }
}

/// The bytes of a value: mostly small, some of several leaves.
pub fn content(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let limit = match random.below(50) {
        0 => 400 << 10,
        1..5 => 30 << 10,
        _ => 800,
    };
    let length = random.below(limit) as usize;
    let mut bytes = format!("value {number:>20} {length:>12}\n").into_bytes();
    debug_assert_eq!(bytes.len(), HEAD_BYTES);
    bytes.extend(random.bytes(length));
    bytes
}

pub fn read(mut file: &File) -> io::Result<Holds> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(which(&bytes))
}

fn which(bytes: &[u8]) -> Holds {
    let head = bytes.get(..HEAD_BYTES).and_then(|head| std::str::from_utf8(head).ok());
    let Some(head) = head else { return Holds::Torn };
    if let Some(large) = Large::parse(head) {
        return if large.content() == bytes { Holds::Large(large) } else { Holds::Torn };
    }
    let number = head.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    match number {
        Some(number) if content(number) == bytes => Holds::Value(number),
        _ => Holds::Torn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_is_whole_or_torn() {
        let large = Large { number: 7 << 32, length: 3 << 20, base: 1 };
        let (old, new) = (large.content(), Large { number: 8, ..large }.content());
        assert_eq!(which(&old), Holds::Large(large));
        let differing = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        assert!((6..200).contains(&differing), "{differing} bytes differ");
        for half in [STAMPED_EVERY, 1 << 20, old.len() - 8] {
            let torn = [&new[..half], &old[half..]].concat();
            assert_eq!(which(&torn), Holds::Torn, "{half}");
        }
        assert_eq!(which(&old[..old.len() - 1]), Holds::Torn);
    }
}
