//! Who may come in: decides whether the credential of a client's OPEN is good, and what a backend service may do.
//!
//! No sockets and no clock: bytes and now come in, a decision comes out. What an operator writes stands in
//! [`Settings`]; [`Verifier`] checks clients' tokens (JWT with HS256, ES256, EdDSA or RS256), [`ServiceKeys`] those
//! of services. Both are immutable and shared by all workers; a reload is another one.
//!
//! The order of checks is fixed: bounds, header, key, signature, and only then what the claims say. A key has one
//! algorithm, known from the key; the token cannot choose another. Nothing that is shown, logged or counted holds a
//! byte of a token or a key.
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
pub use file::LoadError;
pub use services::{Right, Service, ServiceKeys};
pub use settings::{Anonymous, AppSettings, KeySettings, ServiceSettings, Settings};
pub use verifier::{Admission, Verifier};
