//! Running, draining, stopping: what a signal or the passing of time means. No I/O and no clock; the control
//! thread carries the actions out.

/// What the process was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain; a second one stops at once.
    Terminate,
    /// SIGHUP: read again what can change while running.
    Reload,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every worker finished within the deadline.
    Drained,
    /// The deadline passed; the remaining connections were cut.
    DeadlinePassed,
    /// A second signal cut the drain short.
    Forced,
    /// The workers ended without being asked: a bug, or the kernel took their rings.
    WorkersGone,
}

impl Outcome {
    /// The process's exit code: 0 for what was asked, also when the deadline did the last of it.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Drained | Self::DeadlinePassed => 0,
            Self::Forced | Self::WorkersGone => 1,
        }
    }
}

/// What the control thread must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Drain,
    Stop,
    Reload,
    End(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Draining { until_ms: u64 },
    Stopping { until_ms: u64, outcome: Outcome },
}

/// Beyond the workers' own deadline before they are told to stop, milliseconds: they cut what is left by
/// themselves and flush a last word.
const DRAIN_GRACE_MS: u64 = 500;
/// How long told workers may take to stop, milliseconds; then the process ends without them.
const STOP_GRACE_MS: u64 = 2000;

/// The phase of the process.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    drain_deadline_ms: u64,
}

impl Lifecycle {
    pub(super) const fn new(drain_deadline_ms: u64) -> Self {
        Self { phase: Phase::Running, drain_deadline_ms }
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    pub(super) fn handle_signal(&mut self, signal: Signal, now_ms: u64) -> Option<Action> {
        match (signal, self.phase) {
            (Signal::Reload, Phase::Running) => Some(Action::Reload),
            (Signal::Terminate, Phase::Running) => {
                self.phase = Phase::Draining { until_ms: now_ms + self.drain_deadline_ms + DRAIN_GRACE_MS };
                Some(Action::Drain)
            }
            (Signal::Terminate, Phase::Draining { .. }) => Some(self.stop(now_ms, Outcome::Forced)),
            (Signal::Reload, _) | (Signal::Terminate, Phase::Stopping { .. }) => None,
        }
    }

    /// `finished`: every worker has ended.
    pub(super) fn handle_time(&mut self, now_ms: u64, finished: bool) -> Option<Action> {
        match self.phase {
            Phase::Running if finished => Some(Action::End(Outcome::WorkersGone)),
            Phase::Draining { .. } if finished => Some(Action::End(Outcome::Drained)),
            Phase::Draining { until_ms } if now_ms >= until_ms => {
                Some(self.stop(now_ms, Outcome::DeadlinePassed))
            }
            Phase::Stopping { until_ms, outcome } if finished || now_ms >= until_ms => {
                Some(Action::End(outcome))
            }
            _ => None,
        }
    }

    fn stop(&mut self, now_ms: u64, outcome: Outcome) -> Action {
        self.phase = Phase::Stopping { until_ms: now_ms + STOP_GRACE_MS, outcome };
        Action::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_ends_when_the_workers_have_finished() {
        let mut life = Lifecycle::new(10_000);
        assert_eq!(life.handle_time(5, false), None);
        assert_eq!(life.handle_signal(Signal::Reload, 6), Some(Action::Reload));
        assert_eq!(life.handle_signal(Signal::Terminate, 7), Some(Action::Drain));
        assert!(!life.is_running());
        assert_eq!(life.handle_signal(Signal::Reload, 8), None);
        assert_eq!(life.handle_time(10_006, false), None);
        assert_eq!(life.handle_time(10_007, true), Some(Action::End(Outcome::Drained)));
    }

    #[test]
    fn the_deadline_stops_what_does_not_finish_and_ends_without_it() {
        let mut life = Lifecycle::new(1000);
        assert_eq!(life.handle_signal(Signal::Terminate, 0), Some(Action::Drain));
        assert_eq!(life.handle_time(1499, false), None);
        assert_eq!(life.handle_time(1500, false), Some(Action::Stop));
        assert_eq!(life.handle_signal(Signal::Terminate, 1501), None);
        assert_eq!(life.handle_time(3499, false), None);
        assert_eq!(life.handle_time(3500, false), Some(Action::End(Outcome::DeadlinePassed)));
    }

    #[test]
    fn a_second_signal_stops_at_once() {
        let mut life = Lifecycle::new(60_000);
        life.handle_signal(Signal::Terminate, 0);
        assert_eq!(life.handle_signal(Signal::Terminate, 10), Some(Action::Stop));
        assert_eq!(life.handle_time(20, true), Some(Action::End(Outcome::Forced)));
        assert_eq!(Outcome::Forced.exit_code(), 1);
    }

    #[test]
    fn workers_that_end_by_themselves_end_the_process() {
        let mut life = Lifecycle::new(0);
        assert_eq!(life.handle_time(0, true), Some(Action::End(Outcome::WorkersGone)));
        assert_eq!(Outcome::WorkersGone.exit_code(), 1);
        assert_eq!(Outcome::Drained.exit_code(), 0);
    }
}
