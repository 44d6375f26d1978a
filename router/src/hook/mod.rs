//! The offline hook: tells vendors of pushes (APNs, FCM, makers' channels, through a webhook of the operator's) which
//! accounts have messages that nobody fetches.
//!
//! Shards put notices into an inbox that never makes them wait; everything else happens on a thread of its own:
//!
//! * `notice`: what is told, and its JSON
//! * `settings`: the `[[hook]]` tables
//! * `core`: queues, batches, retries, circuit breaker; no I/O, no clock
//! * `http`: one signed request and what its answer means
//! * `dead`: what could not be told, in files
//! * `thread`: the loop that puts them together
//!
//! What it holds is in memory: a notice whose router is killed is lost. The message it speaks of is not.

mod breaker;
mod core;
mod dead;
mod http;
mod inbox;
pub mod metrics;
mod notice;
mod settings;
mod sign;
#[cfg(test)]
mod tests;
mod thread;

pub use inbox::Inbox;
pub use notice::{Alarm, Cause, Notice, Offline, class_word};
pub use settings::{Event, HookSettings, MarksWanted};
pub use thread::{Hook, Prepared, report};
