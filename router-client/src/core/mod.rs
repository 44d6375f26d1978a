//! The connection without its socket and its clock: bytes and milliseconds in, bytes and events out.
//!
//! Whoever drives a [`Connection`] calls `handle_*` when something happened and then drains `poll_event` and
//! `poll_transmit`; `poll_timeout` says when to call [`Connection::handle_timeout`] at the latest. The clock is
//! an argument and the randomness a seed, so that a test can play a day in a microsecond.

mod answers;
mod connection;
mod error;
mod request;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use error::Error;
use moor_wire::internal::{Receipt, Welcome};
pub use request::{Answer, Request, Sent, transient_body};

use crate::Tls;
pub use crate::limits::CONNECT_MS;
use crate::limits::{BACKOFF_BASE_MS, BACKOFF_CAP_MS, DEAD_MS, DEADLINE_MS, IN_FLIGHT_MAX, PING_MS};

/// Settings of a connection.
#[derive(Clone)]
pub struct Config {
    /// This service's name, for the operator's eye.
    pub node: String,
    /// The token the other side asks for; empty: none.
    pub token: Vec<u8>,
    /// At a gateway: which worker to reach.
    pub worker: Option<u32>,
    /// How faces wrap the connection's bytes; `None`: not at all.
    pub tls: Option<Tls>,
    /// How long a request may take, reconnects included, milliseconds.
    pub deadline_ms: u64,
    /// Most requests under way at once.
    pub in_flight_max: usize,
    /// PING after saying nothing for this long, milliseconds.
    pub ping_ms: u64,
    /// A peer that has said nothing for this long after a PING is dead, milliseconds.
    pub dead_ms: u64,
    /// First window for trying again, milliseconds.
    pub backoff_base_ms: u64,
    /// Last window for trying again, milliseconds.
    pub backoff_cap_ms: u64,
}

impl Config {
    /// The usual settings with a token or without.
    #[must_use]
    pub fn new(token: Option<&[u8]>) -> Self {
        Self {
            node: "moor-router-client".into(),
            token: token.unwrap_or_default().to_vec(),
            worker: None,
            tls: None,
            deadline_ms: DEADLINE_MS,
            in_flight_max: IN_FLIGHT_MAX,
            ping_ms: PING_MS,
            dead_ms: DEAD_MS,
            backoff_base_ms: BACKOFF_BASE_MS,
            backoff_cap_ms: BACKOFF_CAP_MS,
        }
    }
}

// By hand, so that a log line that shows a connection does not show its token.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("token", &format_args!("{} bytes", self.token.len()))
            .field("worker", &self.worker)
            .field("tls", &self.tls)
            .field("deadline_ms", &self.deadline_ms)
            .field("in_flight_max", &self.in_flight_max)
            .field("ping_ms", &self.ping_ms)
            .field("dead_ms", &self.dead_ms)
            .field("backoff_base_ms", &self.backoff_base_ms)
            .field("backoff_cap_ms", &self.backoff_cap_ms)
            .finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new(None)
    }
}

/// Names a request until its answer is taken; comes back in the answer as its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// What happened on a [`Connection`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Open a TCP connection now, then call `handle_connected` or `handle_disconnected`.
    Connect,
    /// Close the TCP connection; nothing more is expected of it.
    Close,
    /// Greeted: requests flow.
    Ready(Welcome),
    /// The connection is gone and comes back by itself.
    Lost(Error),
    /// The other side does not want this service: no further attempt.
    Stopped(Error),
    /// What became of a request.
    Answered(Ticket, Result<Answer, Error>),
    /// A device acknowledged something.
    Receipt(Receipt),
    /// After a reconnect the other side does not take the subscription to an app's receipts any more: none will come.
    Unsubscribed {
        /// The app.
        app: String,
        /// Why.
        why: Error,
    },
}
