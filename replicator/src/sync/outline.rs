//! Rows told to somebody who shows the same tree: all of a record but what
//! its reader knows by itself.
//!
//! Two nodes that hold equal trees and never met disagree on nothing but who
//! saw what under which number. An outline of an entry is just that: the
//! actors and the numbers of its name's record and of the records of its
//! bodies, without path, kind, content and metadata. Whoever shows these at
//! the same path makes the very records again, and a check over all of them
//! says so: an outline saves bytes, and means what the records mean.
//!
//! Numbers are told relative to one of the same actor that is near, where
//! there is one. So all entries of a fresh index have one [`Shape`], and as a
//! scan goes through a tree in order, a few [`Run`]s tell thousands of them.
//! Values only.

use serde::{Deserialize, Serialize};

use super::record::{Binding, BodyRecord, BodyRow, Content, NameRecord, NameRow, Replaced};
use super::register::{Rank, Register, Sibling};
use super::version::{Dot, VersionVector};
use crate::entry::{Kind, Metadata};
use crate::hash::Digest;
use crate::id::{Actor, BodyId};
use crate::limits::{OFFER_NUMBERS_MAX, OUTLINE_NUMBERS_MAX, STRETCH_BYTES_MAX, STRETCH_ROWS_MAX};
use crate::path::RelPath;

/// Changes that far apart were made together: one name and its body.
const NEAR: u64 = 4;

/// What lies at one path for everybody to see, whoever saw it first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub path: RelPath,
    kind: Kind,
    content: Content,
    metadata: Metadata,
}

impl Shown {
    /// `None` where the name leads nowhere.
    pub fn of(path: &RelPath, name: &NameRow, body: &BodyRow) -> Option<Self> {
        let (_, kind) = name.wanted()?;
        let content = body.content.winner().value.clone();
        let metadata = body.metadata.winner().value.clone();
        Some(Self { path: path.clone(), kind, content, metadata })
    }

    /// What times are told relative to: where a file was found by a scan its
    /// changes have its own time.
    fn when(&self) -> i64 {
        self.metadata.mtime.as_nanos()
    }
}

/// A name's record with those of the bodies it speaks of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Entry {
    pub name: NameRecord,
    pub bodies: Vec<BodyRecord>,
}

impl Entry {
    /// Adds everything of it, for a check; `None` where there is no room.
    fn encode(&self, into: &mut Vec<u8>) -> Option<()> {
        let bytes = postcard::to_stdvec(self).expect("records serialize: they travel as they are");
        let has_room = into.len() + bytes.len() <= STRETCH_BYTES_MAX;
        has_room.then(|| into.extend(bytes))
    }

    /// The places in logs that are told with it.
    pub fn stamps(&self) -> impl Iterator<Item = Dot> + '_ {
        self.bodies.iter().map(|body| body.stamp).chain([self.name.stamp])
    }
}

/// What entries of one kind of past have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Whose the counters are to which others are near: places in the list of
    /// actors.
    actors: Vec<u32>,
    numbers: Vec<i64>,
}

/// Entries of one shape, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    shape: u32,
    count: u32,
    /// These counters in the first of them, from where the run of this shape
    /// before it ended.
    first: Vec<i64>,
    /// How each of them goes on from entry to entry.
    steps: Vec<i64>,
}

/// Entries of one stretch of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlines {
    runs: Vec<Run>,
    /// Which of the entries are not told of: something of them is not to be
    /// seen.
    left_out: Vec<u32>,
    /// Of all records told.
    check: Check,
}

/// Sixteen bytes of a hash: no two stretches that differ have the same.
type Check = [u8; 16];

/// What the outlines of a message share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shapes {
    actors: Vec<Actor>,
    shapes: Vec<Shape>,
    /// How many numbers they and the runs may take, at most: for who tells
    /// them.
    #[serde(skip)]
    spent: usize,
}

impl Shapes {
    /// Outlines of these entries; with the entries that are in it.
    pub(super) fn outline<'a>(
        &mut self,
        entries: &'a [(Shown, Entry)],
    ) -> (Outlines, Vec<&'a Entry>) {
        let mut outlines = Outlines::default();
        let mut ends: Vec<Vec<u64>> = Vec::new();
        let (mut told, mut records) = (Vec::new(), Vec::new());
        for (at, (shown, entry)) in entries.iter().enumerate() {
            let pen = Pen::outline(shown, entry).filter(|pen| self.has_room(pen));
            let Some(pen) = pen.filter(|_| entry.encode(&mut records).is_some()) else {
                outlines.left_out.push(at as u32);
                continue;
            };
            let (shape, counters) = self.shape_of(pen);
            ends.resize(self.shapes.len(), Vec::new());
            outlines.add(shape, steps(&mut ends[shape as usize], counters));
            told.push(entry);
        }
        outlines.check = check(&records);
        (outlines, told)
    }

    fn has_room(&self, pen: &Pen) -> bool {
        self.spent + pen.numbers.len() + 3 * pen.firsts.len() <= OFFER_NUMBERS_MAX
    }

    /// The place of its shape, and its counters.
    fn shape_of(&mut self, pen: Pen) -> (u32, Vec<u64>) {
        let place = |list: &mut Vec<Actor>, actor: Actor| {
            let found = list.iter().position(|known| *known == actor);
            found.unwrap_or_else(|| {
                list.push(actor);
                list.len() - 1
            }) as u32
        };
        let actors = pen.firsts.iter().map(|first| place(&mut self.actors, first.actor)).collect();
        let counters: Vec<u64> = pen.firsts.iter().map(|first| first.counter).collect();
        let shape = Shape { actors, numbers: pen.numbers };
        // A first and a step for each.
        self.spent += 2 * counters.len();
        let found = self.shapes.iter().rposition(|known| *known == shape);
        let shape = found.unwrap_or_else(|| {
            self.spent += shape.actors.len() + shape.numbers.len();
            self.shapes.push(shape);
            self.shapes.len() - 1
        });
        (shape as u32, counters)
    }

    /// The entries told of to somebody who shows this. `None` where that is
    /// not the same as what their teller shows.
    pub(super) fn entries(&self, outlines: &Outlines, shown: &[Shown]) -> Option<Vec<Entry>> {
        if outlines.count() != Some(shown.len()) {
            return None;
        }
        let mut left_out = outlines.left_out.iter().peekable();
        let mut shown = shown.iter().enumerate().filter_map(|(at, shown)| {
            left_out.next_if(|left_out| **left_out as usize == at).is_none().then_some(shown)
        });
        let mut ends: Vec<Vec<u64>> = vec![Vec::new(); self.shapes.len()];
        let (mut entries, mut records) = (Vec::new(), Vec::new());
        for run in &outlines.runs {
            let shape = self.shapes.get(run.shape as usize)?;
            let end = ends.get_mut(run.shape as usize)?;
            end.resize(shape.actors.len(), 0);
            for at in 0..run.count {
                let by = if at == 0 { &run.first } else { &run.steps };
                end.iter_mut().zip(by).for_each(|(end, by)| *end = end.wrapping_add(*by as u64));
                let entry = Reader::entry(shown.next()?, &self.actors, shape, end)?;
                entry.encode(&mut records)?;
                entries.push(entry);
            }
        }
        (shown.next().is_none() && check(&records) == outlines.check).then_some(entries)
    }

    /// Could an honest node have sent them?
    pub fn are_well_formed(&self, of: &[&Outlines]) -> bool {
        let is_sane = |shape: &Shape| {
            let known = |actor: &u32| (*actor as usize) < self.actors.len();
            shape.actors.iter().all(known)
                && shape.actors.len() <= shape.numbers.len()
                && shape.numbers.len() <= OUTLINE_NUMBERS_MAX
        };
        let fits = |run: &Run| {
            let shape = self.shapes.get(run.shape as usize);
            shape.is_some_and(|shape| {
                run.count > 0
                    && run.first.len() == shape.actors.len()
                    && (run.steps.len() == shape.actors.len() || run.count == 1)
            })
        };
        let counts = of.iter().try_fold(0, |all, outlines| Some(all + outlines.count()?));
        self.shapes.len() <= STRETCH_ROWS_MAX
            && self.shapes.iter().all(is_sane)
            && of.iter().flat_map(|outlines| &outlines.runs).all(fits)
            && counts.is_some_and(|counts: usize| counts <= STRETCH_ROWS_MAX)
    }
}

impl Outlines {
    /// How many entries are in the stretch; `None` where that is more than
    /// there may be.
    pub fn count(&self) -> Option<usize> {
        let told: u64 = self.runs.iter().map(|run| u64::from(run.count)).sum();
        let all = usize::try_from(told).ok()?.checked_add(self.left_out.len())?;
        (all <= STRETCH_ROWS_MAX).then_some(all)
    }

    /// One more entry, whose counters lie so far from those of the one before
    /// it of this shape.
    fn add(&mut self, shape: u32, by: Vec<i64>) {
        match self.runs.last_mut().filter(|run| run.shape == shape) {
            Some(run) if run.count == 1 => (run.count, run.steps) = (2, by),
            Some(run) if run.steps == by => run.count += 1,
            _ => self.runs.push(Run { shape, count: 1, first: by, steps: Vec::new() }),
        }
    }
}

/// From where an entry of this shape was to where the next is.
fn steps(end: &mut Vec<u64>, to: Vec<u64>) -> Vec<i64> {
    end.resize(to.len(), 0);
    let steps = to.iter().zip(&*end).map(|(to, from)| to.wrapping_sub(*from) as i64).collect();
    *end = to;
    steps
}

fn check(records: &[u8]) -> Check {
    let mut check = [0; 16];
    check.copy_from_slice(&Digest::of(records).as_bytes()[..16]);
    check
}

/// Writes the numbers of an entry down.
struct Pen<'a> {
    shown: &'a Shown,
    /// Dots of which none is near another.
    firsts: Vec<Dot>,
    numbers: Vec<i64>,
}

impl<'a> Pen<'a> {
    /// `None` where the entry has something that its reader does not show, or
    /// too much of a past.
    fn outline(shown: &'a Shown, entry: &Entry) -> Option<Self> {
        let mut pen = Self { shown, firsts: Vec::new(), numbers: Vec::new() };
        pen.dot(entry.name.stamp);
        pen.register(&entry.name.binding, Self::binding)?;
        pen.number(entry.bodies.len());
        for body in &entry.bodies {
            pen.dot(body.stamp);
            pen.body(body.id);
            pen.register(&body.content, |pen, content| pen.same(*content == pen.shown.content))?;
            pen.register(&body.metadata, |pen, known| pen.same(*known == pen.shown.metadata))?;
        }
        (pen.numbers.len() <= OUTLINE_NUMBERS_MAX).then_some(pen)
    }

    fn same(&self, is_same: bool) -> Option<()> {
        is_same.then_some(())
    }

    fn number(&mut self, number: usize) {
        self.numbers.push(number as i64);
    }

    fn dot(&mut self, dot: Dot) {
        let is_near =
            |first: &Dot| first.actor == dot.actor && first.counter.abs_diff(dot.counter) <= NEAR;
        let known = self.firsts.iter().position(is_near);
        let at = known.unwrap_or_else(|| {
            self.firsts.push(dot);
            self.firsts.len() - 1
        });
        self.number(at);
        self.numbers.push(dot.counter.wrapping_sub(self.firsts[at].counter) as i64);
    }

    fn body(&mut self, id: BodyId) {
        self.dot(Dot { actor: id.origin, counter: id.counter });
    }

    fn vector(&mut self, vector: &VersionVector) {
        self.number(vector.len());
        vector.iter().for_each(|dot| self.dot(dot));
    }

    fn register<V: Rank + Clone + Eq>(
        &mut self,
        register: &Register<V>,
        value: impl Fn(&mut Self, &V) -> Option<()>,
    ) -> Option<()> {
        self.same(register.passed_over().is_empty())?;
        self.vector(register.context());
        self.number(register.siblings().len());
        for sibling in register.siblings() {
            self.dot(sibling.dot);
            self.numbers.push(sibling.when.wrapping_sub(self.shown.when()));
            value(self, &sibling.value)?;
        }
        Some(())
    }

    fn binding(&mut self, binding: &Binding) -> Option<()> {
        let Binding::Bound { body, kind, over } = binding else { return None };
        self.same(*kind == self.shown.kind)?;
        self.body(*body);
        self.number(over.as_ref().map_or(0, |over| 1 + usize::from(over.moved)));
        if let Some(over) = over {
            self.body(over.body);
            self.vector(&over.seen);
        }
        Some(())
    }
}

/// Makes an entry of its numbers and of what is shown. Its methods are
/// `None` where no pen wrote these numbers.
struct Reader<'a> {
    shown: &'a Shown,
    firsts: Vec<Dot>,
    numbers: std::slice::Iter<'a, i64>,
}

impl<'a> Reader<'a> {
    fn entry(
        shown: &'a Shown,
        actors: &[Actor],
        shape: &'a Shape,
        counters: &[u64],
    ) -> Option<Entry> {
        let first = |(at, counter): (&u32, &u64)| {
            Some(Dot { actor: *actors.get(*at as usize)?, counter: *counter })
        };
        let firsts = shape.actors.iter().zip(counters).map(first).collect::<Option<_>>()?;
        let mut reader = Self { shown, firsts, numbers: shape.numbers.iter() };
        let stamp = reader.dot()?;
        let binding = reader.register(Self::binding)?;
        let name = NameRecord { stamp, path: shown.path.clone(), binding };
        let mut bodies = Vec::new();
        for _ in 0..reader.number()? {
            bodies.push(BodyRecord {
                stamp: reader.dot()?,
                id: reader.body()?,
                content: reader.register(|reader| Some(reader.shown.content.clone()))?,
                metadata: reader.register(|reader| Some(reader.shown.metadata.clone()))?,
            });
        }
        let is_sane = name.is_well_formed() && bodies.iter().all(BodyRecord::is_well_formed);
        is_sane.then_some(Entry { name, bodies })
    }

    fn number(&mut self) -> Option<i64> {
        self.numbers.next().copied()
    }

    fn dot(&mut self) -> Option<Dot> {
        let at = usize::try_from(self.number()?).ok()?;
        let first = *self.firsts.get(at)?;
        let counter = first.counter.wrapping_add(self.number()? as u64);
        Some(Dot { counter, ..first })
    }

    fn body(&mut self) -> Option<BodyId> {
        self.dot().map(|dot| BodyId { origin: dot.actor, counter: dot.counter })
    }

    fn vector(&mut self) -> Option<VersionVector> {
        let mut vector = VersionVector::new();
        for _ in 0..self.number()? {
            vector.advance(self.dot()?);
        }
        Some(vector)
    }

    fn register<V: Rank + Clone + Eq>(
        &mut self,
        value: impl Fn(&mut Self) -> Option<V>,
    ) -> Option<Register<V>> {
        let context = self.vector()?;
        let mut siblings = Vec::new();
        for _ in 0..self.number()? {
            let dot = self.dot()?;
            let when = self.shown.when().wrapping_add(self.number()?);
            siblings.push(Sibling { dot, when, value: value(self)? });
        }
        Some(Register::of(context, siblings))
    }

    fn binding(&mut self) -> Option<Binding> {
        let body = self.body()?;
        let over = match self.number()? {
            0 => None,
            one @ (1 | 2) => {
                Some(Replaced { body: self.body()?, seen: self.vector()?, moved: one == 2 })
            }
            _ => return None,
        };
        Some(Binding::Bound { body, kind: self.shown.kind, over })
    }
}

#[cfg(test)]
mod tests;
