//! Asking work that may take hours to give way.
//!
//! A directory that is to be moved, or a change of what a large file is to
//! replace, must not wait until that file has come. Its job is asked to end
//! where it is: what has arrived is kept, and the next job goes on from there.

use std::collections::HashMap;

use tokio::sync::watch;

/// Those who can be asked, by job.
#[derive(Debug, Default)]
pub(super) struct Ways(HashMap<u64, Asker>);

impl Ways {
    /// A job begins.
    pub fn begin(&mut self, job: u64) -> Way {
        let (asker, way) = Way::new();
        self.0.insert(job, asker);
        way
    }

    pub fn ask(&self, job: u64) {
        self.0.get(&job).into_iter().for_each(Asker::ask);
    }

    pub fn end(&mut self, job: u64) {
        self.0.remove(&job);
    }
}

/// Asks all clones of one [`Way`].
#[derive(Debug)]
pub(super) struct Asker(watch::Sender<bool>);

impl Asker {
    pub fn ask(&self) {
        self.0.send_replace(true);
    }
}

/// Looked at where work can end without harm.
#[derive(Clone, Debug)]
pub(super) struct Way(watch::Receiver<bool>);

impl Way {
    pub fn new() -> (Asker, Way) {
        let (asker, way) = watch::channel(false);
        (Asker(asker), Way(way))
    }

    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is asked for, which may be never.
    pub async fn asked(&self) {
        let mut way = self.0.clone();
        if way.wait_for(|is_asked| *is_asked).await.is_err() {
            // Nobody is left who could ask.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_asked_hears_of_it_before_and_after() {
        let mut ways = Ways::default();
        let [one, other] = [1, 2].map(|job| ways.begin(job));
        let waits = tokio::spawn({
            let one = one.clone();
            async move { one.asked().await }
        });
        ways.ask(1);
        waits.await.unwrap();
        one.asked().await;
        assert!(one.is_asked() && !other.is_asked());
        ways.end(2);
        ways.ask(2);
        assert!(!other.is_asked());
    }
}
