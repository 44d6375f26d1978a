//! The addresses of one name, tried in turn within one limit.
//!
//! Each has its share of what is left: one that swallows everything, as an address of a network that is not routed does,
//! must not take the turns of those behind it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Those that have not been tried.
#[derive(Debug)]
pub struct Addresses {
    left: std::vec::IntoIter<SocketAddr>,
    until: Instant,
}

impl Addresses {
    /// All of them within `limit` from `since`.
    #[must_use]
    pub fn new(found: impl IntoIterator<Item = SocketAddr>, since: Instant, limit: Duration) -> Self {
        Self { left: found.into_iter().collect::<Vec<_>>().into_iter(), until: since + limit }
    }

    /// The next one, and how long it may take: a millisecond at least.
    pub fn next(&mut self, now: Instant) -> Option<(SocketAddr, Duration)> {
        let turns = u32::try_from(self.left.len()).unwrap_or(u32::MAX).max(1);
        let share = self.until.saturating_duration_since(now) / turns;
        Some((self.left.next()?, share.max(Duration::from_millis(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_share_of_what_is_left() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (since, second) = (Instant::now(), Duration::from_secs(1));
        let mut addresses = Addresses::new((1..=3).map(address), since, second * 6);
        assert_eq!(addresses.next(since), Some((address(1), second * 2)));
        // Refused at once, and then one that swallows everything.
        assert_eq!(addresses.next(since), Some((address(2), second * 3)));
        assert_eq!(addresses.next(since + second * 3), Some((address(3), second * 3)));
        assert_eq!(addresses.next(since + second * 3), None);
        let mut late = Addresses::new([address(1)], since, second);
        assert_eq!(late.next(since + second), Some((address(1), Duration::from_millis(1))));
    }
}
