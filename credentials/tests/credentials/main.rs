//! The crate from outside: keys made for the test, tokens of our issuer and of others.
#![allow(clippy::unwrap_used, reason = "tests")]

mod algorithms;
mod arbitrary;
mod files;
mod interop;
mod isolation;
mod manual;
mod refusals;
mod services;
mod support;
