//! One connection with one authenticated peer, from Up to Down: its lanes,
//! the fetches the peer sends, its datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendDatagramError, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::congestion;
use super::error::SendError;
use super::event::{Event, Life};
use super::fetch::{self, Reply};
use super::frame::{FrameBatch, FrameError, FrameReader};
use super::settings::{
    CONNECTION_WINDOW_BYTES, Close, FETCHES_PER_PEER_MAX, IDLE_TIME_MAX, LANE_QUEUE_BYTES,
    LANE_QUEUE_MESSAGES, LANES, SEND_WINDOW_BYTES,
};
use super::{Lane, PeerInfo, Shared};
use crate::id::NodeId;
use crate::limits::FRAME_BYTES_MAX;

pub(super) struct Link {
    pub peer: NodeId,
    /// Which life of the peer this is a connection with.
    pub instance: u64,
    pub since: Instant,
    pub life: Arc<Life>,
    name: String,
    address: SocketAddr,
    dialed_by_us: bool,
    /// The judge's number for this connection; rises.
    serial: AtomicU64,
    connection: Connection,
    control: LaneQueue,
    bulk: LaneQueue,
    /// Why we closed it.
    closed_because: OnceLock<(Close, String)>,
    ended: watch::Sender<bool>,
}

/// What `run` consumes besides the link.
pub(super) struct Work {
    control: mpsc::Receiver<Queued>,
    bulk: mpsc::Receiver<Queued>,
    seen_from: IpAddr,
}

/// What a handshake learned about the peer.
pub(super) struct Introduction {
    pub peer: NodeId,
    pub name: String,
    pub instance: u64,
    pub seen_from: IpAddr,
    pub dialed_by_us: bool,
}

impl Link {
    pub(super) fn new(connection: Connection, about: Introduction) -> (Arc<Link>, Work) {
        let (control, control_receiver) = LaneQueue::new();
        let (bulk, bulk_receiver) = LaneQueue::new();
        let remote = connection.remote_address();
        let link = Link {
            peer: about.peer,
            instance: about.instance,
            since: Instant::now(),
            life: Arc::new(Life::new()),
            name: about.name,
            address: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
            dialed_by_us: about.dialed_by_us,
            serial: AtomicU64::new(0),
            connection,
            control,
            bulk,
            closed_because: OnceLock::new(),
            ended: watch::Sender::new(false),
        };
        let work =
            Work { control: control_receiver, bulk: bulk_receiver, seen_from: about.seen_from };
        (Arc::new(link), work)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    pub(super) fn set_serial(&self, serial: u64) {
        self.serial.store(serial, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Closes the connection and keeps the reason for our own side.
    pub(super) fn close(&self, why: Close, reason: &str) {
        let _ = self.closed_because.set((why, reason.to_owned()));
        congestion::close(&self.connection, why, reason);
    }

    pub(super) async fn send(&self, lane: Lane, payload: Bytes) -> Result<(), SendError> {
        let queue = match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        };
        // The payload is at most FRAME_BYTES_MAX, so the cast is sound and the
        // room large enough.
        let room = Arc::clone(&queue.room)
            .acquire_many_owned(payload.len() as u32)
            .await
            .map_err(|_| SendError::NotConnected)?;
        queue
            .sender
            .send(Queued { payload, _room: room })
            .await
            .map_err(|_| SendError::NotConnected)
    }

    pub(super) fn datagram(&self, payload: Bytes) -> Result<(), SendError> {
        let size = payload.len();
        self.connection.send_datagram(payload).map_err(|error| match error {
            SendDatagramError::TooLarge => SendError::TooLong(size),
            _ => SendError::NotConnected,
        })
    }

    /// Bytes taken by `send` and not yet given to the streams.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        [&self.control, &self.bulk]
            .iter()
            .map(|queue| LANE_QUEUE_BYTES.saturating_sub(queue.room.available_permits()))
            .sum()
    }

    pub(super) fn info(&self) -> PeerInfo {
        let stats = self.connection.stats();
        PeerInfo {
            id: self.peer,
            name: self.name.clone(),
            address: self.address,
            dialed_by_us: self.dialed_by_us,
            rtt_us: micros(stats.path.rtt),
            mtu_bytes: stats.path.current_mtu,
            sent_bytes: stats.udp_tx.bytes,
            sent_packets: stats.udp_tx.datagrams,
            received_bytes: stats.udp_rx.bytes,
            received_packets: stats.udp_rx.datagrams,
            lost_packets: stats.path.lost_packets,
            connected_for_ms: micros(self.since.elapsed()) / 1000,
        }
    }

    /// Returns once the node has been told that this connection is down.
    async fn ended(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// Carries a kept connection until it ends: waits for its predecessor's Down,
/// says Up, moves messages, says Down.
pub(super) async fn run(
    shared: Arc<Shared>,
    link: Arc<Link>,
    work: Work,
    predecessor: Option<Arc<Link>>,
) {
    if let Some(predecessor) = predecessor {
        // Where it is still alive, two run under one identity.
        match predecessor.instance == link.instance {
            true => predecessor.close(Close::Replaced, "a newer connection took its place"),
            false => predecessor.close(Close::Twin, "a newer start of the peer took its place"),
        }
        predecessor.ended().await;
    }
    welcome(&link.connection);
    let up = Event::Up {
        peer: link.peer,
        name: link.name.clone(),
        address: link.address,
        seen_from: work.seen_from,
    };
    shared.inlet.lifecycle(&link.life, up).await;
    tracing::info!(peer = %link.peer, name = %link.name.escape_debug(), address = %link.address, "connected");

    let mut tasks = JoinSet::new();
    tasks.spawn(write_lane(Arc::clone(&link), Lane::Control, work.control));
    tasks.spawn(write_lane(Arc::clone(&link), Lane::Bulk, work.bulk));
    tasks.spawn(read_lanes(Arc::clone(&shared), Arc::clone(&link)));
    tasks.spawn(read_fetches(Arc::clone(&shared), Arc::clone(&link)));
    tasks.spawn(read_datagrams(Arc::clone(&shared), Arc::clone(&link)));
    let end = link.connection.closed().await;
    let twin = is_twin(&end);
    let unwanted = is_unwanted(&link, &end);
    let reason = describe(&link, end);
    tasks.shutdown().await;

    link.control.room.close();
    link.bulk.room.close();
    shared.registry.leave(&link);
    tracing::info!(peer = %link.peer, name = %link.name.escape_debug(), address = %link.address, %reason, "disconnected");
    shared.inlet.lifecycle(&link.life, Event::Down { peer: link.peer, reason, unwanted }).await;
    link.ended.send_replace(true);
    if twin {
        shared.inlet.lifecycle(&link.life, Event::Twin { told_by: link.peer }).await;
    }
}

struct LaneQueue {
    sender: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

impl LaneQueue {
    fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (sender, receiver) = mpsc::channel(LANE_QUEUE_MESSAGES);
        (Self { sender, room: Arc::new(Semaphore::new(LANE_QUEUE_BYTES)) }, receiver)
    }
}

struct Queued {
    payload: Bytes,
    /// Gives the bytes back to the queue once they are on the stream.
    _room: OwnedSemaphorePermit,
}

/// Lifts the limits that hold for strangers.
fn welcome(connection: &Connection) {
    connection.set_send_window(SEND_WINDOW_BYTES);
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(LANES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(FETCHES_PER_PEER_MAX));
}

/// The first byte of a message stream.
const LANE_CONTROL: u8 = 0;
const LANE_BULK: u8 = 1;

/// Messages gathered into one write: bounds how long the queue's room is held
/// and how much is copied together.
const BATCH_MESSAGES_MAX: usize = 64;

async fn write_lane(link: Arc<Link>, lane: Lane, mut queue: mpsc::Receiver<Queued>) {
    // A failed write means that the connection ends; `run` sees that.
    let Some(first) = queue.recv().await else {
        return;
    };
    let Ok(mut stream) = open_lane(&link.connection, lane).await else {
        return;
    };
    let mut batch = FrameBatch::default();
    let mut waiting = vec![first];
    loop {
        for queued in &waiting {
            batch.push(queued.payload.clone());
        }
        if stream.write_all_chunks(&mut batch.take()).await.is_err() {
            return;
        }
        waiting.clear();
        if queue.recv_many(&mut waiting, BATCH_MESSAGES_MAX).await == 0 {
            return;
        }
    }
}

async fn open_lane(connection: &Connection, lane: Lane) -> Result<SendStream, ConnectionError> {
    let (tag, priority) = match lane {
        Lane::Control => (LANE_CONTROL, 1),
        // Shares with the answers to fetches, which have quinn's default.
        Lane::Bulk => (LANE_BULK, 0),
    };
    let mut stream = connection.open_uni().await?;
    // Both calls fail only on a stream that is closed; the next write says so.
    let _ = stream.set_priority(priority);
    let _ = stream.write_chunk(Bytes::copy_from_slice(&[tag])).await;
    Ok(stream)
}

async fn read_lanes(shared: Arc<Shared>, link: Arc<Link>) {
    let mut readers = JoinSet::new();
    let mut seen = [false; LANES as usize];
    // Without a reader the set is empty and must not end the wait.
    loop {
        let stream = tokio::select! {
            stream = link.connection.accept_uni() => stream,
            Some(_) = readers.join_next() => continue,
        };
        let Ok(mut stream) = stream else { return };
        let mut tag = [0; 1];
        if stream.read_exact(&mut tag).await.is_err() {
            return link.close(Close::Broken, "a message stream ended before it began");
        }
        let lane = match tag[0] {
            LANE_CONTROL => Lane::Control,
            LANE_BULK => Lane::Bulk,
            _ => {
                return link.close(Close::Broken, "a message stream of an unknown kind was opened");
            }
        };
        if std::mem::replace(&mut seen[usize::from(tag[0])], true) {
            return link.close(Close::Broken, "a message stream was opened twice");
        }
        readers.spawn(read_lane(Arc::clone(&shared), Arc::clone(&link), lane, stream));
    }
}

async fn read_lane(shared: Arc<Shared>, link: Arc<Link>, lane: Lane, stream: RecvStream) {
    let mut reader = FrameReader::new(stream, FRAME_BYTES_MAX);
    loop {
        match reader.next().await {
            Ok(Some(payload)) => shared.inlet.message(&link.life, link.peer, lane, payload).await,
            Ok(None) => return link.close(Close::Broken, "a message stream ended"),
            Err(FrameError::Read(quinn::ReadError::ConnectionLost(_))) => return,
            Err(error) => return link.close(Close::Broken, &error.to_string()),
        }
    }
}

async fn read_fetches(shared: Arc<Shared>, link: Arc<Link>) {
    let mut readers = JoinSet::new();
    loop {
        let (send, recv) = tokio::select! {
            accepted = link.connection.accept_bi() => match accepted {
                Ok(streams) => streams,
                Err(_) => return,
            },
            Some(_) = readers.join_next() => continue,
        };
        readers.spawn(read_fetch(Arc::clone(&shared), Arc::clone(&link), send, recv));
    }
}

async fn read_fetch(shared: Arc<Shared>, link: Arc<Link>, send: SendStream, recv: RecvStream) {
    let reply = Reply::new(send);
    match fetch::read_request(recv).await {
        Ok(request) => shared.inlet.fetch(&link.life, link.peer, request, reply).await,
        Err(error @ FrameError::TooLong(..)) => {
            link.close(Close::Broken, &error.to_string());
        }
        // The peer changed its mind before the request was whole.
        Err(FrameError::Torn | FrameError::Read(_)) => {}
    }
}

async fn read_datagrams(shared: Arc<Shared>, link: Arc<Link>) {
    while let Ok(payload) = link.connection.read_datagram().await {
        shared.inlet.datagram(&link.life, link.peer, payload);
    }
}

/// Did the peer meet another node with our identity?
fn is_twin(end: &ConnectionError) -> bool {
    matches!(end, ConnectionError::ApplicationClosed(close) if Close::of(close) == Some(Close::Twin))
}

/// Did one of both close it, for it was not needed?
fn is_unwanted(link: &Link, end: &ConnectionError) -> bool {
    let why = match end {
        ConnectionError::LocallyClosed => link.closed_because.get().map(|(why, _)| *why),
        ConnectionError::ApplicationClosed(close) => Close::of(close),
        _ => None,
    };
    why == Some(Close::Unwanted)
}

/// Why a connection ended, for people.
fn describe(link: &Link, error: ConnectionError) -> String {
    match error {
        ConnectionError::LocallyClosed => match link.closed_because.get() {
            Some((_, reason)) => reason.clone(),
            None => "this node is going down".into(),
        },
        ConnectionError::TimedOut => format!("no answer for {} s", IDLE_TIME_MAX.as_secs()),
        ConnectionError::Reset => "the peer was restarted".into(),
        ConnectionError::ApplicationClosed(close) => {
            let said = String::from_utf8_lossy(&close.reason);
            match Close::of(&close) {
                Some(Close::Goodbye) => "the peer is going down".into(),
                Some(Close::Replaced | Close::Duplicate) => {
                    "a newer connection took its place".into()
                }
                Some(Close::Twin) => "another node with our identity took its place".into(),
                Some(Close::Unwanted) => "the peer no longer needs the connection".into(),
                _ => format!("the peer closed the connection: {}", said.escape_debug()),
            }
        }
        other => other.to_string(),
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
