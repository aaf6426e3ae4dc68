//! When to read what again: the scrub, slow and steady.
//!
//! A pass through the folder begins every `verify_interval` and takes about
//! half of it, one small step after the other; a step waits until the node has
//! nothing else to do. The index notes how far the pass has come, so that a
//! restart goes on there. What a look finds is the core's affair.

use std::time::Duration;

use super::Node;
use crate::path::RelPath;
use crate::sync::effect::Now;
use crate::sync::scrub::{Mark, PIECE_BYTES, Scrubbed};

/// Where the index remembers how far everything has been read again.
pub(super) const NOTE: &str = "verified";

/// Into how many steps a pass is cut at the least, where there are as many
/// names.
const STEPS_MIN: u64 = 128;

/// Names of one step at the most.
const NAMES_MAX: u64 = 256;

/// Between two steps, however soon the pass is to be over.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// A pass that was not over after the interval makes its pauses so much
/// shorter: files with holes count for more than they take, and nodes rest.
const LATE_FACTOR: u32 = 8;

/// How long a step waits for a node that is never idle.
const BUSY_MAX: Duration = Duration::from_secs(600);

/// How soon a busy node is asked again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The wall clock is asked again after so long: it may be set.
const CLOCK_PAUSE: Duration = Duration::from_secs(3600);

/// See the module's page.
#[derive(Debug)]
pub(super) struct Scrub {
    interval: Duration,
    /// When the last pass began, in seconds since 1970.
    begun: i64,
    /// How far the pass under way has come.
    mark: Option<Mark>,
    /// When to do something next.
    next: Duration,
    busy_since: Option<Duration>,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Rest,
    /// A pass begins.
    Begin,
    /// From here, so many names and bytes.
    Step { from: Mark, names: usize, bytes: u64 },
}

/// How much there is in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub names: u64,
    /// What the folder's file system holds: at least what its files take.
    pub bytes: u64,
}

impl Scrub {
    /// Goes on where the note says. Without one everything was read when the
    /// node met the folder.
    pub fn new(interval: Duration, note: Option<&[u8]>, now: Now) -> Self {
        let (begun, mark) = note.and_then(from_note).unwrap_or((now.seconds(), None));
        Self { interval, begun, mark, next: Duration::ZERO, busy_since: None }
    }

    pub fn next_timeout(&self) -> Duration {
        self.next
    }

    pub fn due(&mut self, now: Now, is_busy: bool, extent: Extent) -> Due {
        if now.monotonic < self.next {
            return Due::Rest;
        }
        if is_busy {
            let since = *self.busy_since.get_or_insert(now.monotonic);
            if now.monotonic.saturating_sub(since) < BUSY_MAX {
                self.next = now.monotonic + BUSY_PAUSE;
                return Due::Rest;
            }
        }
        self.busy_since = None;
        if let Some(from) = self.mark.clone() {
            let names = (extent.names / STEPS_MIN).clamp(1, NAMES_MAX) as usize;
            return Due::Step { from, names, bytes: PIECE_BYTES };
        }
        // A clock that was set back says nothing about what was read since.
        self.begun = self.begun.min(now.seconds());
        let rest = self.begun.saturating_add(whole_seconds(self.interval)) - now.seconds();
        if rest > 0 {
            self.next = now.monotonic + CLOCK_PAUSE.min(Duration::from_secs(rest as u64));
            return Due::Rest;
        }
        self.begun = now.seconds();
        self.mark = Some(Mark::start());
        Due::Begin
    }

    /// A step was asked for.
    pub fn stepped(&mut self, now: Now, done: Scrubbed, extent: Extent) {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let share = share(done.names, extent.names).max(share(done.bytes, extent.bytes));
        let mut pause = (self.interval / 2).mul_f64(share.min(1.0));
        if now.seconds() > self.begun.saturating_add(whole_seconds(self.interval)) {
            pause /= LATE_FACTOR;
        }
        self.next = now.monotonic + pause.max(PAUSE_MIN);
        self.mark = done.next;
    }

    /// What a restart needs to know.
    pub fn note(&self) -> Vec<u8> {
        let mut note = self.begun.to_le_bytes().to_vec();
        if let Some(mark) = &self.mark {
            note.extend(mark.offset.to_le_bytes());
            note.extend(mark.path.as_bytes());
        }
        note
    }
}

impl Node {
    /// Reads everything again little by little: what no event told of is found
    /// at last.
    pub(super) fn scrub_when_due(&mut self) {
        let now = self.now();
        if now.monotonic < self.scrub.next_timeout() {
            return;
        }
        let extent = self.extent();
        let due = self.scrub.due(now, self.core.is_at_work(), extent);
        // Before it is carried out: a step that a crash cuts off is one to do.
        self.note_scrub();
        match due {
            Due::Rest => {}
            Due::Begin => {
                tracing::info!(names = extent.names, "everything is read again, little by little");
                self.core.scan(RelPath::root());
            }
            Due::Step { from, names, bytes } => {
                let done = self.core.scrub_next(now, &from, names, bytes);
                if done.next.is_none() {
                    tracing::info!("everything has been read again");
                }
                self.scrub.stepped(now, done, extent);
            }
        }
    }

    pub(super) fn note_scrub(&mut self) {
        let note = self.scrub.note();
        self.core.store_mut().put_note(NOTE, note);
    }

    /// How much there is to read.
    fn extent(&self) -> Extent {
        // Where the file system does not say, names alone set the pace.
        let space = self.carrier.root.free_space();
        let used = space.map_or(u64::MAX, |space| space.total.saturating_sub(space.free));
        Extent { names: self.core.store().stats().names, bytes: used }
    }
}

fn from_note(note: &[u8]) -> Option<(i64, Option<Mark>)> {
    let (begun, rest) = note.split_first_chunk()?;
    let mark = rest.split_first_chunk().and_then(|(offset, path)| {
        let path = if path.is_empty() { RelPath::root() } else { RelPath::parse(path).ok()? };
        Some(Mark { path, offset: u64::from_le_bytes(*offset) })
    });
    Some((i64::from_le_bytes(*begun), mark))
}

fn whole_seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const FOLDER: Extent = Extent { names: 1000, bytes: 100 << 30 };

    /// So long after the start, which was in 2023.
    fn at(since: Duration) -> Now {
        let wall = 1_700_000_000_000_000_000 + since.as_nanos() as i64;
        Now { monotonic: since, wall }
    }

    /// Runs until a time, over names that are numbers; says when which was
    /// read and that no step took more than its share.
    fn run(
        scrub: &mut Scrub,
        from: Duration,
        until: Duration,
        bytes_each: u64,
    ) -> Vec<(Duration, u64)> {
        let (mut now, mut read) = (from, Vec::new());
        while now < until {
            if let Due::Step { from, names, .. } = scrub.due(at(now), false, FOLDER) {
                let first: u64 = from.path.to_string().parse().unwrap_or(0);
                let end = (first + names as u64).min(FOLDER.names);
                read.extend((first..end).map(|name| (now, name)));
                let path = RelPath::parse(end.to_string().as_bytes()).unwrap();
                let next = (end < FOLDER.names).then_some(Mark { path, offset: 0 });
                let (names, bytes) = (end - first, (end - first) * bytes_each);
                scrub.stepped(at(now), Scrubbed { names, bytes, next }, FOLDER);
            }
            now = scrub.next_timeout().max(now + Duration::from_millis(1));
        }
        read
    }

    #[test]
    fn a_pass_takes_half_of_the_interval_and_the_next_begins_after_it() {
        let mut scrub = Scrub::new(7 * DAY, None, at(Duration::ZERO));
        assert!(run(&mut scrub, Duration::ZERO, 7 * DAY, 0).is_empty());
        let read = run(&mut scrub, 7 * DAY, 14 * DAY, 0);
        assert!(read.iter().map(|(_, name)| *name).eq(0..FOLDER.names));
        let middle = read[500].0 - 7 * DAY;
        assert!((DAY..3 * DAY).contains(&middle), "{middle:?}");
        let last = read[999].0 - 7 * DAY;
        assert!((3 * DAY..4 * DAY).contains(&last), "{last:?}");
        let again = run(&mut scrub, 14 * DAY, 21 * DAY, 0);
        assert_eq!(again.len(), 1000);
    }

    #[test]
    fn bytes_take_their_time_too() {
        let mut scrub = Scrub::new(7 * DAY, None, at(Duration::ZERO));
        let read = run(&mut scrub, Duration::ZERO, 14 * DAY, FOLDER.bytes / 1000 * 3 / 2);
        let took = read[999].0 - 7 * DAY;
        assert!((5 * DAY..6 * DAY).contains(&took), "{took:?}");
    }

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let mut scrub = Scrub::new(7 * DAY, None, at(Duration::ZERO));
        let before = run(&mut scrub, Duration::ZERO, 9 * DAY, 0);
        let note = scrub.note();
        let mut scrub = Scrub::new(7 * DAY, Some(&note), at(9 * DAY));
        let after = run(&mut scrub, 9 * DAY, 14 * DAY, 0);
        let all = before.iter().chain(&after).map(|(_, name)| *name);
        assert!(all.eq(0..FOLDER.names));
        let note = scrub.note();
        let mut scrub = Scrub::new(7 * DAY, Some(&note), at(13 * DAY));
        assert!(run(&mut scrub, 13 * DAY, 14 * DAY, 0).is_empty());
    }

    #[test]
    fn live_work_comes_first_but_not_for_ever() {
        let mut scrub = Scrub::new(DAY, None, at(Duration::ZERO));
        assert_eq!(scrub.due(at(DAY), false, FOLDER), Due::Begin);
        let (mut now, mut waited) = (DAY, Duration::ZERO);
        while scrub.due(at(now), true, FOLDER) == Due::Rest {
            (now, waited) = (now + BUSY_PAUSE, waited + BUSY_PAUSE);
        }
        assert_eq!(waited, BUSY_MAX);
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_is_no_reason_to_rest_for_a_year() {
        let mut scrub = Scrub::new(7 * DAY, None, at(365 * DAY));
        let read = run(&mut scrub, Duration::ZERO, 14 * DAY, 0);
        assert_eq!(read.len(), 1000);
    }
}
