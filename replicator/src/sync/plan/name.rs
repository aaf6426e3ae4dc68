//! The next step at one name: from what lies there to what is to lie there.
//!
//! A name never waits for one that waits for it: what is exchanged is
//! exchanged, and what is moved goes before what takes its place.

use std::sync::Arc;

use smallvec::smallvec;

use super::Next;
use crate::entry::{Fingerprint, Kind};
use crate::id::BodyId;
use crate::limits::RECORDS_MAX;
use crate::path::RelPath;
use crate::sync::core::Core;
use crate::sync::effect::{Keep, Now, Over, What};
use crate::sync::record::{Binding, BodyRow, Content, Disk, Held, NameRow, Paths};
use crate::sync::settle::Spot;
use crate::sync::store::Store;
use crate::sync::tree::{Lying, held, lacking};
use crate::sync::version::VersionVector;

/// Most places that directories take of each other in a circle: as many as one
/// message tells of.
const CIRCLE_MAX: usize = RECORDS_MAX;

/// A name, and the body that it is to lead to.
struct Place<'a> {
    path: &'a RelPath,
    name: &'a NameRow,
    id: BodyId,
    body: Arc<BodyRow>,
}

impl<S: Store> Core<S> {
    pub(super) fn plan_name(&mut self, now: Now, path: &RelPath) -> Next {
        let Some(name) = self.store.name(path) else {
            return Next::Settled;
        };
        if !name.is_pending() {
            self.pending_names.remove(path);
            return Next::Settled;
        }
        // Before the bodies are read: one may have thousands of names, all of
        // which wait for one another here.
        let bodies = [name.on_disk(), name.wanted()].into_iter().flatten().map(|(id, _)| id);
        let bodies: Vec<BodyId> = bodies.collect();
        if self.locks.is_free(path, &bodies) {
            return self.plan_pending(now, path, &name);
        }
        // Unless the job that is being put together only counts them up or down.
        let joins = matches!(&bodies[..], [body] if self.planning.counted.contains_key(body));
        if !joins || !self.locks.is_free(path, &[]) {
            return Next::Blocked;
        }
        match self.plan_pending(now, path, &name) {
            Next::Act(step) if self.counted_by(&step).is_none() => Next::Blocked,
            next => next,
        }
    }

    fn plan_pending(&mut self, now: Now, path: &RelPath, name: &NameRow) -> Next {
        let lying = self.lying_as(name.on_disk());
        let Some((id, kind)) = name.wanted() else {
            return lying.map_or(Next::Blocked, |lying| self.plan_removal(path, name, lying));
        };
        let Some(body) = self.store.body(id) else {
            return Next::Blocked;
        };
        if !self.parent_lies(path) || self.goes_along(path) {
            return Next::Blocked;
        }
        match kind {
            Kind::Directory if self.is_kept_elsewhere(path, id, &body) => {
                // In the middle of a series the other place may be about to
                // be given up.
                if !self.mid_series.is_empty() {
                    return Next::Blocked;
                }
                self.bind_fresh_directory(now, path, &body);
                self.plan_name(now, path)
            }
            Kind::Directory => self.plan_directory(now, Place { path, name, id, body }, lying),
            _ => self.plan_entry(now, Place { path, name, id, body }, lying),
        }
    }

    /// Does a directory lie at another place that it is to keep? No inode of
    /// a directory has two names: concurrent renames made two of one.
    fn is_kept_elsewhere(&self, path: &RelPath, id: BodyId, body: &BodyRow) -> bool {
        let is_kept = |at: &RelPath| {
            let row = self.store.name(at);
            at != path && row.and_then(|row| row.wanted()).is_some_and(|(body, _)| body == id)
        };
        body.disk.as_ref().is_some_and(|disk| disk.names.iter().any(is_kept))
    }

    pub(in crate::sync) fn parent_lies(&self, path: &RelPath) -> bool {
        let Some(parent) = path.parent().filter(|parent| !parent.is_root()) else {
            return true;
        };
        let on_disk = self.store.name(&parent).and_then(|row| row.on_disk());
        on_disk.is_some_and(|(_, kind)| kind == Kind::Directory)
    }

    fn plan_removal(&mut self, path: &RelPath, name: &NameRow, lying: Lying) -> Next {
        if path.is_root() {
            return Next::Blocked;
        }
        if lying.kind() == Kind::Directory {
            if self.is_to_move(&lying) || self.any_below(path, |below| below.on_disk().is_some()) {
                return Next::Blocked;
            }
        } else if self.is_awaited(&lying) || self.may_be_awaited(name, &lying) {
            // The name it is to have fetches it from here.
            return Next::Blocked;
        }
        self.lay_aside(path, name, &lying, vec![lying.id])
    }

    /// What lies here goes, and nothing takes its place in the same step.
    fn lay_aside(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        lying: &Lying,
        bodies: Vec<BodyId>,
    ) -> Next {
        let Some(keep) = self.keep(name, lying, None) else {
            return Next::Blocked;
        };
        let what = What::Remove { expect: lying.disk().fingerprint, keep };
        self.act(path, name, lying.id, lying.kind(), what, bodies)
    }

    /// Is a directory to go as a whole to a place where it does not lie yet?
    /// Where another directory lies already, the two become one instead: what
    /// is in it goes there by itself.
    pub(super) fn is_to_move(&self, lying: &Lying) -> bool {
        lacking(&lying.row().bound, &lying.disk().names).any(|bound| {
            let there = self.store.name(bound).and_then(|row| row.on_disk());
            there.is_none_or(|(_, kind)| kind != Kind::Directory)
        })
    }

    /// Is the body to have a name that it does not have on this disk yet, and
    /// that can be made?
    fn is_awaited(&self, lying: &Lying) -> bool {
        let names = &lying.disk().names;
        lacking(&lying.row().bound, names).any(|bound| {
            // Beneath a place that it has to leave first it comes anew, and in
            // the place of a directory that cannot go before it has left.
            let is_apart = |at: &RelPath| {
                !bound.is_within(at) && (!at.is_within(bound) || self.moves_away(bound))
            };
            names.iter().all(is_apart)
                && (self.parent_lies(bound) || self.pending_names.contains(bound))
        })
    }

    /// May what is still to come of a series give this file a name that it is to
    /// have, as that gives its own to one that lies here, too? It would be put
    /// aside, and sent for again.
    fn may_be_awaited(&self, name: &NameRow, lying: &Lying) -> bool {
        let moves = match &name.binding.winner().value {
            Binding::Bound { body, .. } => *body != lying.id,
            Binding::Gone { was, .. } => was.moved && was.body == lying.id,
        };
        moves && !self.mid_series.is_empty() && lying.row().bound.is_empty()
    }

    /// A directory where this is to have its place, that has none any more but in
    /// the directory that is to lie here: it, or what is in it, waits for this to
    /// leave. It becomes one with that directory, so it can as well be that.
    fn waits_at(&self, path: &RelPath, lying: &Lying) -> Option<(RelPath, Lying)> {
        let names = &lying.disk().names;
        let mut places = lacking(&lying.row().bound, names).filter_map(|at| {
            let there = self.lying_at(at).filter(|there| there.kind() == Kind::Directory)?;
            let is_apart = |name: &RelPath| !at.is_within(name) && !name.is_within(at);
            let comes_here = there.row().bound.iter().all(|bound| bound.is_within(path));
            let is_free = comes_here && names.iter().all(is_apart) && self.parent_lies(at);
            is_free.then(|| (at.clone(), there))
        });
        places.next()
    }

    /// Where a body lies that is to be elsewhere.
    fn leaves(&self, id: BodyId) -> Option<RelPath> {
        let body = self.store.body(id)?;
        let is_left = |at: &&RelPath| {
            let wanted = self.store.name(at).and_then(|row| row.wanted());
            wanted.is_none_or(|(wanted, _)| wanted != id)
        };
        body.disk.as_ref()?.names.iter().find(is_left).cloned()
    }

    /// Is what lies here to take the place that what is to lie here leaves? Or,
    /// where only directories could go on otherwise, that of one that takes it, and
    /// so on: none of them would ever be the first.
    fn changes_places(&self, path: &RelPath, lying: &Lying, from: &RelPath) -> bool {
        let wanted = |at: &RelPath| Some(self.store.name(at)?.wanted()?.0);
        if wanted(from) == Some(lying.id) {
            return true;
        }
        let is_apart = !from.is_within(path) && !path.is_within(from);
        if lying.kind() != Kind::Directory || !is_apart || self.is_to_move(lying) {
            return false;
        }
        let circle = std::iter::successors(Some(from.clone()), |at| self.leaves(wanted(at)?));
        circle.take(CIRCLE_MAX).any(|at| at == *path)
    }

    /// Does it lie in a directory that comes with what is in it, in exchange for
    /// what lies there?
    fn goes_along(&self, path: &RelPath) -> bool {
        let mut above = std::iter::successors(path.parent(), RelPath::parent);
        above.any(|at| {
            let Some(name) = self.store.name(&at).filter(|name| name.is_pending()) else {
                return false;
            };
            let lying = self.lying_as(name.on_disk());
            let from = name.wanted().and_then(|(id, _)| self.leaves(id));
            let comes = |(lying, from)| self.changes_places(&at, &lying, &from);
            lying.zip(from).is_some_and(comes)
        })
    }

    /// Does what lies here go elsewhere with all that is in it?
    fn moves_away(&self, path: &RelPath) -> bool {
        self.lying_at(path).is_none_or(|lying| self.is_to_move(&lying))
    }

    fn plan_directory(&mut self, now: Now, place: Place<'_>, lying: Option<Lying>) -> Next {
        let Place { path, name, id, .. } = place;
        // Where the directory lies now, if its place there is to be given up.
        let from = place.body.disk.as_ref().and_then(|disk| {
            let at = self.leaves(id).filter(|at| !path.is_within(at))?;
            Some((at, disk.fingerprint))
        });
        match (lying, from) {
            (None, Some((from, expect))) => {
                let what = What::Rename { from, expect };
                self.act_alone(path, name, id, Kind::Directory, what, vec![id])
            }
            (None, None) => {
                let metadata = place.body.metadata.winner().value.clone();
                let what = What::MakeDirectory { metadata };
                self.act(path, name, id, Kind::Directory, what, vec![id])
            }
            (Some(lying), Some((from, expect))) if self.changes_places(path, &lying, &from) => {
                let what = exchange(from, expect, &lying);
                self.act_alone(path, name, id, Kind::Directory, what, vec![id, lying.id])
            }
            (Some(lying), _) if lying.kind() == Kind::Directory => {
                // One that lies elsewhere is given up there first.
                if place.body.disk.is_some() || self.is_to_move(&lying) {
                    return Next::Blocked;
                }
                self.take_over(now, place, &lying)
            }
            (Some(lying), from) => {
                if !self.is_awaited(&lying) {
                    return self.lay_aside(path, name, &lying, vec![id, lying.id]);
                }
                let waits = from.is_none().then(|| self.waits_at(path, &lying)).flatten();
                let Some((with, directory)) = waits else {
                    return Next::Blocked;
                };
                let what = exchange(with, directory.disk().fingerprint, &lying);
                let bodies = vec![id, lying.id, directory.id];
                self.act_alone(path, name, id, Kind::Directory, what, bodies)
            }
        }
    }

    /// Plans for anything but a directory.
    fn plan_entry(&mut self, now: Now, place: Place<'_>, lying: Option<Lying>) -> Next {
        let Place { path, name, id, ref body } = place;
        let mut bodies = vec![id];
        let mut over = None;
        let mut awaited = false;
        if let Some(lying) = &lying {
            let expect = lying.disk().fingerprint;
            bodies.push(lying.id);
            awaited = self.is_awaited(lying);
            if !awaited && body.disk.is_some() && self.may_be_awaited(name, lying) {
                return Next::Blocked;
            }
            if lying.kind() == Kind::Directory {
                if self.is_to_move(lying) || self.any_below(path, |below| below.on_disk().is_some())
                {
                    return Next::Blocked;
                }
                let what = What::Remove { expect, keep: Keep::Discard };
                return self.act(path, name, lying.id, Kind::Directory, what, bodies);
            }
            let Some(keep) = self.keep(name, lying, Some(body)) else {
                return Next::Blocked;
            };
            over = Some(Over { kind: lying.kind(), expect, keep });
        }
        if let Some(disk) = &body.disk {
            return self.plan_known(&place, disk, lying, over, awaited, bodies);
        }
        if let Some(lying) = &lying {
            let same = lying.row().content_on_disk() == Some(&body.content.winner().value);
            let leaving = |at: &RelPath| {
                let wanted = self.store.name(at).and_then(|row| row.wanted());
                wanted.map(|(wanted, _)| wanted) == Some(id)
            };
            if same && lying.row().bound.is_empty() && lying.disk().names.iter().all(leaving) {
                return self.take_over(now, place, lying);
            }
        }
        if awaited {
            return Next::Blocked;
        }
        let metadata = body.metadata.winner().value.clone();
        let what = match body.content.winner().value.clone() {
            Content::Directory | Content::Lost => return Next::Blocked,
            Content::Symlink(target) => What::MakeSymlink { target, metadata, over },
            Content::Fifo => What::MakeFifo { metadata, over },
            Content::File { size, digest } => {
                let Some(source) = self.source_at(path, id, body, lying.as_ref()) else {
                    return Next::Blocked;
                };
                What::Write { size, digest, metadata, over, source }
            }
        };
        self.act(path, name, id, body.kind(), what, bodies)
    }

    /// The body lies on this disk already, under other names.
    fn plan_known(
        &mut self,
        place: &Place<'_>,
        disk: &Disk,
        lying: Option<Lying>,
        over: Option<Over>,
        awaited: bool,
        bodies: Vec<BodyId>,
    ) -> Next {
        let wanted =
            |at: &RelPath| self.store.name(at).and_then(|row| row.wanted()).map(|(body, _)| body);
        let leaving = lacking(&disk.names, &place.body.bound).next().cloned();
        let expect = disk.fingerprint;
        let what = match (leaving, lying) {
            (Some(from), None) if wanted(&from).is_none() => What::Rename { from, expect },
            (Some(from), Some(lying)) if awaited || wanted(&from) == Some(lying.id) => {
                exchange(from, expect, &lying)
            }
            (Some(from), _) => What::Link { from, expect, over },
            (None, _) if awaited => return Next::Blocked,
            (None, _) => match disk.names.first() {
                Some(from) => What::Link { from: from.clone(), expect, over },
                None => return Next::Blocked,
            },
        };
        self.act(place.path, place.name, place.id, place.body.kind(), what, bodies)
    }

    /// What lies at this path is what the tree is to show, known under
    /// another body so far: nothing is done to the disk.
    fn take_over(&mut self, now: Now, place: Place<'_>, lying: &Lying) -> Next {
        let Place { path, id, body, .. } = place;
        let disk = lying.disk();
        let kind = body.kind();
        let there = self.store.body_of_inode(disk.fingerprint.inode);
        let names = disk.names.clone();
        if body.disk.is_none() {
            let metadata = lying.row().metadata_on_disk().cloned();
            let metadata = metadata.map_or(Held::Winner, |metadata| {
                held(&body.metadata, metadata, VersionVector::new())
            });
            let disk = Disk {
                fingerprint: disk.fingerprint,
                names: Paths::new(),
                content: Held::Winner,
                metadata,
            };
            let leaves = there.and_then(|there| self.store.leaves(there));
            self.put_body(id, BodyRow { disk: Some(disk), ..Arc::unwrap_or_clone(body) });
            self.put_leaves(id, leaves);
            // A write to it that was not looked at yet is one to this body.
            if let Some(there) = there {
                self.settle.pass_on(now.monotonic, &Spot::Body(there), Spot::Body(id));
            }
        }
        let names = if kind == Kind::Directory { smallvec![path.clone()] } else { names };
        for name in names {
            self.set_on_disk(&name, Some((id, kind)), &VersionVector::new());
        }
        // Its metadata may be another: nobody else asks for a step now.
        self.plan_body(id)
    }
}

/// What is expected at another place comes here, and what lies here goes there.
fn exchange(with: RelPath, expect: Fingerprint, lying: &Lying) -> What {
    let (kind_here, expect_here) = (lying.kind(), lying.disk().fingerprint);
    What::Exchange { with, expect, kind_here, expect_here }
}
