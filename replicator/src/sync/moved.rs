//! What an application moved: an entry that is gone from one place is looked
//! for at another, and places that were exchanged are taken together.
//!
//! Nothing is lost where a move is missed, it is a deletion and a creation
//! then; but bytes go again, and an edit made elsewhere at the same time does
//! not follow.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::{Core, Looking};
use super::effect::{Effect, Found, Now, Sight};
use super::record::BodyRow;
use super::settle::Spot;
use super::store::Store;
use crate::entry::{Kind, Stat};
use crate::path::RelPath;

/// How long what is gone may take to be met at another place of which an
/// event has told.
const MOVE_WAIT: Duration = Duration::from_millis(10);

/// Looks at a place where nothing is, while moved directories are scanned.
const LOOKS_FOR_MOVE_MAX: u32 = 20;

impl<S: Store> Core<S> {
    /// Of what was seen together, moves what took each other's places: one by
    /// one, the first would displace what the next is about.
    pub(super) fn saw_places_taken(&mut self, now: Now, sights: &[Sight]) {
        let found: BTreeMap<&RelPath, &Stat> = sights
            .iter()
            .filter(|sight| self.looks.contains_key(&sight.path))
            .filter_map(|sight| match &sight.found {
                Found::Entry(stat, _) => Some((&sight.path, stat)),
                _ => None,
            })
            .collect();
        let mut moves = Vec::new();
        for (path, stat) in &found {
            let Some((id, BodyRow { disk: Some(disk), .. })) = self.known_as(stat) else {
                continue;
            };
            if disk.names.contains(path) || !self.parent_lies(path) {
                continue;
            }
            // Another inode lies at its old place, or it has taken another's.
            let taken = |name: &&RelPath| {
                found.get(name).is_some_and(|there| !there.fingerprint.is_inode(&disk.fingerprint))
            };
            let displaces = stat.kind == Kind::Directory
                && self.lying_at(path).is_some_and(|(there, _, _)| there != id);
            let from = disk.names.iter().find(taken);
            let from = from.or_else(|| disk.names.first().filter(|_| displaces));
            moves.extend(from.map(|from| (from.clone(), (*path).clone())));
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
            self.vanish(now, path);
        }
        for (from, to) in moves {
            self.progress.note(now.wall, "moved here", to);
            if places.get(to).is_some_and(|(_, kind)| *kind == Kind::Directory) {
                self.scan_found(to.clone(), told);
                // Another may lie there by now, whose entries were taken for
                // those of the one that was moved.
                self.scan_found(from.clone(), told);
            }
        }
    }

    /// May what is missing be about to be met at another place? Not where an
    /// event told of this very name, for it told of the other as well; but as
    /// long as a moved directory is being scanned.
    pub(super) fn may_be_moving(&self, look: &Looking) -> bool {
        match look.dirt.gone {
            0 => !look.dirt.is_of_name() || self.is_scanning_beneath_root(),
            looks => self.is_scanning_beneath_root() && looks < LOOKS_FOR_MOVE_MAX,
        }
    }

    /// Looks once more, when everything that happened before this look has
    /// been heard of: were a moved entry taken for a deleted one, its bytes
    /// would go again, and an edit made elsewhere would bring the deleted one
    /// back.
    pub(super) fn look_for_move(&mut self, now: Now, path: &RelPath, look: Looking) {
        let is_told = look.dirt.is_of_name() || look.dirt.gone > 0;
        let mut dirt = self.keep_bytes(now, MOVE_WAIT, look);
        dirt.gone += 1;
        if is_told {
            self.settle.look_after(now.monotonic, MOVE_WAIT, Spot::Path(path.clone()), dirt);
            return;
        }
        self.untold.push((path.clone(), dirt));
        self.listen();
    }

    fn listen(&mut self) {
        if self.listening.is_none() && !self.untold.is_empty() {
            self.listening = Some(self.untold.len());
            self.effects.push_back(Effect::Listen);
        }
    }

    /// Everything that happened before [`Effect::Listen`] has been told.
    pub fn handle_heard(&mut self, now: Now) {
        let heard = self.listening.take().unwrap_or(0).min(self.untold.len());
        // What was told is looked at when it is quiet; this comes after it.
        let wait = self.options.delay + MOVE_WAIT;
        for (path, dirt) in self.untold.drain(..heard) {
            self.settle.look_after(now.monotonic, wait, Spot::Path(path), dirt);
        }
        self.listen();
        self.turn(now);
    }
}
