//! Chooses the level: tries the highest one that was asked for, says why it
//! goes down.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::counters::Tally;
use super::describe::{Description, Finding, seen_late};
use super::ebpf::{self, FileSystem};
use super::fanotify::{Fanotify, Interest};
use super::inotify::Inotify;
use super::level::Level;
use super::limits::QUEUE_ONE_IN;
use super::sys;
use super::worker::Sources;
use super::{Error, Lack, MEMORY_BYTES_MIN, Options};
use crate::choice::CaptureChoice;

/// Starts the sources of the best level that was asked for and can be had.
pub fn select(options: &Options, tally: &Arc<Tally>) -> Result<(Sources, Description), Error> {
    let root = File::open(&options.root)
        .map_err(|source| Error::Root { root: options.root.clone(), source })?;
    let mut why_not_higher = None;
    if matches!(options.choice, CaptureChoice::Auto | CaptureChoice::Ebpf) {
        let queue_bytes = options.memory_bytes / QUEUE_ONE_IN;
        let watched =
            Fanotify::watch(root.as_fd(), Interest::Names, queue_bytes, Arc::clone(tally));
        match ebpf(&root, watched, options.memory_bytes - queue_bytes, tally) {
            Ok(found) => return Ok(found),
            Err(lack) if options.choice == CaptureChoice::Ebpf => return Err(Error::Ebpf(lack)),
            Err(lack) => why_not_higher = Some(format!("ebpf: {}", lack.reason)),
        }
    }
    if matches!(options.choice, CaptureChoice::Auto | CaptureChoice::Fanotify) {
        let interest = Interest::NamesAndContent;
        let watched =
            Fanotify::watch(root.as_fd(), interest, options.memory_bytes, Arc::clone(tally));
        match followed(&root, watched) {
            Ok(fanotify) => {
                let sources = Sources { fanotify: Some(fanotify), ..Sources::default() };
                return Ok((sources, description(Level::Fanotify, why_not_higher)));
            }
            Err(lack) if options.choice == CaptureChoice::Fanotify => {
                return Err(Error::Fanotify(lack));
            }
            Err(lack) => {
                let higher = why_not_higher.map_or_else(String::new, |why| why + "; ");
                why_not_higher = Some(format!("{higher}fanotify: {}", lack.reason));
            }
        }
    }
    let inotify = Inotify::watch(&options.root, Arc::clone(tally)).map_err(Error::Inotify)?;
    let sources = Sources { inotify: Some(inotify), ..Sources::default() };
    Ok((sources, description(Level::Inotify, why_not_higher)))
}

fn ebpf(
    root: &File,
    names: io::Result<Fanotify>,
    memory_bytes: usize,
    tally: &Arc<Tally>,
) -> Result<(Sources, Description), Lack> {
    let file_system = rustix::fs::fstatfs(root).map_err(|error| error.to_string())?;
    let file_system = FileSystem::from_magic(file_system.f_type as i64)?;
    let fanotify = followed(root, names)?;
    let attached = ebpf::load(root.as_fd(), file_system, memory_bytes, Arc::clone(tally))?;
    let description = Description {
        hook_set: attached.hook_set,
        tells_early: attached.tells_early,
        attached: attached.hooks,
        missing: attached.missing,
        why_not_exits: attached.why_not_exits,
        ..description(Level::Ebpf, None)
    };
    let sources =
        Sources { kernel: Some(attached.kernel), fanotify: Some(fanotify), inotify: None };
    Ok((sources, description))
}

/// What `doctor` prints about this kernel and folder. Nothing stays behind.
pub fn probe(root: &Path) -> Vec<Finding> {
    let folder = match File::open(root) {
        Ok(folder) => folder,
        Err(error) => return vec![finding("folder", Err(error.to_string()), "")],
    };
    let tally = Arc::default();
    let try_out = |interest| Fanotify::try_out(folder.as_fd(), interest);
    let ebpf = ebpf(&folder, try_out(Interest::Names), MEMORY_BYTES_MIN, &tally);
    let fanotify = followed(&folder, try_out(Interest::NamesAndContent));
    let level = match (&ebpf, &fanotify) {
        (Ok(_), _) => Level::Ebpf,
        (_, Ok(_)) => Level::Fanotify,
        _ => Level::Inotify,
    };
    let mut findings = vec![best(level)];
    let attached = ebpf.as_ref().map(|(_, found)| hooks(found));
    let attached = attached.map_err(|lack| lack.reason.clone());
    findings.push(finding(
        "ebpf",
        attached,
        "a changed file is read and compared, instead of the ranges that were written",
    ));
    for missing in ebpf.into_iter().flat_map(|(_, found)| found.missing) {
        let what = format!("hook {}", missing.name);
        findings.push(finding(&what, Err(missing.costs), ""));
    }
    let marks = fanotify.map(|_| {
        let fixed = Fanotify::fixed_queue().map_or_else(String::new, |events| {
            format!(
                "; names wait in a queue of {events}: where that is short, set \
                 fs.fanotify.max_queued_events on the host"
            )
        });
        format!("the folder's file system can be marked{fixed}")
    });
    let marks = marks.map_err(|lack| lack.reason);
    findings.push(finding("fanotify", marks, "names are learnt through one watch a directory"));
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    let watches = limit.map(|limit| format!("{} directories at most", limit.trim()));
    let watches = watches.map_err(|error| error.to_string());
    findings.push(finding("inotify", watches, "the lowest level is not to be had"));
    findings
}

/// The level that is had, and what it learns late.
fn best(level: Level) -> Finding {
    let late = seen_late(level);
    if late.is_empty() {
        return finding("capture level", Ok(level.to_string()), "");
    }
    let advice = format!("late are {}", late.join("; "));
    finding("capture level", Err(format!("{level}, not the highest one")), &advice)
}

/// Which set of hooks attaches, and why not the better one.
fn hooks(found: &Description) -> String {
    let attached = format!("{} {} attach", found.attached.len(), found.hook_set);
    match &found.why_not_exits {
        Some(reason) => format!("{attached} (not function exits: {reason})"),
        None => attached,
    }
}

fn finding(what: &str, result: Result<String, String>, advice: &str) -> Finding {
    let available = result.is_ok();
    let detail = result.unwrap_or_else(|reason| reason);
    Finding { what: what.to_owned(), available, detail, advice: advice.to_owned() }
}

/// Its events name directories in a way that not everybody may follow.
fn followed(root: &File, watched: io::Result<Fanotify>) -> Result<Fanotify, Lack> {
    let fanotify = watched.map_err(|error| refusal(&error))?;
    match sys::open_again_by_handle(root.as_fd()) {
        Ok(_) => Ok(fanotify),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err(Lack::denied("it needs the capability CAP_DAC_READ_SEARCH (run as root)"))
        }
        Err(error) => Err(refusal(&error)),
    }
}

/// Why fanotify says no, in the user's words.
fn refusal(error: &io::Error) -> Lack {
    match error.raw_os_error() {
        Some(libc::EPERM) => Lack::denied("it needs the capability CAP_SYS_ADMIN (run as root)"),
        Some(libc::ENOSYS | libc::EINVAL) => {
            "this kernel's fanotify cannot report names (Linux 5.17 can)".into()
        }
        Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EXDEV) => {
            format!("the folder's file system has no file handles for fanotify ({error})").into()
        }
        _ => error.to_string().into(),
    }
}

fn description(level: Level, why_not_higher: Option<String>) -> Description {
    Description {
        level,
        hook_set: "none",
        tells_early: false,
        attached: Vec::new(),
        missing: Vec::new(),
        why_not_exits: None,
        why_not_higher,
    }
}
