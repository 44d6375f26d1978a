//! How punctual the machine is by itself: what every tail of latency contains and no server can help.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::shared::{Shared, histogram};

/// How long the thread means to sleep.
const NAP: Duration = Duration::from_millis(1);

/// How late a sleeping thread woke, microseconds; the kernel's timer slack (50 µs) is in it.
pub struct Jitter {
    /// While latencies were measured.
    measured: Histogram<u64>,
    /// All the time.
    always: Histogram<u64>,
}

/// Starts the thread; it ends with the run. It has the processors of who calls.
pub fn start(shared: &Arc<Shared>) -> JoinHandle<Jitter> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let mut jitter = Jitter { measured: histogram(), always: histogram() };
        while !shared.ended.load(Relaxed) {
            let asleep = Instant::now();
            std::thread::sleep(NAP);
            let late = asleep.elapsed().saturating_sub(NAP).as_micros();
            let late = u64::try_from(late).unwrap_or(u64::MAX).max(1);
            jitter.always.saturating_record(late);
            if shared.measuring.load(Relaxed) {
                jitter.measured.saturating_record(late);
            }
        }
        jitter
    })
}

impl Jitter {
    /// `p99` and `max`, of the measured time where there was one that counts.
    pub fn figure(&self, latencies: bool) -> Value {
        let of = if latencies && !self.measured.is_empty() { &self.measured } else { &self.always };
        json!({ "p99": of.value_at_quantile(0.99), "max": of.max() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_time_counts_where_there_is_one() {
        let mut jitter = Jitter { measured: histogram(), always: histogram() };
        jitter.always.saturating_record(900);
        assert_eq!(jitter.figure(true), json!({ "p99": 900, "max": 900 }));
        jitter.measured.saturating_record(7);
        assert_eq!(jitter.figure(true), json!({ "p99": 7, "max": 7 }));
        assert_eq!(jitter.figure(false), json!({ "p99": 900, "max": 900 }));
    }

    #[test]
    fn the_thread_records_until_the_run_ends() {
        let shared = Arc::new(Shared::new(0));
        let thread = start(&shared);
        while shared.epoch.elapsed() < Duration::from_millis(20) {
            std::thread::sleep(NAP);
        }
        shared.ended.store(true, Relaxed);
        assert!(!thread.join().unwrap().always.is_empty());
    }
}
