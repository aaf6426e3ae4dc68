//! What two members tell each other first, and the verdict on whether this
//! connection is the one they keep.
//!
//! Two nodes may dial each other at the same moment, or one may dial again
//! while the other still believes in the former connection. Both must come to
//! the same answer, so only one of them gives it: the node with the lower id
//! judges, and the other waits for its word before it treats the connection
//! as up. Nothing is ever sent on a connection that loses.

use std::net::IpAddr;

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, SendStream, WriteError};
use serde::{Deserialize, Serialize};

use super::frame::{FrameBatch, FrameError, FrameReader};
use super::settings::HELLO_BYTES_MAX;
use crate::limits::NODE_NAME_BYTES_MAX;

/// Each side's first message after authentication.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub name: String,
    /// Drawn at the sender's start.
    pub instance: u64,
    /// Whether the sender believes that it is connected with the reader.
    pub connected: bool,
    /// The address of the reader as the sender sees it.
    pub seen_from: IpAddr,
    /// Empty: room for what a later version has to say.
    pub hello: Vec<u8>,
}

/// A greeting's own parts and the encoding's overhead.
pub(super) const GREETING_BYTES_MAX: usize = NODE_NAME_BYTES_MAX + HELLO_BYTES_MAX + 64;

#[derive(Debug)]
pub(super) enum GreetingError {
    Malformed(String),
    Lost(ConnectionError),
}

pub(super) async fn tell(send: &mut SendStream, greeting: &Greeting) -> Result<(), GreetingError> {
    let encoded = postcard::to_stdvec(greeting)
        .map_err(|error| GreetingError::Malformed(error.to_string()))?;
    let mut batch = FrameBatch::default();
    batch.push(Bytes::from(encoded));
    write(send, batch.take()).await
}

pub(super) async fn hear(reader: &mut FrameReader) -> Result<Greeting, GreetingError> {
    let frame = reader.next().await?;
    let frame = frame.ok_or_else(|| GreetingError::Malformed("no greeting came".into()))?;
    let greeting: Greeting = postcard::from_bytes(&frame).map_err(|error| {
        GreetingError::Malformed(format!("the greeting is not readable: {error}"))
    })?;
    if greeting.name.len() > NODE_NAME_BYTES_MAX || greeting.hello.len() > HELLO_BYTES_MAX {
        return Err(GreetingError::Malformed("the greeting is too long".into()));
    }
    Ok(greeting)
}

/// The judge keeps this connection, its `serial`-th. A connection it does not
/// keep is closed instead.
pub(super) async fn tell_kept(send: &mut SendStream, serial: u64) -> Result<(), GreetingError> {
    write(send, vec![Bytes::copy_from_slice(&serial.to_le_bytes())]).await
}

pub(super) async fn hear_kept(reader: &mut FrameReader) -> Result<u64, GreetingError> {
    let mut serial = [0; 8];
    serial.copy_from_slice(&reader.exact(8).await?);
    Ok(u64::from_le_bytes(serial))
}

async fn write(send: &mut SendStream, mut chunks: Vec<Bytes>) -> Result<(), GreetingError> {
    match send.write_all_chunks(&mut chunks).await {
        Ok(()) => Ok(()),
        Err(WriteError::ConnectionLost(error)) => Err(GreetingError::Lost(error)),
        Err(error) => Err(GreetingError::Malformed(error.to_string())),
    }
}

impl From<FrameError> for GreetingError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Read(ReadError::ConnectionLost(error)) => GreetingError::Lost(error),
            other => GreetingError::Malformed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let greeting = Greeting {
            name: "web-1".into(),
            instance: 300,
            connected: true,
            seen_from: "10.0.0.1".parse().unwrap(),
            hello: vec![9, 8],
        };
        let encoded = postcard::to_stdvec(&greeting).unwrap();
        assert_eq!(encoded, b"\x05web-1\xac\x02\x01\x00\x0a\x00\x00\x01\x02\x09\x08");
        assert_eq!(postcard::from_bytes::<Greeting>(&encoded).unwrap(), greeting);
    }

    #[test]
    fn the_longest_greeting_fits() {
        let greeting = Greeting {
            name: "n".repeat(NODE_NAME_BYTES_MAX),
            instance: u64::MAX,
            connected: true,
            seen_from: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            hello: vec![0; HELLO_BYTES_MAX],
        };
        assert!(postcard::to_stdvec(&greeting).unwrap().len() <= GREETING_BYTES_MAX);
    }
}
