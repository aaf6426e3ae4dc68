//! A feature of XFS that only late versions of its mkfs know, written into
//! the image of an earlier one: files may exchange ranges of their blocks.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR_BYTES: usize = 512;
/// In the superblock: features without which nobody may mount, in the order
/// of the network, and the checksum of the sector, in that of Intel.
const FEATURES: usize = 216;
const CHECKSUM: usize = 224;
const EXCHANGE_RANGE: u32 = 1 << 6;

/// Says in the superblock whether files may exchange ranges. A kernel that
/// knows of none does not mount it then.
pub fn set_exchange(image: &Path, may: bool) -> io::Result<()> {
    let image = OpenOptions::new().read(true).write(true).open(image)?;
    let mut sector = [0; SECTOR_BYTES];
    image.read_exact_at(&mut sector, 0)?;
    let mut word = [0; 4];
    word.copy_from_slice(&sector[FEATURES..FEATURES + 4]);
    let others = u32::from_be_bytes(word) & !EXCHANGE_RANGE;
    let features = if may { others | EXCHANGE_RANGE } else { others };
    sector[FEATURES..FEATURES + 4].copy_from_slice(&features.to_be_bytes());
    sector[CHECKSUM..CHECKSUM + 4].fill(0);
    let checksum = crc32c(&sector);
    sector[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
    image.write_all_at(&sector, 0)
}

fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let rest = bytes.iter().fold(u32::MAX, |rest, byte| {
        (0..8).fold(rest ^ u32::from(*byte), |rest, _| {
            (rest >> 1) ^ if rest & 1 == 1 { REVERSED_POLYNOMIAL } else { 0 }
        })
    });
    !rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
