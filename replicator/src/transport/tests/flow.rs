//! What peers send each other, and that nobody drowns in it.

use super::*;
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::limits::FRAME_BYTES_MAX;
use crate::transport::error::{Error, SendError};
use crate::transport::settings::{LANE_QUEUE_BYTES, STREAM_WINDOW_BYTES};
use crate::transport::{Lane, Reply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_in_order() {
    let (a, mut b) = pair().await;
    let sizes = [0, 1, 4, 1199, 2048, 2049, 65_536, FRAME_BYTES_MAX, 3];
    let sent: Vec<_> = sizes.iter().map(|size| pattern(*size)).collect();
    for lane in [Lane::Control, Lane::Bulk] {
        for payload in &sent {
            a.transport.send(b.id(), lane, payload.clone()).await.unwrap();
        }
        for payload in &sent {
            assert!(b.message().await == *payload, "{} bytes", payload.len());
        }
    }
    let long = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
    assert_eq!(
        a.transport.send(b.id(), Lane::Bulk, long).await,
        Err(SendError::TooLong(FRAME_BYTES_MAX + 1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_the_promised_size_pass() {
    let (a, mut b) = pair().await;
    let payload = pattern(DATAGRAM_BYTES_MAX);
    a.transport.datagram(b.id(), payload.clone()).unwrap();
    match b.event().await {
        Event::Datagram { from, payload: arrived } => {
            assert_eq!((from, arrived), (a.id(), payload));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_bulk_does_not_hold_up_control() {
    let (a, mut b) = pair().await;
    let (sender, peer) = (a.transport.clone(), b.id());
    let flood = tokio::spawn(async move {
        loop {
            sender.send(peer, Lane::Bulk, Bytes::from(vec![0; 1 << 20])).await.unwrap();
        }
    });
    // The lane is full from end to end: nobody takes events of `b`.
    soon(async {
        while a.transport.queued(peer) < LANE_QUEUE_BYTES {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..3 {
        a.transport.send(peer, Lane::Control, Bytes::from_static(b"urgent")).await.unwrap();
        let mut bulk_before = 0;
        // The backlog behind the full lane is above 50 messages.
        while b.message().await != b"urgent"[..] {
            bulk_before += 1;
            assert!(bulk_before < 40, "control waited for bulk");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    flood.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_arrives_whole_and_never_runs_ahead() {
    const PIECE: usize = 1 << 20;
    const PIECES: u64 = 256;
    let (a, mut b) = pair().await;
    let mut fetch = soon(a.transport.fetch(b.id(), Bytes::from_static(b"the film"))).await.unwrap();
    let mut reply = request(&mut b, b"the film").await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let film = pattern(PIECE);
    let piece = film.clone();
    tokio::spawn(async move {
        for _ in 0..PIECES {
            reply.send(piece.clone()).await.unwrap();
            counter.fetch_add(PIECE as u64, std::sync::atomic::Ordering::SeqCst);
        }
        reply.finish();
    });
    let (mut received, mut hasher, mut ahead_most) = (0u64, blake3::Hasher::new(), 0);
    while let Some(chunk) = soon(fetch.chunk()).await.unwrap() {
        received += chunk.len() as u64;
        hasher.update(&chunk);
        let ahead = sent.load(std::sync::atomic::Ordering::SeqCst).saturating_sub(received);
        ahead_most = ahead_most.max(ahead);
    }
    let mut wanted = blake3::Hasher::new();
    for _ in 0..PIECES {
        wanted.update(&film);
    }
    assert_eq!((received, hasher.finalize()), (PIECES * PIECE as u64, wanted.finalize()));
    let bound = u64::from(STREAM_WINDOW_BYTES) + 2 * PIECE as u64;
    assert!(ahead_most <= bound, "{ahead_most} bytes ahead of the reader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_given_up_is_an_error_not_a_short_file() {
    let (a, mut b) = pair().await;
    let mut fetch = a.transport.fetch(b.id(), Bytes::from_static(b"x")).await.unwrap();
    let mut reply = request(&mut b, b"x").await;
    reply.send(Bytes::from_static(b"half")).await.unwrap();
    drop(reply);
    let error = loop {
        match soon(fetch.chunk()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a torn answer looked complete"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Cut(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_fetch_stops_the_sender() {
    let (a, mut b) = pair().await;
    let fetch = a.transport.fetch(b.id(), Bytes::from_static(b"x")).await.unwrap();
    let mut reply = request(&mut b, b"x").await;
    drop(fetch);
    let stopped = soon(async {
        loop {
            if let Err(error) = reply.send(pattern(1 << 16)).await {
                break error;
            }
        }
    })
    .await;
    assert!(matches!(stopped, Error::Cut(_)), "{stopped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_packets_are_found_and_carry() {
    let (a, mut b) = pair().await;
    let mut fetch = a.transport.fetch(b.id(), Bytes::from_static(b"x")).await.unwrap();
    let mut reply = request(&mut b, b"x").await;
    let started = std::time::Instant::now();
    let sender = tokio::spawn(async move {
        let piece = pattern(1 << 20);
        for _ in 0..512 {
            reply.send(piece.clone()).await.unwrap();
        }
        reply.finish();
    });
    let mut received = 0u64;
    while let Some(chunk) = soon(fetch.chunk()).await.unwrap() {
        received += chunk.len() as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    sender.await.unwrap();
    let info = b.transport.peers().remove(0);
    println!("{:.2} Gbit/s, {info:?}", received as f64 * 8e-9 / seconds);
    // The trap this guards against sends nearly everything in packets of
    // 1,200 bytes; a slow or lossy machine does not.
    assert!(info.sent_bytes / info.sent_packets > 4000, "{info:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_overtakes_a_full_lane() {
    let (a, mut b) = pair().await;
    let (sender, peer) = (a.transport.clone(), b.id());
    let flood = tokio::spawn(async move {
        let payload = pattern(1 << 20);
        while sender.send(peer, Lane::Bulk, payload.clone()).await.is_ok() {}
    });
    for _ in 0..20 {
        b.message().await;
    }
    a.transport.close().await;
    let reason = loop {
        match b.event().await {
            Event::Message { .. } => {}
            Event::Down { reason, .. } => break reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason, "the peer is going down");
    soon(flood).await.unwrap();
}

async fn request(node: &mut Node, wanted: &[u8]) -> Reply {
    match node.event().await {
        Event::Fetch { request, reply, .. } => {
            assert_eq!(&request[..], wanted);
            reply
        }
        other => panic!("expected a fetch, got {other:?}"),
    }
}

fn pattern(bytes: usize) -> Bytes {
    (0..bytes as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
