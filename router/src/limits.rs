//! Every maximum of the router, with its unit and its reason. Protocol maxima are in `moor_wire::limits`.

use moor_wire::limits::{
    ACCOUNT_BYTES_MAX, CLIENT_BODY_BYTES_MAX, INTERNAL_BODY_BYTES_MAX, LOOKUP_SESSIONS_MAX,
    SERVER_BODY_BYTES_MAX, TRAFFIC_MARK_BYTES_MAX,
};

/// Without a frame for this long a link is void with every session under it. Stale locations may live
/// 2,000 ms after a gateway's death: this, plus one expiry check, plus slack for scheduling.
pub const LEASE_MS: u32 = 1_500;
/// So long a worker that came back may take to announce everything again before what it announced on its former link is
/// void: a million sessions at 20,000 a second take 52,000 ms.
pub const SYNC_MS_MAX: u64 = 120_000;
/// Leases, retries and closings are looked at this often.
pub const TICK_MS: u64 = 50;
/// A turn that comes this much later than planned was the router's own stall: leases start anew instead of
/// punishing gateways whose frames lie unread in our sockets.
pub const STALL_MS: u64 = 500;
/// A connection that has not said HELLO by then is closed.
pub const HELLO_TIMEOUT_MS: u64 = 5_000;
/// How long a link that is being closed may take to read our FAILURE before the socket goes.
pub const CLOSE_LINGER_MS: u64 = 500;
/// How long a graceful stop waits for commits and for links to take their answers.
pub const STOP_FLUSH_MS: u64 = 5_000;

/// A silent connection is probed by the kernel after this long, this often and this many times, so that a
/// service that vanished without a word (it has no lease) does not stay for ever.
pub const KEEPALIVE_S: (u64, u64, u32) = (30, 10, 3);

/// Shards a data directory may be divided into.
pub const SHARDS_MAX: u32 = 256;
/// Connections one shard thread holds: gateways × workers, services, and whoever has not said HELLO yet.
pub const LINKS_PER_THREAD_MAX: usize = 8_192;
/// Applications whose names are kept.
pub const APPS_MAX: usize = 65_535;
/// Sessions of one account, all devices together.
pub const SESSIONS_PER_ACCOUNT_MAX: u8 = 64;
/// Devices of one account whose positions are kept; beyond it the one furthest behind is forgotten.
pub const DEVICES_PER_ACCOUNT_MAX: u32 = 256;
/// Sessions of one device name: a new one beside a half-open old one, and some slack. Beyond it the oldest
/// is closed.
pub const SESSIONS_PER_DEVICE_MAX: usize = 4;
/// Tables of apps in the configuration file.
pub const APP_TABLES_MAX: usize = 4_096;
/// Read marks kept per account, some 100 bytes each: conversations of which it is known how far they are read.
/// Beyond it the one whose mark has not moved for the longest time is forgotten.
pub const READ_MARKS_PER_ACCOUNT_MAX: u32 = 1_024;
/// Read marks in one page: far below the longest frame a client must expect.
pub const READ_MARKS_PAGE: usize = 128;
/// Receipt subscriptions of one application.
pub const SUBSCRIBERS_PER_APP_MAX: usize = 256;
/// Different traffic marks that they may wish for: each is a bit of every message in flight, where there is room for so many.
pub const WISHES_PER_APP_MAX: usize = 32;

/// Bytes one read asks the kernel for.
pub const READ_BYTES: usize = 64 * 1024;
/// Bytes waiting for one link before pushes to it are dropped (reliable ones come again).
pub const LINK_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes waiting for one link, answers included, before it is closed as a slow reader.
pub const LINK_QUEUE_BYTES_HARD_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one link's queue written in one go: what a command waits behind, where pushes pile up. More would
/// save little: at this size a write takes hundreds of frames along.
pub const LINK_WRITE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of frames waiting to cross to another shard's thread before pushes are dropped, and of messages before they are
/// refused.
pub const CROSSING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Work items waiting to cross to another shard's thread before submits are refused.
pub const CROSSING_WORK_MAX: usize = 65_536;
/// The same for what is said once on a link, before the link ends.
pub const CROSSING_ONCE_MAX: usize = 2 * CROSSING_WORK_MAX;
/// So long a shard's thread takes letters of one kind that lie there already, before what they led to is flushed and its
/// links, its timers and the other kinds have their turn, milliseconds. Then it rests for one at most.
pub const LETTERS_TURN_MS: u64 = 5;
/// Parcels in a mailbox between two shard threads.
pub const MAILBOX_PARCELS_MAX: usize = 1_024;

/// Highest weight of an app.
pub const APP_WEIGHT_MAX: u32 = 1_000;
/// Submits, read marks, preferences and positions that the store is kept supplied with: two commits' worth, so that one is
/// ready when the other is done. What is beyond waits by app, where an app with little is not behind one with much.
pub const STORE_AHEAD_WRITES: usize = COMMIT_OPS_MAX * 2;
/// Payload bytes of those.
pub const STORE_AHEAD_BYTES: usize = COMMIT_BYTES_MAX * 2;
/// What an app of weight 1 may hand over in its turn, bytes: some fifty short messages.
pub const TENANT_QUANTUM_BYTES: u64 = 16 * 1024;
/// What a message costs beside its payload, bytes: about what its row and its index entry take.
pub const TENANT_MESSAGE_BYTES: u64 = 256;
/// What a stored message takes beside its payload and twice its names, bytes: both rows' heads, numbers and time. Files
/// hold sums of it: another value needs a step of the schema that counts anew.
pub const STORED_MESSAGE_BYTES: u64 = 48;
/// Submits, read marks, preferences and positions taken in and not yet written, before new ones are refused. Submits may
/// use all of it, marks and preferences three quarters, positions one half.
pub const WRITES_OUTSTANDING_MAX: usize = 32_768;
/// Payload bytes of those.
pub const WRITES_OUTSTANDING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Operations committed together; measured: above 512 the rate gains little and the wait doubles.
pub const COMMIT_OPS_MAX: usize = 1_024;
/// Payload bytes committed together.
pub const COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Range reads handed to the store and not yet answered; further accounts wait in a list.
pub const READS_OUTSTANDING_MAX: usize = 4_096;
/// Read operations in one snapshot of the store: bounds how long a snapshot pins the log.
pub const READ_OPS_PER_SNAPSHOT: usize = 256;
/// Accounts whose head the committer keeps at hand.
pub const HEADS_CACHED_MAX: usize = 65_536;
/// Messages trimmed from one account at a time.
pub const TRIM_SLICE_MESSAGES: u64 = 256;
/// The walk that removes messages past their age takes a step this often, milliseconds.
pub const RETENTION_STEP_MS: u64 = 100;
/// Accounts looked at in one step: 2,560 a second, a million in seven minutes. A look takes some microseconds.
pub const RETENTION_STEP_ACCOUNTS: u32 = 256;
/// Messages removed in one step, some milliseconds of the committer: 10,240 a second.
pub const RETENTION_STEP_MESSAGES: u64 = 1_024;
/// Rest of the walk after the disk refused, milliseconds.
pub const RETENTION_REST_MS: u64 = 60_000;
/// Days a message may be kept where age counts.
pub const RETENTION_DAYS_MAX: u32 = 36_500;
/// Log frames (pages of 8 KiB) after which the log is copied into the database file beside the commits.
pub const CHECKPOINT_FRAMES: u64 = 8_192;
/// Log frames after which the committer itself stops to copy, so that the log cannot grow without bound.
pub const CHECKPOINT_FRAMES_HARD: u64 = 65_536;

/// Unacknowledged messages a device may have on their way.
pub const WINDOW_MESSAGES: usize = 64;
/// Payload bytes of those.
pub const WINDOW_BYTES: u32 = 256 * 1024;
/// Waits before the first, second and third retry; after the last one the session rests until it
/// registers again, acknowledges or asks for SYNC.
pub const RETRY_MS: [u64; 3] = [5_000, 10_000, 20_000];
/// Retries handled in one turn.
pub const RETRIES_PER_TURN_MAX: usize = 4_096;
/// Acknowledged positions reach the store this often at the latest.
pub const CURSOR_FLUSH_MS: u64 = 500;
/// Registry slots looked at per tick for entries under void links.
pub const SWEEP_SESSIONS_PER_TICK: u32 = 4_096;

/// LOOKUPs handed to the location store and not yet answered, before new ones are answered OVERLOADED.
pub const FINDS_OUTSTANDING_MAX: usize = 4_096;
/// Changes of whereabouts kept for a location store that refuses them: some 200 bytes each. Beyond it they are
/// forgotten and everything is told anew.
pub const LOCATION_CHANGES_WAITING_MAX: usize = 65_536;
/// Registry slots per tick in the walk that tells a location store everything: 80,000 a second.
pub const ANNOUNCE_SESSIONS_PER_TICK: u32 = 4_096;

/// Members of one group: a list of them stays below 2 MiB.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// Groups one account can be in. Joins that meet in the same moment may go past it by their number.
pub const GROUPS_PER_ACCOUNT_MAX: usize = 512;
/// Groups of one app on one shard.
pub const GROUPS_PER_APP_MAX: u64 = 1_000_000;
/// Groups a shard holds in memory: with 20 members each some 2 KiB.
pub const GROUPS_LOADED_MAX: usize = 65_536;
/// Nobody asked for a group for this long: it leaves memory.
pub const GROUP_IDLE_MS: u64 = 60_000;
/// Groups looked at per tick: 80,000 a second.
pub const GROUPS_PER_TICK_MAX: usize = 4_096;
/// What waits for one group to be read from the store, or for its change to be written.
pub const GROUP_WAITING_MAX: usize = 1_024;
/// Members from which on a group's messages are no longer copied, by default.
pub const GROUP_READ_THRESHOLD_DEFAULT: u32 = 100;
/// Entries of a group handed to its members in one round.
pub const SPREAD_ENTRIES_MAX: usize = 64;
/// Payload bytes of those.
pub const SPREAD_BYTES_MAX: usize = 256 * 1024;
/// Copies in members' timelines that one round leads to, unless one entry alone leads to more.
pub const SPREAD_COPIES_MAX: usize = 4_096;
/// Pushes that one round leads to, in one turn of the members' shards: some ten milliseconds.
pub const SPREAD_PUSHES_MAX: usize = 32_768;
/// Bytes of stored entries kept at hand for a group's next rounds; what is beyond is read from the store.
pub const SPREAD_QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of those of all groups of a shard.
pub const SPREAD_QUEUES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of messages and requests that wait for their groups to be read or changed, all groups together.
pub const GROUPS_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A round that is not confirmed by then is looked at: what was lost of it is begun again, what takes long waited for.
pub const SPREAD_TIMEOUT_MS: u64 = 10_000;
/// The pause after a round that failed.
pub const SPREAD_RETRY_MS: u64 = 1_000;
/// Groups looked at per tick when those are looked for that a former process left unspread: 20,480 a second.
pub const UNSPREAD_PAGE: usize = 1_024;
/// Groups in memory only to finish what a former process left, beside those that somebody uses.
pub const GROUPS_RESUMED_MAX: usize = 4 * UNSPREAD_PAGE;
/// Positions in groups that wait to be sent to the groups' shards.
pub const POSITIONS_WAITING_MAX: usize = 8_192;
/// Questions about groups' heads of sessions that came, not yet answered by all shards; others are told without.
pub const HEADS_OUTSTANDING_MAX: usize = 16_384;
/// Accounts' groups read at a time to tell sessions again what they have not acknowledged; others are told in any order.
pub const REMINDS_OUTSTANDING_MAX: usize = 4_096;
/// How long the answers of other shards are waited for.
pub const HEADS_TIMEOUT_MS: u64 = 2_000;
/// Ranges asked for by clients and services and not yet read.
pub const HISTORIES_OUTSTANDING_MAX: usize = 1_024;
/// Extents, lists of groups and pages of read marks asked for by clients and services and not yet read: some 200 bytes each.
pub const QUESTIONS_OUTSTANDING_MAX: usize = 4_096;
/// Messages in one such range.
pub const HISTORY_MESSAGES_MAX: usize = 64;
/// Payload bytes read for it.
pub const HISTORY_BYTES: usize = 48 * 1024;
/// Rooms of a router that have somebody in them, all shards and apps together: some 500 bytes each, half a gigabyte.
pub const ROOMS_MAX: usize = 1_048_576;
/// A room that is not taken is logged so often at most.
pub const ROOMS_REFUSED_LOG_MS: u64 = 1_000;
/// Rooms looked at per tick: whose members are gone, and whose numbers are to be told.
pub const SWEEP_ROOMS_PER_TICK: usize = 4_096;
/// Rules for types of room messages.
pub const ROOM_TYPES_MAX: usize = 256;
/// Messages of one type in one room a second, at most and by default.
pub const ROOM_PER_S_MAX: u32 = 100_000;
/// See above: each is written to disk and acknowledged by everybody in the room.
pub const ROOM_RELIABLE_PER_S: u32 = 50;
/// See above: nobody reads more.
pub const ROOM_NORMAL_PER_S: u32 = 500;
/// See above: most of them are left out on the way.
pub const ROOM_DROPPABLE_PER_S: u32 = 5_000;
/// Longest time that messages of a large room are collected, milliseconds.
pub const ROOM_BUFFER_MS_MAX: u32 = 10_000;
/// Most of them.
pub const ROOM_BUFFER_MESSAGES_MAX: u32 = 4_096;
/// Bytes of a batch from which it goes out before its time.
pub const ROOM_BATCH_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a batch from which droppable messages are left out; clients get far less.
pub const ROOM_BATCH_DROPPABLE_BYTES_MAX: usize = 128 * 1024;
/// So long what is said in a room that has just come to a shard waits for the store to say what there was before. Where
/// the disk refuses it goes out then, and newcomers pull what they need not once the disk is back.
pub const ROOM_HELD_MS: u64 = 1_000;
/// From one telling of a room's numbers to the next where nothing is said, milliseconds. With messages they are told
/// always.
pub const ROOM_STATE_MS: u64 = 5_000;
/// Reliable messages of a room at hand for those who lack them, so that a crowd that comes back reads no disk.
pub const ROOM_RECENT_MAX: usize = 32;
/// Payload bytes of those.
pub const ROOM_RECENT_BYTES_MAX: usize = 128 * 1024;
/// Pulls that wait for the store, before new ones are answered OVERLOADED.
pub const ROOM_PULLS_OUTSTANDING_MAX: usize = 1_024;
/// Longest wait of the `[offline]` settings: beyond it an account of yesterday would still be remembered.
pub const OFFLINE_WAIT_MS_MAX: u64 = 24 * 3_600_000;

/// Values of traffic marks that a shard counts apart, over all apps; messages with others are counted together.
pub const TRAFFIC_SERIES_MAX: usize = 1_000;

/// Absent accounts that a shard remembers, some 200 bytes each and payloads. Beyond it the one whose time is nearest is
/// told of at once and forgotten.
pub const OFFLINE_ACCOUNTS_MAX: usize = 65_536;
/// Groups of an absent account that wait to be told of, the account itself counted as one, each as often as hooks tell its
/// messages apart by their marks; beyond it the first is told of at once.
pub const OFFLINE_GROUPS_MAX: usize = 16;
/// Bytes of payloads that wait to be told with them; beyond it notices come without.
pub const OFFLINE_PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages looked at of those that a device left behind, to find which are to be told of: one may be 64 KiB.
pub const LEFT_MESSAGES_MAX: u64 = 256;
/// Sessions that left something behind of which the store is asked at a time, some 300 bytes each; of others all is told.
pub const LEFT_OUTSTANDING_MAX: usize = 16_384;
/// Absent accounts looked at per tick: 80,000 a second.
pub const OFFLINE_TOLD_PER_TICK_MAX: usize = 4_096;

/// Apps with arrival rates of their own; the others share one. Each takes 29 kB per shard.
pub const ARRIVAL_APPS_MAX: usize = 64;
/// Seconds that a shard's counts reach back: the longest window, behind what is too young to judge, and slack.
pub const ARRIVAL_SECONDS: usize = 320;
/// Sliding windows of arrival rates, seconds.
pub const ARRIVAL_WINDOWS_S: [u64; 3] = [10, 60, 300];
/// A message this old should have been acknowledged: a first retry is 5 s away, and mobile networks take a few.
pub const ARRIVAL_MATURE_S: u64 = 10;
/// An alarm stays raised, or silent, for at least so long.
pub const ARRIVAL_ALARM_HOLD_MS: u64 = 10_000;
/// A raised alarm is logged again after so long.
pub const ARRIVAL_ALARM_LOG_MS: u64 = 60_000;

/// Webhooks of one router.
pub const HOOKS_MAX: usize = 16;
/// Notices between the shards and the hook's thread; beyond it the oldest is dropped, so that no shard ever waits.
/// With the longest payloads 17 MiB.
pub const HOOK_INBOX_NOTICES_MAX: usize = 4_096;
/// Notices taken from there before requests have their turn.
pub const HOOK_NOTICES_PER_TURN_MAX: usize = 1_024;
/// Longest payload that rides along in a notice: what the vendors' own pushes carry at most is 4 KiB.
pub const HOOK_PAYLOAD_BYTES_MAX: usize = 4_096;
/// Longest notice as JSON: names, numbers, and a payload in base64.
pub const HOOK_NOTICE_BYTES_MAX: usize = 12 * 1024;
/// Batches of one hook that wait for another try; while there are so many no new one is begun.
pub const HOOK_BATCHES_WAITING_MAX: usize = 64;
/// Bytes read of an answer. Listing every notice of the largest batch as failed takes less.
pub const HOOK_ANSWER_BYTES_MAX: usize = 128 * 1024;
/// Longest wait that a Retry-After is believed.
pub const HOOK_RETRY_AFTER_MAX_MS: u64 = 3_600_000;
/// How long the end of a router waits for a hook's last requests; what is left becomes dead letters.
pub const HOOK_STOP_MS: u64 = 2_000;

/// Messages kept per account by default.
pub const RETENTION_DEFAULT: u64 = 10_000;

// One entry's copies fit among the writes, and leave room for others.
const _: () = assert!(GROUP_MEMBERS_MAX * 2 <= WRITES_OUTSTANDING_MAX);
const _: () = assert!(SPREAD_COPIES_MAX * 4 <= WRITES_OUTSTANDING_MAX);
const _: () = assert!(SPREAD_PUSHES_MAX >= GROUP_MEMBERS_MAX);
const _: () = assert!(WISHES_PER_APP_MAX <= u32::BITS as usize);
const _: () = assert!(SPREAD_QUEUE_BYTES_MAX >= SPREAD_BYTES_MAX);
// A tick must be well inside the 2 s promise.
const _: () = assert!(LEASE_MS as u64 + 100 + TICK_MS * 2 <= 2_000);
const _: () = assert!(SYNC_MS_MAX > LEASE_MS as u64);
const _: () = assert!(STALL_MS < LEASE_MS as u64 && STALL_MS > TICK_MS * 4);
// A message must fit the window of its device, a window the queue of its link.
const _: () = assert!(CLIENT_BODY_BYTES_MAX * 2 <= WINDOW_BYTES);
const _: () = assert!(WINDOW_BYTES as usize * 8 <= LINK_QUEUE_BYTES_MAX);
const _: () = assert!(LINK_QUEUE_BYTES_MAX < LINK_QUEUE_BYTES_HARD_MAX);
const _: () = assert!(LINK_WRITE_BYTES_MAX < LINK_QUEUE_BYTES_MAX);
const _: () = assert!(INTERNAL_BODY_BYTES_MAX as usize * 4 <= CROSSING_BYTES_MAX);
const _: () = assert!((ANNOUNCE_SESSIONS_PER_TICK as usize) < LOCATION_CHANGES_WAITING_MAX);
const _: () = assert!(STORE_AHEAD_WRITES * 4 <= WRITES_OUTSTANDING_MAX);
const _: () = assert!(STORE_AHEAD_BYTES * 2 <= WRITES_OUTSTANDING_BYTES_MAX);
const _: () = assert!(RETENTION_STEP_MESSAGES.is_multiple_of(TRIM_SLICE_MESSAGES));
// A batch and the message that fills it fit an internal frame.
const _: () = assert!(ROOM_BATCH_BYTES_MAX * 2 <= INTERNAL_BODY_BYTES_MAX as usize);
const _: () = assert!(ROOM_BATCH_DROPPABLE_BYTES_MAX <= ROOM_BATCH_BYTES_MAX);
// What is told unasked is told of rooms that the store has spoken of, unless the disk refuses.
const _: () = assert!(ROOM_HELD_MS < ROOM_STATE_MS);
const _: () = assert!(ROOM_DROPPABLE_PER_S <= ROOM_PER_S_MAX);
const _: () = assert!(CHECKPOINT_FRAMES < CHECKPOINT_FRAMES_HARD);
const _: () = assert!(READ_MARKS_PAGE * (ACCOUNT_BYTES_MAX + 32) <= SERVER_BODY_BYTES_MAX as usize);
const _: () = assert!(ARRIVAL_WINDOWS_S[2] + ARRIVAL_MATURE_S < ARRIVAL_SECONDS as u64);
// Names are at most 128 bytes and grow sixfold when every byte of one is escaped.
const _: () = assert!(
    HOOK_PAYLOAD_BYTES_MAX * 4 / 3 + (128 + TRAFFIC_MARK_BYTES_MAX) * 6 * 3 + 1024 <= HOOK_NOTICE_BYTES_MAX
);
// What this router knows of an account always fits the answer to a LOOKUP.
const _: () = assert!(SESSIONS_PER_ACCOUNT_MAX as usize <= LOOKUP_SESSIONS_MAX);
// Whoever is logged in has a position.
const _: () = assert!(DEVICES_PER_ACCOUNT_MAX > SESSIONS_PER_ACCOUNT_MAX as u32);
