//! Arrival rates: what became of messages, per app and class, in totals and over sliding windows.
//!
//! Each shard counts in a [`Meter`] of its own; readers add them up ([`report`]). Counting takes no lock: apps get
//! their places in a table that is shared, and a shard asks it once per app ([`LocalApps`]). `alarm` compares rates
//! with thresholds.
//!
//! A message is a member of the second in which it was accepted; its acknowledgement counts there, however much later
//! it comes. The rate of a window is that of the messages accepted in it that are old enough for an
//! acknowledgement to have come.

pub mod alarm;
mod apps;
mod meter;
pub mod report;
#[cfg(test)]
mod tests;
pub mod watch;

pub use apps::{Apps, LocalApps, OTHER, Slot};
pub use meter::{Meter, State};
