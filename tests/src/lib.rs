//! End-to-end tests: the real binaries as a user starts them, on free ports, ended by id.
//!
//! * [`process`]: gateways and routers as child processes: start, kill -9, restart on the same ports.
//! * [`listener`]: `moor listen` as a person starts it.
//! * [`member`]: a client on a thread of its own that follows a group, over whatever happens.
//! * [`raw`]: a client that speaks bytes, for what a well-behaved client would never do.
//! * [`service`]: a backend service that speaks bytes.
//! * [`vendor`]: a vendor of pushes that the offline hook calls.
#![forbid(unsafe_code)]

pub mod listener;
pub mod member;
pub mod process;
pub mod raw;
pub mod service;
pub mod vendor;
