//! What a link's task decodes and a shard carries out.

use std::sync::Arc;

use bytes::Bytes;
use moor_wire::client::Class;
use moor_wire::internal::{Departure, Kick, NotHere, Registration};

use crate::lease::Link;
use crate::outbox::Weight;
use crate::shard::credit::Credit;
use crate::store::{AccountKey, Submit};

/// One piece of work for the shard that owns the account concerned.
#[derive(Debug)]
pub enum Work {
    /// Sessions are there; each with its account's hash.
    Register {
        /// Who says so.
        link: Arc<Link>,
        /// The sessions.
        sessions: Vec<(u64, Registration)>,
        /// One part per session.
        credit: Arc<Credit>,
    },
    /// Sessions are gone; each with its account's hash.
    Unregister {
        /// Who says so.
        link: Arc<Link>,
        /// The sessions.
        sessions: Vec<(u64, Departure)>,
    },
    /// A push met no session.
    NotHere {
        /// Who says so.
        link: Arc<Link>,
        /// Which.
        entries: Vec<NotHere>,
    },
    /// A message for an account's timeline.
    Submit(Box<Submit>),
    /// A message for whoever is there: it is not stored.
    Relay {
        /// The message.
        submit: Box<Submit>,
        /// Normal or transient.
        class: Class,
    },
    /// A client's READ or READ_MARKS, as the body of its UP.
    Marks {
        /// The gateway's link.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the UP frame.
        up: Bytes,
    },
    /// A client's ACK or SYNC, as the body of its UP.
    Cursor {
        /// The gateway's link.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the UP frame.
        up: Bytes,
    },
    /// Where is an account?
    Lookup {
        /// The service that asks.
        link: Arc<Link>,
        /// Its request.
        cookie: u64,
        /// The account.
        key: AccountKey,
    },
    /// Close sessions of an account.
    Kick {
        /// The service that asks.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// The request.
        kick: Box<Kick>,
    },
    /// Push to all sessions of an account, as the body of PUSH_ACCOUNT.
    PushAccount {
        /// The service that asks.
        link: Arc<Link>,
        /// Hash of the account.
        hash: u64,
        /// Body of the frame.
        body: Bytes,
    },
    /// Send receipts of an app from now on.
    Subscribe {
        /// The service that asks.
        link: Arc<Link>,
        /// The app.
        app: Box<str>,
        /// One part per shard.
        credit: Arc<Credit>,
    },
}

impl Work {
    /// How much it matters where too much of it waits to cross to another shard.
    pub const fn weight(&self) -> Weight {
        match self {
            Self::Relay { class, .. } => Weight::of(*class),
            _ => Weight::Reliable,
        }
    }
}
