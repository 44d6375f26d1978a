//! Every maximum and interval of this crate, with its reason; what must hold between them is checked by the
//! compiler. Those of the protocol are in `moor_wire::limits`.

/// Longest wait for a TCP connection, for WELCOME on it, and for the kernel to take what is written,
/// milliseconds. A router gives HELLO as long.
pub const CONNECT_MS: u64 = 5_000;
/// How long a request may take, reconnects included, milliseconds: a router that restarts is back by then.
pub const DEADLINE_MS: u64 = 10_000;
/// Requests under way at once on one connection.
pub const IN_FLIGHT_MAX: usize = 1024;
/// PING after this much silence, milliseconds.
pub const PING_MS: u64 = 20_000;
/// Silence after a PING that means the peer is dead, milliseconds.
pub const DEAD_MS: u64 = 10_000;
/// First window of the reconnect schedule, milliseconds.
pub const BACKOFF_BASE_MS: u64 = 50;
/// Last window of the reconnect schedule, milliseconds.
pub const BACKOFF_CAP_MS: u64 = 5_000;
/// A connection that lasted this long was a good one: the schedule begins anew, milliseconds.
pub const STABLE_MS: u64 = 5_000;
/// A peer ends a service that has said nothing for this long, milliseconds (docs/protocol.md, Services).
const SERVICE_SILENCE_MS_MAX: u64 = 60_000;

/// Bytes a face reads at once.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// Reads before a request is begun; what is left waits for the next step, so that a stream of receipts
/// cannot keep a request from going out.
pub(crate) const CATCH_UP_READS_MAX: usize = 16;
/// Events a face has not looked at before it stops reading ahead.
pub(crate) const CATCH_UP_EVENTS_MAX: usize = 4096;
/// Receipts kept for a service that does not take them; the oldest go first, which it is told.
pub(crate) const RECEIPTS_MAX: usize = 64 * 1024;
/// Connections to gateway workers one face keeps.
pub(crate) const GATEWAYS_MAX: usize = 1024;
/// A monoio connection idle for this long may have been closed meanwhile, milliseconds.
#[cfg(feature = "monoio")]
pub(crate) const MONOIO_IDLE_MS: u64 = 1_000;

// A request outlives one attempt to connect, or no reconnect could ever help it.
const _: () = assert!(DEADLINE_MS > CONNECT_MS);
// A living connection is never silent for longer than its peer allows, even while it waits for a PONG.
const _: () = assert!(PING_MS + DEAD_MS < SERVICE_SILENCE_MS_MAX);
// The schedule can grow, and tries again at least once within a deadline.
const _: () =
    assert!(0 < BACKOFF_BASE_MS && BACKOFF_BASE_MS < BACKOFF_CAP_MS && BACKOFF_CAP_MS < DEADLINE_MS);
// What one look-ahead leaves unread fits among the receipts kept.
const _: () = assert!(CATCH_UP_EVENTS_MAX < RECEIPTS_MAX);
