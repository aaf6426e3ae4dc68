//! A request and its answer on a stream of their own.
//!
//! What the asking side does not read fills the stream's window and stops the
//! answering side: that is the whole back-pressure.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};

use super::error::Error;
use super::frame::{FrameBatch, FrameError, FrameReader};
use super::settings::{FETCH_REQUEST_BYTES_MAX, RESET_NO_ANSWER};

/// An answer that is coming in. Dropping it stops the sender.
#[derive(Debug)]
pub struct Fetch {
    stream: RecvStream,
    arrived: VecDeque<Bytes>,
}

impl Fetch {
    /// The next piece of the answer, or `None` when it is complete. An answer
    /// that was given up half way is an error, never a short success.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(chunk) = self.arrived.pop_front() {
            return Ok(Some(chunk));
        }
        let mut chunks: [Bytes; CHUNKS_PER_READ] = Default::default();
        match self.stream.read_chunks(&mut chunks).await.map_err(cut_read)? {
            Some(count) => self.arrived.extend(chunks.into_iter().take(count)),
            None => return Ok(None),
        }
        Ok(self.arrived.pop_front())
    }
}

/// The way to answer a request. Dropped without [`Reply::finish`], it tells
/// the asking side that there is no (full) answer.
#[derive(Debug)]
pub struct Reply {
    stream: SendStream,
    finished: bool,
}

impl Reply {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    /// Adds to the answer; waits while the asking side does not read.
    pub async fn send(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.stream.write_chunk(chunk).await.map_err(|error| match error {
            WriteError::Stopped(_) => Error::Cut("it no longer wants the answer".into()),
            other => Error::Cut(other.to_string()),
        })
    }

    /// The answer is complete.
    pub fn finish(mut self) {
        self.finished = self.stream.finish().is_ok();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only when the stream is closed already.
            let _ = self.stream.reset(VarInt::from_u32(RESET_NO_ANSWER));
        }
    }
}

pub(super) async fn request(connection: &Connection, request: Bytes) -> Result<Fetch, Error> {
    let lost = |error: quinn::ConnectionError| Error::Cut(error.to_string());
    let (mut send, stream) = connection.open_bi().await.map_err(lost)?;
    let mut batch = FrameBatch::default();
    batch.push(request);
    send.write_all_chunks(&mut batch.take())
        .await
        .map_err(|error| Error::Cut(error.to_string()))?;
    // Fails only when the peer stopped the stream; reading says so.
    let _ = send.finish();
    Ok(Fetch { stream, arrived: VecDeque::new() })
}

pub(super) async fn read_request(stream: RecvStream) -> Result<Bytes, FrameError> {
    FrameReader::new(stream, FETCH_REQUEST_BYTES_MAX).next().await?.ok_or(FrameError::Torn)
}

/// A chunk is what one packet carried; taking several costs one lock.
const CHUNKS_PER_READ: usize = 32;

fn cut_read(error: ReadError) -> Error {
    Error::Cut(match error {
        ReadError::Reset(_) => "it gave up".into(),
        other => other.to_string(),
    })
}
