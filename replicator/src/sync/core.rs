//! The core's state, its clock-free heart beat, and what it lets others read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::announce::Peer;
use super::applied::Running;
use super::brake::Brake;
use super::doubt::Doubt;
use super::effect::{Effect, Look, Now};
use super::history::History;
use super::mapped::Mapped;
use super::members::Membership;
use super::message::{Delta, Message, Records};
use super::moved::Moves;
use super::oneway::Own;
use super::patches::Patches;
use super::plan::Retry;
use super::read::Busy;
use super::record::{Content, Key};
use super::restored::Restored;
use super::scan::Scanning;
use super::settle::{Dirt, Locks, Settle, Spot};
use super::store::Store;
use super::told::Told;
use super::unread::Unread;
use super::verify::Verification;
use super::version::Dot;
use crate::choice::Mode;
use crate::entry::{Fingerprint, Flags, Kind};
use crate::hash::{Digest, Leaves};
use crate::id::{Actor, BodyId, NodeId};
use crate::limits::LOOKS_MAX;
use crate::path::RelPath;
use crate::range::RangeSet;

/// How the core is to behave.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long an entry must be quiet before it is read.
    pub delay: Duration,
    /// After which it is read though it is not.
    pub max_delay: Duration,
    /// The same for known files of which capture tells the bytes that change:
    /// no more is read of them then.
    pub stream_delay: Duration,
    /// Does capture tell which bytes of a file change? Then metadata that
    /// changed is no reason to read it.
    pub ranges_told: bool,
    /// Records in one message: [`crate::limits::RECORDS_MAX`], or fewer.
    pub records_max: usize,
    /// Changes in which two nodes differ before one tells the other in outline
    /// what it may show: [`crate::limits::MEETING_MIN`], or fewer.
    pub meeting_min: u64,
    /// Entries of a stretch that is told so: [`crate::limits::STRETCH_ROWS_MAX`],
    /// or fewer.
    pub stretch_rows: usize,
    /// Deletions nobody saw that are more than this share of a folder, in
    /// percent, are held; none are without.
    pub delete_brake: Option<u8>,
    /// The file flags that this node can give an entry, and take from it.
    pub flags: Flags,
    pub mode: Mode,
}

/// One folder of one node. Feed it through `handle_*` and the `*_changed`
/// methods, then call [`Core::poll_effect`] until it has no more to ask for
/// and wake it at [`Core::next_timeout`].
pub struct Core<S> {
    pub(super) options: Options,
    pub(super) store: S,
    pub(super) actor: Actor,
    next_counter: u64,
    /// The actors this node is and was.
    pub(super) lives: BTreeSet<Actor>,

    pub(super) settle: Settle,
    pub(super) locks: Locks,
    /// Looks under way, with when they were asked for.
    pub(super) looks: HashMap<RelPath, Looking>,
    /// What they found and is not believed yet.
    pub(super) doubts: Vec<Doubt>,
    /// Capture was asked whether it has told of all that happened.
    pub(super) listening: bool,
    /// Where entries were told to have gone to.
    pub(super) moves: Moves,
    pub(super) told: Told,
    pub(super) mapped: Mapped,
    pub(super) unread: Unread,
    /// Since when a new file has not been read in one piece.
    pub(super) unsettled: HashMap<RelPath, Duration>,
    /// Files that were written while they were last read.
    pub(super) busy: HashMap<BodyId, Busy>,
    pub(super) scans: Vec<Scanning>,
    /// The folder has been looked at once since the start.
    pub(super) surveyed: bool,
    surveying_since: Option<Duration>,

    /// Names whose winner is not what lies on the disk.
    pub(super) pending_names: BTreeSet<RelPath>,
    /// Bodies on the disk whose winners are not what lies there.
    pub(super) pending_bodies: BTreeSet<BodyId>,
    /// Names bound to bodies whose records have not come yet.
    pub(super) orphans: HashMap<BodyId, Vec<RelPath>>,
    /// Names and bodies whose place in the tree is to be checked once the
    /// peer's records are complete.
    pub(super) unchecked: HashSet<Key>,
    pub(super) retries: HashMap<Spot, Retry>,
    /// A directory waits to be moved: nothing new begins before that.
    pub(super) draining: bool,
    /// Peers in the middle of a series of records.
    pub(super) mid_series: BTreeSet<NodeId>,
    pub(super) jobs: BTreeMap<u64, Running>,
    pub(super) next_job: u64,

    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) patches: Patches,
    pub(super) history: History,
    pub(super) membership: Membership,
    pub(super) brake: Brake,
    pub(super) own: Own,
    pub(super) restored: Restored,
    pub(super) verification: Verification,
    pub(super) have_changed: Option<Duration>,
    probes: BTreeMap<u64, Probing>,
    next_probe: u64,

    pub(super) effects: VecDeque<Effect>,
    pub(super) progress: Progress,
}

/// A look under way.
#[derive(Debug)]
pub(super) struct Looking {
    pub at: Duration,
    pub bodies: Vec<BodyId>,
    /// What lay there when it began, and in which inode.
    pub lay: Option<(BodyId, u64)>,
    pub dirt: Dirt,
}

/// A version of a file on this disk.
#[derive(Clone, Debug)]
pub struct Located {
    pub path: RelPath,
    pub fingerprint: Fingerprint,
    pub leaves: Option<Leaves>,
}

/// One `wait` that asks all peers.
#[derive(Debug)]
struct Probing {
    answers: BTreeMap<NodeId, Result<(), String>>,
    asked: BTreeSet<NodeId>,
}

/// What the core has done and has yet to do, for the status.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub files: u64,
    pub directories: u64,
    /// Symbolic links and fifos.
    pub others: u64,
    pub names_pending: u64,
    pub bodies_pending: u64,
    /// Changes that have not been looked at yet.
    pub unsettled: u64,
    pub looking: u64,
    pub applying: u64,
    pub scanning: bool,
    /// Local changes written to the log.
    pub changes_made: u64,
    /// Remote changes applied.
    pub changes_applied: u64,
    pub conflicts: u64,
    /// Files that were replaced here by ones from before them.
    pub older_files: u64,
    /// Entries that vanished unseen, too many to be believed until somebody
    /// confirms it.
    pub deletions_held: u64,
    /// What changed on a node that only receives.
    pub own_changes: u64,
    /// What could not be read or applied, newest last.
    pub errors: VecDeque<(RelPath, String)>,
    /// What was done lately, newest last.
    pub recent: VecDeque<(i64, String, RelPath)>,
}

impl<S: Store> Core<S> {
    /// A core over what the store holds; `next_counter` is the first change
    /// this actor has not made yet.
    pub fn new(options: Options, actor: Actor, next_counter: u64, store: S) -> Self {
        let mut core = Self {
            options,
            store,
            actor,
            next_counter: next_counter.max(1),
            lives: BTreeSet::from([actor]),
            settle: Settle::new(options.delay, options.max_delay, options.stream_delay),
            locks: Locks::default(),
            looks: HashMap::new(),
            doubts: Vec::new(),
            listening: false,
            moves: Moves::default(),
            told: Told::default(),
            mapped: Mapped::default(),
            unread: Unread::default(),
            unsettled: HashMap::new(),
            busy: HashMap::new(),
            scans: Vec::new(),
            surveyed: false,
            surveying_since: None,
            pending_names: BTreeSet::new(),
            pending_bodies: BTreeSet::new(),
            orphans: HashMap::new(),
            unchecked: HashSet::new(),
            retries: HashMap::new(),
            draining: false,
            mid_series: BTreeSet::new(),
            jobs: BTreeMap::new(),
            next_job: 1,
            peers: BTreeMap::new(),
            patches: Patches::default(),
            history: History::default(),
            membership: Membership::default(),
            brake: Brake::default(),
            own: Own::default(),
            restored: Restored::default(),
            verification: Verification::default(),
            have_changed: None,
            probes: BTreeMap::new(),
            next_probe: 1,
            effects: VecDeque::new(),
            progress: Progress::default(),
        };
        core.recount();
        core
    }

    /// Finds again what memory held before a restart.
    fn recount(&mut self) {
        let mut progress = Progress::default();
        // Most names have the directory of the one before.
        let mut above = (RelPath::root(), true);
        self.for_each_within(&RelPath::root(), |core, path, row| {
            if let Some((_, kind)) = row.on_disk() {
                progress.count(kind);
            }
            if row.is_pending() {
                core.pending_names.insert(path.clone());
            }
            if let Some(parent) = path.parent().filter(|parent| *parent != above.0) {
                let is_there = core.is_to_be_directory(&parent);
                above = (parent, is_there);
            }
            let mut is_to_be_checked = core.is_to_be_checked(&row, above.1);
            for body in [row.wanted(), row.on_disk()].into_iter().flatten() {
                match core.store.body(body.0) {
                    Some(found) => {
                        is_to_be_checked |= found.content.winner().value.is_lost();
                        if found.is_pending() {
                            core.pending_bodies.insert(body.0);
                        }
                    }
                    None => core.orphans.entry(body.0).or_default().push(path.clone()),
                }
            }
            if is_to_be_checked {
                core.unchecked.insert(Key::Name(path));
            }
        });
        self.progress = progress;
    }

    // What happened on the disk.

    /// An entry appeared, vanished, moved or changed its metadata. If it is a
    /// directory it may hold entries nobody reported.
    pub fn path_changed(&mut self, now: Now, path: RelPath) {
        self.name_changed(now, path, Dirt { list: true, ..Dirt::entry() });
    }

    pub(super) fn name_changed(&mut self, now: Now, path: RelPath, dirt: Dirt) {
        if path.is_private() {
            return;
        }
        self.was_told(&path);
        if let Some(parent) = path.parent() {
            self.was_told(&parent);
            self.settle.touch(now.monotonic, Spot::Path(parent), Dirt::entry());
        }
        self.settle.touch(now.monotonic, Spot::Path(path), dirt);
    }

    /// Bytes of an inode changed: these, or `None` for any.
    pub fn bytes_changed(&mut self, now: Now, inode: u64, ranges: Option<RangeSet>, mapped: bool) {
        let body = self.store.body_of_inode(inode);
        if !self.looks.is_empty() || !self.jobs.is_empty() {
            self.told.note(inode, now.monotonic, body);
        }
        let dirt = Dirt {
            bytes: true,
            whole: ranges.is_none(),
            mapped,
            ranges: ranges.unwrap_or_default(),
            ..Dirt::default()
        };
        let Some(body) = body else {
            if mapped {
                self.mapped.note(inode, dirt);
            }
            return;
        };
        self.was_told_of_body(body);
        let dirt = Dirt { seldom: self.busy.get(&body) == Some(&Busy::Seldom), ..dirt };
        self.settle.touch(now.monotonic, Spot::Body(body), dirt);
    }

    /// Bytes of the file at this path changed, nobody knows which.
    pub fn bytes_changed_at(&mut self, now: Now, path: RelPath) {
        if !path.is_private() {
            self.was_told(&path);
            self.settle.touch(now.monotonic, Spot::Path(path), Dirt::whole());
        }
    }

    // Time and effects.

    /// Has everything that was told been looked at?
    pub fn is_read(&self) -> bool {
        !self.is_looking() && self.unread.len() == 0
    }

    /// Is something being looked at or applied, or about to be? Not what could
    /// not be read and waits to be tried again.
    pub fn is_at_work(&self) -> bool {
        self.is_looking() || !self.jobs.is_empty()
    }

    fn is_looking(&self) -> bool {
        self.settle.len() > 0 || !self.looks.is_empty() || !self.scans.is_empty()
    }

    /// Time has passed, or `*_changed` was called.
    pub fn handle_timeout(&mut self, now: Now) {
        self.turn(now);
    }

    /// When [`Core::handle_timeout`] wants to be called next.
    pub fn next_timeout(&self) -> Option<Duration> {
        let looks = match self.looks.len() < LOOKS_MAX && !self.draining {
            true => self.settle.next_due(),
            false => None,
        };
        let retries = self.retries.values().filter(|retry| retry.waits);
        let retries = retries.map(|retry| retry.not_before).min();
        let forwards = self.peers.values().filter_map(Peer::next_forward).min();
        let unread = self.unread.next_due();
        let doubts = self.doubts.iter().filter_map(Doubt::until).min();
        let others = [self.have_due(), self.members_due()];
        [looks, doubts, retries, forwards, unread].into_iter().chain(others).flatten().min()
    }

    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Does what the last event made possible.
    pub(super) fn turn(&mut self, now: Now) {
        if self.doubts.iter().filter_map(Doubt::until).any(|until| until <= now.monotonic) {
            self.believe(now);
        }
        self.check_lost(now);
        self.check_tree(now);
        self.try_unread(now);
        self.issue_looks(now);
        self.greet(now);
        self.plan(now);
        self.announce(now);
        self.members_turn(now);
    }

    // Who is there.

    /// An authenticated peer is connected.
    pub fn handle_connected(&mut self, now: Now, peer: NodeId) {
        self.peers.insert(peer, Peer::new());
        // It may hold now what it did not hold before.
        for retry in self.retries.values_mut() {
            retry.refused.remove(&peer);
        }
        self.have_changed.get_or_insert(now.monotonic);
        self.meet(peer);
        self.turn(now);
    }

    /// Greets those who wait for it, once what lies here is known: from then
    /// on they can tell what this node lacks.
    fn greet(&mut self, now: Now) {
        let since = *self.surveying_since.get_or_insert(now.monotonic);
        let quiet = self.looks.is_empty() && self.settle.len() == 0;
        // A folder that is written to all the time is never quiet.
        let long = now.monotonic.saturating_sub(since) >= self.options.max_delay;
        self.surveyed |= self.scans.is_empty() && (quiet || long);
        if !self.surveyed {
            return;
        }
        let ungreeted = self.peers.iter_mut().filter(|(_, peer)| !peer.greeted);
        let ungreeted: Vec<NodeId> = ungreeted
            .map(|(id, peer)| {
                peer.greeted = true;
                *id
            })
            .collect();
        for id in ungreeted {
            let have = self.store.have();
            self.send(id, Message::Greeting { actor: self.actor, have: have.clone() });
            self.has_greeted(id, &have);
        }
    }

    pub fn handle_disconnected(&mut self, now: Now, peer: NodeId) {
        self.peers.remove(&peer);
        self.membership.news.parted(peer);
        self.mid_series.remove(&peer);
        for probe in self.probes.values_mut() {
            probe.asked.remove(&peer);
            probe.answers.remove(&peer);
        }
        self.turn(now);
    }

    /// A peer said something. The message has been checked by
    /// [`Message::decode`].
    pub fn handle_message(&mut self, now: Now, from: NodeId, message: Message) {
        match message {
            Message::Greeting { actor, have } => self.greeted(from, actor, have),
            Message::Records(records) => self.handle_records(now, from, records),
            Message::Have { have, links } => self.heard_have(from, have, links),
            Message::Probe { token } => {
                let (have, unfinished) = (self.store.have(), self.unfinished());
                self.send(from, Message::ProbeReply { token, have, unfinished });
            }
            Message::ProbeReply { token, have, unfinished } => {
                self.probe_answered(from, token, &have, unfinished);
            }
            Message::Meet { floor, have, mine } => self.handle_meet(from, floor, (have, mine)),
            Message::Members(news) => self.handle_members(from, news),
            Message::Refused { floor } => self.handle_refused(now, from, floor),
            Message::WantBodies(wanted) => self.handle_want_bodies(from, &wanted),
            Message::Bodies(bodies) => self.handle_bodies(bodies),
            Message::Offer(offer) => self.handle_offer(from, &offer),
            Message::Answer { id, answers } => self.handle_answer(from, id, &answers),
        }
        self.turn(now);
    }

    fn handle_records(&mut self, now: Now, from: NodeId, records: Records) {
        if self.membership.refuses(from) {
            return;
        }
        let have = records.have.clone();
        self.merge(records);
        match have {
            Some(have) => {
                self.mid_series.remove(&from);
                self.logs_complete(now, from, have);
                self.ask_for_bodies(from);
            }
            None => {
                self.mid_series.insert(from);
            }
        }
    }

    // Waiting for the cluster.

    /// How much of what is known here is not done: 0 when this node has
    /// looked at every change it was told of and applied every record.
    pub fn unfinished(&self) -> u64 {
        let parts = [
            self.settle.len(),
            self.looks.len(),
            self.unread.len(),
            self.pending_names.len(),
            self.pending_bodies.len(),
            self.jobs.len(),
            self.scans.len(),
            self.brake.len(),
            self.own.len(),
        ];
        parts.iter().map(|part| *part as u64).sum()
    }

    /// What could not be read and will be tried again.
    pub fn unreadable(&self) -> u64 {
        self.unread.len() as u64
    }

    /// What other nodes changed and is not applied here yet.
    pub fn pending(&self) -> u64 {
        (self.pending_names.len() + self.pending_bodies.len()) as u64
    }

    /// The bytes of it: of the first `most` entries, where there are more.
    pub fn pending_bytes(&self, most: usize) -> u64 {
        let wanted = |path: &RelPath| self.store.name(path)?.wanted().map(|(body, _)| body);
        let named = self.pending_names.iter().take(most).filter_map(wanted);
        let bodies: BTreeSet<BodyId> =
            named.chain(self.pending_bodies.iter().take(most).copied()).collect();
        let bytes = |body: &BodyId| {
            let row = self.store.body(*body)?;
            let comes = row.disk.is_none() || row.content_is_pending();
            match row.content.winner().value {
                Content::File { size, .. } if comes => Some(size),
                _ => None,
            }
        };
        bodies.iter().take(most).filter_map(bytes).sum()
    }

    /// Some of it, by path.
    pub fn first_pending(&self, most: usize) -> Vec<String> {
        let bodies = self.pending_bodies.iter().take(most);
        let names = bodies.filter_map(|body| self.store.body(*body)?.disk?.names.first().cloned());
        let paths = self.pending_names.iter().take(most).cloned().chain(names);
        let paths: BTreeSet<RelPath> = paths.collect();
        paths.iter().take(most).map(ToString::to_string).collect()
    }

    /// Starts a round of asking every peer whether it is done; the token
    /// fetches the answer from [`Core::probe_result`].
    pub fn probe(&mut self) -> u64 {
        let token = self.next_probe;
        self.next_probe += 1;
        let asked: BTreeSet<NodeId> = self.peers.keys().copied().collect();
        asked.iter().for_each(|peer| self.send(*peer, Message::Probe { token }));
        self.probes.insert(token, Probing { answers: BTreeMap::new(), asked });
        token
    }

    /// `None` while answers are missing; then whether each peer holds the same
    /// as this node, or what is not in step, in words.
    pub fn probe_result(&mut self, token: u64) -> Option<BTreeMap<NodeId, Result<(), String>>> {
        let probe = self.probes.get(&token)?;
        if !probe.asked.iter().all(|peer| probe.answers.contains_key(peer)) {
            return None;
        }
        Some(self.probes.remove(&token)?.answers)
    }

    /// Nobody waits for this answer any more. Gives who has not answered.
    pub fn forget_probe(&mut self, token: u64) -> Vec<NodeId> {
        let Some(probe) = self.probes.remove(&token) else { return Vec::new() };
        probe.asked.into_iter().filter(|peer| !probe.answers.contains_key(peer)).collect()
    }

    fn probe_answered(
        &mut self,
        from: NodeId,
        token: u64,
        have: &super::version::VersionVector,
        unfinished: u64,
    ) {
        let mine = self.store.have();
        let answer = if unfinished > 0 {
            Err(format!("it has {unfinished} entries to look at or apply"))
        } else if *have != mine {
            Err("it has not heard of the same changes yet".to_owned())
        } else {
            Ok(())
        };
        if let Some(probe) = self.probes.get_mut(&token) {
            probe.answers.insert(from, answer);
        }
    }

    // What others may read.

    /// Where a version of a body lies on this disk, with its hash list if it
    /// has several leaves: to answer a peer's request.
    pub fn locate(&self, body: BodyId, digest: Digest) -> Option<Located> {
        let row = self.store.body(body)?;
        let disk = row.disk.as_ref()?;
        let held = super::local::digest_of(row.content_on_disk())?;
        (held == digest).then_some(())?;
        let (path, fingerprint) = self.place_of_bytes(disk)?;
        Some(Located { path, fingerprint, leaves: self.store.leaves(body) })
    }

    /// Where a body lies that was this version a while ago and is a later one
    /// now.
    pub fn locate_former(&self, body: BodyId, digest: Digest) -> Option<Located> {
        let row = self.store.body(body)?;
        let now = super::local::digest_of(row.content_on_disk())?;
        self.history.knows(body, digest, now).then(|| self.locate(body, now)).flatten()
    }

    /// What differs between an earlier version of a body and one that lies
    /// here, if it is remembered.
    pub fn changed_since(&self, body: BodyId, from: Digest, to: Digest) -> Option<Delta> {
        self.history.between(body, from, to)
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    pub fn into_store(self) -> S {
        self.store
    }

    /// Has it logged anything since it was made?
    pub(super) fn has_written(&self) -> bool {
        self.progress.changes_made > 0
    }

    pub fn next_counter(&self) -> u64 {
        self.next_counter
    }

    pub fn progress(&self) -> Progress {
        Progress {
            names_pending: self.pending_names.len() as u64,
            bodies_pending: self.pending_bodies.len() as u64,
            unsettled: self.settle.len() as u64,
            looking: self.looks.len() as u64,
            applying: self.jobs.values().map(|job| job.len() as u64).sum(),
            scanning: !self.scans.is_empty(),
            deletions_held: self.brake.len() as u64,
            own_changes: self.own.len() as u64,
            ..self.progress.clone()
        }
    }

    /// How many changes a peer is not known to hold.
    pub fn behind(&self, peer: NodeId) -> u64 {
        let Some(peer) = self.peers.get(&peer) else {
            return 0;
        };
        let have = self.store.have();
        have.iter().map(|dot| dot.counter.saturating_sub(peer.told(dot.actor))).sum()
    }

    // Shared by the parts of the core.

    /// The next change of this node.
    pub(super) fn next_dot(&mut self) -> Dot {
        let dot = Dot { actor: self.actor, counter: self.next_counter };
        self.next_counter += 1;
        self.progress.changes_made += 1;
        self.advance_have(&[dot], None);
        dot
    }

    pub(super) fn next_body(&mut self) -> BodyId {
        // A change's number names no other change, so it can name a body too.
        BodyId { origin: self.actor, counter: self.next_counter }
    }

    pub(super) fn send(&mut self, peer: NodeId, message: Message) {
        self.effects.push_back(Effect::Send { peer, message });
    }

    pub(super) fn ask_to_look(&mut self, looks: Vec<Look>) {
        if !looks.is_empty() {
            self.effects.push_back(Effect::Look(looks));
        }
    }
}

impl Progress {
    /// Lines kept of each list.
    const LINES_MAX: usize = 64;

    /// Everything that lies on the disk.
    pub(super) fn entries(&self) -> u64 {
        self.files + self.directories + self.others
    }

    pub(super) fn count(&mut self, kind: Kind) {
        *self.counter(kind) += 1;
    }

    pub(super) fn forget(&mut self, kind: Kind) {
        let counter = self.counter(kind);
        *counter = counter.saturating_sub(1);
    }

    pub(super) fn error(&mut self, path: &RelPath, reason: String) {
        self.errors.retain(|(earlier, _)| earlier != path);
        self.errors.push_back((path.clone(), reason));
        if self.errors.len() > Self::LINES_MAX {
            self.errors.pop_front();
        }
    }

    pub(super) fn no_error(&mut self, path: &RelPath) {
        if !self.errors.is_empty() {
            self.errors.retain(|(earlier, _)| earlier != path);
        }
    }

    pub(super) fn note(&mut self, wall: i64, what: &str, path: &RelPath) {
        self.recent.push_back((wall, what.to_owned(), path.clone()));
        if self.recent.len() > Self::LINES_MAX {
            self.recent.pop_front();
        }
    }

    fn counter(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::File => &mut self.files,
            Kind::Directory => &mut self.directories,
            Kind::Symlink | Kind::Fifo => &mut self.others,
        }
    }
}
