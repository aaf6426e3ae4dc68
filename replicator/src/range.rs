//! Byte ranges of a file and sets of them.
//!
//! Pure values: capture fills them, the engine reads what they name.

use serde::{Deserialize, Serialize};

/// `[start, end)` bytes of a file. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    /// `None` where nothing lies between them.
    pub fn new(start: u64, end: u64) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// How many bytes: never 0.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    pub fn intersection(&self, other: &Range) -> Option<Range> {
        Range::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The same bytes in pieces of this many, the last one of what is left.
    pub fn pieces(self, bytes: u64) -> impl Iterator<Item = Range> {
        let starts = (self.start..self.end).step_by(bytes as usize);
        starts.filter_map(move |start| Range::new(start, self.end.min(start.saturating_add(bytes))))
    }

    /// Grown outwards to multiples of `unit`, a power of two.
    pub fn aligned(&self, unit: u64) -> Range {
        debug_assert!(unit.is_power_of_two());
        Range {
            start: self.start & !(unit - 1),
            end: self.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX),
        }
    }
}

/// Ranges that are put into a set one by one, each of which may move all
/// behind it; more are merged with it in one go.
const INSERTED_MAX: usize = 8;

/// Bytes of one file: sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins what touches. Appending in ascending order costs a constant time.
    pub fn insert(&mut self, range: Range) {
        let first = self.0.partition_point(|held| held.end < range.start);
        let last = first + self.0[first..].partition_point(|held| held.start <= range.end);
        if first == last {
            self.0.insert(first, range);
            return;
        }
        let start = range.start.min(self.0[first].start);
        let end = range.end.max(self.0[last - 1].end);
        self.0.splice(first..last, [Range { start, end }]);
    }

    pub fn extend(&mut self, other: &RangeSet) {
        if other.count() <= INSERTED_MAX {
            other.iter().for_each(|range| self.insert(range));
            return;
        }
        let mut both = std::mem::take(&mut self.0);
        both.extend(other.iter());
        both.sort();
        both.into_iter().for_each(|range| self.insert(range));
    }

    /// Is this byte in it?
    pub fn contains(&self, at: u64) -> bool {
        let behind = self.0.partition_point(|held| held.end <= at);
        self.0.get(behind).is_some_and(|held| held.start <= at)
    }

    /// Leaves out the bytes of `other`.
    pub fn subtract(&mut self, other: &RangeSet) {
        if self.is_empty() || other.is_empty() {
            return;
        }
        let mut left = Vec::with_capacity(self.0.len());
        let mut cuts = other.0.iter().copied().peekable();
        for range in &self.0 {
            let mut start = range.start;
            while cuts.next_if(|cut| cut.end <= start).is_some() {}
            while let Some(cut) = cuts.peek().filter(|cut| cut.start < range.end) {
                left.extend(Range::new(start, cut.start));
                start = cut.end;
                if cut.end > range.end {
                    break;
                }
                cuts.next();
            }
            left.extend(Range::new(start, range.end));
        }
        self.0 = left;
    }

    /// The bytes that are in both.
    pub fn intersection(&self, other: &RangeSet) -> RangeSet {
        let (mut outside, mut inside) = (self.clone(), self.clone());
        outside.subtract(other);
        inside.subtract(&outside);
        inside
    }

    /// Is this a set that [`RangeSet::insert`] could have made? For what came
    /// from elsewhere.
    pub fn is_well_formed(&self) -> bool {
        self.0.iter().all(|range| range.start < range.end)
            && self.0.windows(2).all(|pair| pair[0].end < pair[1].start)
    }

    /// The end of the last range; 0 where there is none.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end)
    }

    /// Only what lies before `end`.
    pub fn truncate(&mut self, end: u64) {
        self.0.retain_mut(|range| {
            range.end = range.end.min(end);
            range.start < range.end
        });
    }

    /// The same bytes grown outwards to multiples of `unit`.
    pub fn aligned(&self, unit: u64) -> RangeSet {
        let mut grown = RangeSet::new();
        self.iter().for_each(|range| grown.insert(range.aligned(unit)));
        grown
    }

    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many separate ranges.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many bytes in all.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|range| range.len()).sum()
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut set = RangeSet::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_holds_exactly_the_bytes_put_in(
            ranges in prop::collection::vec((0u64..200, 1u64..30), 0..20),
        ) {
            let mut bytes = [false; 256];
            let mut set = RangeSet::new();
            for (start, len) in ranges {
                bytes[start as usize..(start + len) as usize].fill(true);
                set.insert(Range { start, end: start + len });
            }
            let mut held = [false; 256];
            for range in set.iter() {
                prop_assert!(range.start < range.end);
                held[range.start as usize..range.end as usize].fill(true);
            }
            prop_assert_eq!(bytes, held);
            let apart = set.0.windows(2).all(|pair| pair[0].end < pair[1].start);
            prop_assert!(apart);
        }
    }

    proptest! {
        #[test]
        fn subtracting_leaves_exactly_the_other_bytes(
            ranges in prop::collection::vec((0u64..200, 1u64..30), 0..12),
            cuts in prop::collection::vec((0u64..200, 1u64..30), 0..12),
        ) {
            let set = |ranges: &[(u64, u64)]| {
                ranges.iter().map(|&(start, len)| Range { start, end: start + len })
                    .collect::<RangeSet>()
            };
            let (mut left, cut) = (set(&ranges), set(&cuts));
            let holds = |set: &RangeSet, at: u64| set.iter().any(|r| r.start <= at && at < r.end);
            let before = left.clone();
            left.subtract(&cut);
            prop_assert!(left.is_well_formed());
            for at in 0..256 {
                prop_assert_eq!(holds(&left, at), holds(&before, at) && !holds(&cut, at));
            }
        }
    }

    #[test]
    fn truncating_drops_what_lies_behind() {
        let mut set: RangeSet =
            [Range { start: 0, end: 10 }, Range { start: 20, end: 30 }].into_iter().collect();
        set.truncate(5);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Range { start: 0, end: 5 }]);
    }
}
