//! A rate of one worker: a token bucket that starts slowly.

use crate::limits::SLOW_START_SHARE;

/// So many a second, and at once as many as come in a burst's time.
#[derive(Clone, Debug)]
pub struct Pace {
    /// 0: as many as come.
    per_s: u32,
    burst_ms: u32,
    slow_start_ms: u64,
    tokens: f64,
    /// When the tokens were counted.
    at_ms: u64,
}

impl Pace {
    /// A pace that begins with a quarter of its rate and grows to all of it within a time of the gateway's start:
    /// after a restart everybody comes at once, and caches are cold.
    #[must_use]
    pub const fn new(per_s: u32, burst_ms: u32, slow_start_ms: u64) -> Self {
        // Full: the first look brings it down to a burst.
        Self { per_s, burst_ms, slow_start_ms, tokens: f64::MAX, at_ms: 0 }
    }

    /// What is possible now, a second.
    #[allow(clippy::cast_precision_loss, reason = "times of start are short")]
    fn rate(&self, now_ms: u64) -> f64 {
        let grown = match self.slow_start_ms {
            0 => 1.0,
            slow_start => (now_ms as f64 / slow_start as f64).min(1.0),
        };
        f64::from(self.per_s) * (SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * grown)
    }

    #[allow(clippy::cast_precision_loss, reason = "differences are short")]
    fn refill(&mut self, now_ms: u64) {
        let rate = self.rate(now_ms);
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        let burst = (rate * f64::from(self.burst_ms) / 1000.0).max(1.0);
        self.tokens = (self.tokens + rate * elapsed_ms as f64 / 1000.0).min(burst);
        self.at_ms = now_ms;
    }

    /// Whether one more may come; then it has.
    pub fn take(&mut self, now_ms: u64) -> bool {
        if self.per_s == 0 {
            return true;
        }
        self.refill(now_ms);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    /// One has come, whether it may or not. False when no more should.
    pub fn owe(&mut self, now_ms: u64) -> bool {
        if self.per_s == 0 {
            return true;
        }
        self.refill(now_ms);
        self.tokens -= 1.0;
        self.tokens > 0.0
    }

    /// When the next may come.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and short")]
    pub fn next_ms(&self, now_ms: u64) -> u64 {
        if self.per_s == 0 || self.tokens >= 1.0 {
            return now_ms;
        }
        let missing = 1.0 - self.tokens;
        now_ms + ((missing * 1000.0 / self.rate(now_ms)).ceil() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, from_ms: u64, to_ms: u64) -> u32 {
        (from_ms..to_ms).map(|now| (0..1000).map(|_| u32::from(pace.take(now))).sum::<u32>()).sum()
    }

    #[test]
    fn it_holds_its_rate_and_a_burst_is_a_tenth() {
        let mut pace = Pace::new(1000, 100, 0);
        assert_eq!(taken(&mut pace, 0, 1000), 100 + 1000 - 1, "a burst may come in the first moment");
        assert_eq!(taken(&mut pace, 15_000, 15_001), 100, "what was not used is not kept");
    }

    #[test]
    fn it_starts_with_a_quarter() {
        let mut pace = Pace::new(1000, 100, 10_000);
        let first = taken(&mut pace, 0, 1000);
        assert!((250..340).contains(&first), "{first}");
        let later = taken(&mut pace, 9000, 10_000);
        assert!((900..1100).contains(&later), "{later}");
    }

    #[test]
    fn a_debt_is_worked_off_before_the_next() {
        let mut pace = Pace::new(10, 100, 0);
        assert!(!pace.owe(0), "the only one");
        assert!(!pace.owe(0) && !pace.owe(0));
        assert_eq!(pace.next_ms(0), 300);
        assert!(!pace.take(299) && pace.take(300));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut pace = Pace::new(0, 100, 10_000);
        assert!((0..100_000).all(|_| pace.take(0) && pace.owe(0)));
        assert_eq!(pace.next_ms(5), 5);
    }
}
