//! Writes a cpio archive of the kind the kernel unpacks into its first file
//! system. Nothing here knows what lies in it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const END: &str = "TRAILER!!!";

pub struct Archive {
    out: BufWriter<File>,
    inode: u32,
    written: u64,
}

impl Archive {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::new(File::create(path)?), inode: 0, written: 0 })
    }

    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY, &[])
    }

    pub fn program(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, PROGRAM, content)
    }

    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK, target.as_bytes())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.entry(END, 0, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let name = name.trim_start_matches('/');
        let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // inode, mode, user, group, links, time, length, device and its
        // device, twice two numbers, length of the name, and no checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self) -> io::Result<()> {
        let rest = (self.written.next_multiple_of(4) - self.written) as usize;
        self.put(&[0; 4][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_the_end_is_marked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        let mut archive = Archive::create(&path).unwrap();
        archive.directory("/d").unwrap();
        archive.program("/d/f", b"12345").unwrap();
        archive.link("/l", "d/f").unwrap();
        archive.finish().unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let entries = bytes.windows(6).filter(|part| part == b"070701").count();
        assert_eq!(entries, 4);
        assert!(bytes.windows(END.len()).any(|part| part == END.as_bytes()));
    }
}
