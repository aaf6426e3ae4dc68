//! Words for what happens, for the trace of a run.

use crate::sync::core::Core;
use crate::sync::effect::{Action, Found, Outcome, Sight, Sighted, What};
use crate::sync::message::Message;
use crate::sync::store::MemoryStore;

/// What a core that does not come to rest is in the middle of.
pub(super) fn stuck(core: &Core<MemoryStore>) -> String {
    format!(
        "timer {:?}, {:?}, looks {:?}, jobs {:?}, pending {:?} {:?}, draining {}",
        core.next_timeout(),
        core.locks,
        core.looks.keys(),
        core.jobs.keys(),
        core.pending_names,
        core.pending_bodies,
        core.draining,
    )
}

pub(super) fn said(action: &Action) -> String {
    let what = format!("{:?}", action.what);
    let what = what.split([' ', '(']).next().unwrap_or_default();
    let from = match &action.what {
        What::Rename { from, .. } | What::Link { from, .. } => format!(" from {from}"),
        What::Exchange { with, .. } => format!(" with {with}"),
        What::Remove { keep, .. } => format!(" {keep:?}"),
        What::Update(update) => format!(" {:?}", update.keep),
        What::Write { over: Some(over), .. } => format!(" over {:?}", over.keep),
        _ => String::new(),
    };
    format!("{what} {} {:?}{from}", action.path, action.body)
}

pub(super) fn seen(sight: &Sight) -> String {
    let what = match &sight.found {
        Found::Entry(stat, sighted) => {
            let read = if matches!(sighted, Sighted::File { .. }) { ", read" } else { "" };
            let (kind, inode) = (stat.kind, stat.fingerprint.inode);
            format!("{kind:?} of inode {inode}, {} names{read}", stat.links)
        }
        other => format!("{other:?}"),
    };
    format!("{} {what}", sight.path)
}

pub(super) fn ended(outcome: &Outcome) -> String {
    let outcome = format!("{outcome:?}");
    outcome.split('(').next().unwrap_or_default().to_owned()
}

pub(super) fn heard(message: &Message) -> String {
    let Message::Records(records) = message else { return format!("{message:?}") };
    let names = records.names.iter().map(|name| {
        let winner = name.binding.winner();
        let losers = name.binding.losers().count();
        format!("{} = {:?} {:?} +{losers}", name.path, winner.dot, winner.value.body())
    });
    let bodies = records.bodies.iter().map(|body| {
        let winner = body.content.winner();
        format!("{:?} = {:?} {:?}", body.id, winner.dot, winner.value)
    });
    let all: Vec<String> = bodies.chain(names).collect();
    format!("{} closed {:?}", all.join(", "), records.have)
}
