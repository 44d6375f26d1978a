//! Every maximum of the WebSocket side, in one place.

/// Longest head of an upgrade request, bytes. Browsers send about 500, cookies of the host come on top; it is
/// what an unauthenticated peer can make the server hold.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Most header fields in an upgrade request. Browsers send about 15.
pub const REQUEST_FIELDS_MAX: usize = 64;
/// Longest answer that accepts an upgrade, bytes.
pub const RESPONSE_BYTES_MAX: usize = 192;

/// Longest head of a client's frame, bytes: two, eight of length, four of mask.
pub const CLIENT_HEAD_BYTES_MAX: usize = 14;
/// Longest head of a server's frame, bytes: two, eight of length.
pub const SERVER_HEAD_BYTES_MAX: usize = 10;
/// Longest payload of a control frame, bytes (RFC 6455, 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Longest reason of a close, bytes; longer ones are cut. The code takes two of the payload.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// Size of a [`crate::Decoder`], bytes: what a connection costs while a message is under way. Phase 16, bytes
/// of the message 4, its kind 1, cut character 3, pointer to a cut control frame 8.
pub const DECODER_BYTES: usize = 32;

const _: () = assert!(size_of::<crate::Decoder>() == DECODER_BYTES);
// A field is at least "a:" and an end of line, so that the limits meet before the smallest head.
const _: () = assert!(REQUEST_FIELDS_MAX * 4 < REQUEST_BYTES_MAX);
