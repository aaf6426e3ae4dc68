//! Reading the folder again over days, as a scrub does for a disk.
//!
//! Events are missed where a level of capture does not see a store, or where
//! something has a bug. [`Core::scrub_next`] looks at a little at a time: in
//! the order of paths, so that one mark says how far it has come, and through
//! large files piece by piece. The command that reads everything at once and
//! answers for it is [`super::verify`].

use super::core::Core;
use super::effect::Now;
use super::record::NameRow;
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::Kind;
use crate::path::RelPath;
use crate::range::Range;

/// Of a larger file no more than this is read at once.
pub const PIECE_BYTES: u64 = 64 << 20;

/// How far a scrub has come: everything before this path, and so many
/// bytes of it, have been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub path: RelPath,
    pub offset: u64,
}

/// What one step of a scrub is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    pub names: u64,
    pub bytes: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<Mark>,
}

impl Mark {
    /// Nothing has been read yet.
    pub fn start() -> Self {
        Self { path: RelPath::root(), offset: 0 }
    }
}

impl<S: Store> Core<S> {
    /// Reads some names and some bytes again, a piece more at the most, as if
    /// any byte of them might have changed. What the index does not know is
    /// for a scan to find.
    pub fn scrub_next(&mut self, now: Now, from: &Mark, names: usize, bytes: u64) -> Scrubbed {
        let first = self.store.name(&from.path).map(|row| (from.path.clone(), row));
        // One more than may be read: it says where to go on.
        let others = self.store.names_within(&RelPath::root(), Some(&from.path), names + 1);
        let mut done = Scrubbed { names: 0, bytes: 0, next: None };
        for (path, row) in first.into_iter().chain(others) {
            if done.names >= names as u64 || done.bytes >= bytes {
                done.next = Some(Mark { path, offset: 0 });
                break;
            }
            let offset = if path == from.path { from.offset } else { 0 };
            let (read, rest) = self.read_again(now, &path, &row, offset);
            done.bytes += read;
            done.names += u64::from(rest.is_none());
            if let Some(offset) = rest {
                done.next = Some(Mark { path, offset });
                break;
            }
        }
        self.turn(now);
        done
    }

    /// How many bytes of it are read, and where to go on with it.
    fn read_again(
        &mut self,
        now: Now,
        path: &RelPath,
        row: &NameRow,
        offset: u64,
    ) -> (u64, Option<u64>) {
        let lying = row.on_disk().and_then(|_| self.lying_at(path));
        let Some(lying) = lying else { return (0, None) };
        let disk = lying.disk();
        // A file with several names is read under the first of them.
        if lying.kind() != Kind::File || disk.names.first() != Some(path) {
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::compare());
            return (0, None);
        }
        let size = disk.fingerprint.size;
        if size <= PIECE_BYTES {
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::whole());
            return (size, None);
        }
        if offset == 0 {
            self.settle.look(now.monotonic, Spot::Path(path.clone()), Dirt::compare());
        }
        let Some(piece) = Range::new(offset, size.min(offset + PIECE_BYTES)) else {
            return (0, None);
        };
        let ranges = [piece].into_iter().collect();
        let dirt = Dirt { bytes: true, ranges, ..Dirt::default() };
        self.settle.look(now.monotonic, Spot::Body(lying.id), dirt);
        (piece.len(), Some(piece.end).filter(|end| *end < size))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::choice::Mode;
    use crate::entry::{Fingerprint, Flags, Metadata, Stat, Timestamp};
    use crate::hash::Leaves;
    use crate::id::Actor;
    use crate::limits::{JOB_BYTES_MAX, WHOLE_BYTES_MAX};
    use crate::look::{Depth, Look};
    use crate::sync::core::Options;
    use crate::sync::effect::{Effect, Found, Sight, Sighted};
    use crate::sync::store::MemoryStore;

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), wall: 0 }
    }

    fn looks(core: &mut Core<MemoryStore>) -> Vec<Look> {
        let effects = std::iter::from_fn(|| core.poll_effect());
        let looks = effects.filter_map(|effect| match effect {
            Effect::Look(looks) => Some(looks),
            _ => None,
        });
        looks.flatten().collect()
    }

    /// A look has found a file of this size.
    fn found(look: &Look, size: u64) -> Sight {
        let inode = u64::from(look.path.as_bytes()[0]);
        let time = Timestamp::default();
        let fingerprint = Fingerprint { inode, size, mtime: time, ctime: time, birth: time };
        let metadata = Metadata { mode: 0o644, uid: 0, gid: 0, mtime: time, ..Metadata::default() };
        let sighted = Sighted::File {
            leaves: Leaves::new(size).unwrap(),
            changed: Default::default(),
            bytes: None,
            holes: Default::default(),
            stable: true,
        };
        let stat = Stat { kind: Kind::File, fingerprint, links: 1, metadata };
        Sight { path: look.path.clone(), found: Found::Entry(stat, sighted) }
    }

    fn core_with(files: &[(&str, u64)]) -> Core<MemoryStore> {
        let options = Options {
            delay: Duration::ZERO,
            max_delay: Duration::from_secs(10),
            stream_delay: Duration::from_millis(50),
            ranges_told: true,
            records_max: 100,
            meeting_min: 100,
            stretch_rows: 100,
            bulk_above: WHOLE_BYTES_MAX,
            huge_above: JOB_BYTES_MAX,
            delete_brake: None,
            flags: Flags::ALL,
            mode: Mode::Both,
        };
        let mut core = Core::new(options, Actor(1), 1, MemoryStore::default());
        for (name, size) in files {
            let path = RelPath::parse(name.as_bytes()).unwrap();
            core.settle.look(at(0).monotonic, Spot::Path(path), Dirt::whole());
            core.handle_timeout(at(0));
            let sights = looks(&mut core).iter().map(|look| found(look, *size)).collect();
            core.handle_sights(at(0), sights);
        }
        core
    }

    /// What is looked at step by step, each look as its path and depth.
    fn steps(core: &mut Core<MemoryStore>, names: usize, bytes: u64) -> Vec<Vec<String>> {
        let (mut mark, mut steps, mut time) = (Some(Mark::start()), Vec::new(), 0);
        while let Some(from) = mark {
            mark = core.scrub_next(at(time), &from, names, bytes).next;
            let mut lines = Vec::new();
            while core.is_at_work() {
                let looks = looks(core);
                lines.extend(looks.iter().map(line));
                let size = |look: &Look| look.known.as_ref().unwrap().fingerprint.size;
                let sights = looks.iter().map(|look| found(look, size(look))).collect();
                time += 1;
                core.handle_sights(at(time), sights);
            }
            steps.push(lines);
        }
        steps
    }

    fn line(look: &Look) -> String {
        match &look.depth {
            Depth::Whole => format!("{} whole", look.path),
            Depth::Ranges(ranges) => {
                let mib: Vec<_> = ranges.iter().map(|r| (r.start >> 20, r.end >> 20)).collect();
                format!("{} {mib:?}", look.path)
            }
            Depth::Changed | Depth::Metadata => format!("{} compared", look.path),
        }
    }

    #[test]
    fn every_file_is_read_once_in_the_order_of_paths() {
        let mut core = core_with(&[("b", 5), ("a", 7), ("e", 9), ("c", 1), ("d", 2)]);
        let steps = steps(&mut core, 2, u64::MAX);
        let expected: [&[&str]; 3] =
            [&["a whole", "b whole"], &["c whole", "d whole"], &["e whole"]];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_step_reads_no_more_than_it_may_and_a_piece() {
        let mib = 1 << 20;
        let mut core = core_with(&[("a", 150 * mib), ("b", 40 * mib), ("c", 40 * mib), ("d", 1)]);
        let steps = steps(&mut core, 100, PIECE_BYTES);
        let expected: [&[&str]; 4] = [
            &["a compared", "a [(0, 64)]"],
            &["a [(64, 128)]"],
            &["a [(128, 150)]", "b whole", "c whole"],
            &["d whole"],
        ];
        assert_eq!(steps, expected);
        assert!(!core.is_at_work());
    }
}
