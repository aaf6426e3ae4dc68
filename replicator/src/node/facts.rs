//! What the outside may know of this node, gathered when asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::carry::Carrier;
use super::members::Members;
use super::standing::{self, Standing};
use super::unmet::{self, Unmet};
use crate::apply::conflicts::Tally;
use crate::capture::Capture;
use crate::choice::Mode;
use crate::config::Config;
use crate::id::NodeId;
use crate::index::Index;
use crate::status::{
    ActivityLine, CaptureFacts, EngineFacts, FolderFacts, IndexFacts, NodeFacts, PathError,
    PeerFacts, ProcessFacts, Rates, Snapshot, StateDir, clock, file, state,
};
use crate::sync::{Core, Progress};

/// Peers that are gone and still shown.
const PEERS_SHOWN_MAX: usize = 256;

/// Entries yet to be applied whose bytes are added up: a status is to cost
/// little however much is pending.
const PENDING_SUMMED_MAX: usize = 1000;

/// Entries yet to be applied that are named.
const PENDING_SHOWN_MAX: usize = 10;

pub(super) struct Facts {
    config: Config,
    place: StateDir,
    started_ms: u64,
    peers: BTreeMap<NodeId, Known>,
    /// Members that left for good.
    left: BTreeSet<NodeId>,
    unmet: Unmet,
    /// The last life did not end cleanly.
    unclean: bool,
    next_write: Instant,
    /// It was said that the folder is read-only.
    is_read_only: bool,
    kept: Tally,
    /// Of so many files it was said that older ones took their place.
    older_files: u64,
    rate: Rate,
}

/// A peer met since the start.
struct Known {
    name: String,
    address: SocketAddr,
    connected: bool,
    /// Its connection was not just closed for it was not needed.
    lost: bool,
    since_ms: u64,
    last_error: Option<String>,
}

/// Work done at the last reading, for the rate.
#[derive(Default)]
struct Rate {
    at: Option<Instant>,
    changes: u64,
    bytes: u64,
    per_second: f64,
    bytes_per_second: f64,
}

impl Facts {
    pub fn new(config: Config, place: StateDir, unclean: bool) -> Self {
        Self {
            config,
            place,
            started_ms: clock::now_ms(),
            peers: BTreeMap::new(),
            left: BTreeSet::new(),
            unmet: Unmet::default(),
            unclean,
            next_write: Instant::now(),
            is_read_only: false,
            kept: Tally::default(),
            older_files: 0,
            rate: Rate::default(),
        }
    }

    pub fn trash_keep(&self) -> Duration {
        self.config.trash_keep
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn mode(&self) -> Mode {
        self.config.mode
    }

    pub fn retention(&self) -> Duration {
        self.config.retention
    }

    pub fn peer_up(&mut self, peer: NodeId, name: String, address: SocketAddr) {
        if self.peers.len() >= PEERS_SHOWN_MAX {
            self.peers.retain(|_, known| known.connected);
        }
        self.unmet.joined(address);
        let since_ms = clock::now_ms();
        let known =
            Known { name, address, connected: true, lost: false, since_ms, last_error: None };
        self.peers.insert(peer, known);
    }

    pub fn peer_down(&mut self, peer: NodeId, reason: String, unwanted: bool) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.connected = false;
            known.lost = !unwanted;
            known.since_ms = clock::now_ms();
            known.last_error = Some(reason);
        }
        if self.left.contains(&peer) {
            self.peers.remove(&peer);
        }
    }

    /// A member that left is not shown any more.
    pub fn forget(&mut self, peer: NodeId) {
        self.left.insert(peer);
        if self.peers.get(&peer).is_some_and(|known| !known.connected) {
            self.peers.remove(&peer);
        }
    }

    pub fn refused(&mut self, address: SocketAddr, reason: String) {
        self.unmet.refused(Instant::now(), address, reason);
    }

    pub fn connected(&self) -> usize {
        self.present().count()
    }

    /// The peers that are connected.
    pub fn present(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, known)| known.connected).map(|(id, _)| *id)
    }

    /// What the failure detector says of a member, where that is news.
    pub fn standing(&self, member: NodeId, members: &Members) -> Option<Standing> {
        let lost = self.peers.get(&member).filter(|known| known.lost);
        let lost_ms = lost.map(|known| known.since_ms);
        members.standing(member).filter(|standing| standing.is_news(lost_ms, clock::now_ms()))
    }

    /// A peer as people call it: its name and the first digits of its id.
    pub fn call(&self, id: NodeId) -> String {
        match self.peers.get(&id) {
            Some(known) => format!("{} ({id})", known.name),
            None => id.to_string(),
        }
    }

    /// When the status file is due.
    pub fn next_write(&self) -> Instant {
        self.next_write
    }

    pub fn write_when_due(
        &mut self,
        now: Instant,
        core: &Core<Index>,
        carrier: &Carrier,
        capture: &Capture,
        members: &Members,
    ) {
        if now < self.next_write {
            return;
        }
        self.next_write = now + self.config.status_interval;
        let snapshot = self.snapshot(core, carrier, capture, members);
        let is_read_only = snapshot.folder.state == state::READ_ONLY;
        if std::mem::replace(&mut self.is_read_only, is_read_only) != is_read_only {
            match is_read_only {
                true => tracing::warn!("{}", state::READ_ONLY),
                false => tracing::info!("the folder is writable again"),
            }
        }
        let older = snapshot.folder.older_files;
        let fresh = older.saturating_sub(std::mem::replace(&mut self.older_files, older));
        if fresh > 0 {
            tracing::warn!(
                "older files were put over {fresh} newer ones here; those rest in the trash of the other nodes"
            );
        }
        let place = self.place.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = file::write(&place, &snapshot) {
                tracing::warn!("the status file cannot be written: {error}");
            }
        });
    }

    pub fn snapshot(
        &mut self,
        core: &Core<Index>,
        carrier: &Carrier,
        capture: &Capture,
        members: &Members,
    ) -> Snapshot {
        let progress = core.progress();
        let description = capture.describe();
        let mut snapshot = Snapshot {
            taken_ms: clock::now_ms(),
            node: self.node(carrier),
            folder: self.folder(core, carrier, &progress),
            capture: CaptureFacts {
                level: description.level.to_string(),
                hooks: description.hook_set.to_owned(),
                late: description.seen_late(),
                missing: description.missing.iter().map(|hook| hook.line()).collect(),
                why: description.why_not_higher.unwrap_or_default(),
                why_hooks: description.why_not_exits.unwrap_or_default(),
                counters: counters(&capture.counters()),
            },
            engine: EngineFacts {
                kind: carrier.engine.describe().to_owned(),
                counters: counters(&carrier.engine.stats()),
            },
            index: self.index(core),
            peers: self.peer_facts(core, carrier, members),
            losses: self.losses(capture, &progress),
            rates: self.rates(&progress, carrier),
            process: ProcessFacts::measure(),
            ..Snapshot::default()
        };
        for (wall, what, path) in &progress.recent {
            snapshot.note(ActivityLine {
                when_ms: (*wall / 1_000_000) as u64,
                what: what.clone(),
                path: path.to_string(),
            });
        }
        for (path, what) in core.own_changes() {
            let reason = format!("{what}, not replicated: `replicator revert` undoes it");
            snapshot.note_error(PathError { path: path.to_string(), reason });
        }
        for (path, reason) in &progress.errors {
            let (path, reason) = (path.to_string(), reason.clone());
            snapshot.note_error(PathError { path, reason });
        }
        snapshot
    }

    fn node(&self, carrier: &Carrier) -> NodeFacts {
        NodeFacts {
            id: format!("{:#}", carrier.transport.id()),
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started_ms,
            listen: carrier.transport.local_addr().to_string(),
            pid: std::process::id(),
        }
    }

    fn folder(
        &mut self,
        core: &Core<Index>,
        carrier: &Carrier,
        progress: &Progress,
    ) -> FolderFacts {
        let pending_in = progress.names_pending + progress.bodies_pending;
        let connected = self.peers.iter().filter(|(_, known)| known.connected);
        let pending_out = connected.map(|(id, _)| core.behind(*id)).max().unwrap_or(0);
        let busy = pending_in + progress.unsettled + progress.looking + progress.applying > 0;
        let state = match () {
            () if carrier.root.is_read_only() => state::READ_ONLY,
            () if progress.scanning => state::SCANNING,
            () if progress.deletions_held > 0 => state::HELD,
            () if pending_in > 0 => state::MERGING,
            () if busy || pending_out > 0 => state::SYNCING,
            () if self.connected() == 0 => state::ALONE,
            () => state::IN_SYNC,
        };
        FolderFacts {
            name: "default".to_owned(),
            root: carrier.root.path().display().to_string(),
            state: state.to_owned(),
            files: progress.files,
            directories: progress.directories,
            symlinks: progress.others,
            pending_in,
            pending_in_bytes: core
                .pending_bytes(PENDING_SUMMED_MAX)
                .saturating_sub(carrier.arrivals.bytes_here()),
            pending_out,
            pending_paths: core.first_pending(PENDING_SHOWN_MAX),
            conflicts: self.kept.count(&carrier.root),
            older_files: progress.older_files,
            brought_back: progress.brought_back,
            deletions_held: progress.deletions_held,
            own_changes: progress.own_changes,
            mode: self.config.mode.to_string(),
        }
    }

    fn index(&self, core: &Core<Index>) -> IndexFacts {
        let stats = core.store().stats();
        let progress = core.progress();
        let shown = progress.files + progress.directories + progress.others;
        IndexFacts {
            names: stats.names,
            bodies: stats.bodies,
            tombstones: stats.names.saturating_sub(shown),
            uncommitted_rows: stats.uncommitted_rows,
            disk_bytes: stats.disk_bytes,
        }
    }

    fn peer_facts(
        &self,
        core: &Core<Index>,
        carrier: &Carrier,
        members: &Members,
    ) -> Vec<PeerFacts> {
        let now = Instant::now();
        let met = self.met(now, core, carrier, members);
        let me = carrier.transport.id();
        let absent = core.roster().members().map(|member| &member.record);
        let absent = absent.filter(|record| {
            !record.retired && record.node != me && !self.peers.contains_key(&record.node)
        });
        let absent = absent.map(|record| {
            let standing = self.standing(record.node, members);
            let (state, since_ms) = standing::state_of(standing, self.started_ms, "not connected");
            PeerFacts {
                id: format!("{:#}", record.node),
                name: record.name.clone(),
                address: standing.map_or_else(String::new, |known| known.address.to_string()),
                since_ms,
                state,
                membership: standing::word(standing),
                ..PeerFacts::default()
            }
        });
        let unreached =
            self.config.peers.iter().filter_map(|address| {
                Some((address.clone(), carrier.transport.unreached(address)?))
            });
        let addresses = self.peers.values().map(|known| known.address);
        let unmet = self.unmet.facts(now, &unreached.collect::<Vec<_>>(), addresses);
        met.into_iter().chain(absent).chain(unmet).collect()
    }

    /// The members met since the start.
    fn met(
        &self,
        now: Instant,
        core: &Core<Index>,
        carrier: &Carrier,
        members: &Members,
    ) -> Vec<PeerFacts> {
        let live = carrier.transport.peers();
        let facts = self.peers.iter().map(|(id, known)| {
            let link = live.iter().find(|peer| peer.id == *id);
            let standing = self.standing(*id, members);
            // One that was met before may be refused when it comes back.
            let refused = self.unmet.why_refused(now, known.address);
            let refused = refused.filter(|_| !known.connected);
            let (state, since_ms) = match refused {
                _ if known.connected => ("connected".to_owned(), known.since_ms),
                Some(reason) => (unmet::refused_for(reason), known.since_ms),
                None => standing::state_of(standing, known.since_ms, "gone"),
            };
            PeerFacts {
                id: format!("{id:#}"),
                name: known.name.clone(),
                address: known.address.to_string(),
                connected: known.connected,
                since_ms,
                rtt_ms: link.map_or(0.0, |link| link.rtt_us as f64 / 1000.0),
                sent_bytes: link.map_or(0, |link| link.sent_bytes),
                received_bytes: link.map_or(0, |link| link.received_bytes),
                behind_entries: if known.connected { core.behind(*id) } else { 0 },
                state,
                membership: standing::word(standing),
                last_error: refused.map(str::to_owned).or_else(|| known.last_error.clone()),
            }
        });
        facts.collect()
    }

    fn losses(&self, capture: &Capture, progress: &Progress) -> BTreeMap<String, u64> {
        let mut losses = counters(&capture.counters().lost);
        losses.insert("unmet_mappings".to_owned(), progress.unmet_mappings);
        losses.insert("unclean_end".to_owned(), self.unclean.into());
        losses
    }

    /// Since the last reading; readings that follow closely share one.
    fn rates(&mut self, progress: &Progress, carrier: &Carrier) -> Rates {
        let changes = progress.changes_applied + progress.changes_made;
        let links = carrier.transport.peers();
        let bytes = links.iter().map(|link| link.sent_bytes + link.received_bytes).sum();
        let now = Instant::now();
        let seconds = self.rate.at.map(|at| now.duration_since(at).as_secs_f64());
        if seconds.is_none_or(|seconds| seconds >= 0.2) {
            // A connection made anew counts from nothing.
            let since = |before: u64, now: u64| {
                seconds.map_or(0.0, |seconds| now.saturating_sub(before) as f64 / seconds)
            };
            self.rate = Rate {
                at: Some(now),
                per_second: since(self.rate.changes, changes),
                bytes_per_second: since(self.rate.bytes, bytes),
                changes,
                bytes,
            };
        }
        Rates { files_per_s: self.rate.per_second, bytes_per_s: self.rate.bytes_per_second }
    }
}

/// The numbers of a flat structure, by name.
fn counters(value: &impl serde::Serialize) -> BTreeMap<String, u64> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(value) else {
        return BTreeMap::new();
    };
    fields.into_iter().filter_map(|(name, value)| Some((name, value.as_u64()?))).collect()
}
