//! The server side of TLS for a worker that holds very many connections: bytes in, bytes out.
//!
//! rustls does every handshake, and certificates, versions, suites and resumption are its business. What is ours is
//! what an idle connection keeps afterwards. rustls's own connection weighs 3.2 kB, the unbuffered one included; of
//! TLS 1.3 only two secrets, two sequence numbers and the name of the suite must survive a handshake. [`Session`]
//! therefore comes in two forms:
//!
//! - `Records::Rustls` keeps the unbuffered connection. Also what every TLS 1.2 connection gets.
//! - `Records::Compact` takes the secrets out and seals and opens records itself, with the provider's AEAD: 224 bytes
//!   of plain data, which can be written to bytes for another process ([`Session::to_bytes`]).
//!
//! What compact leaves out: everything after a handshake but application data, key updates and alerts. A server is
//! sent nothing else (post-handshake authentication needs to be offered, and is not). A key update that its sender
//! cut into two records, which RFC 8446 allows and nobody does, ends the connection.
//!
//! [`peer`] is for the other ports: both ends, certificates on both sides, and none of this thrift.
//!
//! This crate owns no socket; [`peer::Files`] alone opens files. Secrets are wiped when dropped and show in no `Debug`.
#![forbid(unsafe_code)]

mod certificates;
mod compact;
mod error;
mod handshake;
mod kept;
pub mod limits;
pub mod peer;
mod server;
mod session;
mod tickets;

pub use error::{Alert, Error, SettingsError};
pub use handshake::{Established, Handshake, Progress};
pub use server::{Pair, Records, Server, Settings, Text};
pub use session::{Opened, Session};

/// First byte of a TLS connection: a record of type handshake.
pub const FIRST_BYTE: u8 = 22;
