//! Every maximum of the gateway that is not a setting, with its unit and its reason.

use moor_wire::limits::{CLIENT_BODY_BYTES_MAX, INTERNAL_BODY_BYTES_MAX};

/// Length of a wheel tick, milliseconds: how late a deadline may be noticed.
pub const TICK_MS: u64 = 100;
/// Slots of the timer wheel; deadlines beyond `WHEEL_SLOTS × TICK_MS` (410 s) are filed again on the way.
pub const WHEEL_SLOTS: usize = 4096;
/// Timer entries looked at in one turn; the rest follow in the next, so that a mass expiry stalls nobody: to end a
/// connection that has fallen silent takes some 6 µs.
pub const TURN_EXPIRIES_MAX: usize = 256;
/// Completions applied in one turn before timers, flushes and doorbells get their share.
pub const TURN_COMPLETIONS_MAX: usize = 4096;
/// Longest sleep of a worker, milliseconds: its counters are published at least this often.
pub const TURN_WAIT_MS_MAX: u64 = 1000;
/// Shortest distance between two publications of the counters, milliseconds.
pub const PUBLISH_MS: u64 = 100;

/// Submission queue of a worker's ring. Requests beyond it are submitted at once.
pub const SUBMISSION_ENTRIES: u32 = 1024;
/// Completion queue of a worker's ring: a burst on a sixth of a table of 20,000 connections fits; what does not
/// is kept by the kernel and counted as an overflow.
pub const COMPLETION_ENTRIES: u32 = 16_384;
/// Slots of the descriptor table beyond the connection limit: the router link, services, descriptors on
/// their way between workers, and connections being refused with a word.
pub const RESERVED_SLOTS: u32 = 64;
/// Services connected to one worker at a time; below [`RESERVED_SLOTS`] so that refusals keep a place.
pub const SERVICES_MAX: u32 = 32;
/// Pause before accepting again when the descriptor table was full, milliseconds.
pub const ACCEPT_BACKOFF_MS: u64 = 100;

/// Channels of one connection at the most, whatever is configured: a frame's channel is looked for among them one by one,
/// and when the connection ends each one's name among all others'. Measured: 0.4 µs and 0.01 ms with 64 channels, 2 µs and
/// 0.2 ms with 256, 6 to 15 µs and 3 to 6 ms with 1,024, 0.4 to 9 ms and 12 s with 65,535. An index would cost every session
/// memory for the sake of few.
pub const CHANNELS_PER_CONNECTION_MAX: u16 = 256;

/// Bytes queued towards the router. Beyond it the router does not read, and the link is made anew.
pub const LINK_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of those for what clients send. Beyond it a submit is answered OVERLOADED instead of queued; the rest is for
/// what keeps the link alive, and for batches of sessions that come and go.
pub const LINK_UPSTREAM_BYTES_MAX: usize = 7 * 1024 * 1024;
/// Bytes queued towards a backend service. Beyond it the service is a slow reader and is closed.
pub const SERVICE_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest message of a WebSocket client, bytes. It is never put together, so this is no memory.
pub const WEBSOCKET_MESSAGE_BYTES_MAX: u32 = 1024 * 1024;
/// Answers to WebSocket pings that may wait for a client, bytes. Beyond it the client does not read and is closed.
pub const WEBSOCKET_PONGS_BYTES_MAX: usize = 4 * 1024;
/// Largest send buffer kept for the next use, bytes; larger ones go back to the allocator.
pub const POOLED_BUFFER_BYTES_MAX: usize = 4 * 1024;
/// How often a worker gives memory that its clients have left back to the system, milliseconds. What is pooled goes
/// after one or two of these intervals without use.
pub const GIVE_BACK_MS: u64 = 2_000;
/// Channels closed in a turn because their credentials expired.
pub const EXPIRIES_PER_TURN_MAX: usize = 1024;
/// Expiries of sessions that are gone, beyond those of the open ones, before they are weeded out.
pub const EXPIRIES_STALE_MAX: usize = 1024;
/// Between two lines in the log about the same kind of refusal, milliseconds.
pub const NOTICE_MS: u64 = 1_000;
/// What waits when it comes too fast may come at once as often as in this time, milliseconds.
pub const WAITING_BURST_MS: u32 = 100;
/// What is refused when it comes too fast, likewise: who has just been accepted at the same pace must not be refused.
pub const REFUSED_BURST_MS: u32 = 1000;
/// Share of its rate that a pace begins with after the start.
pub const SLOW_START_SHARE: f64 = 0.25;
/// Connections that a worker is told to expect in a second at most, however many it may accept: measured, with logins, on
/// one core.
pub const ACCEPTS_PER_S_ASSUMED: u32 = 10_000;
/// Latest return told to clients that are sent away, milliseconds.
pub const RETRY_MS_MAX: u32 = 600_000;
/// Longest PROXY header, bytes: addresses, and what else a balancer has to say about a client and its TLS.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;
/// Longest PROXY header of version 1, a line with its end, bytes: what its specification says.
pub const PROXY_LINE_BYTES_MAX: usize = 107;
/// TLS handshakes that may wait for their turn: so many seconds of their rate. Who waited longer would be gone.
pub const TLS_WAIT_S: u32 = 2;
/// TLS handshakes of services that a worker begins in a second; more are reset. Some 150 µs each with certificates on both
/// sides: whoever reaches the internal port takes 3 % of a worker from its clients at the most.
pub const SERVICE_HANDSHAKES_PER_S: u32 = 200;
/// Receives within `hot.window_ms` from which a hot connection is metered.
pub const BUSY_RECEIVES: u8 = 32;
/// Frames in one receive from which any connection is metered.
pub const BUSY_FRAMES: u64 = 4;
/// How often a worker looks at how much memory is left, milliseconds.
pub const MEMORY_LOOK_MS: u64 = 1_000;
/// While memory is short a client's send queue is this part of its limit.
pub const SHED_QUEUE_SHARE: usize = 4;
/// TLS handshakes worked on in a turn, some 75 µs each; the others wait for the next one. That bounds what they add to
/// somebody else's pong to a third of a millisecond.
pub const TLS_HANDSHAKES_PER_TURN_MAX: u32 = 4;
/// Largest buffer kept for what TLS records held, bytes.
pub const TLS_SCRATCH_BYTES_MAX: usize = 64 * 1024;
/// Send buffers kept for the next use.
pub const POOLED_BUFFERS_MAX: usize = 128;
/// A send that makes no progress for this long belongs to a peer that does not read, milliseconds.
pub const SEND_STALL_MS: u64 = 30_000;
/// How long a connection that is being closed may take to read its last frames and to hang up, milliseconds.
pub const FINISH_LINGER_MS: u64 = 1000;

/// Broadcasts of an app that leave together at most, bytes.
pub const BROADCAST_RUN_BYTES_MAX: usize = 64 * 1024;
/// Broadcasts of one app that are on their way to its sessions, bytes, per worker; beyond it they are refused.
pub const BROADCAST_APP_BYTES_MAX: usize = 1024 * 1024;
/// The same of all apps together.
pub const BROADCAST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Sessions that broadcasts are handed to in a turn, all apps together: a send takes some 6 µs, so that whoever waits for
/// something else waits 1.5 ms longer at the most.
pub const BROADCAST_SESSIONS_PER_TURN_MAX: usize = 256;
/// Entries of the table of channels that are looked at in a turn for them: some 10 ns each.
pub const BROADCAST_WALK_PER_TURN_MAX: u32 = 16_384;
/// Channel numbers for which a run of broadcasts is kept encoded; clients mostly use the same few.
pub const BROADCAST_NUMBERS_MAX: usize = 16;

/// Between two counts of one room told to the router, milliseconds, unless it gets its first member or loses its last.
pub const ROOM_COUNT_MS: u64 = 500;
/// Batches of counts told in a turn.
pub const ROOM_COUNTS_PER_TURN_MAX: usize = 4;
/// Members a batch is handed to in a turn, all rooms together; a room that has more goes on behind the others. A send takes
/// some 10 µs (measured with 50,000 members over loopback), so that what somebody else waits for comes some 0.2 ms later at
/// the most.
pub const ROOM_MEMBERS_PER_TURN_MAX: usize = 16;
/// Batches that begin in a turn, some 1 µs each and the bytes below.
pub const ROOM_BATCHES_PER_TURN_MAX: usize = 128;
/// Bytes handed to them in a turn, so that long batches take no longer: copied, and over TLS sealed, in some 0.5 ms.
pub const ROOM_BYTES_PER_TURN_MAX: usize = 512 * 1024;
/// Members of a room who get the same batch; those of a room with more on this worker get theirs one lane after the other.
/// A lane takes some 10 ms to be served, so much older is what its last member hears when the processor has nothing else.
pub const ROOM_LANE_MEMBERS: usize = 1024;
/// Members that a room's batches reach at once, all lanes together; the others follow over the time to the next batch.
pub const ROOM_AT_ONCE_MEMBERS: usize = 256;
/// How often a batch under way goes on, milliseconds.
pub const ROOM_PACE_MS: u64 = 1;
/// Messages that wait for a room's next batch, bytes; beyond it the droppable and then the normal ones are left out.
pub const ROOM_RUN_BYTES_MAX: usize = 128 * 1024;
/// Reliable messages of one room that may be carried again.
pub const ROOM_RELIABLE_MAX: usize = 32;
/// Bytes of those.
pub const ROOM_RELIABLE_BYTES_MAX: usize = 128 * 1024;
/// How often a reliable message is carried to whoever does not acknowledge it; then it is left to be pulled.
pub const ROOM_TRIES: u8 = 3;
/// From one try to the next, beyond the time in which members acknowledge, milliseconds. In a small room three tries
/// are made within the 3 s in which a reliable message shall be there; in a large one whoever lacks it learns so from the
/// next batch, and pulls.
pub const ROOM_REPEAT_MS: u64 = 500;

/// Messages between workers waiting in one mailbox.
pub const MAILBOX_ENTRIES: usize = 8192;
/// Requests of services that wait for other workers, per worker.
pub const JOBS_PENDING_MAX: usize = 4096;
/// How long such a request may wait, milliseconds.
pub const JOB_TIMEOUT_MS: u64 = 2000;

/// Register batches sent and not yet answered.
pub const REGISTER_UNANSWERED_MAX: usize = 4;
/// Sessions waiting to be registered one by one; beyond it the whole table is walked instead.
pub const REGISTER_QUEUE_MAX: usize = 2048;
/// Entries of the table of channels that the walk looks at in a turn, announced already or empty ones included: some 10 ns
/// each.
pub const REGISTER_WALK_PER_TURN_MAX: usize = 16_384;
/// Without a frame from the router for this long the link is taken for dead, milliseconds.
pub const LINK_SILENCE_MS: u64 = 3000;
/// First and longest pause before connecting to the router again, milliseconds; the real one is random
/// between zero and these (full jitter).
pub const LINK_RETRY_MS: (u64, u64) = (100, 2000);
/// Lease assumed until the router has said its own, milliseconds.
pub const LEASE_MS_DEFAULT: u64 = 1500;

/// Demotions of a hot connection per tick: each cancels one request, whose cost grows with the number of
/// armed requests per ring (1.5 µs at 10,000, 33 µs at 100,000; kernel 6.18).
pub const DEMOTIONS_PER_TURN_MAX: u32 = 64;
/// Above this many connections in a ring no request is cancelled at all and a hot connection stays hot.
pub const CANCEL_CONNECTIONS_MAX: u32 = 65_536;

// A frame of either protocol fits the queue that carries it.
const _: () = assert!(LINK_QUEUE_BYTES_MAX > 2 * INTERNAL_BODY_BYTES_MAX as usize);
// Behind as many messages as clients may queue there is room for the largest batch.
const _: () = assert!(LINK_QUEUE_BYTES_MAX - LINK_UPSTREAM_BYTES_MAX >= INTERNAL_BODY_BYTES_MAX as usize);
const _: () = assert!(SERVICE_QUEUE_BYTES_MAX > 2 * INTERNAL_BODY_BYTES_MAX as usize);
const _: () = assert!(CLIENT_BODY_BYTES_MAX < INTERNAL_BODY_BYTES_MAX);
const _: () = assert!(COMPLETION_ENTRIES >= 4 * SUBMISSION_ENTRIES);
const _: () = assert!(SERVICES_MAX < RESERVED_SLOTS);
// The link is given up later than its lease, so that a slow answer does not cost a resynchronisation.
const _: () = assert!(LINK_SILENCE_MS > LEASE_MS_DEFAULT);
// The longest message of a room finds a place, and so does a whole push of the router's.
const _: () = assert!(moor_wire::rooms::ROOM_MESSAGE_BYTES_MAX <= ROOM_RELIABLE_BYTES_MAX);
const _: () = assert!((ROOM_REPEAT_MS + moor_wire::rooms::ACK_SPREAD_MS_MIN) * (ROOM_TRIES as u64) < 3_000);
const _: () = assert!(WHEEL_SLOTS.is_power_of_two());
