//! Which workers still turn. The control thread samples the workers' turn counts; nobody is asked to answer.

use std::sync::atomic::{AtomicU64, Ordering};

use super::metrics::CounterSource;

/// A worker whose loop has not turned for this long is not alive, milliseconds. Workers turn at least once a
/// second (`TURN_WAIT_MS_MAX`), so this is five missed turns.
pub const SILENCE_MS_MAX: u64 = 5000;

const _: () = assert!(SILENCE_MS_MAX >= 3 * crate::limits::TURN_WAIT_MS_MAX);

/// When each worker was last seen to have turned, on the control thread's clock. When the control thread
/// itself stops sampling, every worker ages: a stuck process is never reported healthy.
#[derive(Debug)]
pub struct Liveness(Vec<Seen>);

/// Written by the control thread, read by it and the admin thread.
#[derive(Debug)]
struct Seen {
    turns: AtomicU64,
    at_ms: AtomicU64,
}

impl Liveness {
    /// Every worker counts as seen at `now_ms`.
    #[must_use]
    pub fn new(workers: usize, now_ms: u64) -> Self {
        let seen = || Seen { turns: AtomicU64::new(0), at_ms: AtomicU64::new(now_ms) };
        Self((0..workers).map(|_| seen()).collect())
    }

    /// Notes which workers have turned since the last sample.
    pub fn sample(&self, source: &dyn CounterSource, now_ms: u64) {
        for (worker, seen) in self.0.iter().enumerate() {
            let turns = source.turns(worker);
            if seen.turns.swap(turns, Ordering::Relaxed) != turns {
                seen.at_ms.store(now_ms, Ordering::Relaxed);
            }
        }
    }

    /// How long ago the worker was last seen to have turned, milliseconds.
    #[must_use]
    pub fn silence_ms(&self, worker: usize, now_ms: u64) -> u64 {
        self.0.get(worker).map_or(u64::MAX, |seen| now_ms.saturating_sub(seen.at_ms.load(Ordering::Relaxed)))
    }

    /// Workers silent for longer than [`SILENCE_MS_MAX`].
    #[must_use]
    pub fn silent(&self, now_ms: u64) -> Vec<usize> {
        (0..self.0.len()).filter(|worker| self.silence_ms(*worker, now_ms) > SILENCE_MS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake::FakeWorkers;

    #[test]
    fn a_worker_that_stops_turning_is_found() {
        let workers = FakeWorkers::new(2);
        let liveness = Liveness::new(2, 1000);
        assert!(liveness.silent(1000 + SILENCE_MS_MAX).is_empty());
        workers.turn(0);
        liveness.sample(&*workers, 4000);
        assert_eq!(liveness.silent(1001 + SILENCE_MS_MAX), [1]);
        // A sample without a turn proves nothing.
        liveness.sample(&*workers, 9000);
        assert_eq!(liveness.silent(4001 + SILENCE_MS_MAX), [0, 1]);
        workers.turn(1);
        liveness.sample(&*workers, 9500);
        assert_eq!(liveness.silent(9500), [0]);
        assert_eq!(liveness.silence_ms(1, 9600), 100);
        assert_eq!(liveness.silence_ms(7, 0), u64::MAX);
    }
}
