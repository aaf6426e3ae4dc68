//! Changes that wait to fall quiet, and looks that are under way.
//!
//! A change is looked at once its entry has been quiet for `delay`, and at
//! the latest `max_delay` after it was first touched, `stream_delay` where it
//! is known which bytes of a file changed. While something is
//! being looked at or changed it is locked: the two must never overlap, or a
//! look would report the daemon's own work as somebody's edit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::id::BodyId;
use crate::path::RelPath;
use crate::range::RangeSet;

/// What of an entry may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dirt {
    /// Name, kind or metadata.
    pub entry: bool,
    /// Anything, if its fingerprint is not the known one.
    pub compare: bool,
    /// Its size, and these bytes.
    pub bytes: bool,
    pub ranges: RangeSet,
    /// Any byte.
    pub whole: bool,
    /// It is not to be read as it changes, though its ranges are known.
    pub seldom: bool,
    /// Bytes may change through a mapping.
    pub mapped: bool,
    /// A directory found here is listed too: it may have been filled before
    /// anyone looked.
    pub list: bool,
    /// It was filled elsewhere, and is listed though it is known here by now:
    /// what it holds was told of there, or never.
    pub came: bool,
    /// So many looks have found nothing here and were not believed yet.
    pub gone: u32,
    /// An event told of it.
    pub told: bool,
    /// To be read again: what differs and was not told is an error.
    pub check: bool,
}

/// What is dirty: a place in the tree, or an inode wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Spot {
    Path(RelPath),
    Body(BodyId),
}

#[derive(Debug)]
struct Waiting {
    first: Duration,
    due: Duration,
    dirt: Dirt,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Settle {
    delay: Duration,
    max_delay: Duration,
    stream_delay: Duration,
    waiting: HashMap<Spot, Waiting>,
    /// Not looked at before then, however much happens there.
    resting: HashMap<Spot, Duration>,
    /// By time due. An entry whose time has moved is stale and passed over.
    queue: BTreeMap<(Duration, u64), Spot>,
    ticket: u64,
}

impl Settle {
    pub fn new(delay: Duration, max_delay: Duration, stream_delay: Duration) -> Self {
        Self {
            delay,
            max_delay: max_delay.max(delay),
            stream_delay: stream_delay.max(delay),
            waiting: HashMap::new(),
            resting: HashMap::new(),
            queue: BTreeMap::new(),
            ticket: 0,
        }
    }

    /// Something happened there just now.
    pub fn touch(&mut self, now: Duration, spot: Spot, dirt: Dirt) {
        self.insert(now, spot, Dirt { told: true, ..dirt }, self.delay);
    }

    /// Look soon: nothing is being written there as far as anyone knows.
    pub fn look(&mut self, now: Duration, spot: Spot, dirt: Dirt) {
        self.insert(now, spot, dirt, Duration::ZERO);
    }

    /// Look after a while.
    pub fn look_after(&mut self, now: Duration, wait: Duration, spot: Spot, dirt: Dirt) {
        self.insert(now, spot, dirt, wait);
    }

    /// Leaves a spot that was looked at just now alone for a while, however
    /// much happens there: it is written all the time.
    pub fn rest(&mut self, now: Duration, pause: Duration, spot: Spot) {
        self.resting.retain(|_, until| *until > now);
        let until = now + pause;
        self.resting.insert(spot.clone(), until);
        if let Some(waiting) = self.waiting.get_mut(&spot).filter(|waiting| waiting.due < until) {
            waiting.due = until;
            self.ticket += 1;
            self.queue.insert((until, self.ticket), spot);
        }
    }

    fn insert(&mut self, now: Duration, spot: Spot, dirt: Dirt, delay: Duration) {
        let waiting = self.waiting.entry(spot.clone()).or_insert_with(|| Waiting {
            first: now,
            due: Duration::MAX,
            dirt: Dirt::default(),
        });
        waiting.dirt.merge(&dirt);
        let rested = self.resting.get(&spot).copied().unwrap_or_default();
        let longest = match waiting.dirt.is_of_ranges() && !waiting.dirt.seldom {
            true => self.stream_delay,
            false => self.max_delay,
        };
        let due = (now + delay).min(waiting.first + longest).max(rested);
        if waiting.due == due {
            return;
        }
        waiting.due = due;
        self.ticket += 1;
        self.queue.insert((due, self.ticket), spot);
    }

    /// The next thing that has fallen quiet, with when it was first touched.
    pub fn pop(&mut self, now: Duration) -> Option<(Spot, Dirt)> {
        while let Some(entry) = self.queue.first_entry() {
            let due = entry.key().0;
            if due > now {
                return None;
            }
            let spot = entry.remove();
            if self.waiting.get(&spot).is_some_and(|waiting| waiting.due == due) {
                let dirt = self.waiting.remove(&spot)?.dirt;
                return Some((spot, dirt));
            }
        }
        None
    }

    /// What waits for one spot waits for another from now on.
    pub fn pass_on(&mut self, now: Duration, from: &Spot, to: Spot) {
        if let Some(waiting) = self.waiting.remove(from) {
            self.touch(now, to, waiting.dirt);
        }
    }

    /// What of this spot has not been looked at.
    pub fn dirt(&self, spot: &Spot) -> Option<&Dirt> {
        self.waiting.get(spot).map(|waiting| &waiting.dirt)
    }

    /// Is a change of this spot waiting?
    pub fn holds(&self, spot: &Spot) -> bool {
        self.waiting.contains_key(spot)
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((due, _), _)| *due)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn spots(&self) -> impl Iterator<Item = &Spot> {
        self.waiting.keys()
    }
}

impl Dirt {
    pub fn entry() -> Self {
        Self { entry: true, ..Self::default() }
    }

    /// Nobody knows what happened here.
    pub fn compare() -> Self {
        Self { compare: true, ..Self::entry() }
    }

    /// Is there nothing to look for?
    pub fn is_empty(&self) -> bool {
        let Self { told, check, .. } = *self;
        *self == Self { told, check, ..Self::default() }
    }

    /// Are the bytes that changed known?
    pub fn is_of_ranges(&self) -> bool {
        self.bytes && !self.compare && !self.whole
    }

    /// Was it a name that changed, and nothing else?
    pub fn is_of_name(&self) -> bool {
        self.entry && !self.compare && !self.bytes && !self.whole
    }

    pub fn whole() -> Self {
        Self { entry: true, whole: true, ..Self::default() }
    }

    /// What of it is about bytes, which go with the body where that goes.
    pub fn of_bytes(&self) -> Option<Dirt> {
        let of_place = Dirt { entry: false, compare: false, list: false, ..self.clone() };
        (self.bytes || self.whole).then_some(Dirt { came: false, gone: 0, ..of_place })
    }

    pub fn merge(&mut self, other: &Dirt) {
        self.entry |= other.entry;
        self.compare |= other.compare;
        self.bytes |= other.bytes;
        self.whole |= other.whole;
        self.seldom |= other.seldom;
        self.mapped |= other.mapped;
        self.list |= other.list;
        self.came |= other.came;
        self.gone = self.gone.max(other.gone);
        self.told |= other.told;
        self.check |= other.check;
        self.ranges.extend(&other.ranges);
    }
}

/// What is being looked at or changed at this moment.
#[derive(Debug, Default)]
pub(super) struct Locks {
    paths: HashSet<RelPath>,
    bodies: HashSet<BodyId>,
    /// Directories in which so many changes are being made: their mtime is
    /// not theirs for that while.
    shared: HashMap<RelPath, usize>,
    /// A change that moves whole subtrees runs alone.
    alone: bool,
}

impl Locks {
    pub fn is_free(&self, path: &RelPath, bodies: &[BodyId]) -> bool {
        !self.alone
            && !self.paths.contains(path)
            && !self.shared.contains_key(path)
            && !bodies.iter().any(|body| self.bodies.contains(body))
    }

    pub fn holds(&self, body: BodyId) -> bool {
        self.bodies.contains(&body)
    }

    /// May changes be made in this directory?
    pub fn may_share(&self, directory: &RelPath) -> bool {
        !self.alone && !self.paths.contains(directory)
    }

    pub fn share(&mut self, directory: RelPath) {
        *self.shared.entry(directory).or_default() += 1;
    }

    pub fn unshare(&mut self, directory: &RelPath) {
        if let Some(count) = self.shared.get_mut(directory) {
            *count -= 1;
            if *count == 0 {
                self.shared.remove(directory);
            }
        }
    }

    /// Is nothing at all locked?
    pub fn is_idle(&self) -> bool {
        !self.alone && self.paths.is_empty() && self.bodies.is_empty()
    }

    pub fn lock(&mut self, path: &RelPath, bodies: &[BodyId]) {
        self.paths.insert(path.clone());
        self.bodies.extend(bodies);
    }

    pub fn lock_all(&mut self) {
        debug_assert!(self.is_idle());
        self.alone = true;
    }

    pub fn unlock(&mut self, path: &RelPath, bodies: &[BodyId]) {
        self.paths.remove(path);
        bodies.iter().for_each(|body| {
            self.bodies.remove(body);
        });
    }

    pub fn is_alone(&self) -> bool {
        self.alone
    }

    pub fn unlock_all(&mut self) {
        self.alone = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(name: &str) -> Spot {
        Spot::Path(RelPath::parse(name.as_bytes()).unwrap())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_busy_file_waits_but_not_for_ever() {
        let mut settle = Settle::new(ms(10), ms(25), ms(15));
        for at in [0, 5, 10, 15, 20] {
            settle.touch(ms(at), spot("f"), Dirt::entry());
            assert_eq!(settle.pop(ms(at)), None);
        }
        assert_eq!(settle.pop(ms(24)), None);
        assert!(settle.pop(ms(25)).is_some());
        assert_eq!(settle.pop(ms(60)), None);
        assert_eq!(settle.next_due(), None);
        let bytes = Dirt { bytes: true, ..Dirt::default() };
        settle.touch(ms(60), spot("f"), bytes.clone());
        settle.touch(ms(68), spot("f"), bytes);
        assert!(settle.pop(ms(74)).is_none() && settle.pop(ms(75)).is_some());
    }

    #[test]
    fn what_rests_is_left_alone_before_and_after_it_is_touched() {
        let mut settle = Settle::new(ms(0), ms(10), ms(10));
        settle.touch(ms(0), spot("f"), Dirt::entry());
        settle.rest(ms(0), ms(30), spot("f"));
        settle.touch(ms(5), spot("f"), Dirt::entry());
        assert_eq!(settle.pop(ms(29)), None);
        assert_eq!(settle.next_due().map(|due| due <= ms(30)), Some(true));
        assert!(settle.pop(ms(30)).is_some());
        settle.rest(ms(30), ms(30), spot("f"));
        settle.touch(ms(31), spot("f"), Dirt::entry());
        settle.touch(ms(31), spot("g"), Dirt::entry());
        assert_eq!(settle.pop(ms(31)).map(|(spot, _)| spot), Some(spot("g")));
        assert!(settle.pop(ms(59)).is_none() && settle.pop(ms(60)).is_some());
        settle.touch(ms(61), spot("f"), Dirt::entry());
        assert!(settle.pop(ms(61)).is_some());
    }

    #[test]
    fn dirt_gathers_until_it_is_taken() {
        let mut settle = Settle::new(ms(1), ms(100), ms(100));
        let ranges = |start, end| Dirt {
            ranges: [crate::range::Range { start, end }].into_iter().collect(),
            ..Dirt::default()
        };
        settle.touch(ms(0), spot("f"), ranges(0, 10));
        settle.touch(ms(0), spot("f"), ranges(10, 20));
        let (_, dirt) = settle.pop(ms(5)).unwrap();
        assert_eq!(dirt.ranges.bytes(), 20);
        assert_eq!(dirt.ranges.count(), 1);
    }
}
