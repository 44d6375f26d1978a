//! Every maximum and every interval of the client, in one place.

use moor_wire::limits::CLIENT_BODY_BYTES_MAX;

/// Longest name of the software that a gateway takes, bytes.
pub(crate) const AGENT_BYTES_MAX: usize = 64;
/// Submits of one channel that may be unanswered.
pub const SUBMITS_PENDING_MAX: usize = 4096;
/// Payload bytes of one channel's unanswered submits: what an app can pile up while there is no network.
pub const SUBMITS_PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Submits of one channel on the wire; the rest wait their turn.
pub(crate) const SUBMITS_IN_FLIGHT_MAX: usize = 256;
/// Read marks of one channel that the router has not confirmed.
pub(crate) const MARKS_PENDING_MAX: usize = 256;
/// Messages after which an ACK goes out at once.
pub(crate) const ACK_EVERY: u64 = 32;
/// Longest time an ACK is held back to cover more, milliseconds.
pub(crate) const ACK_DELAY_MS: u64 = 20;
/// Time for a submit to be answered before it is sent again, milliseconds.
pub(crate) const ANSWER_MS: u64 = 5000;
/// Bytes that wait to be written above which no message and no request is put behind them, and no PING answered: what
/// steers, acknowledgements first of all, waits on a slow uplink for so much and one frame, not for all that the app has
/// to say.
pub(crate) const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// Base and cap of the pause after a retryable refusal, milliseconds.
pub(crate) const RETRY_MS: (u64, u64) = (50, 5000);
/// A SYNC that brought nothing is repeated after this, milliseconds.
pub(crate) const SYNC_REPEAT_MS: u64 = 2000;
/// Groups of one channel that are followed: more than a router lets an account be in.
pub(crate) const CONVERSATIONS_MAX: usize = 1024;
/// Ranges of groups asked for at once on one channel; what is more important goes first.
pub(crate) const PULLS_IN_FLIGHT_MAX: usize = 4;
/// The pause after a range that was refused or brought nothing, milliseconds.
pub(crate) const PULL_RETRY_MS: u64 = 1000;
/// Requests about groups on one channel that may be unanswered.
pub(crate) const GROUP_REQUESTS_PENDING_MAX: usize = 64;

/// Rooms of one channel.
pub const ROOMS_MAX: usize = 64;
/// Reliable messages of a room that are missing are asked for within this, at random: a room may have a hundred thousand
/// members who learn of them in the same moment.
pub(crate) const ROOM_SPREAD_MS: u64 = 400;
/// A pull that brought nothing is repeated after this, milliseconds.
pub(crate) const ROOM_PULL_REPEAT_MS: u64 = 2000;
/// Likes are collected for so long, milliseconds.
pub(crate) const ROOM_LIKES_MS: u64 = 500;

/// Base and cap of the pause before a reconnect, milliseconds; the pause is random between zero and a bound that
/// doubles from base to cap (full jitter).
pub(crate) const RECONNECT_MS: (u64, u64) = (100, 30_000);
/// Changes of the network hasten a try once in this time, milliseconds: whoever tells of them all the time must not try so.
pub(crate) const NETWORK_CHANGE_MS: u64 = 5000;
/// A connection that lasted this long was a good one: the next pause starts at the base again, milliseconds.
pub(crate) const STABLE_MS: u64 = 5000;
/// Longest absence a GOAWAY can ask for, milliseconds: a wrong number must not silence a device for weeks.
pub(crate) const AWAY_MS_MAX: u64 = 3_600_000;
/// Shortest heartbeat a server can ask for, milliseconds: a wrong number must not make a device spin.
pub(crate) const HEARTBEAT_MS_MIN: u64 = 100;
/// Silence after a PING that means a dead connection: half the heartbeat, but at least this, milliseconds.
pub(crate) const PONG_MS_MIN: u64 = 5000;
/// Time for CONNECTED to come, milliseconds.
pub(crate) const GREETING_MS: u64 = 10_000;
/// Events nobody has taken. Beyond it the driver is told to stop reading.
pub(crate) const EVENTS_MAX: usize = 4096;

/// Requests of the app that the tokio face has not taken.
pub(crate) const REQUESTS_MAX: usize = 256;
/// Events of the tokio face that the app has not taken; above it transient messages and notices are dropped.
pub(crate) const EVENTS_WAITING_MAX: usize = 1024;
/// Bytes that the kernel takes of the tokio face before it can send them.
pub(crate) const SOCKET_UNSENT_BYTES: u32 = 16 * 1024;
/// Bytes the tokio face reads at once.
pub(crate) const READ_BYTES: usize = 16 * 1024;
/// Time for a connection to be made, its TLS handshake included, milliseconds.
pub(crate) const DIAL_MS: u64 = 10_000;
/// Time for the last bytes to be written when the app is done, milliseconds.
pub(crate) const FAREWELL_MS: u64 = 2000;
/// Longest sleep of the tokio face, milliseconds.
pub(crate) const SLEEP_MS_MAX: u64 = 60_000;

// The longest message alone always finds a place in the queue.
const _: () = assert!(SUBMITS_PENDING_BYTES_MAX > CLIENT_BODY_BYTES_MAX as usize);
const _: () = assert!(SUBMITS_IN_FLIGHT_MAX <= SUBMITS_PENDING_MAX);
// An ACK is out long before the router takes its message for lost (5 s).
const _: () = assert!(ACK_DELAY_MS * 10 < ANSWER_MS);
// What waits after the limit is read once more at most: the driver stops at EVENTS_MAX.
const _: () = assert!(EVENTS_WAITING_MAX <= EVENTS_MAX);
const _: () = assert!(RECONNECT_MS.0 < RECONNECT_MS.1 && RECONNECT_MS.1 <= AWAY_MS_MAX);
