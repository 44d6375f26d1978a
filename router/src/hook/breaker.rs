//! The circuit breaker before a vendor: after a run of failures nobody asks for a while, then one request tries.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Requests go out; so many failed since the last success.
    Closed { failures: u32 },
    /// None goes out before this time.
    Open { until_ms: u64 },
    /// One is out to see; the others wait for what it brings.
    HalfOpen,
}

/// One vendor's breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    failures_max: u32,
    open_ms: u64,
}

impl Breaker {
    /// Closed; opens after `failures_max` failures in a row, for `open_ms`.
    pub const fn new(failures_max: u32, open_ms: u64) -> Self {
        Self { state: State::Closed { failures: 0 }, failures_max, open_ms }
    }

    /// True when a request may go out now.
    pub const fn may_send(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until_ms } => now_ms >= until_ms,
            State::HalfOpen => false,
        }
    }

    /// The earliest time at which a request may go out; `None`: an answer must come first.
    pub const fn ready_ms(&self) -> Option<u64> {
        match self.state {
            State::Closed { .. } => Some(0),
            State::Open { until_ms } => Some(until_ms),
            State::HalfOpen => None,
        }
    }

    /// A request goes out.
    pub const fn handle_sent(&mut self) {
        if matches!(self.state, State::Open { .. }) {
            self.state = State::HalfOpen;
        }
    }

    /// The vendor answered as a living one does.
    pub const fn handle_success(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// It did not. True when that opened the breaker.
    pub const fn handle_failure(&mut self, now_ms: u64) -> bool {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < self.failures_max {
                    return false;
                }
            }
            // Sent before it opened.
            State::Open { .. } => return false,
            State::HalfOpen => {}
        }
        self.state = State::Open { until_ms: now_ms + self.open_ms };
        true
    }

    /// For the metric: 0 closed, 1 half open, 2 open.
    pub const fn number(&self) -> u64 {
        match self.state {
            State::Closed { .. } => 0,
            State::HalfOpen => 1,
            State::Open { .. } => 2,
        }
    }
}
