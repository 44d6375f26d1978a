//! Every maximum of this crate, in one place.

use moor_wire::limits::CREDENTIAL_BYTES_MAX;

/// Longest credentials file or key file, bytes: enough for thousands of apps and for any key set, and it bounds
/// what a wrong path (a log, a device) makes the gateway read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Most apps in one file.
pub const APPS_MAX: usize = 4096;
/// Most keys of one app. A token without `kid` costs at most this many verifications.
pub const KEYS_PER_APP_MAX: usize = 8;
/// Longest key id, bytes. A SHA-256 thumbprint has 43.
pub const KID_BYTES_MAX: usize = 128;
/// Most devices a token may list.
pub const DEVICES_MAX: usize = 32;
/// Most audiences a token may list.
pub const AUDIENCES_MAX: usize = 8;
/// Deepest nesting of arrays and objects in a token's header or claims. Ours need two; identity providers put
/// lists into objects of their own.
pub const JSON_DEPTH_MAX: usize = 8;
/// Longest clock difference that can be forgiven, seconds.
pub const LEEWAY_S_MAX: u64 = 600;
/// Clock difference that is forgiven unless said otherwise, seconds.
pub const LEEWAY_S_DEFAULT: u64 = 30;
/// Shortest secret for HS256, bytes: as long as the digest (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Shortest RSA modulus, bits (RFC 7518, section 3.3).
pub const RSA_BITS_MIN: usize = 2048;
/// Longest RSA modulus, bits: what the verifying library takes.
pub const RSA_BITS_MAX: usize = 8192;
/// Most services in one file.
pub const SERVICES_MAX: usize = 256;
/// Most tokens of one service: the old one and the new one, twice.
pub const TOKENS_PER_SERVICE_MAX: usize = 4;
/// Most names of certificates of one service.
pub const CERTIFICATE_NAMES_PER_SERVICE_MAX: usize = 16;
/// Shortest token of a service, bytes.
pub const SERVICE_TOKEN_BYTES_MIN: usize = 16;
/// Longest token of a service, bytes: it is hashed whole, so its length must not be the sender's choice.
pub const SERVICE_TOKEN_BYTES_MAX: usize = 1024;

/// Longest decoded header or claims of a token, bytes: base64 makes three bytes of four. Two such buffers lie on
/// the stack during a verification.
pub(crate) const PART_BYTES_MAX: usize = CREDENTIAL_BYTES_MAX / 4 * 3 + 3;
/// Room for a signature, bytes: RSA at its longest, and what base64 may round up to.
pub(crate) const SIGNATURE_BYTES_MAX: usize = RSA_BITS_MAX / 8 + 3;

// A worker's stack is megabytes; the buffers of one verification are nowhere near.
const _: () = assert!(PART_BYTES_MAX * 2 + SIGNATURE_BYTES_MAX <= 8 * 1024);
// A signature of the longest RSA key in base64 fits a credential with room for names.
const _: () = assert!(SIGNATURE_BYTES_MAX / 3 * 4 + 512 < CREDENTIAL_BYTES_MAX);
const _: () = assert!(SERVICE_TOKEN_BYTES_MIN < SERVICE_TOKEN_BYTES_MAX);
const _: () = assert!(LEEWAY_S_DEFAULT <= LEEWAY_S_MAX);
