//! What an application moved: an entry that is gone from one place is looked
//! for at another, and places that were exchanged are taken together.
//!
//! Nothing is lost where a move is missed, it is a deletion and a creation
//! then; but bytes go again, and an edit made elsewhere at the same time does
//! not follow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::core::{Core, Looking};
use super::doubt::Doubt;
use super::effect::{Found, Listed, Now};
use super::settle::{Dirt, Spot};
use super::store::Store;
use crate::entry::{Kind, Stat};
use crate::id::BodyId;
use crate::limits::MOVES_TOLD_MAX;
use crate::path::RelPath;

/// How long to wait before a place is looked at once more.
const MOVE_WAIT: Duration = Duration::from_millis(10);

/// Looks at a place that are not believed, while moved directories are scanned
/// or more is told of it.
pub(super) const LOOKS_FOR_MOVE_MAX: u32 = 20;

/// Places to which an entry is followed by what was told of moves, and moves
/// from one place.
const PLACES_MAX: usize = 16;

/// What capture told of moves: from where to where. Hints like all it tells,
/// and from one place several entries may have gone before anybody looked.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// By where from and when.
    told: BTreeMap<(RelPath, u64), RelPath>,
    /// The oldest first.
    order: VecDeque<(RelPath, u64)>,
    /// The place in that order of the next one.
    next: u64,
}

impl Moves {
    fn tell(&mut self, from: RelPath, to: RelPath) {
        // What was moved in a directory was so at the place it has now.
        let inside: Vec<_> = self.below(&from).map(|(at, to)| (at.clone(), to.clone())).collect();
        for (at, next) in inside {
            let next = next.rebased(&from, &to).unwrap_or(next);
            if let Some(at) = at.rebased(&from, &to) {
                self.remember(at, next);
            }
        }
        self.remember(from, to);
    }

    fn remember(&mut self, from: RelPath, to: RelPath) {
        if self.from(&from).next() == Some(&to) {
            return;
        }
        let place = (from, self.next);
        self.next += 1;
        self.told.insert(place.clone(), to);
        self.order.push_back(place);
        if self.order.len() > MOVES_TOLD_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.told.remove(&oldest);
        }
    }

    pub fn clear(&mut self) {
        self.told.clear();
        self.order.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Was something told to have been moved from this place?
    pub fn is_told(&self, from: &RelPath) -> bool {
        self.from(from).next().is_some()
    }

    /// Where to an entry of this place went, the last one first.
    fn from(&self, place: &RelPath) -> impl Iterator<Item = &RelPath> {
        let told = self.told.range((place.clone(), 0)..=(place.clone(), u64::MAX));
        told.rev().map(|(_, to)| to)
    }

    /// Where to it, or a directory it was in, was moved, and where it is then.
    fn next(&self, path: &RelPath) -> Vec<(&RelPath, RelPath)> {
        let mut places = Vec::new();
        let mut from = Some(path.clone());
        while let Some(at) = from {
            let told = self.from(&at).take(PLACES_MAX);
            places.extend(told.filter_map(|to| Some((to, path.rebased(&at, to)?))));
            from = at.parent();
        }
        places
    }

    /// What was moved from places in a directory.
    fn below<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = (&'a RelPath, &'a RelPath)> {
        let told = self.told.range((path.clone(), 0)..).map(|((from, _), to)| (from, to));
        let told = told.take_while(|(from, _)| from.as_bytes().starts_with(path.as_bytes()));
        told.filter(move |(from, _)| *from != path && from.is_within(path))
    }
}

impl<S: Store> Core<S> {
    /// An entry was moved within the folder.
    pub fn path_moved(&mut self, now: Now, from: RelPath, to: RelPath) {
        self.path_changed(now, from.clone());
        self.path_came(now, to.clone());
        self.moves.tell(from, to);
    }

    /// An entry was moved here. If it is a directory, what it holds was told
    /// of at another place, where it may have been looked for in vain, or never;
    /// and what was told of it here, late, may have led to it before.
    pub fn path_came(&mut self, now: Now, path: RelPath) {
        self.name_changed(now, path, Dirt { list: true, came: true, ..Dirt::entry() });
    }

    /// Is what lies at this place at no other?
    pub(super) fn lies_only_at(&self, path: &RelPath) -> bool {
        let held = self.store.name(path).and_then(|row| row.on_disk());
        held.is_some_and(|(id, _)| self.has_one_name(id))
    }

    pub(super) fn has_one_name(&self, body: BodyId) -> bool {
        let row = self.store.body(body);
        row.and_then(|row| Some(row.disk.as_ref()?.names.len())) == Some(1)
    }

    /// A scan meets an entry at another place than it lay. Of a file it is a hint
    /// as good as what capture tells; directories are met at once, with all that
    /// is in them.
    pub(super) fn met_elsewhere(&mut self, beneath: &RelPath, entry: &Listed) {
        let body = self.store.body_of_inode(entry.fingerprint.inode);
        let Some(lying) = body.and_then(|id| self.lying_as(Some((id, entry.kind)))) else { return };
        let disk = lying.disk();
        if disk.names.contains(&entry.path) || !disk.fingerprint.is_inode(&entry.fingerprint) {
            return;
        }
        self.scan_meets_moved(beneath, entry.fingerprint.inode);
        if let ([from], Kind::File) = (disk.names.as_slice(), entry.kind) {
            self.moves.tell(from.clone(), entry.path.clone());
        }
    }

    /// Was it told that what lay here, or anything in it, was moved to a place
    /// that is yet to be looked at?
    pub(super) fn is_to_be_met(&self, path: &RelPath) -> bool {
        self.is_to_be_met_where(path, |place| {
            self.looks.contains_key(place) || self.settle.holds(&Spot::Path(place.clone()))
        })
    }

    /// Is such a place being looked at since before that moment? What is doubted
    /// is not: two may doubt for one another.
    pub(super) fn is_being_met(&self, path: &RelPath, before: Duration) -> bool {
        self.is_to_be_met_where(path, |place| {
            self.looks.get(place).is_some_and(|look| look.at <= before && !look.is_over)
        })
    }

    fn is_to_be_met_where(&self, path: &RelPath, is_open: impl Fn(&RelPath) -> bool) -> bool {
        let mut inside = self.moves.below(path).map(|(from, _)| from);
        self.is_on_its_way(path, &is_open)
            || inside.any(|from| self.is_on_its_way(from, &is_open) && self.lies_only_at(from))
    }

    fn is_on_its_way(&self, path: &RelPath, is_open: impl Fn(&RelPath) -> bool) -> bool {
        let mut places = vec![path.clone()];
        let mut at = 0;
        while at < places.len() && places.len() < PLACES_MAX {
            let mut further = Vec::new();
            for (to, next) in self.moves.next(&places[at]) {
                if places.contains(&next) {
                    continue;
                }
                if is_open(to) || is_open(&next) {
                    return true;
                }
                further.push(next);
            }
            places.append(&mut further);
            at += 1;
        }
        false
    }

    /// Of what was seen, moves what took each other's places: one by one, the
    /// first would displace what the next is about.
    pub(super) fn saw_places_taken(&mut self, now: Now, doubts: &[Doubt]) {
        let doubtful = doubts.iter().filter(|doubt| doubt.is_open());
        let doubtful: BTreeSet<&RelPath> = doubtful.map(|doubt| &doubt.sight.path).collect();
        let found: BTreeMap<&RelPath, &Stat> = doubts
            .iter()
            .map(|doubt| &doubt.sight)
            .filter(|sight| self.looks.contains_key(&sight.path))
            .filter_map(|sight| match &sight.found {
                Found::Entry(stat, _) => Some((&sight.path, stat)),
                _ => None,
            })
            .collect();
        let mut moves = Vec::new();
        for (path, stat) in &found {
            let Some(lying) = self.known_as(stat) else {
                continue;
            };
            let disk = lying.disk();
            if disk.names.contains(path) || !self.parent_lies(path) {
                continue;
            }
            // Another inode lies at its old place, or it has taken another's.
            let taken = |name: &&RelPath| {
                found.get(name).is_some_and(|there| !there.fingerprint.is_inode(&disk.fingerprint))
            };
            let displaces = stat.kind == Kind::Directory
                && self.lying_at(path).is_some_and(|there| there.id != lying.id);
            let from = disk.names.iter().find(taken);
            let from = from.or_else(|| disk.names.first().filter(|_| displaces));
            moves.extend(from.map(|from| (from.clone(), (*path).clone())));
        }
        // What is displaced must have been met as well, if it was moved.
        loop {
            let left: BTreeSet<RelPath> = moves.iter().map(|(from, _)| from.clone()).collect();
            let before = moves.len();
            moves.retain(|(_, to)| {
                left.contains(to) || !doubtful.contains(to) || !self.lies_only_at(to)
            });
            if moves.len() == before {
                break;
            }
        }
        if !moves.is_empty() {
            let told =
                moves.iter().any(|(_, to)| self.looks.get(to).is_some_and(|look| look.dirt.told));
            self.move_together(now, &moves, told);
        }
    }

    /// Entries lie elsewhere now, and what is in a directory goes with it;
    /// each may have taken the place of another.
    pub(super) fn move_together(&mut self, now: Now, moves: &[(RelPath, RelPath)], told: bool) {
        let mut places = BTreeMap::new();
        let mut left = Vec::new();
        for (from, to) in moves {
            let mut inside = Vec::new();
            self.for_each_within(from, |_, path, row| {
                inside.extend(row.on_disk().map(|held| (path, held)));
            });
            // What was moved out of it goes where that went.
            let goes_elsewhere = |path: &RelPath| {
                moves.iter().any(|(other, _)| {
                    other != from && other.is_within(from) && path.is_within(other)
                })
            };
            for (path, held) in inside {
                if !goes_elsewhere(&path)
                    && let Some(new) = path.rebased(from, to)
                {
                    places.insert(new, held);
                    left.push(path);
                }
            }
        }
        let went = self.went_with_directory(&places, &left);
        // Each body is named at its new place before it loses the old one.
        for (path, (body, _)) in &places {
            self.edit_body(*body, |row| {
                if let Some(disk) = &mut row.disk {
                    super::tree::insert_path(&mut disk.names, path);
                }
            });
        }
        for (path, (body, kind)) in &places {
            self.bind(path, *body, *kind, now.wall);
        }
        left.sort();
        for path in left.iter().rev().filter(|path| !places.contains_key(path)) {
            self.take_away(now, path);
        }
        went.iter().rev().for_each(|(path, _)| self.vanish(now, path));
        went.into_iter().for_each(|(_, lay)| self.may_have_changed(now, lay));
        for (from, to) in moves {
            self.progress.note(now.wall, "moved here", to);
            if places.get(to).is_some_and(|(_, kind)| *kind == Kind::Directory) {
                self.scan_found(to.clone(), told, false);
                // Another may lie there by now, whose entries were taken for
                // those of the one that was moved.
                self.scan_found(from.clone(), told, false);
            }
        }
    }

    /// What lay in directories that went for entries of another kind, which lie in
    /// their places now: nobody scans those for what they miss.
    fn went_with_directory(
        &mut self,
        places: &BTreeMap<RelPath, (BodyId, Kind)>,
        left: &[RelPath],
    ) -> Vec<(RelPath, (BodyId, Kind))> {
        let mut went = Vec::new();
        for (path, _) in places.iter().filter(|(_, (_, kind))| *kind != Kind::Directory) {
            let lay = self.lying_at(path).filter(|lying| lying.kind() == Kind::Directory);
            if lay.is_none() || left.contains(path) {
                continue;
            }
            self.for_each_within(path, |core, below, row| {
                let stays = below == *path || places.contains_key(&below) || left.contains(&below);
                let lay = row.on_disk().filter(|_| !stays && !core.brake.holds(&below));
                went.extend(lay.map(|lay| (below, lay)));
            });
        }
        went
    }

    /// May what is missing be about to be met at another place of which no
    /// event told? Once where nobody told of this place either, and as long as
    /// a moved directory is being scanned.
    pub(super) fn may_be_moving(&self, look: &Looking) -> bool {
        match look.dirt.gone {
            0 => !look.dirt.is_of_name() || self.is_scanning_beneath_root(),
            looks => self.is_scanning_beneath_root() && looks < LOOKS_FOR_MOVE_MAX,
        }
    }

    /// Looks once more at a place of which something was told since.
    pub(super) fn look_anew(&mut self, now: Now, path: &RelPath, look: Looking) {
        let is_of_place = look.dirt.entry;
        let mut dirt = self.keep_bytes(now, 2 * MOVE_WAIT, look);
        dirt.gone += 1;
        // Else it was about bytes, which wait with their body until then.
        if is_of_place {
            self.settle.look_after(now.monotonic, MOVE_WAIT, Spot::Path(path.clone()), dirt);
        }
    }

    /// Looks once more. Where nobody told of this place, what was told of
    /// others is looked at first.
    pub(super) fn look_for_move(&mut self, now: Now, path: &RelPath, look: Looking) {
        let wait = match look.dirt.is_of_name() || look.dirt.gone > 0 {
            true => MOVE_WAIT,
            false => self.options.delay + MOVE_WAIT,
        };
        // The bytes of a body wait with it until the place was looked at: they
        // would be looked for there.
        let mut dirt = self.keep_bytes(now, 2 * wait, look);
        dirt.gone += 1;
        self.settle.look_after(now.monotonic, wait, Spot::Path(path.clone()), dirt);
    }
}
