//! What the transport tells the node, and the two queues it waits in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Lane;
use super::error::Refusal;
use super::fetch::Reply;
use super::settings::{EVENT_QUEUE_BULK_BYTES, EVENT_QUEUE_CONTROL_BYTES, EVENT_QUEUE_EVENTS};
use crate::id::NodeId;

#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer is connected. Comes before anything else of this connection.
    Up {
        peer: NodeId,
        name: String,
        address: SocketAddr,
        /// The address under which the peer sees us: ours, or our gateway's.
        seen_from: IpAddr,
    },
    /// A peer is gone. Nothing of that connection comes after it, and what
    /// was queued for the peer is lost.
    Down {
        peer: NodeId,
        reason: String,
        /// One of both did not need the connection: the peer goes on.
        unwanted: bool,
    },
    Message {
        from: NodeId,
        payload: Bytes,
    },
    Datagram {
        from: NodeId,
        payload: Bytes,
    },
    /// A peer asks; the answer goes into `reply`.
    Fetch {
        from: NodeId,
        request: Bytes,
        reply: Reply,
    },
    /// A peer was met by another node with our identity, started after us.
    Twin {
        told_by: NodeId,
    },
    /// Somebody did not become a peer. Dropped when nobody reads events.
    Refused {
        address: SocketAddr,
        reason: Refusal,
    },
}

/// The receiving end. Bulk messages and fetches wait in a queue of their own;
/// whatever is in the other one comes first.
pub struct Events {
    control: mpsc::Receiver<Item>,
    bulk: mpsc::Receiver<Item>,
    /// A bulk item whose Up has not been handed out yet.
    early: Option<Item>,
}

impl Events {
    /// The next event; `None` once the transport is gone.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            let item = match self.early.take_if(|item| item.life.has_begun()) {
                Some(early) => early,
                None => tokio::select! {
                    biased;
                    item = self.control.recv() => item?,
                    item = self.bulk.recv(), if self.early.is_none() => item?,
                },
            };
            if let Some(event) = self.hand_out(item) {
                return Some(event);
            }
        }
    }

    /// Keeps the promise about the order of events across the two queues.
    fn hand_out(&mut self, item: Item) -> Option<Event> {
        match item.event {
            Event::Up { .. } => item.life.begin(),
            Event::Down { .. } => item.life.end(),
            Event::Refused { .. } | Event::Twin { .. } => {}
            _ if item.life.has_ended() => return None,
            _ if !item.life.has_begun() => {
                self.early = Some(item);
                return None;
            }
            _ => {}
        }
        Some(item.event)
    }
}

pub(super) fn channel() -> (Inlet, Events) {
    let (control_sender, control) = mpsc::channel(EVENT_QUEUE_EVENTS);
    let (bulk_sender, bulk) = mpsc::channel(EVENT_QUEUE_EVENTS);
    let inlet = Inlet {
        control: control_sender,
        control_bytes: Arc::new(Semaphore::new(EVENT_QUEUE_CONTROL_BYTES)),
        bulk: bulk_sender,
        bulk_bytes: Arc::new(Semaphore::new(EVENT_QUEUE_BULK_BYTES)),
    };
    (inlet, Events { control, bulk, early: None })
}

/// The sending end of the queues. Both are bounded in events and in bytes;
/// who waits here stops reading from its peer.
pub(super) struct Inlet {
    control: mpsc::Sender<Item>,
    control_bytes: Arc<Semaphore>,
    bulk: mpsc::Sender<Item>,
    bulk_bytes: Arc<Semaphore>,
}

impl Inlet {
    /// Up and Down. Nobody listening any more is no error: the node is ending.
    pub(super) async fn lifecycle(&self, life: &Arc<Life>, event: Event) {
        let item = Item { life: Arc::clone(life), event, _room: None };
        let _ = self.control.send(item).await;
    }

    pub(super) async fn message(&self, life: &Arc<Life>, from: NodeId, lane: Lane, payload: Bytes) {
        let (queue, room) = match lane {
            Lane::Control => (&self.control, &self.control_bytes),
            Lane::Bulk => (&self.bulk, &self.bulk_bytes),
        };
        let event_bytes = payload.len();
        let event = Event::Message { from, payload };
        enqueue(queue, room, event_bytes, life, event).await;
    }

    pub(super) async fn fetch(&self, life: &Arc<Life>, from: NodeId, request: Bytes, reply: Reply) {
        let event_bytes = request.len();
        let event = Event::Fetch { from, request, reply };
        enqueue(&self.bulk, &self.bulk_bytes, event_bytes, life, event).await;
    }

    /// A datagram may be lost, so it never waits.
    pub(super) fn datagram(&self, life: &Arc<Life>, from: NodeId, payload: Bytes) {
        let event = Event::Datagram { from, payload };
        let _ = self.control.try_send(Item { life: Arc::clone(life), event, _room: None });
    }

    /// A stranger must not be able to fill the queue, so this never waits.
    pub(super) fn refused(&self, address: SocketAddr, reason: Refusal) {
        let event = Event::Refused { address, reason };
        let _ = self.control.try_send(Item { life: Arc::new(Life::new()), event, _room: None });
    }
}

async fn enqueue(
    queue: &mpsc::Sender<Item>,
    room: &Arc<Semaphore>,
    event_bytes: usize,
    life: &Arc<Life>,
    event: Event,
) {
    // Frames are shorter than the room (asserted in `settings`), so the cast
    // and the wait are sound; the semaphores are never closed.
    let Ok(room) = Arc::clone(room).acquire_many_owned(event_bytes as u32).await else {
        return;
    };
    let _ = queue.send(Item { life: Arc::clone(life), event, _room: Some(room) }).await;
}

struct Item {
    life: Arc<Life>,
    event: Event,
    /// Gives the bytes back to the queue when the node takes the event.
    _room: Option<OwnedSemaphorePermit>,
}

/// What the node knows of a connection: it begins when the node has taken its
/// Up and ends when it has taken its Down. Only in between does the transport
/// take messages for it, so a message meant for a former connection is never
/// sent on a new one.
#[derive(Debug)]
pub(super) struct Life(AtomicU8);

const UNKNOWN: u8 = 0;
const BEGUN: u8 = 1;
const ENDED: u8 = 2;

impl Life {
    pub(super) fn new() -> Self {
        Self(AtomicU8::new(UNKNOWN))
    }

    pub(super) fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == BEGUN
    }

    fn begin(&self) {
        self.0.store(BEGUN, Ordering::Release);
    }

    fn end(&self) {
        self.0.store(ENDED, Ordering::Release);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) != UNKNOWN
    }

    fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire) == ENDED
    }
}
