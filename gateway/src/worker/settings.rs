//! What a worker is told at its start. Plain data, checked by the configuration before it gets here.

use std::net::SocketAddr;
use std::sync::Arc;

use moor_tls::Server;
use moor_tls::peer::{Acceptor, Dialer};
use moor_websocket::upgrade::Policy;

use super::access::Access;
use super::door::{Limits, Networks, Shared};

/// Heartbeat intervals, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// Proposed to a client without a wish.
    pub interval_ms: u32,
    /// Never less, whatever the client wishes.
    pub min_ms: u32,
}

impl Heartbeat {
    /// The interval for a client that can keep `wish_ms` at most; 0: it has no wish.
    #[must_use]
    pub fn propose(&self, wish_ms: u32) -> u32 {
        let wish = if wish_ms == 0 { self.interval_ms } else { wish_ms.min(self.interval_ms) };
        wish.max(self.min_ms)
    }
}

/// When a connection changes its receive tier.
#[derive(Clone, Copy, Debug)]
pub struct HotTier {
    /// So many receives …
    pub events: u8,
    /// … within so many milliseconds make a connection hot.
    pub window_ms: u32,
    /// A hot connection without a receive for so many milliseconds is cold again.
    pub idle_ms: u32,
}

/// Rooms.
#[derive(Clone, Copy, Debug)]
pub struct RoomSettings {
    /// Rooms one channel may be in.
    pub per_channel_max: u32,
    /// Rooms of one worker.
    pub per_worker_max: u32,
    /// Those of one app among them; 0: no limit.
    pub per_app_max: u32,
    /// From one batch of a room to the next, milliseconds.
    pub down_ms: u32,
    /// Bytes of a batch from which droppable messages are left out.
    pub down_bytes: u32,
}

/// Settings of a worker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name.
    pub node: Arc<str>,
    /// This process's incarnation.
    pub epoch: u64,
    /// Where the router listens.
    pub router: SocketAddr,
    /// Where services reach this gateway, as told to the router.
    pub internal_address: Arc<str>,
    /// What a service must show; `None`: nothing.
    pub internal_token: Option<Arc<[u8]>>,
    /// TLS of services; `None`: they come in clear text.
    pub internal_tls: Option<Acceptor>,
    /// What is shown to the router.
    pub router_token: Arc<[u8]>,
    /// TLS with the router; `None`: clear text.
    pub router_tls: Option<Dialer>,
    /// Client connections accepted; more are refused with a word.
    pub connections_max: u32,
    /// Longest body of DATA, bytes.
    pub frame_bytes_max: u32,
    /// Channels on one connection.
    pub channels_per_connection_max: u16,
    /// Bytes queued for one client.
    pub send_queue_bytes_max: usize,
    /// Time for CONNECT to come, milliseconds.
    pub first_byte_timeout_ms: u32,
    /// Whether frames are taken straight, without WebSocket.
    pub plain: bool,
    /// What credentials are checked against.
    pub access: Access,
    /// Certificates and what else TLS needs; `None`: no TLS.
    pub tls: Option<Server>,
    /// Whether clients without TLS are turned away.
    pub tls_required: bool,
    /// Which upgrades to WebSocket are accepted; `None`: no HTTP at all.
    pub websocket: Option<Arc<Policy>>,
    /// Heartbeat intervals.
    pub heartbeat: Heartbeat,
    /// Receive tiers.
    pub hot: HotTier,
    /// Sessions in one register batch.
    pub register_batch: usize,
    /// Sessions announced per second when all are announced again.
    pub register_per_s: u32,
    /// When clients that are refused or sent away may come back first, milliseconds.
    pub retry_min_ms: u32,
    /// When they are back at the latest, milliseconds; `None`: as soon as so many can be accepted.
    pub retry_max_ms: Option<u32>,
    /// Rooms.
    pub rooms: RoomSettings,
    /// How many come in, how fast, and how loud they may be.
    pub limits: Limits,
    /// Load balancers whose connections begin with who is behind them.
    pub proxies: Networks,
    /// What is counted over all workers.
    pub shared: Shared,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_shortens_within_bounds() {
        let heartbeat = Heartbeat { interval_ms: 270_000, min_ms: 10_000 };
        assert_eq!(heartbeat.propose(0), 270_000);
        assert_eq!(heartbeat.propose(60_000), 60_000);
        assert_eq!(heartbeat.propose(1), 10_000);
        assert_eq!(heartbeat.propose(u32::MAX), 270_000);
    }
}
