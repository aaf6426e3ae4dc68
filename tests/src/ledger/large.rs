//! What a writer does with large files: they are put into place, edited by a
//! few writes or through a mapping, and grow and shrink at their end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::value::{Holds, LARGE_BYTES_MAX, Large, read};
use super::{Writer, unless_somebody_else};
use crate::mapping;

/// Most files are of a few MiB, one in so many is of those that have jobs of
/// their own and give way.
const USUAL_BYTES: u64 = 5 << 20;
const LARGEST_ONE_IN: u64 = 4;
const LARGEST_BYTES: u64 = 17 << 20;

/// What a file grows or shrinks by at most.
const STEP_BYTES: u64 = 2 << 20;

/// What is compared, and written where it differs.
const BLOCK_BYTES: usize = 4096;

impl Writer<'_> {
    pub(super) fn act_on_large(&mut self) -> io::Result<()> {
        let done = match self.random.below(10) {
            0..3 => self.put_large(),
            3..6 => self.edit_large(|_, large| large, write_where_different),
            6..8 => self.edit_large(Self::resized, write_where_different),
            _ => self.edit_large(|_, large| large, store_where_different),
        };
        unless_somebody_else(done)
    }

    fn put_large(&mut self) -> io::Result<()> {
        let (path, number) = (self.large_path(), self.next_value());
        let least = match self.random.below(LARGEST_ONE_IN) {
            0 => LARGEST_BYTES,
            _ => USUAL_BYTES / 4,
        };
        let length = (least + self.random.below(USUAL_BYTES)) as usize;
        let base = self.random.below(Large::BASES as u64) as usize;
        let content = Large { number, length, base }.content();
        self.put_content(&path, number, &content)
    }

    /// A file itself takes a new value, which differs in a few places.
    fn edit_large(
        &mut self,
        next: fn(&mut Self, Large) -> Large,
        write: fn(&File, &[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (path, number) = (self.large_path(), self.next_value());
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let before = file.metadata()?;
        let Holds::Large(old) = read(&file)? else { return Ok(()) };
        let new = Large { number, ..next(self, old) };
        write(&file, &old.content(), &new.content())?;
        let shown = self.shown(&path);
        self.ledger.replaced(old.number, format!("edited into {number} at {shown}"));
        // Otherwise it went into a file that somebody had replaced.
        if fs::symlink_metadata(&path)?.ino() == before.ino() {
            self.ledger.wrote(number, format!("edited in at {shown}"));
        }
        Ok(())
    }

    fn resized(&mut self, large: Large) -> Large {
        let by = 1 + self.random.below(STEP_BYTES) as usize;
        let length = match self.random.below(2) {
            0 => (large.length + by).min(LARGE_BYTES_MAX),
            _ => large.length.saturating_sub(by).max(STEP_BYTES as usize / 4),
        };
        Large { length, ..large }
    }

    fn large_path(&mut self) -> PathBuf {
        self.folder().join(format!("large-{}", self.random.below(2)))
    }
}

/// Where two contents differ: what the new one has there.
fn differing<'a>(old: &[u8], new: &'a [u8]) -> Vec<(usize, &'a [u8])> {
    let blocks = new.chunks(BLOCK_BYTES).enumerate().map(|(at, block)| (at * BLOCK_BYTES, block));
    blocks.filter(|&(at, block)| old.get(at..at + block.len()) != Some(block)).collect()
}

fn write_where_different(file: &File, old: &[u8], new: &[u8]) -> io::Result<()> {
    if new.len() < old.len() {
        file.set_len(new.len() as u64)?;
    }
    differing(old, new).into_iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, at as u64))
}

fn store_where_different(file: &File, old: &[u8], new: &[u8]) -> io::Result<()> {
    mapping::store_through(file, new.len(), &differing(old, new))
}
