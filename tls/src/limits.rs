//! Every maximum of the crate.

/// Most plaintext of a record, bytes (RFC 8446, 5.1).
pub const RECORD_PLAIN_BYTES_MAX: usize = 1 << 14;

/// Head of a record: type, version, length.
pub const RECORD_HEAD_BYTES: usize = 5;

/// Most that a protected record may be longer than its plaintext, bytes (RFC 8446, 5.2).
pub const RECORD_EXPANSION_BYTES_MAX: usize = 256;

/// Largest record, head included, bytes. Who keeps the beginning of one keeps less.
pub const RECORD_BYTES_MAX: usize = RECORD_HEAD_BYTES + RECORD_PLAIN_BYTES_MAX + RECORD_EXPANSION_BYTES_MAX;

/// Most bytes that a peer may send before its handshake is over: a ClientHello with everything, or the chain of a
/// client's certificate.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// Key updates that a peer may send before it sends data again; rustls allows as many.
pub const KEY_UPDATES_MAX: u8 = 32;

/// Records sealed with one key before the next key is taken. The limit of AES-GCM is 2^24.5 full-sized records (RFC
/// 8446, 5.5).
pub const RECORDS_PER_KEY_MAX: u64 = 1 << 23;

/// Certificates of one server; each is looked at in a handshake that names its host.
pub const CERTIFICATES_MAX: usize = 64;

/// Ticket keys: the one that seals and those that still open.
pub const TICKET_KEYS_MAX: usize = 8;

/// How long a ticket opens, seconds. TLS 1.3 allows a week; what a stolen ticket key could read should be less.
pub const TICKET_LIFETIME_S: u32 = 12 * 60 * 60;

const _: () = assert!(RECORD_BYTES_MAX < HANDSHAKE_BYTES_MAX);
const _: () = assert!(RECORDS_PER_KEY_MAX < 1 << 24);
