//! What an app embeds to talk to a Moor gateway.
//!
//! * [`core`]: the session without I/O and without a clock: login, channels, heartbeat, resume, deduplication,
//!   acknowledgement, submits kept until answered. One thread can drive thousands.
//! * [`client`]: the same on tokio: [`Client::connect`](client::Client::connect).
//! * [`tls`]: whom such a client trusts: [`Client::connect_tls`](client::Client::connect_tls).
//!
//! ```no_run
//! use moor_client::{Client, Options, Tls};
//!
//! # async fn start() -> Result<(), moor_client::ClientError> {
//! let addresses = ["edge.example.net:7100".to_owned()];
//! let tls = Tls::with_host_authorities()?;
//! let (client, mut events) = Client::connect_tls(&addresses, Options::new("laptop-1"), tls).await?;
//! client.open(1, "shop", "alice", b"credential".as_slice().into(), None).await?;
//! while let Some(event) = events.recv().await {
//!     println!("{event:?}");
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod client;
pub mod core;
mod dial;
mod driver;
mod events;
pub mod limits;
mod link;
mod places;
pub mod tls;

pub use client::{Accepted, Client, ClientError};
pub use core::{Conversation, DialError, Event, Options, Sending, Session};
pub use events::Events;
pub use moor_wire::client::TrafficMarks;
pub use tls::Tls;
