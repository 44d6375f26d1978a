//! The connection without its socket and its clock: bytes and milliseconds in, bytes and events out.
//!
//! Whoever drives a [`Connection`] calls `handle_*` when something happened and then drains `poll_event` and
//! `poll_transmit`; `poll_timeout` says when to call [`Connection::handle_timeout`] at the latest. The clock is
//! an argument and the randomness a seed, so that a test can play a day in a microsecond.

mod connection;
mod error;
mod request;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use error::Error;
use moor_wire::internal::{Receipt, Welcome};
pub use request::{Answer, Request, Sent, transient_body};

/// Longest wait for a TCP connection, and for WELCOME on it, milliseconds.
pub const CONNECT_MS: u64 = 5_000;
/// How much the faces read at once, bytes.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Settings of a connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// This service's name, for the operator's eye.
    pub node: String,
    /// The token the other side asks for; empty: none.
    pub token: Vec<u8>,
    /// At a gateway: which worker to reach.
    pub worker: Option<u32>,
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
            deadline_ms: 10_000,
            in_flight_max: 1024,
            ping_ms: 20_000,
            dead_ms: 10_000,
            backoff_base_ms: 50,
            backoff_cap_ms: 5_000,
        }
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
}
