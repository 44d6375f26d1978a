//! What the fuzzer runs: a function of bytes for each target, which panics when something does not hold.
//!
//! The functions know nothing of the engine, so that a test replays what it found on the usual toolchain
//! (`tests/seeds.rs`), and so does whoever debugs a crash. README.md says what each target promises.
#![forbid(unsafe_code)]

pub mod client_core;
pub mod frames;
pub mod input;
pub mod internal;
mod kernel;
pub mod proxy;
pub mod router_client;
mod seeds;
#[path = "../../tls/tests/support/mod.rs"]
mod tls;
pub mod tls_handshake;
pub mod tls_records;
pub mod upgrade;
pub mod websocket;
pub mod worker;

/// A target: its name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 10] = [
    ("client_core", client_core::run),
    ("frames", frames::run),
    ("internal", internal::run),
    ("proxy", proxy::run),
    ("router_client", router_client::run),
    ("tls_handshake", tls_handshake::run),
    ("tls_records", tls_records::run),
    ("upgrade", upgrade::run),
    ("websocket", websocket::run),
    ("worker", worker::run),
];

/// The inputs that each target starts from.
#[must_use]
pub fn first_inputs() -> [(&'static str, Vec<Vec<u8>>); 10] {
    [
        ("client_core", client_core::first_inputs()),
        ("frames", frames::first_inputs()),
        ("internal", internal::first_inputs()),
        ("proxy", proxy::first_inputs()),
        ("router_client", router_client::first_inputs()),
        ("tls_handshake", tls_handshake::first_inputs()),
        ("tls_records", tls_records::first_inputs()),
        ("upgrade", upgrade::first_inputs()),
        ("websocket", websocket::first_inputs()),
        ("worker", worker::first_inputs()),
    ]
}
