//! How many events the kernel keeps for a daemon that does not read them.
//!
//! Owns the one setting that says so. The kernel takes it from there when a
//! group is made, and never asks again; but it is one for the whole system. So
//! it is raised for that moment and given back. It is never lowered: who makes
//! a group in the same moment gets a longer queue, and so does everybody until
//! the next boot where this process dies in between. Neither harms anybody, as
//! a shorter one would.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;

use crate::capture::limits::{QUEUE_LOCK_TRIES, QUEUED_EVENT_BYTES};
use crate::capture::sys;

/// Where the kernel keeps the limit.
pub const SETTING: &str = "/proc/sys/fs/fanotify/max_queued_events";

/// Between two tries to be the only one who changes it.
const LOCKED_WAIT: Duration = Duration::from_millis(10);

/// Events that fit into so much memory of the kernel.
pub fn events_in(memory_bytes: usize) -> u64 {
    (memory_bytes / QUEUED_EVENT_BYTES).clamp(1, i32::MAX as usize) as u64
}

/// A group with room for so many events, or for as many as the system allows
/// others, where that is more or may not be changed.
pub fn group(events: u64) -> io::Result<OwnedFd> {
    let raised = Raised::to(events);
    let group = sys::fanotify_init()?;
    if let Err(why) = raised {
        tracing::info!(
            wanted = events,
            "the queue of names is as long as {SETTING} says, which cannot be changed from here: {why}"
        );
    }
    Ok(group)
}

/// What the setting says, where it cannot be changed from here.
pub fn fixed() -> Option<u64> {
    rustix::fs::access(SETTING, Access::WRITE_OK).is_err().then_some(())?;
    read(&File::open(SETTING).ok()?).ok()
}

/// While it lives nobody else who asks for it changes the setting, and the
/// limit is at least what was wanted.
struct Raised {
    setting: File,
    /// What it was, and what it is meanwhile; `None` where it was enough.
    change: Option<(u64, u64)>,
}

impl Raised {
    fn to(events: u64) -> io::Result<Self> {
        let setting = locked()?;
        let before = read(&setting)?;
        let change = (before < events).then_some((before, events));
        if change.is_some() {
            write(&setting, events)?;
        }
        Ok(Self { setting, change })
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let Some((before, meanwhile)) = self.change else {
            return;
        };
        // Who set another value since then meant it.
        let is_ours = read(&self.setting).is_ok_and(|now| now == meanwhile);
        if is_ours && let Err(error) = write(&self.setting, before) {
            tracing::warn!(%error, "{SETTING} could not be set back from {meanwhile} to {before}");
        }
    }
}

/// The setting, for one process at a time: it would take what another has
/// raised for what it was. A lock ends with its process, and who is held with
/// one is waited for only so long.
fn locked() -> io::Result<File> {
    let setting = File::options().read(true).write(true).open(SETTING)?;
    for _ in 0..QUEUE_LOCK_TRIES {
        match rustix::fs::flock(&setting, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(setting),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCKED_WAIT),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "somebody else keeps it locked"))
}

fn read(setting: &File) -> io::Result<u64> {
    let mut text = [0; 32];
    let length = setting.read_at(&mut text, 0)?;
    let text = str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
    text.ok_or(io::ErrorKind::InvalidData.into())
}

fn write(setting: &File, events: u64) -> io::Result<()> {
    setting.write_all_at(events.to_string().as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::tests::skip;

    fn limit() -> io::Result<u64> {
        read(&locked()?)
    }

    #[test]
    fn the_setting_is_back_however_many_change_it_at_once() {
        let before = match (sys::fanotify_init(), limit()) {
            (Ok(_), Ok(before)) => before,
            (Err(error), _) | (_, Err(error)) => return skip(&error.to_string()),
        };
        std::thread::scope(|scope| {
            for number in 1..=4 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let events = before + number * 100 + round;
                        let raised = Raised::to(events).unwrap();
                        assert_eq!(read(&raised.setting).unwrap(), events);
                    }
                });
            }
        });
        assert_eq!(limit().unwrap(), before);
        drop(Raised::to(1).unwrap());
        assert_eq!(limit().unwrap(), before, "it was lowered");
    }

    #[test]
    fn what_somebody_else_sets_meanwhile_stays() {
        let before = match limit() {
            Ok(before) => before,
            Err(error) => return skip(&error.to_string()),
        };
        let raised = Raised::to(before + 1).unwrap();
        let administrator = File::options().write(true).open(SETTING).unwrap();
        write(&administrator, before + 2).unwrap();
        let setting = raised.setting.try_clone().unwrap();
        drop(raised);
        let after = read(&setting).unwrap();
        write(&setting, before).unwrap();
        assert_eq!(after, before + 2);
    }
}
