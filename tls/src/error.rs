//! What can be wrong.

use std::fmt;

/// Why a server cannot be made of its settings. Names files by the names the caller gave them.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No certificate at all.
    #[error("there is no certificate: TLS needs at least one pair of certificate and key")]
    NoCertificate,
    /// More than [`crate::limits::CERTIFICATES_MAX`].
    #[error("{0} certificates are more than the {max} that are possible", max = crate::limits::CERTIFICATES_MAX)]
    TooManyCertificates(usize),
    /// A chain without a certificate.
    #[error("{file} holds no certificate: expected PEM with BEGIN CERTIFICATE, the host's own first")]
    NoPem {
        /// Which file.
        file: String,
    },
    /// A key file without a key.
    #[error(
        "{file} holds no private key: expected PEM with BEGIN PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY"
    )]
    NoKey {
        /// Which file.
        file: String,
    },
    /// Certificate and key that are not a pair, or that cannot be used.
    #[error("{certificate} and {key} cannot be used together: {reason}")]
    Pair {
        /// File of the chain.
        certificate: String,
        /// File of the key.
        key: String,
        /// In rustls's words.
        reason: rustls::Error,
    },
    /// Ticket keys that are none.
    #[error(
        "{file}, line {line}: a ticket key is 64 hexadecimal digits, one key a line (make one with `openssl rand -hex 32`)"
    )]
    TicketKey {
        /// Which file.
        file: String,
        /// Which line, from 1.
        line: usize,
    },
    /// None, or more than [`crate::limits::TICKET_KEYS_MAX`].
    #[error("{file} holds {count} ticket keys; 1 to {max} are possible", max = crate::limits::TICKET_KEYS_MAX)]
    TicketKeys {
        /// Which file.
        file: String,
        /// How many.
        count: usize,
    },
    /// A certificate without its key, or the other way round.
    #[error("a certificate and its key belong together: name both files or none")]
    HalfAPair,
    /// Nobody to trust.
    #[error("there is no authority: whoever connects must name at least one file of those it trusts")]
    NoAuthority,
    /// A name that no certificate can be for.
    #[error("{0:?} is neither a host name nor an address that a certificate can be for")]
    Name(String),
    /// A file of authorities that cannot be used.
    #[error("{file} cannot be used to check certificates: {reason}")]
    Authority {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// What rustls has against the whole.
    #[error("these settings cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// An alert's number (RFC 8446, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(pub u8);

impl Alert {
    /// The peer is done sending.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// Something that must not come, or not now.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// A record that does not open.
    pub const BAD_RECORD_MAC: Self = Self(20);
    /// A record that is too long.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// A message that does not decode.
    pub const DECODE_ERROR: Self = Self(50);
    /// Field out of range.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// Another version than this.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// It is we who cannot go on.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// The peer gives up a handshake; means nothing afterwards.
    pub const USER_CANCELED: Self = Self(90);
}

/// Why a connection cannot go on. What there is to tell the peer has been put into the caller's output.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The peer broke the protocol or its records do not open; the alert that it is told.
    Peer(Alert),
    /// The peer gave up with this alert.
    GivenUp(Alert),
    /// A handshake that rustls refuses, in its words.
    Handshake(rustls::Error),
    /// A handshake larger than [`crate::limits::HANDSHAKE_BYTES_MAX`].
    TooLong,
    /// A handshake message behind the handshake that comes in several records. Nobody has a reason to send one: it would have
    /// to be kept, and rustls is lost when it is asked to seal meanwhile.
    Fragment,
    /// The provider refused to seal, or the connection was used after its end.
    Unusable,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(alert) => write!(out, "the peer broke the protocol (alert {})", alert.0),
            Self::GivenUp(alert) => write!(out, "the peer gave up (alert {})", alert.0),
            Self::Handshake(error) => write!(out, "no handshake: {error}"),
            Self::TooLong => {
                write!(out, "the handshake is longer than {} bytes", crate::limits::HANDSHAKE_BYTES_MAX)
            }
            Self::Fragment => write!(out, "the peer cut a message behind the handshake into several records"),
            Self::Unusable => write!(out, "the connection can no longer be used"),
        }
    }
}

impl std::error::Error for Error {}
