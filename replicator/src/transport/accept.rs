//! The door: lets strangers in, a few at a time, and walks them through the
//! handshake.

use std::sync::Arc;

use quinn::Incoming;

use super::Shared;
use super::auth::Role;
use super::gate::Place;
use super::handshake::{self, Failure};
use super::settings::HANDSHAKE_TIME_MAX;

/// Accepts until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        if incoming.may_retry() && shared.gate.wants_proof_of_address() {
            // Fails only when the address was proved, which was just asked.
            let _ = incoming.retry();
            continue;
        }
        match shared.gate.enter(incoming.remote_address().ip()) {
            Some(place) => {
                tokio::spawn(receive(Arc::clone(&shared), incoming, place));
            }
            None => {
                tracing::debug!(address = %incoming.remote_address(), "too many strangers, one is sent away");
                incoming.refuse();
            }
        }
    }
}

async fn receive(shared: Arc<Shared>, incoming: Incoming, place: Place) {
    let address = incoming.remote_address();
    let failure = match tokio::time::timeout(HANDSHAKE_TIME_MAX, incoming).await {
        Ok(Ok(connection)) => match handshake::run(&shared, &connection, Role::Acceptor).await {
            Ok(_) => return,
            // The handshake has reported it.
            Err(failure) => failure,
        },
        Ok(Err(error)) => {
            let failure = handshake::failure_of(error, None);
            if let Failure::Refused(reason) = &failure {
                handshake::report(&shared, address, *reason);
            }
            failure
        }
        Err(_) => Failure::Lost("TLS took too long".into()),
    };
    tracing::debug!(%address, ?failure, "a caller did not become a peer");
    drop(place);
}
