//! Every maximum of the protocols, in one place.

/// Version of the client protocol spoken here.
pub const CLIENT_VERSION: u32 = 1;
/// Version of the internal protocol spoken here.
pub const INTERNAL_VERSION: u32 = 1;

/// Longest body of a client frame, bytes. A gateway may be configured lower, never higher: the receive
/// remainder and the send queue are sized by it.
pub const CLIENT_BODY_BYTES_MAX: u32 = 64 * 1024;
/// Longest body of a frame a client must expect, bytes: a delivery wraps the payload of a submit in a
/// slightly larger body.
pub const SERVER_BODY_BYTES_MAX: u32 = CLIENT_BODY_BYTES_MAX + CONTROL_BODY_BYTES_MAX;
/// Longest body of a frame that carries no message (everything but DATA), bytes. Bounds what an
/// unauthenticated peer can make the gateway hold.
pub const CONTROL_BODY_BYTES_MAX: u32 = 4 * 1024;
/// Longest opaque body of PING, echoed by PONG, bytes.
pub const PING_BODY_BYTES_MAX: u32 = 16;
/// Longest body of an internal frame, bytes: a batch of registrations or one message with its identity.
pub const INTERNAL_BODY_BYTES_MAX: u32 = 1024 * 1024;

/// Longest application name, bytes.
pub const APP_BYTES_MAX: usize = 64;
/// Longest account name, bytes.
pub const ACCOUNT_BYTES_MAX: usize = 128;
/// Longest group name, bytes: one less than an account's, because a group's timeline lies under a reserved account
/// name that begins with [`GROUP_MARK`].
pub const GROUP_BYTES_MAX: usize = ACCOUNT_BYTES_MAX - 1;
/// Begins the account names under which groups' timelines lie. No client's name may hold it.
pub const GROUP_MARK: char = '\u{1}';
/// Longest of the traffic marks of a message, bytes each.
pub const TRAFFIC_MARK_BYTES_MAX: usize = 32;
/// Longest title of a group, bytes.
pub const GROUP_TITLE_BYTES_MAX: usize = 128;
/// Most accounts named in one change of a group: its event must fit a message.
pub const GROUP_NAMES_MAX: usize = 256;
/// Most names in one page of an answer.
pub const GROUP_PAGE_NAMES_MAX: usize = 256;
/// Longest body of a client's PULLED, bytes: above what a message may have, because several are in it.
pub const PULLED_MESSAGES_BYTES_MAX: usize = 32 * 1024;
/// Most positions in one GROUP_ACK: they fit a control body.
pub const GROUP_POSITIONS_MAX: usize = 24;
/// Most conversations in one GROUP_HEADS.
pub const GROUP_HEADS_MAX: usize = 128;
/// Longest device name, bytes.
pub const DEVICE_BYTES_MAX: usize = 128;
/// Shortest token that a port beyond loopback may ask for, bytes: what 128 bits of randomness need at the least.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Longest name of a gateway, router or service, bytes.
pub const NODE_BYTES_MAX: usize = 64;
/// Longest address at which services reach a gateway, bytes: a host's name of 253 and a port.
pub const INTERNAL_ADDRESS_BYTES_MAX: usize = 260;
/// Most sessions named in the answer to one LOOKUP.
pub const LOOKUP_SESSIONS_MAX: usize = 1024;
/// Longest name of a room, bytes.
pub const ROOM_BYTES_MAX: usize = 128;
/// Room counts in one batch.
pub const ROOM_COUNTS_MAX: usize = 512;
/// Likes that one frame may carry; more are taken for so many.
pub const ROOM_LIKES_MAX: u32 = 1000;
/// Longest client id of a message, bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 32;
/// Longest credential, bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 2048;
/// Longest human-readable reason, bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 256;
/// Highest business level of a message: the first to be switched off.
pub const LEVEL_MAX: u32 = 2;
/// Most sessions that one push of the router's is for.
pub const PUSH_MANY_SESSIONS_MAX: usize = 256;
/// Most registrations in one batch.
pub const REGISTER_BATCH_MAX: usize = 512;

/// One registration at its longest: names, two ids, a flag, tags.
const REGISTRATION_BYTES_MAX: usize = APP_BYTES_MAX + ACCOUNT_BYTES_MAX + DEVICE_BYTES_MAX + 50;

// The event of the largest change fits a message, the longest page an answer.
const _: () = assert!(GROUP_NAMES_MAX * (ACCOUNT_BYTES_MAX + 8) + 512 <= CLIENT_BODY_BYTES_MAX as usize);
const _: () =
    assert!(GROUP_PAGE_NAMES_MAX * (ACCOUNT_BYTES_MAX + 24) + 512 <= CLIENT_BODY_BYTES_MAX as usize);
const _: () = assert!(GROUP_POSITIONS_MAX * (GROUP_BYTES_MAX + 16) <= CONTROL_BODY_BYTES_MAX as usize);
const _: () = assert!(GROUP_HEADS_MAX * (GROUP_BYTES_MAX + 48) <= SERVER_BODY_BYTES_MAX as usize);
// Names travel with one-byte lengths in UP and PUSH_ACCOUNT.
const _: () = assert!(APP_BYTES_MAX < 256 && ACCOUNT_BYTES_MAX < 256 && DEVICE_BYTES_MAX < 256);
// The answer to a LOOKUP fits an internal frame: of each session names, the address, and numbers.
const _: () = assert!(
    LOOKUP_SESSIONS_MAX * (DEVICE_BYTES_MAX + NODE_BYTES_MAX + INTERNAL_ADDRESS_BYTES_MAX + 64) + 64
        <= INTERNAL_BODY_BYTES_MAX as usize
);
// A full batch fits an internal frame.
const _: () = assert!(REGISTER_BATCH_MAX * REGISTRATION_BYTES_MAX <= INTERNAL_BODY_BYTES_MAX as usize);
const _: () = assert!(ROOM_BYTES_MAX < 256);
const _: () =
    assert!(ROOM_COUNTS_MAX * (APP_BYTES_MAX + ROOM_BYTES_MAX + 32) <= INTERNAL_BODY_BYTES_MAX as usize);
// A client body with its identity fits an internal frame.
const _: () = assert!(CLIENT_BODY_BYTES_MAX * 2 <= INTERNAL_BODY_BYTES_MAX);
// So does the largest body for a client with everybody it is for.
const _: () = assert!(
    SERVER_BODY_BYTES_MAX as usize + PUSH_MANY_SESSIONS_MAX * 16 + 4 <= INTERNAL_BODY_BYTES_MAX as usize
);
// A credential with its names fits a control body.
const _: () =
    assert!(CREDENTIAL_BYTES_MAX + APP_BYTES_MAX + ACCOUNT_BYTES_MAX + 64 <= CONTROL_BODY_BYTES_MAX as usize);
