//! The skin between Moor and the kernel: one io_uring per thread, with types.
//!
//! This is the only crate of the workspace with unsafe code. It owns every piece of memory the
//! kernel may touch after a call returned (provided receive buffers, buffers of sends in flight,
//! socket addresses) and turns each completion into a [`Completion`] before anybody else sees
//! it. What comes back from the kernel is checked like any other input.
//!
//! * [`Ring`]: submit requests, wait, take completions. Made and used on one thread.
//! * [`RingHandle`] and [`Doorbell`]: the two ways to wake a ring from elsewhere.
//! * [`Token`]: what a request carries and its completion brings back.
//! * [`features`]: what the kernel can do, and what it should be taken not to be able to do.
//! * [`socket`], [`thread`] and [`memory`]: what has to be arranged before a ring takes over.
//!
//! The kernel floor is 6.1. Nothing here cancels requests by descriptor or in bulk: a ring's
//! cancel table has at most 256 buckets (`clamp(ilog2(cq_entries) - 5, 1, 8)` bits, 6.1 to 6.18),
//! so with hundreds of thousands of armed requests such a cancel walks for milliseconds.

mod completion;
mod config;
mod connect;
mod doorbell;
mod enter;
mod errno;
pub mod features;
mod limits;
pub mod memory;
mod reap;
mod recv_buffers;
mod release;
mod request;
mod ring;
mod sends;
pub mod socket;
mod submit;
mod table;
pub mod thread;
mod token;

pub use completion::{Completion, Recv};
pub use config::{RingConfig, RingError};
pub use connect::ConnectOptions;
pub use doorbell::Doorbell;
pub use errno::Errno;
pub use features::{Feature, FeatureMask, Features, probe};
pub use limits::{
    COMPLETIONS_PER_SUBMISSION_MIN, DIRECT_SLOTS_MAX, MESSAGE_VALUE_MAX, RECV_BUFFERS_MAX,
    SUBMISSION_ENTRIES_MAX,
};
pub use recv_buffers::RecvBuffer;
pub use ring::{ListenerId, Ring, RingHandle};
pub use sends::SendBuffer;
pub use token::{Slot, Token};
