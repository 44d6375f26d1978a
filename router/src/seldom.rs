//! Lines in the log about what may happen by the thousand, one a second at most: who causes it must not fill the disk.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::now_ms;

/// Shortest time between two lines of a kind, milliseconds.
const PAUSE_MS: u64 = 1000;

/// A kind of line, of the whole process.
#[derive(Debug)]
pub struct Seldom {
    /// From when on the next may be said, milliseconds.
    from_ms: AtomicU64,
    /// How often it was not said since the last.
    unsaid: AtomicU64,
}

impl Seldom {
    /// Nothing said yet.
    pub const fn new() -> Self {
        Self { from_ms: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// It happened. `Some`: say it, and that it happened so often since it was said last.
    pub fn due(&self) -> Option<u64> {
        self.due_at(now_ms())
    }

    fn due_at(&self, now_ms: u64) -> Option<u64> {
        let from_ms = self.from_ms.load(Relaxed);
        let is_first = now_ms >= from_ms
            && self.from_ms.compare_exchange(from_ms, now_ms + PAUSE_MS, Relaxed, Relaxed).is_ok();
        if is_first {
            return Some(self.unsaid.swap(0, Relaxed));
        }
        self.unsaid.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_second_with_how_often_it_was_not() {
        let seldom = Seldom::new();
        let said: Vec<_> = (0..2500).step_by(100).filter_map(|ms| seldom.due_at(ms)).collect();
        assert_eq!(said, [0, 9, 9]);
    }
}
