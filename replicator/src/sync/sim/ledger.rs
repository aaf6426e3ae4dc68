//! What was said on the wire, to hold against what may be said.
//!
//! One dot names one change for ever, and one stamp one state of a row: a
//! counter that is used twice shows here, whoever uses it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::hash::Digest;
use crate::limits::FRAME_BYTES_MAX;
use crate::path::RelPath;
use crate::sync::message::Message;
use crate::sync::record::{BodyRecord, Content, NameRecord};
use crate::sync::register::{Rank, Register};
use crate::sync::store::{MemoryStore, Store};
use crate::sync::version::Dot;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Binding,
    Content,
    Metadata,
    Name,
    Body,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What each change wrote and each stamp stands for, as a hash.
    said: HashMap<(Dot, Part), u64>,
    /// Contents that were told of as losers of a conflict.
    pub losers: HashSet<Digest>,
    pub messages: u64,
    pub bytes: u64,
    /// Those of them that speak of members.
    pub member_messages: u64,
    pub member_bytes: u64,
    pub records: u64,
    /// The first thing that may not be.
    pub wrong: Option<String>,
}

impl Ledger {
    pub(super) fn note(&mut self, message: &Message, bytes: usize, records_max: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
        if bytes > FRAME_BYTES_MAX {
            self.wrong.get_or_insert(format!("a message of {bytes} bytes"));
        }
        if matches!(message, Message::Meet { .. } | Message::Members(_) | Message::Refused { .. }) {
            self.member_messages += 1;
            self.member_bytes += bytes as u64;
        }
        let Message::Records(records) = message else { return };
        let count = records.names.len() + records.bodies.len();
        self.records += count as u64;
        // A name brings its body along.
        if count > records_max + 1 {
            self.wrong.get_or_insert(format!("{count} records in a message"));
        }
        records.bodies.iter().for_each(|body| self.note_losers(&body.content));
    }

    /// What each change wrote, and what each stamp stands for.
    pub(super) fn note_said(&mut self, message: &Message) {
        let Message::Records(records) = message else { return };
        records.names.iter().for_each(|name| self.note_name(name));
        records.bodies.iter().for_each(|body| self.note_body(body));
    }

    /// What an index holds, as if it had been said.
    pub(super) fn of(store: &MemoryStore) -> Self {
        let mut ledger = Self::default();
        let names = store.names_within(&RelPath::root(), None, usize::MAX);
        names.iter().for_each(|(path, row)| ledger.note_name(&row.record(path)));
        let bodies = store.bodies().filter_map(|id| Some((id, store.body(id)?)));
        bodies.for_each(|(id, row)| ledger.note_body(&row.record(id)));
        ledger
    }

    /// Forgets what was said under these numbers and none of these holds.
    pub(super) fn forget(&mut self, is_one: impl Fn(Dot) -> bool, memories: &[Self]) {
        self.said.retain(|at, hash| {
            !is_one(at.0) || memories.iter().any(|memory| memory.said.get(at) == Some(hash))
        });
    }

    fn note_name(&mut self, name: &NameRecord) {
        self.note_siblings(Part::Binding, &name.binding);
        self.note_one(name.stamp, Part::Name, name);
    }

    fn note_body(&mut self, body: &BodyRecord) {
        self.note_siblings(Part::Content, &body.content);
        self.note_siblings(Part::Metadata, &body.metadata);
        self.note_one(body.stamp, Part::Body, body);
    }

    pub(super) fn note_losers(&mut self, content: &Register<Content>) {
        for loser in content.losers() {
            if let Content::File { digest, .. } = loser.value {
                self.losers.insert(digest);
            }
        }
    }

    fn note_siblings<V: Rank + Clone + Eq + Hash>(&mut self, part: Part, register: &Register<V>) {
        for sibling in register.losers().chain([register.winner()]) {
            self.note_one(sibling.dot, part, sibling);
        }
    }

    fn note_one(&mut self, dot: Dot, part: Part, what: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        let hash = hasher.finish();
        if *self.said.entry((dot, part)).or_insert(hash) != hash {
            self.wrong.get_or_insert(format!("{dot:?} was used for two states ({part:?})"));
        }
    }
}
