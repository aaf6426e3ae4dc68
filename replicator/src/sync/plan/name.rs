//! The next step at one name: from what lies there to what is to lie there.
//!
//! A name never waits for one that waits for it: what is exchanged is
//! exchanged, and what is moved goes before what takes its place.

use super::Next;
use crate::entry::Kind;
use crate::id::BodyId;
use crate::path::RelPath;
use crate::sync::core::Core;
use crate::sync::effect::{Keep, Now, Over, What};
use crate::sync::record::{BodyRow, Content, Disk, Held, NameRow};
use crate::sync::settle::Spot;
use crate::sync::store::Store;
use crate::sync::tree::{held, lacking};
use crate::sync::version::VersionVector;

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
        if !self.locks.is_free(path, &bodies.collect::<Vec<BodyId>>()) {
            return Next::Blocked;
        }
        let lying = self.lying_as(name.on_disk());
        let Some((id, kind)) = name.wanted() else {
            return lying.map_or(Next::Blocked, |lying| self.plan_removal(path, &name, lying));
        };
        let Some(body) = self.store.body(id) else {
            return Next::Blocked;
        };
        if !self.parent_lies(path) {
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
            Kind::Directory => self.plan_directory(now, path, &name, id, body, lying),
            _ => self.plan_entry(now, path, &name, id, body, lying),
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

    fn plan_removal(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        (id, body, disk): (BodyId, BodyRow, Disk),
    ) -> Next {
        if path.is_root() {
            return Next::Blocked;
        }
        let kind = body.kind();
        if kind == Kind::Directory {
            if self.is_to_move(&body, &disk)
                || self.any_below(path, |below| below.on_disk().is_some())
            {
                return Next::Blocked;
            }
        } else if self.is_awaited(&body, &disk) {
            // The name it is to have fetches it from here.
            return Next::Blocked;
        }
        self.lay_aside(path, name, id, &body, &disk, vec![id])
    }

    /// What lies here goes, and nothing takes its place in the same step.
    fn lay_aside(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        body: &BodyRow,
        disk: &Disk,
        bodies: Vec<BodyId>,
    ) -> Next {
        let keep = self.keep(name, id, body, disk, None);
        if self.may_be_wanted(keep) {
            return Next::Blocked;
        }
        let what = What::Remove { expect: disk.fingerprint, keep };
        self.act(path, name, id, body.kind(), what, bodies)
    }

    /// Is a directory to go as a whole to a place where it does not lie yet?
    /// Where another directory lies already, the two become one instead: what
    /// is in it goes there by itself.
    pub(super) fn is_to_move(&self, body: &BodyRow, disk: &Disk) -> bool {
        lacking(&body.bound, &disk.names).any(|bound| {
            let there = self.store.name(bound).and_then(|row| row.on_disk());
            there.is_none_or(|(_, kind)| kind != Kind::Directory)
        })
    }

    /// Is the body to have a name that it does not have on this disk yet, and
    /// that can be made?
    fn is_awaited(&self, body: &BodyRow, disk: &Disk) -> bool {
        lacking(&body.bound, &disk.names).any(|bound| {
            // Beneath a place that it has to leave first it comes anew, and in
            // the place of a directory that cannot go before it has left.
            let is_apart = |at: &RelPath| {
                !bound.is_within(at) && (!at.is_within(bound) || self.moves_away(bound))
            };
            disk.names.iter().all(is_apart)
                && (self.parent_lies(bound) || self.pending_names.contains(bound))
        })
    }

    /// Does what lies here go elsewhere with all that is in it?
    fn moves_away(&self, path: &RelPath) -> bool {
        self.lying_at(path).is_none_or(|(_, other, disk)| self.is_to_move(&other, &disk))
    }

    fn plan_directory(
        &mut self,
        now: Now,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        body: BodyRow,
        lying: Option<(BodyId, BodyRow, Disk)>,
    ) -> Next {
        // Where the directory lies now, if its place there is to be given up.
        let from = body.disk.as_ref().and_then(|disk| {
            let leaving = |at: &&RelPath| {
                let wanted = self.store.name(at).and_then(|row| row.wanted());
                wanted.map(|(body, _)| body) != Some(id) && !path.is_within(at)
            };
            Some((disk.names.iter().find(leaving)?.clone(), disk.fingerprint))
        });
        match (lying, from) {
            (None, Some((from, expect))) => {
                let what = What::Rename { from, expect };
                self.act_alone(path, name, id, Kind::Directory, what, vec![id])
            }
            (None, None) => {
                let metadata = body.metadata.winner().value.clone();
                let what = What::MakeDirectory { metadata };
                self.act(path, name, id, Kind::Directory, what, vec![id])
            }
            (Some((there, other, disk)), Some((from, expect)))
                if self.store.name(&from).and_then(|row| row.wanted()).map(|held| held.0)
                    == Some(there) =>
            {
                let (kind_here, expect_here) = (other.kind(), disk.fingerprint);
                let what = What::Exchange { with: from, expect, kind_here, expect_here };
                self.act_alone(path, name, id, Kind::Directory, what, vec![id, there])
            }
            (Some((_, other, disk)), _) if other.kind() == Kind::Directory => {
                // One that lies elsewhere is given up there first.
                if body.disk.is_some() || self.is_to_move(&other, &disk) {
                    return Next::Blocked;
                }
                self.take_over(now, path, id, body, &other, disk)
            }
            (Some((there, other, disk)), _) => {
                if self.is_awaited(&other, &disk) {
                    return Next::Blocked;
                }
                self.lay_aside(path, name, there, &other, &disk, vec![id, there])
            }
        }
    }

    /// Plans for anything but a directory.
    fn plan_entry(
        &mut self,
        now: Now,
        path: &RelPath,
        name: &NameRow,
        id: BodyId,
        body: BodyRow,
        lying: Option<(BodyId, BodyRow, Disk)>,
    ) -> Next {
        let kind = body.kind();
        let mut bodies = vec![id];
        let mut over = None;
        let mut awaited = false;
        if let Some((there, other, disk)) = &lying {
            bodies.push(*there);
            awaited = self.is_awaited(other, disk);
            if other.kind() == Kind::Directory {
                if self.is_to_move(other, disk)
                    || self.any_below(path, |below| below.on_disk().is_some())
                {
                    return Next::Blocked;
                }
                let what = What::Remove { expect: disk.fingerprint, keep: Keep::Discard };
                return self.act(path, name, *there, Kind::Directory, what, bodies);
            }
            let keep = self.keep(name, *there, other, disk, Some(&body));
            if self.may_be_wanted(keep) {
                return Next::Blocked;
            }
            over = Some(Over { kind: other.kind(), expect: disk.fingerprint, keep });
        }
        if let Some(disk) = &body.disk {
            return self.plan_known(path, name, (id, &body), disk, lying, over, awaited, bodies);
        }
        if let Some((_, other, disk)) = &lying {
            let same = other.content_on_disk() == Some(&body.content.winner().value);
            let leaving = |at: &RelPath| {
                let wanted = self.store.name(at).and_then(|row| row.wanted());
                wanted.map(|(wanted, _)| wanted) == Some(id)
            };
            if same && other.bound.is_empty() && disk.names.iter().all(leaving) {
                let disk = disk.clone();
                let other = other.clone();
                return self.take_over(now, path, id, body, &other, disk);
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
                let Some(source) = self.source(Spot::Path(path.clone()), id, &body, None) else {
                    return Next::Blocked;
                };
                What::Write { size, digest, metadata, over, source }
            }
        };
        self.act(path, name, id, kind, what, bodies)
    }

    /// The body lies on this disk already, under other names.
    #[expect(clippy::too_many_arguments, reason = "the parts of one decision, taken once")]
    fn plan_known(
        &mut self,
        path: &RelPath,
        name: &NameRow,
        (id, body): (BodyId, &BodyRow),
        disk: &Disk,
        lying: Option<(BodyId, BodyRow, Disk)>,
        over: Option<Over>,
        awaited: bool,
        bodies: Vec<BodyId>,
    ) -> Next {
        let wanted =
            |at: &RelPath| self.store.name(at).and_then(|row| row.wanted()).map(|(body, _)| body);
        let leaving = lacking(&disk.names, &body.bound).next().cloned();
        let expect = disk.fingerprint;
        let what = match (leaving, lying) {
            (Some(from), None) if wanted(&from).is_none() => What::Rename { from, expect },
            (Some(from), Some((there, other, lying)))
                if awaited || wanted(&from) == Some(there) =>
            {
                What::Exchange {
                    with: from,
                    expect,
                    kind_here: other.kind(),
                    expect_here: lying.fingerprint,
                }
            }
            (Some(from), _) => What::Link { from, expect, over },
            (None, _) if awaited => return Next::Blocked,
            (None, _) => match disk.names.first() {
                Some(from) => What::Link { from: from.clone(), expect, over },
                None => return Next::Blocked,
            },
        };
        self.act(path, name, id, body.kind(), what, bodies)
    }

    /// What lies at this path is what the tree is to show, known under
    /// another body so far: nothing is done to the disk.
    fn take_over(
        &mut self,
        now: Now,
        path: &RelPath,
        id: BodyId,
        mut body: BodyRow,
        other: &BodyRow,
        disk: Disk,
    ) -> Next {
        let kind = body.kind();
        let there = self.store.body_of_inode(disk.fingerprint.inode);
        let names = disk.names.clone();
        if body.disk.is_none() {
            let metadata = other.metadata_on_disk().cloned();
            let metadata = metadata.map_or(Held::Winner, |metadata| {
                held(&body.metadata, metadata, VersionVector::new())
            });
            body.disk = Some(Disk {
                fingerprint: disk.fingerprint,
                names: Vec::new(),
                content: Held::Winner,
                metadata,
            });
            let leaves = there.and_then(|there| self.store.leaves(there));
            self.put_body(id, body);
            self.store.put_leaves(id, leaves);
            // A write to it that was not looked at yet is one to this body.
            if let Some(there) = there {
                self.settle.pass_on(now.monotonic, &Spot::Body(there), Spot::Body(id));
            }
        }
        let names = if kind == Kind::Directory { vec![path.clone()] } else { names };
        for name in names {
            self.set_on_disk(&name, Some((id, kind)), &VersionVector::new());
        }
        // Its metadata may be another: nobody else asks for a step now.
        self.plan_body(id)
    }
}
