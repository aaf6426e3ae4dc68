//! TLS as nodes use it: each side shows a certificate it made itself and
//! proves that it holds the key. No authority vouches for anybody; who may
//! join is decided by the password alone, afterwards.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::error::Error;
use super::identity::{Identity, node_id};
use super::settings::{self, ALPN};
use crate::id::NodeId;

/// How we answer and how we dial.
pub(super) struct Configs {
    pub server: quinn::ServerConfig,
    pub client: quinn::ClientConfig,
}

impl Configs {
    pub(super) fn new(identity: &Identity) -> Result<Self, Error> {
        Self::speaking(identity, ALPN)
    }

    /// The protocol is a parameter so that the tests can meet a node of
    /// another version.
    pub(super) fn speaking(identity: &Identity, alpn: &[u8]) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
        let provider = Arc::new(provider());
        let verifier = Arc::new(AnyKey(provider.signature_verification_algorithms));
        let versions = &[&rustls::version::TLS13];

        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| failed(&error))?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_single_cert(vec![identity.certificate()], identity.private_key())
            .map_err(|error| failed(&error))?;
        server.alpn_protocols = vec![alpn.to_vec()];
        // A resumed session would skip the proof that the peer holds its key.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
            .map_err(|error| failed(&error))?;
        client.alpn_protocols = vec![alpn.to_vec()];
        client.resumption = Resumption::disabled();

        let server = QuicServerConfig::try_from(server).map_err(|error| failed(&error))?;
        let client = QuicClientConfig::try_from(client).map_err(|error| failed(&error))?;
        let mut configs = Self {
            server: quinn::ServerConfig::with_crypto(Arc::new(server)),
            client: quinn::ClientConfig::new(Arc::new(client)),
        };
        configs.server.transport_config(Arc::new(stranger(1)));
        configs.server.max_incoming(settings::STRANGERS_MAX);
        configs.server.incoming_buffer_size(u64::from(settings::STRANGER_WINDOW_BYTES));
        configs.server.incoming_buffer_size_total(
            settings::STRANGERS_MAX as u64 * u64::from(settings::STRANGER_WINDOW_BYTES),
        );
        configs.client.transport_config(Arc::new(stranger(0)));
        Ok(configs)
    }
}

/// The node at the other end: TLS has verified that it holds the key.
pub(super) fn peer_of(connection: &quinn::Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_id(chain.first()?)
}

/// The settings of a connection whose peer is not authenticated yet: room for
/// the one stream on which it can be. `link` raises them afterwards.
fn stranger(bidi_streams: u32) -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(settings::MTU_BYTES_MAX);
    // The idle time is a constant far below the 2^62 ms that a VarInt holds.
    let idle = quinn::IdleTimeout::try_from(settings::IDLE_TIME_MAX).ok();
    config
        .max_concurrent_bidi_streams(bidi_streams.into())
        .max_concurrent_uni_streams(0u32.into())
        .receive_window(settings::STRANGER_WINDOW_BYTES.into())
        .stream_receive_window(settings::STREAM_WINDOW_BYTES.into())
        .send_window(u64::from(settings::STRANGER_WINDOW_BYTES))
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(settings::KEEP_ALIVE))
        .initial_rtt(settings::INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(super::congestion::factory())
        .datagram_receive_buffer_size(Some(settings::DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(settings::DATAGRAM_BUFFER_BYTES);
    config
}

/// AES-128-GCM first: it took 15 to 20 % less CPU than AES-256-GCM here.
fn provider() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_256_GCM_SHA384,
        ],
        ..ring::default_provider()
    }
}

/// Accepts every well-formed certificate, and of its owner demands the
/// signature that proves possession of the key.
#[derive(Debug)]
struct AnyKey(WebPkiSupportedAlgorithms);

impl AnyKey {
    fn well_formed(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        match node_id(certificate) {
            Some(_) => Ok(()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }
}

fn only_tls13() -> rustls::Error {
    rustls::Error::General("only TLS 1.3 is spoken".into())
}

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::well_formed(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::well_formed(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
