//! File flags, as `chattr` sets them.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Those that are replicated, with their letters.
const KNOWN: [(char, IFlags); 3] =
    [('i', IFlags::IMMUTABLE), ('a', IFlags::APPEND), ('d', IFlags::NODUMP)];

/// Gives a file or directory those of the flags `i`, `a` and `d` that are
/// named, and takes the others.
pub fn set(path: &Path, letters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let mut flags = ioctl_getflags(&file)?;
    KNOWN.iter().for_each(|&(letter, flag)| flags.set(flag, letters.contains(letter)));
    Ok(ioctl_setflags(&file, flags)?)
}

/// Which of them it has.
pub fn of(path: &Path) -> io::Result<String> {
    let flags = match ioctl_getflags(File::open(path)?) {
        // A file system without any.
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::NOTSUP) => IFlags::empty(),
        other => other?,
    };
    let has = |(letter, flag): &(char, IFlags)| flags.contains(*flag).then_some(*letter);
    Ok(KNOWN.iter().filter_map(has).collect())
}

/// Can this process set all of them in a folder?
pub fn can_be_set_in(folder: &Path) -> bool {
    let file = folder.join("flags are tried on this");
    let tried = File::create(&file).is_ok() && set(&file, "iad").is_ok();
    let freed = !tried || set(&file, "").is_ok();
    freed && std::fs::remove_file(&file).is_ok() && tried
}

/// Takes them off everything below a folder, so that it can be removed.
pub fn take_off_below(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if (kind.is_dir() || kind.is_file()) && !of(&entry.path())?.is_empty() {
                set(&entry.path(), "")?;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}
