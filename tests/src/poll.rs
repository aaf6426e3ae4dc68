//! Waiting for what should become true, and watching what should stay true.
//!
//! No story sleeps for a guess: it states the condition and the longest time
//! a user would put up with.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at first; soon enough to measure tens of milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Between two looks later on, when the condition may be costly to ask.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How many times as long as on a usual machine everything may take: the
/// number `REPLICATOR_PATIENCE`, for emulated machines.
pub fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let told = std::env::var("REPLICATOR_PATIENCE").ok();
        told.and_then(|text| text.parse().ok()).unwrap_or(1)
    })
}

/// Did `condition` come true within `limit`? It is asked once at least.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let limit = limit * patience();
    let mut pause = FIRST_PAUSE;
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 5 / 4).min(LONGEST_PAUSE);
    }
}

/// Panics unless `condition` comes true within `limit`.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    let start = Instant::now();
    assert!(until(limit, condition), "not within {:.1?}: {what}", start.elapsed());
}

/// Panics when `condition` is false at any look during `period`: for what must
/// never happen, where there is no event to wait for.
#[track_caller]
pub fn holds_for(period: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < period {
        assert!(condition(), "broken after {:.1?}: {what}", start.elapsed());
        thread::sleep(LONGEST_PAUSE / 2);
    }
}
