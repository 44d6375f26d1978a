//! How a backend service reaches Moor: one connection to a router, which knows everybody, or to the internal
//! port of a gateway, which knows its own sessions.
//!
//! * [`blocking`]: over a socket of the standard library; no runtime.
//! * [`tokio`] and [`monoio`] (features of the same names): the same methods, async.
//! * [`Tls`]: over TLS, with a certificate or without, as one of the settings in [`Config`].
//! * [`core`]: the connection itself without socket and clock, which all of them drive.
//! * [`addresses`]: which address of a name next; [`backoff`]: when to try again; [`limits`]: how much and how long at most.
//!
//! ```no_run
//! use moor_router_client::blocking::Router;
//!
//! # fn main() -> Result<(), moor_router_client::Error> {
//! let mut router = Router::connect("127.0.0.1:7300", None)?;
//! let sent = router.send("shop", "orders", "alice", None, b"your parcel is on its way")?;
//! println!("stored as {}", sent.sync_id);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod addresses;
pub mod backoff;
pub mod blocking;
pub mod core;
mod desk;
pub mod limits;
mod methods;
#[cfg(feature = "monoio")]
pub mod monoio;
mod ticket;
mod tls;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use core::{Answer, Config, Error, Request, Sent, transient_body};

pub use ticket::Ticket;
pub use tls::Tls;

pub use moor_wire::Code;
pub use moor_wire::client::{
    Act, GroupAnswer, GroupCreate, GroupMember, GroupNames, GroupNothing, GroupPage, GroupPreference,
    GroupRole, Membership, Pulled, TrafficMarks,
};
pub use moor_wire::internal::{Location, LookupResult, Receipt, RoomStatsResult, Welcome};
