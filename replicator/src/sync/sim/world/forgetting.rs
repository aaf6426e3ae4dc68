//! What nodes forget, when they crash, begin anew or leave: of what a user
//! destroyed it may be what kept that from coming back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use crate::entry::Kind;
use crate::hash::Digest;
use crate::path::RelPath;
use crate::sync::record::{BodyRow, Content};
use crate::sync::store::{MemoryStore, Store};

impl World {
    /// A node goes on with this index. What a user destroyed of what it `knew` is
    /// as if it had never come here.
    pub(super) fn forget_what_it_knew(
        &mut self,
        at: usize,
        store: &MemoryStore,
        knew: &BTreeSet<Digest>,
    ) {
        let known: BTreeSet<Digest> = contents_known(store).into_iter().collect();
        let lying = self.nodes[at].disk.contents_within(&RelPath::root());
        let dead = self.contents.dead.iter();
        let destroyed = dead.filter(|content| knew.contains(&Digest::of(content)));
        let gone = lying.into_iter().chain(destroyed.cloned());
        let forgotten = gone.filter(|content| !known.contains(&Digest::of(content)));
        let forgotten: Vec<Vec<u8>> = forgotten.collect();
        self.contents.forgotten.extend(forgotten);
    }

    /// The index is older than the disk. What lies at a name of which it does not
    /// know seems to be a user's doing; and where it knows of an older content,
    /// the later one is an edit that whoever destroyed it here had not seen.
    pub(super) fn forget_where_it_was(&mut self, at: usize, store: &MemoryStore) {
        let known_at: BTreeSet<_> = known_at(store).into_iter().collect();
        let shown = self.nodes[at].disk.shown().into_iter();
        let strays = shown.filter(|(path, one)| {
            let is_known = known_at.contains(&(path.clone(), Digest::of(&one.content)));
            one.kind == Kind::File && !is_known
        });
        let known: BTreeSet<Digest> = known_at.iter().map(|(_, digest)| *digest).collect();
        let contents = &self.contents;
        let is_known = |content: &&Vec<u8>| known.contains(&Digest::of(content));
        let older = contents.written.iter().filter(is_known);
        let older: BTreeSet<_> = older.map(|content| contents.first_of(content)).collect();
        let later = contents.dead.iter().filter(|content| {
            older.contains(contents.first_of(content)) && !known.contains(&Digest::of(content))
        });
        let strays = strays.map(|(_, one)| one.content);
        let forgotten: Vec<Vec<u8>> = strays.chain(later.cloned()).collect();
        self.contents.forgotten.extend(forgotten);
    }

    /// What this node does not tell any more: what others know of and a user
    /// destroyed may have been destroyed here, and nobody heard of it. And of what
    /// it alone has, what that was written over is shown again.
    pub(super) fn forget_what_is_on_its_way(&mut self, at: usize) {
        let (mut known, mut lying) = (BTreeSet::new(), BTreeSet::new());
        for (_, node) in self.nodes.iter().enumerate().filter(|(other, _)| *other != at) {
            known.extend(contents_told(node.core.store()));
            lying.extend(node.disk.contents_within(&RelPath::root()));
        }
        let dead = self.contents.dead.iter();
        let untold = dead.filter(|content| known.contains(&Digest::of(content)));
        let taken = self.nodes[at].disk.contents_within(&RelPath::root()).into_iter();
        let taken = taken.filter(|content| !lying.contains(content));
        let earlier = taken.flat_map(|content| self.contents.with_earlier(&content));
        let untold: Vec<Vec<u8>> = untold.cloned().chain(earlier).collect();
        self.contents.forgotten.extend(untold);
    }
}

/// What an index says lies on its disk.
pub(super) fn contents_known(store: &MemoryStore) -> Vec<Digest> {
    known_at(store).into_iter().map(|(_, digest)| digest).collect()
}

/// What an index says that names lead to, wherever that lies.
fn contents_told(store: &MemoryStore) -> Vec<Digest> {
    let names = store.names_within(&RelPath::root(), None, usize::MAX);
    let bodies = names.into_iter().flat_map(|(_, row)| [row.wanted(), row.on_disk()]);
    let rows = bodies.flatten().filter_map(|(id, _)| store.body(id));
    let digests = |row: Arc<BodyRow>| row.content.values().filter_map(Content::digest).collect();
    rows.flat_map::<Vec<Digest>, _>(digests).collect()
}

/// What it says lies at a place.
pub(in crate::sync::sim) fn content_at(store: &MemoryStore, path: &RelPath) -> Option<Digest> {
    let (id, _) = store.name(path)?.on_disk()?;
    store.body(id)?.content_on_disk()?.digest()
}

pub(super) fn known_at(store: &MemoryStore) -> Vec<(RelPath, Digest)> {
    let names = store.names_within(&RelPath::root(), None, usize::MAX);
    let paths = names.into_iter().map(|(path, _)| path);
    paths.filter_map(|path| content_at(store, &path).map(|digest| (path, digest))).collect()
}
