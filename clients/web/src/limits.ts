// Every maximum and every interval of the client, in one place. Those of the protocol stand in docs/protocol.md;
// the others are those of the Rust client.

/** Version of the client protocol spoken here. */
export const VERSION = 1;
/** Subprotocol offered in the upgrade. */
export const SUBPROTOCOL = "moor.v1";

/** Longest body of a DATA frame a gateway can be configured to take, bytes. */
export const CLIENT_BODY_BYTES_MAX = 64 * 1024;
/** Longest body that carries no message, bytes. */
export const CONTROL_BODY_BYTES_MAX = 4 * 1024;
/** Longest body a client must expect, bytes: a delivery wraps a submit's payload in a slightly larger body. */
export const SERVER_BODY_BYTES_MAX = CLIENT_BODY_BYTES_MAX + CONTROL_BODY_BYTES_MAX;

/** Longest name of an app, bytes. */
export const APP_BYTES_MAX = 64;
/** Longest name of an account or a device, bytes. */
export const ACCOUNT_BYTES_MAX = 128;
/** Longest name of a group, bytes. */
export const GROUP_BYTES_MAX = 127;
/** Positions in one GROUP_ACK. */
export const GROUP_POSITIONS_MAX = 24;
/** Longest name of a room, bytes. */
export const ROOM_BYTES_MAX = 128;
/** Largest type of a room's message. */
export const ROOM_TYPE_MAX = 0xffff_ffff;
/** The level of what the business loses least without. */
export const LEVEL_MAX = 2;
/** Longest traffic mark, bytes. */
export const TRAFFIC_MARK_BYTES_MAX = 32;
/** Longest credential, bytes. */
export const CREDENTIAL_BYTES_MAX = 2048;
/** Longest client id of a message, bytes. */
export const CLIENT_ID_BYTES_MAX = 32;
/** Longest name of the software, bytes. */
export const AGENT_BYTES_MAX = 64;
/** Largest channel number; 0 is the connection itself. */
export const CHANNEL_MAX = 65_535;

/** Submits of one channel that may be unanswered. */
export const SUBMITS_PENDING_MAX = 4096;
/** Payload bytes of one channel's unanswered submits. */
export const SUBMITS_PENDING_BYTES_MAX = 16 * 1024 * 1024;
/** Submits of one channel on the wire; the rest wait their turn. */
export const SUBMITS_IN_FLIGHT_MAX = 256;
/** Read marks of one channel that the router has not confirmed. */
export const READ_MARKS_PENDING_MAX = 256;
/** Messages after which an ACK goes out at once. */
export const ACK_EVERY = 32;
/** Longest time an ACK is held back to cover more, milliseconds. */
export const ACK_DELAY_MS = 20;
/** Time for a submit to be answered before it is sent again, milliseconds. */
export const ANSWER_MS = 5000;
/**
 * Bytes that wait to be written above which no message and no request is put behind them, and no PING answered: what steers
 * waits on a slow uplink for so much and one frame, not for all that the app has to say.
 */
export const UNSENT_BYTES_MAX = 64 * 1024;
/** A WebSocket does not tell when it has written; it is looked at again after this, milliseconds. */
export const UNSENT_LOOK_MS = 20;
/** Base of the pause after a retryable refusal, milliseconds. */
export const RETRY_BASE_MS = 50;
/** Cap of the pause after a retryable refusal, milliseconds. */
export const RETRY_CAP_MS = 5000;
/** A SYNC that brought nothing is repeated after this, milliseconds. */
export const SYNC_REPEAT_MS = 2000;
/** Groups of one channel that are followed: more than a router lets an account be in. */
export const CONVERSATIONS_MAX = 1024;
/** Ranges of groups asked for at once on one channel; what is more important goes first. */
export const PULLS_IN_FLIGHT_MAX = 4;
/** The pause after a range that was refused or brought nothing, milliseconds. */
export const PULL_RETRY_MS = 1000;
/** Requests about groups on one channel that may be unanswered. */
export const GROUP_REQUESTS_PENDING_MAX = 64;
/** Rooms of one channel. */
export const ROOMS_MAX = 64;
/**
 * Reliable messages of a room are acknowledged, and missing ones asked for, within this, at random, milliseconds: a room
 * may have a hundred thousand members who got them in the same moment.
 */
export const ROOM_SPREAD_MS = 400;
/** In a large room acknowledgements take longer: of all members so many come in a millisecond. */
export const ROOM_ACKS_PER_MS = 10;
/** But no acknowledgement later than this, milliseconds. */
export const ROOM_ACK_SPREAD_MS_MAX = 20_000;
/** A pull that brought nothing is repeated after this, milliseconds. */
export const ROOM_PULL_REPEAT_MS = 2000;
/** Likes are collected for so long, milliseconds. */
export const ROOM_LIKES_MS = 500;
/** Likes that one frame may carry. */
export const ROOM_LIKES_MAX = 1000;
/** Base of the pause before a reconnect, milliseconds. */
export const RECONNECT_BASE_MS = 100;
/** Cap of the pause before a reconnect, milliseconds. */
export const RECONNECT_CAP_MS = 30_000;
/** Changes of the network hasten a try once in this time, milliseconds: they may be told of all the time. */
export const NETWORK_CHANGE_MS = 5000;
/** A connection that lasted this long was a good one: the next pause starts at the base again, milliseconds. */
export const STABLE_MS = 5000;
/** Longest absence a GOAWAY can ask for, milliseconds: a wrong number must not silence a device for weeks. */
export const AWAY_MS_MAX = 3_600_000;
/** Shortest heartbeat a server can ask for, milliseconds: a wrong number must not make a device spin. */
export const HEARTBEAT_MS_MIN = 100;
/** Silence after a PING that means a dead connection: half the heartbeat, but at least this, milliseconds. */
export const PONG_MS_MIN = 5000;
/** Time for the upgrade to be answered, milliseconds. */
export const DIAL_MS = 10_000;
/** Time for CONNECTED to come, milliseconds. */
export const GREETING_MS = 10_000;
/** First and last kind of features that a client may do without: it passes over those it does not know. */
export const OPTIONAL_KINDS = [0x20, 0x7f] as const;
/** Events nobody has taken. A session that reaches it drops the connection: what is not acknowledged comes again. */
export const EVENTS_MAX = 65_536;
/** Longest sleep of the face, milliseconds: what timers of browsers can express, with room. */
export const SLEEP_MS_MAX = 60_000;
