//! Telling peers what is known of members.
//!
//! Everybody hears of everybody, so what one member says of itself goes over
//! every connection. Two things keep that cheap. How far a member holds each
//! log is told as what differs from what the teller holds, which the peer was
//! told: among members that rest, nothing. And news are gathered for a moment
//! before they go out, so that what came from several sides goes on in one
//! message, and not to who told the same meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::message::Message;
use super::roster::{MemberNews, MemberRecord};
use super::store::Store;
use super::version::VersionVector;
use crate::id::NodeId;

/// Entries of vectors in one message of news: well below a frame.
const ENTRIES_MAX: usize = 50_000;

/// News are gathered for this part of a round, and no longer than that.
const GATHERED_PART: u32 = 100;
const GATHERED_MAX: Duration = Duration::from_secs(1);

/// What was told of members on the connections there are.
#[derive(Debug, Default)]
pub(super) struct News {
    links: BTreeMap<NodeId, Link>,
    /// Some of it waits to be told, since then.
    waiting: Option<Duration>,
}

/// One connection.
#[derive(Debug, Default)]
struct Link {
    /// What this node holds, as the peer was told last.
    said: Arc<VersionVector>,
    /// What the peer holds, as it told last.
    heard: Arc<VersionVector>,
    /// Members of which the peer is to be told.
    untold: BTreeSet<NodeId>,
}

impl News {
    /// This node has told the peer what it holds, and tells it of these.
    pub fn met(
        &mut self,
        peer: NodeId,
        said: Arc<VersionVector>,
        members: impl IntoIterator<Item = NodeId>,
    ) {
        let link = self.links.entry(peer).or_default();
        link.said = said;
        link.untold = members.into_iter().collect();
    }

    /// The peer has told what it holds.
    pub fn was_met(&mut self, by: NodeId, heard: Arc<VersionVector>) {
        self.links.entry(by).or_default().heard = heard;
    }

    pub fn parted(&mut self, peer: NodeId) {
        self.links.remove(&peer);
    }

    /// All are to be told of this member, but the one who told of it.
    pub fn tell(&mut self, member: NodeId, but: Option<NodeId>) {
        let links = self.links.iter_mut().filter(|(peer, _)| Some(**peer) != but);
        links.for_each(|(_, link)| link.untold.extend([member]));
    }

    /// The peer knows as much of this member.
    pub fn is_known(&mut self, to: NodeId, member: NodeId) {
        if let Some(link) = self.links.get_mut(&to) {
            link.untold.remove(&member);
        }
    }

    /// What a peer told, written out.
    pub fn records(&mut self, from: NodeId, news: Vec<MemberNews>) -> Vec<MemberRecord> {
        let Some(link) = self.links.get_mut(&from) else { return Vec::new() };
        let records = news.into_iter().map(|news| {
            let record = news.record(&link.heard);
            if record.node == from {
                link.heard = Arc::clone(&record.have);
            }
            record
        });
        records.collect()
    }

    fn is_waiting(&self) -> bool {
        self.links.values().any(|link| !link.untold.is_empty())
    }
}

impl<S: Store> Core<S> {
    /// When news go out next; `None` where there are none.
    pub(super) fn news_due(&self) -> Option<Duration> {
        let news = &self.membership.news;
        let since = news.is_waiting().then_some(news.waiting);
        since.map(|since| since.map_or(Duration::ZERO, |since| since + self.gathered()))
    }

    /// Tells what was gathered for long enough by `now`.
    pub(super) fn tell_news(&mut self, now: Duration) {
        if !self.membership.news.is_waiting() {
            self.membership.news.waiting = None;
            return;
        }
        let since = *self.membership.news.waiting.get_or_insert(now);
        if now >= since + self.gathered() {
            self.tell_all_news();
        }
    }

    /// Tells what there is.
    pub(super) fn tell_all_news(&mut self) {
        self.membership.news.waiting = None;
        let peers: Vec<NodeId> = self.membership.news.links.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.tell_news_to(peer));
    }

    pub(super) fn tell_news_to(&mut self, peer: NodeId) {
        let (me, roster) = (self.membership.me(), &self.membership.roster);
        let Some(link) = self.membership.news.links.get_mut(&peer) else { return };
        let untold = std::mem::take(&mut link.untold);
        // What this node holds comes first: the rest is told by it.
        let mine = me.filter(|me| untold.contains(me));
        let others = untold.iter().copied().filter(|node| Some(*node) != mine);
        let members = mine.into_iter().chain(others).filter_map(|node| roster.get(node));
        let (mut part, mut entries) = (Vec::new(), 0);
        let mut parts = Vec::new();
        for record in members.map(|member| &member.record) {
            let news = record.news(&link.said);
            if Some(record.node) == me {
                link.said = Arc::clone(&record.have);
            }
            entries += news.have.len() + 1;
            part.push(news);
            if entries >= ENTRIES_MAX {
                parts.push(std::mem::take(&mut part));
                entries = 0;
            }
        }
        parts.extend((!part.is_empty()).then_some(part));
        parts.into_iter().for_each(|part| self.send(peer, Message::Members(part)));
    }

    fn gathered(&self) -> Duration {
        (self.membership.period() / GATHERED_PART).min(GATHERED_MAX)
    }
}
