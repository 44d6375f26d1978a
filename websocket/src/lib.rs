//! The server side of RFC 6455 (WebSocket): what bytes mean, and nothing else. No I/O, no clock.
//!
//! * [`upgrade`]: the HTTP/1.1 request that opens a connection, and its answer.
//! * [`decode`]: cuts a client's bytes into messages and control frames, unmasking in place.
//! * [`encode`]: what a server sends: heads of frames, pings, pongs, closes.
//! * [`close`]: the codes a connection is closed with.
//! * [`mask`]: the XOR that clients apply to payloads.
//! * [`limits`]: every maximum.
//!
//! A connection that waits for its next message needs no state: its [`decode::Decoder`] is then equal to
//! `Decoder::default()`. No extension is ever negotiated, so no payload is compressed.
//!
//! # Conformance
//!
//! The example `echo` is the server for the cases of the Autobahn test suite, which the Python package
//! `kosoku` runs without the suite's old interpreter:
//!
//! ```text
//! cargo run --release -p moor-websocket --example echo -- 127.0.0.1:9001 &
//! python3 -m venv venv && venv/bin/pip install kosoku==0.1.0
//! venv/bin/kosoku -m fuzzingclient -x '12.*' -x '13.*' -o reports ws://127.0.0.1:9001
//! ```
//!
//! Sections 12 and 13 are about compression, which is not negotiated here. `cargo xtask conformance` runs the same
//! cases against the gateway's worker.
#![forbid(unsafe_code)]

pub mod close;
pub mod decode;
pub mod encode;
mod head;
pub mod limits;
pub mod mask;
pub mod upgrade;
mod utf8;

pub use close::CloseCode;
pub use decode::{Decoder, Step};

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8, checked while it is decoded.
    Text,
    /// Any bytes.
    Binary,
}
