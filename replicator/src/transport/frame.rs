//! Messages on a stream: a length as four little-endian bytes, then as many
//! bytes of payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream};

/// Bytes of the length before a payload.
pub(super) const HEADER_BYTES: usize = 4;

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes was announced, at most {1} are allowed")]
    TooLong(usize, usize),
    #[error("the stream ended inside a frame")]
    Torn,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reads frames off a stream without copying a payload that arrived in one
/// piece.
pub(super) struct FrameReader {
    stream: RecvStream,
    payload_bytes_max: usize,
    /// Arrived, not yet consumed.
    rest: Bytes,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream, payload_bytes_max: usize) -> Self {
        Self { stream, payload_bytes_max, rest: Bytes::new() }
    }

    /// The next frame, or `None` when the stream ended between two frames.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let mut header = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            if self.rest.is_empty() && !self.refill().await? {
                return if filled == 0 { Ok(None) } else { Err(FrameError::Torn) };
            }
            let taken = self.rest.len().min(HEADER_BYTES - filled);
            self.rest.copy_to_slice(&mut header[filled..filled + taken]);
            filled += taken;
        }
        let payload_bytes = u32::from_le_bytes(header) as usize;
        if payload_bytes > self.payload_bytes_max {
            return Err(FrameError::TooLong(payload_bytes, self.payload_bytes_max));
        }
        self.exact(payload_bytes).await.map(Some)
    }

    /// Exactly this many bytes.
    pub(super) async fn exact(&mut self, wanted: usize) -> Result<Bytes, FrameError> {
        if self.rest.is_empty() && wanted > 0 && !self.refill().await? {
            return Err(FrameError::Torn);
        }
        if self.rest.len() >= wanted {
            return Ok(self.rest.split_to(wanted));
        }
        let mut payload = BytesMut::with_capacity(wanted);
        loop {
            let taken = self.rest.len().min(wanted - payload.len());
            payload.extend_from_slice(&self.rest.split_to(taken));
            if payload.len() == wanted {
                return Ok(payload.freeze());
            }
            if !self.refill().await? {
                return Err(FrameError::Torn);
            }
        }
    }

    async fn refill(&mut self) -> Result<bool, ReadError> {
        match self.stream.read_chunk(usize::MAX, true).await? {
            Some(chunk) => {
                self.rest = chunk.bytes;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// Collects frames into few chunks for one write: short payloads are copied
/// together, long ones ride as they are.
#[derive(Default)]
pub(super) struct FrameBatch {
    chunks: Vec<Bytes>,
    gathering: BytesMut,
}

/// Below this a copy is cheaper than a chunk of its own.
const COPY_BYTES_MAX: usize = 2 << 10;

impl FrameBatch {
    /// The payload must not exceed what the reader accepts; whoever takes a
    /// payload from outside has checked it against `FRAME_BYTES_MAX`.
    pub(super) fn push(&mut self, payload: Bytes) {
        self.gathering.put_u32_le(payload.len() as u32);
        if payload.len() <= COPY_BYTES_MAX {
            self.gathering.extend_from_slice(&payload);
        } else {
            self.chunks.push(self.gathering.split().freeze());
            self.chunks.push(payload);
        }
    }

    /// Everything pushed, ready to be written.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        if !self.gathering.is_empty() {
            self.chunks.push(self.gathering.split().freeze());
        }
        std::mem::take(&mut self.chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_on_the_wire() {
        let mut batch = FrameBatch::default();
        batch.push(Bytes::from_static(b"hi"));
        batch.push(Bytes::new());
        batch.push(Bytes::from(vec![7; COPY_BYTES_MAX + 1]));
        let chunks = batch.take();
        assert_eq!(chunks.len(), 2, "the long payload is not copied");
        let head = b"\x02\0\0\0hi\0\0\0\0\x01\x08\0\0";
        assert_eq!(&chunks[0][..], head);
        assert_eq!(chunks[1], vec![7; COPY_BYTES_MAX + 1]);
        assert!(batch.take().is_empty());
    }
}
