//! One shard's counts. Written by its thread and, for what retention removes, by its committer; read by anybody.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use moor_wire::client::Class;

use super::{Apps, Slot};
use crate::limits::{ARRIVAL_APPS_MAX, ARRIVAL_SECONDS};
use crate::metrics::Value;

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stored and answered OK, for the first time.
    Accepted,
    /// Pushed to a device, for the first time.
    Delivered,
    /// Acknowledged by a device, for the first time.
    Acknowledged,
    /// Accepted with nobody there, or left unacknowledged.
    Offline,
    /// Removed by retention before any device acknowledged it.
    Expired,
}

impl State {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 5] =
        [Self::Accepted, Self::Delivered, Self::Acknowledged, Self::Offline, Self::Expired];

    /// Its label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Acknowledged => "acknowledged",
            Self::Offline => "offline",
            Self::Expired => "expired",
        }
    }
}

const STATES: usize = State::ALL.len();

/// All classes, in the order of the counters.
pub const CLASSES: [Class; 4] = [Class::Command, Class::Reliable, Class::Normal, Class::Transient];

/// Upper bounds of the histogram's buckets, milliseconds; what is above them all counts in the sum and the total.
pub const LATENCY_BOUNDS_MS: [u64; 14] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000];

/// One second's counts. The ring comes round to it every [`ARRIVAL_SECONDS`].
#[derive(Debug, Default)]
struct Second {
    /// Which second of the wall clock the counts are of.
    at: AtomicU64,
    counts: [[AtomicU32; STATES]; CLASSES.len()],
}

/// One app's counts.
#[derive(Debug)]
pub struct Series {
    totals: [[Value; STATES]; CLASSES.len()],
    seconds: Box<[Second]>,
    latency: [Value; LATENCY_BOUNDS_MS.len() + 1],
    latency_sum_ms: Value,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            totals: Default::default(),
            seconds: (0..ARRIVAL_SECONDS).map(|_| Second::default()).collect(),
            latency: Default::default(),
            latency_sum_ms: Value::default(),
        }
    }
}

/// One shard's counts by app. An app's are made when it is first counted.
#[derive(Debug)]
pub struct Meter {
    /// The shared table; unset in tests that count nothing.
    apps: OnceLock<Arc<Apps>>,
    slots: [OnceLock<Box<Series>>; ARRIVAL_APPS_MAX + 1],
}

impl Default for Meter {
    fn default() -> Self {
        Self { apps: OnceLock::new(), slots: [const { OnceLock::new() }; ARRIVAL_APPS_MAX + 1] }
    }
}

fn position(at_s: u64) -> usize {
    // Less than the ring's length, which fits.
    usize::try_from(at_s % ARRIVAL_SECONDS as u64).unwrap_or(0)
}

impl Meter {
    /// Shares the table of places with the others.
    pub fn open(&self, apps: Arc<Apps>) {
        // A second call would be another router's.
        self.apps.set(apps).ok();
    }

    /// The table of places.
    pub fn apps(&self) -> Arc<Apps> {
        self.apps.get_or_init(Arc::default).clone()
    }

    fn series(&self, slot: Slot) -> &Series {
        self.slots[slot.0.min(ARRIVAL_APPS_MAX)].get_or_init(Box::default)
    }

    /// Counts `count` messages of the second `at_s` of the wall clock; `now_s` bounds what still has a place in the ring.
    pub fn count(&self, slot: Slot, class: Class, state: State, count: u64, at_s: u64, now_s: u64) {
        let series = self.series(slot);
        series.totals[class as usize][state as usize].add(count);
        // A second that the ring has come round to belongs to newer messages; one ahead is a clock set back.
        if now_s.saturating_sub(at_s) >= ARRIVAL_SECONDS as u64 || at_s > now_s {
            return;
        }
        let second = &series.seconds[position(at_s)];
        if second.at.swap(at_s, Ordering::Relaxed) != at_s {
            // The committer may count into it at this moment and lose one: these are gauges.
            for count in second.counts.iter().flatten() {
                count.store(0, Ordering::Relaxed);
            }
        }
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        second.counts[class as usize][state as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// A message was acknowledged so long after it was accepted.
    pub fn observe(&self, slot: Slot, latency_ms: u64) {
        let series = self.series(slot);
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < latency_ms);
        series.latency[bucket].increment();
        series.latency_sum_ms.add(latency_ms);
    }

    /// Adds an app's totals to `sums`.
    pub fn add_totals(&self, slot: Slot, sums: &mut [[u64; STATES]; CLASSES.len()]) {
        let Some(series) = self.slots[slot.0].get() else { return };
        for (sums, totals) in sums.iter_mut().flatten().zip(series.totals.iter().flatten()) {
            *sums += totals.get();
        }
    }

    /// Adds an app's counts of the seconds `from_s..to_s` to `sums`.
    pub(super) fn add_window(
        &self,
        slot: Slot,
        (from_s, to_s): (u64, u64),
        sums: &mut [[u64; STATES]; CLASSES.len()],
    ) {
        let Some(series) = self.slots[slot.0].get() else { return };
        for at_s in from_s..to_s {
            let second = &series.seconds[position(at_s)];
            if second.at.load(Ordering::Relaxed) != at_s {
                continue;
            }
            for (sum, count) in sums.iter_mut().flatten().zip(second.counts.iter().flatten()) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
        }
    }

    /// Adds an app's latencies to `buckets`, and their sum.
    pub fn add_latency(&self, slot: Slot, buckets: &mut [u64; LATENCY_BOUNDS_MS.len() + 1]) -> u64 {
        let Some(series) = self.slots[slot.0].get() else { return 0 };
        for (bucket, count) in buckets.iter_mut().zip(&series.latency) {
            *bucket += count.get();
        }
        series.latency_sum_ms.get()
    }
}
