//! What the threads of a run share: orders from the measurement, counts from the drivers.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;

/// Latencies up to a minute, microseconds, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are constants that fit")
}

/// Latencies of one second: two digits, because there is one per driver (20 kB).
fn coarse_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2).expect("the bounds are constants that fit")
}

/// What a driver counts for itself and publishes once a turn, so that no message costs an atomic operation for it.
pub struct Tally {
    /// Bytes its sockets took, since the last turn.
    pub sent: u64,
    /// Bytes its sockets gave, since the last turn.
    pub received: u64,
    /// Latencies of the second under way, microseconds.
    pub latencies: Histogram<u64>,
    /// That second.
    interval: u32,
}

impl Tally {
    /// Nothing counted.
    pub fn new() -> Self {
        Self { sent: 0, received: 0, latencies: coarse_histogram(), interval: 0 }
    }

    /// Publishes the bytes, and the latencies when their second is over.
    pub fn publish(&mut self, shared: &Shared) {
        if self.sent | self.received != 0 {
            shared.wire_sent.fetch_add(std::mem::take(&mut self.sent), Relaxed);
            shared.wire_received.fetch_add(std::mem::take(&mut self.received), Relaxed);
        }
        let interval = shared.interval.load(Relaxed);
        if std::mem::replace(&mut self.interval, interval) != interval
            && !self.latencies.is_empty()
            && let Ok(mut all) = shared.latencies.lock()
            && all.add(&self.latencies).is_ok()
        {
            self.latencies.reset();
        }
    }
}

/// Orders and counts.
pub struct Shared {
    /// Start of the run's clock.
    pub epoch: Instant,
    /// Connections each driver should hold, in thousandths of its share.
    pub goal_permille: AtomicU32,
    /// Latencies are recorded.
    pub measuring: AtomicBool,
    /// PINGs beyond heartbeats, or messages of a chat, per second and driver; 0: none.
    pub sends_per_s: AtomicU64,
    /// The storm has begun: those who are to drop do so, once, and come back. Figures from now on are the storm's.
    pub storming: AtomicBool,
    /// The drivers are to end.
    pub ended: AtomicBool,
    /// Logins that succeeded, of a session that came back both.
    pub logged_in: AtomicU32,
    /// Logins that were refused or broke.
    pub login_failures: AtomicU32,
    /// Clients that were told to come later, and do.
    pub turned_away: AtomicU32,
    /// Logins that were one too many of their app, of clients that insist.
    pub logins_limited: AtomicU64,
    /// Clients that wait outside for that reason.
    pub outside: AtomicU32,
    /// Clients the server left without a word before they were logged in; they try again.
    pub hung_up_on: AtomicU32,
    /// Sessions lost after their login.
    pub lost: AtomicU32,
    /// Sessions that dropped in the storm.
    pub dropped: AtomicU32,
    /// Heartbeats and pings sent.
    pub pings: AtomicU64,
    /// TLS handshakes that a ticket made short.
    pub resumed: AtomicU64,
    /// Segments that came before others which the network had lost.
    pub gaps: AtomicU64,
    /// Answers to PINGs.
    pub pongs: AtomicU64,
    /// Pushes, pings or messages sent while measuring.
    pub pushed: AtomicU64,
    /// Of those, messages of a chat that were answered OK.
    pub accepted: AtomicU64,
    /// And those that were refused.
    pub refused: AtomicU64,
    /// What arrived of all that was sent.
    pub delivered: AtomicU64,
    /// Reads that brought any of them.
    pub reads: AtomicU64,
    /// Payload bytes that the clients' sockets took, logins included.
    pub wire_sent: AtomicU64,
    /// Payload bytes that came out of them.
    pub wire_received: AtomicU64,
    /// Number of the second under way; when it changes, drivers publish the latencies of the last one.
    pub interval: AtomicU32,
    /// Those, until the sampler takes them.
    pub latencies: Mutex<Histogram<u64>>,
    /// The interval the server proposed, milliseconds.
    pub heartbeat_ms: AtomicU64,
    /// The session of each client that is logged in, by the client's number.
    sessions: Mutex<Vec<Option<u64>>>,
    /// The first reason of a failed login, for the report.
    pub trouble: Mutex<Option<String>>,
}

impl Shared {
    /// Nothing ordered, nothing counted; so many clients.
    pub fn new(clients: u32) -> Self {
        Self {
            epoch: Instant::now(),
            goal_permille: AtomicU32::new(0),
            measuring: AtomicBool::new(false),
            sends_per_s: AtomicU64::new(0),
            storming: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            logged_in: AtomicU32::new(0),
            login_failures: AtomicU32::new(0),
            turned_away: AtomicU32::new(0),
            logins_limited: AtomicU64::new(0),
            outside: AtomicU32::new(0),
            hung_up_on: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            dropped: AtomicU32::new(0),
            pings: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            pongs: AtomicU64::new(0),
            pushed: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            wire_sent: AtomicU64::new(0),
            wire_received: AtomicU64::new(0),
            interval: AtomicU32::new(0),
            latencies: Mutex::new(coarse_histogram()),
            heartbeat_ms: AtomicU64::new(30_000),
            sessions: Mutex::new(vec![None; clients as usize]),
            trouble: Mutex::new(None),
        }
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A client has this session now, or none any more.
    pub fn note_session(&self, client: u32, session: Option<u64>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sessions.get_mut(client as usize) {
            *known = session;
        }
    }

    /// The session of each client, by the client's number.
    pub fn sessions(&self) -> Vec<Option<u64>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why a login failed, once.
    pub fn note_trouble(&self, reason: impl FnOnce() -> String) {
        self.login_failures.fetch_add(1, Relaxed);
        if let Ok(mut trouble) = self.trouble.lock()
            && trouble.is_none()
        {
            *trouble = Some(reason());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_published_every_turn_and_latencies_every_second() {
        let (shared, mut tally) = (Shared::new(0), Tally::new());
        for turn in 1..=3 {
            tally.sent += 5;
            tally.latencies.saturating_record(100);
            tally.publish(&shared);
            assert_eq!((shared.wire_sent.load(Relaxed), shared.wire_received.load(Relaxed)), (5 * turn, 0));
            assert!(shared.latencies.lock().unwrap().is_empty());
        }
        for _ in 0..2 {
            // Those of the first second; the second one has none.
            shared.interval.fetch_add(1, Relaxed);
            tally.publish(&shared);
            tally.publish(&shared);
            assert_eq!(shared.latencies.lock().unwrap().len(), 3);
        }
    }
}
