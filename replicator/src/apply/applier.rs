//! The thread that applies, and the way to it.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::worker::Worker;
use super::{Error, Outcome, Recovered, Step, beside, redo};
use crate::root::Root;

/// Calls that wait for the thread; further callers wait in [`Applier::run`],
/// which is the back-pressure towards the network.
const RUNS_WAITING_MAX: usize = 64;

/// Applies changes to one folder on a thread of its own: system calls that
/// may wait for a disk have no place on a reactor.
#[derive(Debug)]
pub struct Applier {
    runs: Option<mpsc::Sender<Run>>,
    thread: Option<JoinHandle<()>>,
    recovered: Recovered,
}

struct Run {
    steps: Vec<Step>,
    reply: oneshot::Sender<Vec<Outcome>>,
}

impl Applier {
    /// Completes what a crash cut short, removes what it left, and starts.
    pub fn start(root: Arc<Root>) -> Result<Self, Error> {
        let mut recovered = redo::recover(&root)?;
        recovered.temporary = beside::empty(&root)?;
        let (runs, waiting) = mpsc::channel(RUNS_WAITING_MAX);
        let worker = Worker::new(root);
        let thread = std::thread::Builder::new()
            .name("apply".to_owned())
            .spawn(move || work(worker, waiting))
            .map_err(|error| Error::private_io("start the apply thread", error))?;
        Ok(Self { runs: Some(runs), thread: Some(thread), recovered })
    }

    /// Carries out steps in their order and answers each. A step that raced
    /// or failed does not stop the others. Steps once handed over are carried
    /// out even if the future is dropped.
    pub async fn run(&self, steps: Vec<Step>) -> Vec<Outcome> {
        let count = steps.len();
        let stopped = || (0..count).map(|_| Outcome::Failed(Error::Stopped)).collect();
        let (reply, outcomes) = oneshot::channel();
        let Some(runs) = &self.runs else { return stopped() };
        if runs.send(Run { steps, reply }).await.is_err() {
            return stopped();
        }
        outcomes.await.unwrap_or_else(|_| stopped())
    }

    /// What the start found to repair.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }
}

impl Drop for Applier {
    /// Ends the thread after the steps it has been given.
    fn drop(&mut self) {
        self.runs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the apply thread panicked");
        }
    }
}

fn work(mut worker: Worker, mut waiting: mpsc::Receiver<Run>) {
    while let Some(run) = waiting.blocking_recv() {
        let outcomes = worker.run(run.steps);
        // The caller may have given up; the tree has changed all the same.
        let _ = run.reply.send(outcomes);
    }
}
