//! Who may come in: decides whether the credential of a client's OPEN is good, and what a backend service may do.
//!
//! No sockets and no clock: bytes and now come in, a decision comes out. What an operator writes stands in
//! [`Settings`]; [`Verifier`] checks clients' tokens (JWT with HS256, ES256, EdDSA or RS256), [`ServiceKeys`] those
//! of services. Both are immutable and shared by all workers; a reload is another one.
//!
//! The order of checks is fixed: bounds, header, key, signature, and only then what the claims say. A key has one
//! algorithm, known from the key; the token cannot choose another. Nothing that is shown, logged or counted holds a
//! byte of a token or a key.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use moor_credentials::{Settings, Verifier};
//!
//! let settings = Settings::read(Path::new("credentials.toml"))?;
//! let verifier = Verifier::load(&settings)?;
//! match verifier.verify("shop", "alice", "phone", b"eyJhbGciOi...", 1_800_000_000) {
//!     Ok(admission) => println!("until {:?}", admission.expires_s),
//!     Err(denial) => println!("the client is told: {}; the metric: {}", denial.told(), denial.name()),
//! }
//! # Ok::<(), moor_credentials::LoadError>(())
//! ```
//!
//! # Cost
//!
//! A verification takes no lock, waits for nothing and, for a token without lists and escapes, allocates nothing
//! (outside the cryptographic library). `cargo run --release -p moor-credentials --example verifications` on one core of
//! a machine with 2, kernel 6.18, other work beside it:
//!
//! | algorithm | verifications/s | each |
//! |---|---|---|
//! | HS256 | 876,000 | 1.1 µs |
//! | RS256 (2048 bits) | 60,000 | 17 µs |
//! | EdDSA | 27,000 | 37 µs |
//! | ES256 | 19,000 | 52 µs |
//!
//! A token without `kid` may cost as many verifications as the app has keys of its algorithm, at most
//! [`limits::KEYS_PER_APP_MAX`]. Whoever calls this for strangers bounds how often.
#![forbid(unsafe_code)]

mod algorithm;
mod denial;
mod file;
pub mod issue;
mod jwks;
mod keys;
pub mod limits;
mod services;
mod settings;
mod token;
mod verifier;

pub use algorithm::Algorithm;
pub use denial::Denial;
pub use file::{LoadError, read_public, read_secret};
pub use services::{Right, Service, ServiceKeys};
pub use settings::{Anonymous, AppSettings, KeySettings, ServiceSettings, Settings};
pub use verifier::{Admission, Verifier};
