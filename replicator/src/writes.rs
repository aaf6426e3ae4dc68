//! Bytes, and where in a file each run of them lies.

use bytes::Bytes;

use crate::range::{Range, RangeSet};

/// Runs of bytes with their offsets. None overlaps another.
pub type Writes = Vec<(u64, Bytes)>;

/// The ranges that these fill.
pub fn spans(writes: &[(u64, Bytes)]) -> RangeSet {
    writes.iter().filter_map(span).collect()
}

/// How many bytes these are.
pub fn bytes_of(writes: &[(u64, Bytes)]) -> u64 {
    writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// What of these lies outside of some ranges.
pub fn outside(writes: &[(u64, Bytes)], ranges: &RangeSet) -> Writes {
    let mut left = Writes::with_capacity(writes.len());
    for write in writes {
        let mut parts: RangeSet = span(write).into_iter().collect();
        parts.subtract(ranges);
        left.extend(parts.iter().map(|part| (part.start, slice(write, part))));
    }
    left
}

/// What of these lies in some ranges, in memory of its own: what is kept of a
/// long run does not hold all of it.
pub fn copied(writes: &[(u64, Bytes)], ranges: &RangeSet) -> Writes {
    let mut inside = Writes::with_capacity(writes.len());
    for write in writes {
        let span: RangeSet = span(write).into_iter().collect();
        let parts = span.intersection(ranges);
        inside.extend(match parts == span {
            true => vec![write.clone()],
            false => parts.iter().map(|part| copy(write, part)).collect(),
        });
    }
    inside
}

fn copy(write: &(u64, Bytes), part: Range) -> (u64, Bytes) {
    (part.start, Bytes::copy_from_slice(&slice(write, part)))
}

fn slice((start, bytes): &(u64, Bytes), part: Range) -> Bytes {
    bytes.slice((part.start - start) as usize..(part.end - start) as usize)
}

fn span((at, bytes): &(u64, Bytes)) -> Option<Range> {
    Range::new(*at, at + bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> Writes {
        vec![(100, Bytes::from_static(b"0123456789")), (200, Bytes::from_static(b"abc"))]
    }

    fn ranges(list: &[(u64, u64)]) -> RangeSet {
        list.iter().map(|&(start, end)| Range { start, end }).collect()
    }

    #[test]
    fn they_are_cut_where_newer_bytes_came() {
        let left = outside(&digits(), &ranges(&[(103, 105), (108, 201)]));
        let expected: Writes = vec![
            (100, Bytes::from_static(b"012")),
            (105, Bytes::from_static(b"567")),
            (201, Bytes::from_static(b"bc")),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn what_lies_in_ranges_is_copied() {
        let some = copied(&digits(), &ranges(&[(0, 102), (109, 201)]));
        let expected: Writes = vec![
            (100, Bytes::from_static(b"01")),
            (109, Bytes::from_static(b"9")),
            (200, Bytes::from_static(b"a")),
        ];
        assert_eq!(some, expected);
        assert_eq!(bytes_of(&some), 4);
        assert_eq!(spans(&some), ranges(&[(100, 102), (109, 110), (200, 201)]));
    }
}
