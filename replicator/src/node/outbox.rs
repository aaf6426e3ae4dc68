//! What waits to be sent to each peer, in order.
//!
//! Messages that count ([`Message::counts`]) are bounded by the core's credit.
//! All others are short, and no peer that is well has many of them to come;
//! one that lets them pile up is given up, and meets this node anew.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::report::Report;
use crate::id::NodeId;
use crate::sync::message::Message;
use crate::transport::{Lane, Transport};

/// Messages that may wait for one peer. The most frequent, of what is held
/// here, comes twenty times a second at the most: a peer has taken nothing for
/// a quarter of an hour by then.
const MESSAGES_MAX: usize = 16 << 10;

/// More waits for a peer than may.
#[derive(Debug, PartialEq)]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Outboxes(HashMap<NodeId, mpsc::Sender<Message>>);

impl Outboxes {
    /// What is put into it from now on comes out here, for [`post`].
    pub fn open(&mut self, peer: NodeId) -> mpsc::Receiver<Message> {
        let (outbox, messages) = mpsc::channel(MESSAGES_MAX);
        self.0.insert(peer, outbox);
        messages
    }

    pub fn is_open(&self, peer: NodeId) -> bool {
        self.0.contains_key(&peer)
    }

    pub fn close(&mut self, peer: NodeId) {
        self.0.remove(&peer);
    }

    /// A message for a peer that is not connected is for nobody.
    pub fn put(&mut self, peer: NodeId, message: Message) -> Result<(), Full> {
        let Some(outbox) = self.0.get(&peer) else { return Ok(()) };
        match outbox.try_send(message) {
            // The task that empties it ends with the connection, which is
            // about to be reported.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.close(peer);
                Err(Full)
            }
        }
    }
}

/// Sends one peer its messages.
pub(super) async fn post(
    transport: Transport,
    peer: NodeId,
    mut messages: mpsc::Receiver<Message>,
    reports: mpsc::Sender<Report>,
) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = transport.send(peer, Lane::Control, message.encode()).await {
            tracing::debug!(%peer, "a message was not sent: {error}");
            return;
        }
        if message.counts() && reports.send(Report::Sent(peer)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> NodeId {
        NodeId::from_bytes([1; 16])
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up_once() {
        let mut outboxes = Outboxes::default();
        let mut messages = outboxes.open(peer());
        let message = |token: usize| Message::Probe { token: token as u64 };
        for token in 0..MESSAGES_MAX {
            assert_eq!(outboxes.put(peer(), message(token)), Ok(()));
        }
        assert_eq!(outboxes.put(peer(), message(0)), Err(Full));
        assert_eq!(outboxes.put(peer(), message(0)), Ok(()), "it was given up before");
        // What waited is in order.
        for token in 0..MESSAGES_MAX {
            assert_eq!(messages.try_recv().ok(), Some(message(token)));
        }
        assert!(messages.try_recv().is_err());
    }

    #[test]
    fn a_peer_that_takes_its_messages_gets_all() {
        let mut outboxes = Outboxes::default();
        let mut messages = outboxes.open(peer());
        for token in 0..3 * MESSAGES_MAX as u64 {
            assert_eq!(outboxes.put(peer(), Message::Probe { token }), Ok(()));
            assert_eq!(messages.try_recv().ok(), Some(Message::Probe { token }));
        }
    }
}
