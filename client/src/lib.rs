//! What an app embeds to talk to a Moor gateway.
//!
//! * [`core`]: the session without I/O and without a clock: login, channels, heartbeat, resume, deduplication,
//!   acknowledgement, submits kept until answered. One thread can drive thousands.
//! * [`client`]: the same on tokio: [`Client::connect`](client::Client::connect).
#![forbid(unsafe_code)]

pub mod client;
pub mod core;
mod driver;
pub mod limits;

pub use client::{Accepted, Client, ClientError};
pub use core::{Conversation, Event, Options, Sending, Session};
