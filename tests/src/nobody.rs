//! The user nobody: as whom daemons run that may do nothing special, or just
//! what they are given, and as whom a story writes beside them.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::os::unix::fs::chown;

use crate::cluster::Cluster;
use crate::command::{binary, copy_program};
use crate::machine::{is_root, program};

/// As Debian numbers it.
pub const ID: u32 = 65534;

/// The words that make a command that of nobody, with these capabilities and
/// no others; `None` where this process cannot change users.
pub fn words(capabilities: &[&str]) -> Option<Vec<OsString>> {
    words_of(ID, capabilities)
}

/// The same of any user, by number.
pub fn words_of(user: u32, capabilities: &[&str]) -> Option<Vec<OsString>> {
    if !is_root() {
        return None;
    }
    let setpriv = program("setpriv")?;
    let given: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let mut words = vec![setpriv.into_os_string()];
    words.extend(["--reuid", "--regid"].map(|set| format!("{set}={user}").into()));
    words.push("--clear-groups".into());
    let sets = ["--inh-caps", "--ambient-caps", "--bounding-set"];
    words.extend(sets.map(|set| format!("{set}=-all{given}").into()));
    Some(words)
}

/// Gives the nodes with their folders to nobody, who has each of the given
/// capabilities. False where that cannot be done.
pub fn takes(cluster: &mut Cluster, capabilities: &[&[&str]]) -> bool {
    let copy = cluster.dir().join("replicator");
    for (node, capabilities) in cluster.nodes_mut().iter_mut().zip(capabilities) {
        let Some(words) = words(capabilities) else { return false };
        // The folder of the build may be closed to others.
        if !copy.exists() {
            copy_program(binary(), &copy).expect("own directory");
        }
        let settings = &mut node.settings;
        settings.prefix = words;
        settings.program = Some(copy.clone());
        for path in [&settings.root, &settings.state, &settings.password] {
            chown(path, Some(ID), Some(ID)).expect("root gives its own files away");
        }
    }
    true
}

/// While it lives, what this thread makes belongs to nobody, or nodes of
/// nobody could not keep it. Mounts stay allowed.
pub struct Acting(PhantomData<*const ()>);

impl Acting {
    pub fn start() -> Self {
        set(ID);
        Self(PhantomData)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        set(0);
    }
}

/// Does what only root may do, whoever this thread acts as.
pub fn as_root<T>(act: impl FnOnce() -> T) -> T {
    // SAFETY: a system call that takes a number; this one is no user's, so it
    // only tells whose files this thread makes.
    let acting = unsafe { libc::setfsuid(u32::MAX) } as u32;
    set(0);
    let done = act();
    set(acting);
    done
}

fn set(id: u32) {
    // SAFETY: two system calls that take numbers, about this thread alone. The
    // group first: without being root it could not be changed back.
    unsafe {
        libc::setfsgid(id);
        libc::setfsuid(id);
    }
}
