//! Cubic, with a way out: the last packet of a connection is never held back.
//!
//! quinn sends CONNECTION_CLOSE like data when data is waiting beside it: a
//! full congestion window or the pacer blocks it, and a closed connection
//! reads no acknowledgements that would unblock it. The peer would then learn
//! of a goodbye or of a refusal only by silence. So `close` first opens the
//! window of that connection, for the one packet that is still to come.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::settings::{Close, INITIAL_WINDOW_BYTES};

/// Closes a connection so that the peer hears of it at once. All closing in
/// this room goes through here.
pub(super) fn close(connection: &Connection, why: Close, reason: &str) {
    if let Ok(controller) = connection.congestion_state().into_any().downcast::<WayOut>() {
        controller.closing.store(true, Ordering::Relaxed);
    }
    connection.close(why.code(), reason.as_bytes());
}

/// Makes the controller of each new connection.
pub(super) fn factory() -> Arc<dyn ControllerFactory + Send + Sync> {
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    Arc::new(Factory(Arc::new(cubic)))
}

struct Factory(Arc<CubicConfig>);

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.0).build(now, current_mtu);
        Box::new(WayOut { inner, closing: Arc::default() })
    }
}

/// Cubic until the connection closes. Clones share the flag, so the copy that
/// quinn hands out reaches the controller in use.
struct WayOut {
    inner: Box<dyn Controller>,
    closing: Arc<AtomicBool>,
}

impl Controller for WayOut {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    /// The pacer, too, lets everything pass with a window above 4 GiB.
    fn window(&self) -> u64 {
        match self.closing.load(Ordering::Relaxed) {
            true => u64::MAX,
            false => self.inner.window(),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), closing: Arc::clone(&self.closing) })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
