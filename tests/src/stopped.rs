//! A daemon that is held by SIGSTOP: it keeps its connections for a while and
//! does nothing.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::Node;

/// While it lives, the node does nothing.
pub struct Stopped(Pid);

impl Stopped {
    /// # Panics
    ///
    /// Where the node does not run.
    pub fn new(node: &Node) -> Self {
        let pid = node.pid().and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.expect("only a node that runs can be held");
        kill_process(pid, Signal::STOP).expect("a child may be signalled");
        // Until the last thread has met the signal it reads on.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT)
            .expect("the node is a child of this process");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}
