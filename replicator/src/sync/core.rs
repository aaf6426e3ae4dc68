//! The core's state, its clock-free heart beat, and what it lets others read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::announce::Peer;
use super::behind::Behind;
use super::brake::Brake;
use super::copying::Copying;
use super::cut_off::CutOff;
use super::doubt::Doubt;
use super::effect::{Effect, Now};
use super::history::History;
use super::lost::GivingUp;
use super::mapped::Mapped;
use super::members::Membership;
use super::message::Message;
use super::moved::Moves;
use super::oneway::Own;
use super::patches::Patches;
use super::plan::{Planning, Retry};
use super::probe::Probes;
use super::progress::Progress;
use super::read::Busy;
use super::record::Key;
use super::restored::Restored;
use super::scan::Scanning;
use super::settle::{Dirt, Locks, Settle, Spot};
use super::step::Running;
use super::store::Store;
use super::told::Told;
use super::touched::Touched;
use super::unread::Unread;
use super::verify::Verification;
use super::version::Dot;
use crate::choice::Mode;
use crate::entry::Flags;
use crate::id::{Actor, BodyId, NodeId};
use crate::limits::LOOKS_MAX;
use crate::look::Look;
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
    /// Files of more bytes have jobs of their own that nothing small waits for:
    /// [`crate::limits::WHOLE_BYTES_MAX`], or fewer.
    pub bulk_above: u64,
    /// And of more than these one each: [`crate::limits::JOB_BYTES_MAX`], or
    /// fewer.
    pub huge_above: u64,
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
    /// Files that are being written as copies of others.
    pub(super) copying: Copying,
    /// Files of which more was seen than told.
    pub(super) touched: Touched,
    pub(super) scans: Vec<Scanning>,
    /// The folder has been looked at once since the start.
    pub(super) surveyed: bool,
    pub(super) surveying_since: Option<Duration>,
    /// The last life ended with its machine.
    pub(super) behind: Option<Behind>,

    /// Names whose winner is not what lies on the disk.
    pub(super) pending_names: BTreeSet<RelPath>,
    /// Bodies on the disk whose winners are not what lies there.
    pub(super) pending_bodies: BTreeSet<BodyId>,
    /// Names bound to bodies whose records have not come yet.
    pub(super) orphans: BTreeMap<BodyId, Vec<RelPath>>,
    /// More of them since all peers were asked.
    pub(super) orphaned: bool,
    /// The body of one of them has come.
    pub(super) adopted: bool,
    /// Names and bodies whose place in the tree is to be checked once the
    /// peer's records are complete.
    pub(super) unchecked: HashSet<Key>,
    /// Names that are given up once all peers know that their content is lost.
    pub(super) giving_up: GivingUp,
    pub(super) retries: HashMap<Spot, Retry>,
    pub(super) planning: Planning,
    /// A directory waits to be moved: nothing new begins before that.
    pub(super) draining: bool,
    /// The life is about to end: nothing new begins that changes the disk.
    pub(super) winding_up: bool,
    /// Peers in the middle of a series of records.
    pub(super) mid_series: BTreeSet<NodeId>,
    pub(super) cut_off: CutOff,
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
    pub(super) probes: Probes,

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
    /// More of the body is known to have changed.
    pub is_part: bool,
    /// What it found is here, and is doubted.
    pub is_over: bool,
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
            copying: Copying::default(),
            touched: Touched::default(),
            scans: Vec::new(),
            surveyed: false,
            surveying_since: None,
            behind: None,
            pending_names: BTreeSet::new(),
            pending_bodies: BTreeSet::new(),
            orphans: BTreeMap::new(),
            orphaned: false,
            adopted: false,
            unchecked: HashSet::new(),
            giving_up: GivingUp::default(),
            retries: HashMap::new(),
            planning: Planning::default(),
            draining: false,
            winding_up: false,
            mid_series: BTreeSet::new(),
            cut_off: CutOff::default(),
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
            probes: Probes::default(),
            effects: VecDeque::new(),
            progress: Progress::default(),
        };
        core.recount();
        core
    }

    /// Finds again what memory held before a restart.
    fn recount(&mut self) {
        let (mut progress, have) = (Progress::default(), self.store.have());
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
            core.note_half_told(&have, row.stamp);
            let mut is_to_be_checked = core.is_to_be_checked(&row, above.1);
            for body in [row.wanted(), row.on_disk()].into_iter().flatten() {
                match core.store.body(body.0) {
                    Some(found) => {
                        is_to_be_checked |= found.content.winner().value.is_lost();
                        core.note_half_told(&have, found.stamp);
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
            if mapped && let Some(since) = self.mapped.note(now, inode, dirt) {
                self.scan_since(RelPath::root(), Some(since));
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

    /// The life is about to end: what changes the disk comes to its end, and
    /// nothing new begins. What ends unheard of would look, at the next start,
    /// as if a user had done it, or had removed what never came.
    pub fn wind_up(&mut self) {
        self.winding_up = true;
    }

    /// Is nothing on its way to the disk any more, but what may take hours?
    pub fn is_wound_up(&self) -> bool {
        self.quick_jobs() == 0
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
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= now.monotonic);
        match is_due(self.planning.due) && !is_due(self.next_due()) {
            true => self.plan_on(now),
            false => self.turn(now),
        }
    }

    /// When [`Core::handle_timeout`] wants to be called next.
    pub fn next_timeout(&self) -> Option<Duration> {
        [self.next_due(), self.planning.due].into_iter().flatten().min()
    }

    fn next_due(&self) -> Option<Duration> {
        let looks = match self.looks.len() < LOOKS_MAX && !self.draining {
            true => self.settle.next_due(),
            false => None,
        };
        let retries = self.retries.values().filter(|retry| retry.waits);
        let retries = retries.map(|retry| retry.not_before).min();
        let forwards = self.peers.values().filter_map(Peer::next_forward).min();
        let unread = self.unread.next_due();
        let doubts = self.doubts.iter().filter_map(Doubt::until).min();
        let cut_off = self.cut_off.due.filter(|_| self.mid_series.is_empty());
        let others = [self.have_due(), self.members_due(), cut_off];
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
        self.tell_on(now);
        self.check_lost(now);
        self.check_orphans(now);
        self.check_tree(now);
        self.ask_all_for_bodies();
        self.invite_questions();
        self.try_unread(now);
        self.issue_looks(now);
        self.greet(now);
        self.plan(now);
        self.announce(now);
        self.members_turn(now);
        if !self.is_looking() {
            self.mapped.has_rested(now.monotonic);
        }
    }

    // What others may read.

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

    // Shared by the parts of the core.

    /// The next change of this node.
    pub(super) fn next_dot(&mut self) -> Dot {
        let dot = Dot { actor: self.actor, counter: self.next_counter };
        self.next_counter += 1;
        self.progress.changes_made += 1;
        self.advance_have(&[dot], None);
        self.note_unmet(dot);
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
