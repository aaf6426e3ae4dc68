//! The UDP socket under the endpoint: its buffers, and how much one call of
//! the kernel carries.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::crypto::{CryptoError, HmacKey};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime, UdpPoller,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::sockopt;

use super::error::Error;
use super::identity::Identity;
use super::settings::{MTU_BYTES_MAX, SOCKET_BUFFER_BYTES, UDP_BYTES_MAX};

/// Binds the socket and makes the endpoint that answers and dials on it.
pub(super) fn listen(
    address: SocketAddr,
    identity: &Identity,
    server: ServerConfig,
) -> Result<Endpoint, Error> {
    let failed = |source| Error::Listen { address, source };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    let (receive, send) = enlarge_buffers(&socket);
    tracing::debug!(
        %address,
        receive_buffer_bytes = receive,
        send_buffer_bytes = send,
        wanted_bytes = SOCKET_BUFFER_BYTES,
        "socket bound"
    );
    let inner = TokioRuntime.wrap_udp_socket(socket).map_err(failed)?;
    Endpoint::new_with_abstract_socket(
        endpoint_config(identity)?,
        Some(server),
        Arc::new(Split { inner }),
        Arc::new(TokioRuntime),
    )
    .map_err(failed)
}

/// Connection ids and reset tokens come from keys that outlive a restart. So
/// a node that came back can tell a peer which still talks to its former life
/// that nobody is there, and the peer need not wait for the idle time.
fn endpoint_config(identity: &Identity) -> Result<EndpointConfig, Error> {
    let reset = ResetKey(identity.derive("replicator 2026 stateless reset key v1"));
    let cid_key = identity.derive("replicator 2026 connection id key v1");
    let mut cid_seed = [0; 8];
    cid_seed.copy_from_slice(&cid_key[..8]);
    let cid_seed = u64::from_le_bytes(cid_seed);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_seed)));
    config.max_udp_payload_size(MTU_BYTES_MAX).map_err(|error| Error::Tls(error.to_string()))?;
    Ok(config)
}

/// A reset token is a keyed hash of the connection id.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let theirs: [u8; blake3::OUT_LEN] = signature.try_into().map_err(|_| CryptoError)?;
        // The comparison of two hashes takes the same time for all values.
        match blake3::keyed_hash(&self.0, data) == blake3::Hash::from_bytes(theirs) {
            true => Ok(()),
            false => Err(CryptoError),
        }
    }
}

/// Asks for large buffers, above the system's limit where we may, and returns
/// what was granted (the kernel reports twice the usable size).
fn enlarge_buffers(socket: &UdpSocket) -> (usize, usize) {
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_err() {
        // Without CAP_NET_ADMIN the kernel cuts the size to its limit; less
        // than was asked for costs speed, nothing else.
        let _ = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES);
    }
    let granted = |size: rustix::io::Result<usize>| size.map_or(0, |size| size / 2);
    (
        granted(sockopt::socket_recv_buffer_size(socket)),
        granted(sockopt::socket_send_buffer_size(socket)),
    )
}

/// quinn asks for ten segments a send call whatever the MTU; ten of 8,952
/// bytes exceed what UDP carries, the kernel refuses the call, and the loss
/// makes quinn fall back to 1,200 bytes for good. So what is too much for one
/// call goes in two.
struct Split {
    inner: Arc<dyn AsyncUdpSocket>,
}

/// A receive buffer holds this many datagrams of the largest MTU, which is
/// more than the 64 KiB that the kernel coalesces at most. Without a cap quinn
/// would reserve 64 of them.
const RECEIVE_SEGMENTS_MAX: usize = (u16::MAX / MTU_BYTES_MAX) as usize + 1;

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Split {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment) = transmit.segment_size else {
            return self.inner.try_send(transmit);
        };
        // Where a later part finds the buffer full, quinn sends all of it
        // again; the peer drops what it has.
        for contents in transmit.contents.chunks(UDP_BYTES_MAX / segment * segment) {
            let segment_size = (contents.len() > segment).then_some(segment);
            self.inner.try_send(&Transmit { contents, segment_size, ..*transmit })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments().min(RECEIVE_SEGMENTS_MAX)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Larger than the kernel takes: refused as a whole, it would look to
    /// quinn like a path that lost the larger MTU.
    #[tokio::test]
    async fn a_batch_above_what_one_call_carries_arrives_whole() {
        let local = || UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let receiver = local();
        enlarge_buffers(&receiver);
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let socket = Split { inner: TokioRuntime.wrap_udp_socket(local()).unwrap() };

        let segment = usize::from(MTU_BYTES_MAX);
        let segments: Vec<u8> = (0..10).take(socket.max_transmit_segments()).collect();
        let contents: Vec<u8> = segments.iter().flat_map(|n| vec![*n; segment]).collect();
        let transmit = Transmit {
            destination: receiver.local_addr().unwrap(),
            ecn: None,
            contents: &contents,
            segment_size: (segments.len() > 1).then_some(segment),
            src_ip: None,
        };
        while let Err(error) = socket.try_send(&transmit) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            tokio::task::yield_now().await;
        }

        let mut buffer = [0; u16::MAX as usize];
        for n in segments {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], vec![n; segment]);
        }
    }
}
