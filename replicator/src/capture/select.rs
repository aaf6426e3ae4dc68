//! Chooses the level: tries the highest one that was asked for, says why it
//! goes down.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::counters::Tally;
use super::describe::{Description, Finding, seen_late};
use super::fanotify::{Fanotify, Interest};
use super::inotify::Inotify;
use super::level::{Choice, Level};
use super::worker::Sources;
use super::{Error, Options};

/// Starts the sources of the best level that was asked for and can be had.
pub fn select(options: &Options, tally: &Arc<Tally>) -> Result<(Sources, Description), Error> {
    let root = File::open(&options.root)
        .map_err(|source| Error::Root { root: options.root.clone(), source })?;
    let fanotify = match options.choice {
        Choice::Inotify => Err("inotify was asked for".to_owned()),
        _ => watch(&root, Interest::NamesAndContent, tally),
    };
    match fanotify {
        Ok(fanotify) => {
            let sources = Sources { fanotify: Some(fanotify), ..Sources::default() };
            Ok((sources, description(Level::Fanotify, None)))
        }
        Err(reason) if options.choice == Choice::Fanotify => Err(Error::Fanotify { reason }),
        Err(reason) => {
            let inotify =
                Inotify::watch(&options.root, Arc::clone(tally)).map_err(Error::Inotify)?;
            let sources = Sources { inotify: Some(inotify), ..Sources::default() };
            Ok((sources, description(Level::Inotify, Some(reason))))
        }
    }
}

/// What `doctor` prints about this kernel and folder. Nothing stays behind.
pub fn probe(root: &Path) -> Vec<Finding> {
    let fanotify = File::open(root)
        .map_err(|error| error.to_string())
        .and_then(|root| watch(&root, Interest::NamesAndContent, &Arc::default()));
    vec![Finding {
        what: "fanotify".to_owned(),
        available: fanotify.is_ok(),
        detail: fanotify.err().unwrap_or_default(),
    }]
}

fn watch(root: &File, interest: Interest, tally: &Arc<Tally>) -> Result<Fanotify, String> {
    Fanotify::watch(root.as_fd(), interest, Arc::clone(tally)).map_err(|error| refusal(&error))
}

/// Why fanotify says no, in the user's words.
fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "fanotify needs the capability CAP_SYS_ADMIN (run as root)".to_owned()
        }
        Some(libc::ENOSYS | libc::EINVAL) => {
            "fanotify of this kernel cannot report names (Linux 5.17 can)".to_owned()
        }
        Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EXDEV) => {
            format!("the folder's file system has no file handles for fanotify ({error})")
        }
        _ => format!("fanotify: {error}"),
    }
}

fn description(level: Level, why_not_higher: Option<String>) -> Description {
    Description {
        level,
        hook_set: "none",
        attached: Vec::new(),
        missing: Vec::new(),
        seen_late: seen_late(level),
        why_not_higher,
    }
}
