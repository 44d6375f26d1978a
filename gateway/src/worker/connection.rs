//! A connection: plain data, one entry per descriptor slot.
//!
//! The entry's index *is* the slot of the direct descriptor, so nothing maps one to the other. An idle
//! connection holds no buffer, no task and no timer object; the boxes below exist only while there is
//! something in them.

use moor_ring::{Slot, Token};

use super::chunked::{Chunked, Entry};
use super::door::census::Key;
use super::names::Name;
use super::outbox::Outbox;
use super::wheel::{Link, Links, NIL};
use crate::limits::{SEND_STALL_MS, TICK_MS};

/// What carries a client's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transport {
    /// The PROXY header of the load balancer before it is coming.
    Proxied,
    /// Its first byte has not come.
    #[default]
    Unknown,
    /// TCP itself.
    Plain,
    /// The head of an HTTP request is coming.
    Upgrading,
    /// Messages of a WebSocket.
    WebSocket,
}

/// What the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A client, with channels.
    Client(Transport),
    /// A backend service on the internal port.
    Service,
    /// The worker's router.
    Link,
}

impl Role {
    /// Whether the peer is a client.
    #[must_use]
    pub const fn is_client(self) -> bool {
        matches!(self, Self::Client(_))
    }

    /// Whether the peer is a client whose frames come in messages of a WebSocket.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Client(Transport::WebSocket))
    }
}

/// Where in its life a connection is. It closes in three steps: begin (`Finishing` or `Resetting`), join
/// (requests in flight complete), finish (`Closing`, then `Free`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    /// No connection; the kernel may put one here.
    #[default]
    Free,
    /// Accepted; the kernel is being asked where it comes from, and nothing else.
    Asking,
    /// The first frame has not come.
    Greeting,
    /// In service.
    Live,
    /// Last frames are on their way; what the peer sends is dropped until it hangs up or the deadline comes.
    Finishing,
    /// Aborted; requests in flight are completing.
    Resetting,
    /// The descriptor is being handed to another worker; no request is armed.
    Passing,
    /// The descriptor is being closed; its completion frees the slot.
    Closing,
}

/// Which receive request is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Receive {
    /// None.
    #[default]
    Idle,
    /// One-shot poll: the cold tier.
    Poll,
    /// A single read.
    Once,
    /// Multishot read: the hot tier.
    Multi,
    /// None, but one is due as soon as the kernel has buffers again.
    Starved,
}

impl Receive {
    /// Whether the kernel will still say something about it.
    #[must_use]
    pub const fn is_armed(self) -> bool {
        matches!(self, Self::Poll | Self::Once | Self::Multi)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Of the slot; a token with another one belongs to somebody who is gone.
    generation: u32,
    /// What the peer is.
    pub role: Role,
    /// Where in its life it is.
    pub phase: Phase,
    /// Which receive request is armed.
    pub receive: Receive,
    /// True exactly when a reset request is in flight.
    pub resetting: bool,
    /// True exactly when the slot stands in the worker's list of connections to flush.
    pub dirty: bool,
    /// True when it belongs to the hot tier: its next receive is multishot.
    pub hot: bool,
    /// True exactly when the start of a frame waits for its rest, in the worker's `begun`.
    pub begun: bool,
    /// True when the client comes over TLS: then it has a place in the worker's `tls`.
    pub tls: bool,
    /// True when the multishot receive has been told to end.
    pub cooling: bool,
    /// Receives since `burst_start`, up to the promotion threshold.
    pub burst: u8,
    /// Start of the current burst, low half of a time in ticks.
    pub burst_start: u16,
    /// When the last frame came, milliseconds since the worker's start, low 32 bits.
    pub last_seen_ms: u32,
    /// Heartbeat interval told to the client, milliseconds; before CONNECT the login timeout.
    pub interval_ms: u32,
    /// First of its channels.
    pub first_channel: u32,
    /// Where it comes from, as the census knows it; `None`: it is not counted.
    pub address: Option<Key>,
    /// Place in the timer wheel.
    pub wheel: Link,
    /// What waits to be sent.
    pub outbox: Option<Box<Outbox>>,
    /// The client's device.
    pub device: Name,
}

const _: () = assert!(size_of::<Connection>() <= 56, "a line of docs/capacity.md");
const _: () = assert!(size_of::<Role>() == 1, "how a client comes is in the same byte");

impl Entry for Connection {
    const FIRST_GENERATION: u32 = 1;
    const GENERATION_MASK: u32 = Token::GENERATION_MASK;

    fn vacant(generation: u32) -> Self {
        Self {
            generation,
            role: Role::Client(Transport::Unknown),
            phase: Phase::Free,
            receive: Receive::Idle,
            resetting: false,
            dirty: false,
            hot: false,
            cooling: false,
            tls: false,
            begun: false,
            burst: 0,
            burst_start: 0,
            last_seen_ms: 0,
            interval_ms: 0,
            first_channel: NIL,
            address: None,
            wheel: Link::default(),
            outbox: None,
            device: Name::EMPTY,
        }
    }

    fn is_vacant(&self) -> bool {
        self.phase == Phase::Free
    }

    fn generation(&self) -> u32 {
        self.generation
    }
}

impl Connection {
    /// Token of a request on this connection.
    #[must_use]
    pub const fn token(&self, slot: Slot) -> Token {
        Token::new(slot.0, self.generation)
    }

    /// Whether any request is in flight, so that the slot must not be closed yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.receive.is_armed()
            || self.resetting
            || self.outbox.as_ref().is_some_and(|outbox| outbox.in_flight)
    }

    /// Milliseconds since the current burst began.
    #[must_use]
    pub fn since_burst_ms(&self, now_ms: u64) -> u64 {
        u64::from(low_ticks(now_ms).wrapping_sub(self.burst_start)) * TICK_MS
    }

    /// Milliseconds since the last frame.
    #[must_use]
    pub fn silence_ms(&self, now_ms: u64) -> u64 {
        u64::from(low(now_ms).wrapping_sub(self.last_seen_ms))
    }

    /// Milliseconds until the send in flight has made no progress for so long that the peer does not read; 0: it has not.
    #[must_use]
    pub fn send_stalls_in_ms(&self, now_ms: u64) -> u64 {
        let in_flight = self.outbox.as_ref().filter(|outbox| outbox.in_flight);
        in_flight.map_or(u64::MAX, |outbox| (outbox.progress_ms + SEND_STALL_MS).saturating_sub(now_ms))
    }

    /// Generation of who takes the entry next.
    #[must_use]
    pub const fn next_generation(&self) -> u32 {
        (self.generation + 1) & Token::GENERATION_MASK
    }
}

/// Low half of a time in ticks; differences survive its wrap after 109 minutes.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
pub const fn low_ticks(ms: u64) -> u16 {
    (ms / TICK_MS) as u16
}

/// Low half of a time; differences survive its wrap after 49 days.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
pub const fn low(ms: u64) -> u32 {
    ms as u32
}

impl Links for Chunked<Connection> {
    #[inline]
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self[index].wheel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_survives_the_wrap_of_the_clock() {
        let wrap = u64::from(u32::MAX) - 10;
        let connection = Connection { last_seen_ms: low(wrap), ..Connection::vacant(1) };
        assert_eq!(connection.silence_ms(wrap + 50), 50);
    }

    #[test]
    fn a_freed_slot_has_another_generation() {
        let connection = Connection::vacant(Connection::FIRST_GENERATION);
        let after = Connection::vacant(connection.next_generation());
        assert_ne!(connection.token(Slot(4)), after.token(Slot(4)));
    }
}
