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
/// Longest device name, bytes.
pub const DEVICE_BYTES_MAX: usize = 128;
/// Longest name of a gateway, router or service, bytes.
pub const NODE_BYTES_MAX: usize = 64;
/// Longest client id of a message, bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 32;
/// Longest credential, bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 2048;
/// Longest human-readable reason, bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 256;
/// Highest business level of a message: the first to be switched off.
pub const LEVEL_MAX: u32 = 2;
/// Most registrations in one batch.
pub const REGISTER_BATCH_MAX: usize = 512;

/// One registration at its longest: names, two ids, a flag, tags.
const REGISTRATION_BYTES_MAX: usize = APP_BYTES_MAX + ACCOUNT_BYTES_MAX + DEVICE_BYTES_MAX + 50;

// Names travel with one-byte lengths in UP and PUSH_ACCOUNT.
const _: () = assert!(APP_BYTES_MAX < 256 && ACCOUNT_BYTES_MAX < 256 && DEVICE_BYTES_MAX < 256);
// A full batch fits an internal frame.
const _: () = assert!(REGISTER_BATCH_MAX * REGISTRATION_BYTES_MAX <= INTERNAL_BODY_BYTES_MAX as usize);
// A client body with its identity fits an internal frame.
const _: () = assert!(CLIENT_BODY_BYTES_MAX * 2 <= INTERNAL_BODY_BYTES_MAX);
// A credential with its names fits a control body.
const _: () =
    assert!(CREDENTIAL_BYTES_MAX + APP_BYTES_MAX + ACCOUNT_BYTES_MAX + 64 <= CONTROL_BODY_BYTES_MAX as usize);
